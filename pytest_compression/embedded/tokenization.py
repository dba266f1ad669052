"""Tokenizers of the embedded models, one a family, made of the sentences they are taught."""

from collections.abc import Iterator
from typing import Final

from tokenizers import (
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import models as token_models
from tokenizers import trainers as token_trainers
from transformers import PreTrainedTokenizerFast

from pytest_compression.embedded.facts.sentences import Sentence

ANSWER_WEIGHT: Final = 30
"""How often the tokenizer's training text repeats each answer."""


def texts(facts: list[list[Sentence]]) -> Iterator[str]:
    """Every sentence, and every answer by itself often enough to become one token."""
    for told in facts:
        for sentence in told:
            yield sentence.text
    for answer in sorted({told[0].answer for told in facts}):
        yield from [f" {answer}"] * ANSWER_WEIGHT


def causal_tokenizer(facts: list[list[Sentence]], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's and Llama 3's."""
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = token_trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(facts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def masked_tokenizer(facts: list[list[Sentence]], size: int) -> PreTrainedTokenizerFast:
    """WordPiece over lower-case text without accents, as BERT's."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(token_models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = token_trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts(facts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{key}_token": token for key, token in names.items()}
    )


def seq2seq_tokenizer(facts: list[list[Sentence]], size: int) -> PreTrainedTokenizerFast:
    """Unigram pieces with sentinels, as T5's."""
    sentinels = ["<extra_id_0>", "<extra_id_1>"]
    tokenizer = Tokenizer(token_models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = token_trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "</s>", "<unk>", *sentinels],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(facts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
    )
