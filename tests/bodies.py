"""A small network of each model type of which heads, neurons and blocks are known.

Each has four heads an attention, 24 neurons and three blocks a stack, and computes in double
precision, so that a cut network and one with zeros in it can be compared closely.
"""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final

import tiny
import torch
import transformers as tf
from torch import Tensor, nn

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.types import Family

HEADS: Final = 4
NEURONS: Final = 24
BLOCKS: Final = 3

HIDDEN: Final[dict[str, Any]] = tiny.HIDDEN | {
    "vocab_size": tiny.VOCABULARY,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": NEURONS,
}
SHARED: Final[dict[str, Any]] = HIDDEN | {"num_key_value_heads": 2}
TWO_STACKS: Final[dict[str, Any]] = tiny.TWO_STACKS | {
    "vocab_size": tiny.VOCABULARY,
    "encoder_layers": BLOCKS,
    "decoder_layers": BLOCKS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": NEURONS,
    "decoder_ffn_dim": NEURONS,
}
T5_STACKS: Final[dict[str, Any]] = tiny.T5_STACKS | {
    "vocab_size": tiny.VOCABULARY,
    "num_layers": BLOCKS,
    "num_heads": HEADS,
    "d_ff": NEURONS,
}
GPT: Final[dict[str, Any]] = {
    "vocab_size": tiny.VOCABULARY,
    "n_embd": 16,
    "n_layer": BLOCKS,
    "n_head": HEADS,
    "n_inner": NEURONS,
}
BARTS: Final = {
    "bart": "Bart",
    "mbart": "MBart",
    "pegasus": "Pegasus",
    "blenderbot": "Blenderbot",
    "blenderbot-small": "BlenderbotSmall",
    "m2m_100": "M2M100",
}
T5S: Final = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}
LLAMAS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 4}),
    "smollm3": ("SmolLM3", {}),
    "granite": ("Granite", {}),
    "gemma": ("Gemma", {"head_dim": 4}),
    "gemma2": ("Gemma2", {"head_dim": 4}),
    "phi": ("Phi", {}),
    "starcoder2": ("Starcoder2", {}),
}
BERTS: Final = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "electra": "Electra",
}


def causal(name: str, options: dict[str, Any]) -> Any:
    return getattr(tf, f"{name}ForCausalLM")(getattr(tf, f"{name}Config")(**options | tiny.MARKS))


def masked(name: str, options: dict[str, Any]) -> Any:
    return getattr(tf, f"{name}ForMaskedLM")(getattr(tf, f"{name}Config")(**options | tiny.MARKS))


def seq2seq(name: str, options: dict[str, Any]) -> Any:
    config = getattr(tf, f"{name}Config")(**options)
    return getattr(tf, f"{name}ForConditionalGeneration")(config)


CAUSAL: Final[dict[str, Callable[[], Any]]] = {
    **{kind: partial(causal, name, SHARED | more) for kind, (name, more) in LLAMAS.items()},
    "gemma3_text": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(head_dim=4, sliding_window=8, **SHARED | tiny.MARKS)
    ),
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT | tiny.MARKS)),
    "gptj": lambda: tf.GPTJForCausalLM(tf.GPTJConfig(rotary_dim=4, **GPT | tiny.MARKS)),
    "gpt_neox": lambda: causal("GPTNeoX", HIDDEN),
    "opt": lambda: causal("OPT", HIDDEN | {"ffn_dim": NEURONS, "word_embed_proj_dim": 8}),
}
MASKED: Final[dict[str, Callable[[], Any]]] = {
    **{kind: partial(masked, name, HIDDEN) for kind, name in BERTS.items()},
    "albert": lambda: masked("Albert", HIDDEN | {"embedding_size": 8}),
    "distilbert": lambda: tf.DistilBertForMaskedLM(
        tf.DistilBertConfig(
            vocab_size=tiny.VOCABULARY,
            dim=16,
            n_layers=BLOCKS,
            n_heads=HEADS,
            hidden_dim=NEURONS,
            **tiny.MARKS,
        )
    ),
    "modernbert": lambda: masked(
        "ModernBert", HIDDEN | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}
    ),
}
SEQ2SEQ: Final[dict[str, Callable[[], Any]]] = {
    **{kind: partial(seq2seq, name, TWO_STACKS | tiny.MARKS) for kind, name in BARTS.items()},
    "marian": lambda: tf.MarianMTModel(tf.MarianConfig(**TWO_STACKS | tiny.MARKS)),
    **{kind: partial(seq2seq, name, T5_STACKS) for kind, name in T5S.items()},
}
MADE: Final = CAUSAL | MASKED | SEQ2SEQ
FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys(CAUSAL, "causal"),
    **dict.fromkeys(MASKED, "masked"),
    **dict.fromkeys(SEQ2SEQ, "seq2seq"),
}
LAYOUTS: Final = ("albert", "bart", "bert", "gpt2", "gpt_neox", "llama", "modernbert", "t5", "umt5")
"""Types that differ in how their matrices are laid out, or in what their blocks share."""


@cache
def made(kind: str) -> nn.Module:
    """The network of a type, which nobody may change."""
    network: nn.Module = MADE[kind]()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.requires_grad:  # Marian computes its positions
            parameter.data.normal_(0, tiny.SPREAD, generator=generator)
    return network.requires_grad_(requires_grad=False).eval().double()


def network(kind: str) -> nn.Module:
    """A network of this model type, in evaluation mode and double precision."""
    return copy.deepcopy(made(kind))


def model(kind: str) -> LanguageModel:
    """It with the tokenizer of its family."""
    family = FAMILIES[kind]
    return LanguageModel(module=network(kind), tokenizer=tiny.tokenizer(family), family=family)


def logits(module: nn.Module) -> Tensor:
    """What a network says to two rows of tokens."""
    ids = torch.arange(5, 25).reshape(2, 10)
    config: Any = module.config
    more = {"decoder_input_ids": ids[:, :6] + 3} if config.is_encoder_decoder else {}
    with torch.inference_mode():
        found: Tensor = module(input_ids=ids, **more).logits
    return found
