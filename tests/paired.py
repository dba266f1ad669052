"""A masked tokenizer that reads two sentences as BERT does."""

from typing import Any

import tiny
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

NAMES = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "[PAD]"}


def tokenizer(*, types: bool = True) -> Any:
    """That of ``tiny``, with pairs.

    Args:
        types: whether it says which segment each token is in.
    """
    backend = Tokenizer.from_str(tiny.tokenizer("masked").backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=made,
        **{f"{key}_token": mark for key, mark in NAMES.items()},
    )
