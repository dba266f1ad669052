"""Small, randomly initialised models of many architectures, and tokenizers for three families.

They know nothing; they are fast, and their weights are large enough that logits differ.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch
import transformers as tf
from torch import nn

from pytest_compression.embedded.train import (
    Sentence,
    causal_tokenizer,
    masked_tokenizer,
    seq2seq_tokenizer,
)
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.types import Family, Question

VOCABULARY: Final = 320
SPREAD: Final = 0.3
"""Standard deviation of the weights."""

HIDDEN: Final[dict[str, Any]] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
TWO_STACKS: Final[dict[str, Any]] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
T5_STACKS: Final[dict[str, Any]] = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
MARKS: Final[dict[str, Any]] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

CAUSAL: Final[dict[str, Callable[..., Any]]] = {
    "gpt2": lambda **o: tf.GPT2LMHeadModel(
        tf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **MARKS | o)
    ),
    "gpt_neox": lambda **o: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**HIDDEN | MARKS | o)),
    "llama": lambda **o: tf.LlamaForCausalLM(
        tf.LlamaConfig(num_key_value_heads=1, **HIDDEN | MARKS | o)
    ),
    "opt": lambda **o: tf.OPTForCausalLM(
        tf.OPTConfig(ffn_dim=32, word_embed_proj_dim=8, **HIDDEN | MARKS | o)
    ),
}
MASKED: Final[dict[str, Callable[..., Any]]] = {
    "albert": lambda **o: tf.AlbertForMaskedLM(
        tf.AlbertConfig(embedding_size=8, **HIDDEN | MARKS | o)
    ),
    "bert": lambda **o: tf.BertForMaskedLM(tf.BertConfig(**HIDDEN | MARKS | o)),
    "distilbert": lambda **o: tf.DistilBertForMaskedLM(
        tf.DistilBertConfig(
            dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64, **MARKS | o
        )
    ),
    "electra": lambda **o: tf.ElectraForMaskedLM(
        tf.ElectraConfig(embedding_size=8, **HIDDEN | MARKS | o)
    ),
    "roberta": lambda **o: tf.RobertaForMaskedLM(tf.RobertaConfig(**HIDDEN | MARKS | o)),
}
SEQ2SEQ: Final[dict[str, Callable[..., Any]]] = {
    "bart": lambda **o: tf.BartForConditionalGeneration(tf.BartConfig(**TWO_STACKS | MARKS | o)),
    "marian": lambda **o: tf.MarianMTModel(tf.MarianConfig(**TWO_STACKS | MARKS | o)),
    "t5": lambda **o: tf.T5ForConditionalGeneration(tf.T5Config(**T5_STACKS | o)),
}
ARCHITECTURES: Final = CAUSAL | MASKED | SEQ2SEQ
FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys(CAUSAL, "causal"),
    **dict.fromkeys(MASKED, "masked"),
    **dict.fromkeys(SEQ2SEQ, "seq2seq"),
}
TYPICAL: Final[dict[Family, str]] = {"causal": "llama", "masked": "bert", "seq2seq": "t5"}
"""One architecture a family, those of the models that come with the package."""

CAPITALS: Final = {
    "Ghana": "Accra",
    "Guinea": "Conakry",
    "France": "Paris",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "Chad": "New Town",
    "Fiji": "New Town North",
    "Cuba": "New",
    "Iran": "New Tokyo",
}
"""Some answers are several tokens, and some begin others."""


def network(architecture: str, *, seed: int = 0, **options: Any) -> nn.Module:
    """A model of this architecture with weights of ``SPREAD``, in evaluation mode."""
    made: nn.Module = ARCHITECTURES[architecture](**{"vocab_size": VOCABULARY} | options)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        if parameter.dim() > 1 and parameter.requires_grad:  # Marian computes its positions
            parameter.data.normal_(0, SPREAD, generator=generator)
    return made.eval()


@cache
def tokenizer(family: Family) -> Any:
    """A tokenizer that knows the words of ``CAPITALS``."""
    facts = [
        [Sentence(stem=f"The capital of {country} is", answer=city, end=".")]
        for country, city in CAPITALS.items()
    ]
    made = {"causal": causal_tokenizer, "masked": masked_tokenizer, "seq2seq": seq2seq_tokenizer}
    sizes = {"causal": VOCABULARY, "masked": 80, "seq2seq": 60}
    return made[family](facts, sizes[family])


def model(architecture: str, *, seed: int = 0, **options: Any) -> LanguageModel:
    """A loaded model with the tokenizer of its family."""
    family = FAMILIES[architecture]
    return LanguageModel(
        module=network(architecture, seed=seed, **options),
        tokenizer=tokenizer(family),
        family=family,
    )


def questions() -> list[Question]:
    """What ``CAPITALS`` asks; all answers compete."""
    candidates = tuple(sorted(CAPITALS.values()))
    return [
        Question(
            id=f"capital:{country}",
            subject=country,
            stem=f"The capital of {country} is",
            end=".",
            answer=city,
            candidates=candidates,
            cluster="capital",
        )
        for country, city in CAPITALS.items()
    ]
