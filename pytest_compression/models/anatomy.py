"""Where the blocks, attention heads and feed-forward neurons of each architecture are.

A table, because names and layouts follow no rule: queries, keys and values are three matrices,
one with all heads three times over, or one in which each head has its three; gates are a second
matrix or the second half of the first. A model type that is not in the table is refused.
"""

import re
from dataclasses import dataclass, replace

from torch import nn

from pytest_compression.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One attention of a block; names are those inside the block."""

    module: str
    """What holds the number of heads."""
    inputs: tuple[str, ...]
    """Query, key and value; or one layer that makes all three."""
    output: str
    size: str
    """The module's attribute that holds the features of a head."""
    parts: int = 1
    """Of an only input: 3 where the queries of all heads come first, then keys, then values; 1
    where each head's three stand together."""
    bias: str = ""
    """An embedding of distances with one column a head, which may serve all blocks."""


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """The feed-forward part of a block; names are those inside the block."""

    inputs: tuple[str, ...]
    """Those that an architecture has of them."""
    output: str
    parts: int = 1
    """2 where the only input makes the gate, too."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Blocks that follow one another, and what the configuration calls their numbers."""

    blocks: str
    """Name inside the model's body; ``#`` is a number."""
    attentions: tuple[Attention, ...]
    feed_forward: FeedForward
    layers: str = "num_hidden_layers"
    """How many blocks; empty if they share their weights."""
    neurons: str = "intermediate_size"
    heads: str = ""
    """How many heads; empty if the configuration cannot say it without the size of a head."""
    key_value_heads: str = ""
    head_size: str = ""
    own_layers: str = ""
    """How many blocks, in a configuration that belongs to this stack alone."""
    decodes: bool = False
    """Whether its tokens are those of the answer, in a model of two stacks."""


def attends(module: str, names: str, output: str, size: str = "head_dim") -> Attention:
    """An attention with three inputs, which are in the module itself."""
    inputs = tuple(f"{module}.{name}" for name in names.split())
    return Attention(module=module, inputs=inputs, output=output, size=size)


LLAMA = Stack(
    blocks="layers.#",
    attentions=(attends("self_attn", "q_proj k_proj v_proj", "self_attn.o_proj"),),
    feed_forward=FeedForward(inputs=("mlp.gate_proj", "mlp.up_proj"), output="mlp.down_proj"),
    heads="num_attention_heads",
    key_value_heads="num_key_value_heads",
    head_size="head_dim",
)
PHI = replace(
    LLAMA,
    attentions=(attends("self_attn", "q_proj k_proj v_proj", "self_attn.dense"),),
    feed_forward=FeedForward(inputs=("mlp.fc1",), output="mlp.fc2"),
)
STARCODER2 = replace(LLAMA, feed_forward=FeedForward(inputs=("mlp.c_fc",), output="mlp.c_proj"))
GPT2 = Stack(
    blocks="h.#",
    attentions=(
        Attention(
            module="attn", inputs=("attn.c_attn",), output="attn.c_proj", size="head_dim", parts=3
        ),
    ),
    feed_forward=FeedForward(inputs=("mlp.c_fc",), output="mlp.c_proj"),
    neurons="n_inner",
)
GPTJ = replace(
    GPT2,
    attentions=(attends("attn", "q_proj k_proj v_proj", "attn.out_proj"),),
    feed_forward=FeedForward(inputs=("mlp.fc_in",), output="mlp.fc_out"),
)
GPT_NEOX = Stack(
    blocks="layers.#",
    attentions=(
        Attention(
            module="attention",
            inputs=("attention.query_key_value",),
            output="attention.dense",
            size="head_size",
        ),
    ),
    feed_forward=FeedForward(inputs=("mlp.dense_h_to_4h",), output="mlp.dense_4h_to_h"),
)
SELF = attends("self_attn", "q_proj k_proj v_proj", "self_attn.out_proj")
CROSS = attends("encoder_attn", "q_proj k_proj v_proj", "encoder_attn.out_proj")
OPT = Stack(
    blocks="decoder.layers.#",
    attentions=(SELF,),
    feed_forward=FeedForward(inputs=("fc1",), output="fc2"),
    neurons="ffn_dim",
)
BERT = Stack(
    blocks="encoder.layer.#",
    attentions=(
        attends(
            "attention.self", "query key value", "attention.output.dense", "attention_head_size"
        ),
    ),
    feed_forward=FeedForward(inputs=("intermediate.dense",), output="output.dense"),
)
DISTILBERT = Stack(
    blocks="transformer.layer.#",
    attentions=(
        attends("attention", "q_lin k_lin v_lin", "attention.out_lin", "attention_head_size"),
    ),
    feed_forward=FeedForward(inputs=("ffn.lin1",), output="ffn.lin2"),
    layers="n_layers",
    neurons="hidden_dim",
)
ALBERT = Stack(
    blocks="encoder.albert_layer_groups.#.albert_layers.#",
    attentions=(attends("attention", "query key value", "attention.dense", "attention_head_size"),),
    feed_forward=FeedForward(inputs=("ffn",), output="ffn_output"),
    layers="",
)
MODERNBERT = Stack(
    blocks="layers.#",
    attentions=(
        Attention(module="attn", inputs=("attn.Wqkv",), output="attn.Wo", size="head_dim", parts=3),
    ),
    feed_forward=FeedForward(inputs=("mlp.Wi",), output="mlp.Wo", parts=2),
)
BART_ENCODER = Stack(
    blocks="encoder.layers.#",
    attentions=(SELF,),
    feed_forward=FeedForward(inputs=("fc1",), output="fc2"),
    layers="encoder_layers",
    neurons="encoder_ffn_dim",
)
BART_DECODER = replace(
    BART_ENCODER,
    blocks="decoder.layers.#",
    attentions=(SELF, CROSS),
    layers="decoder_layers",
    neurons="decoder_ffn_dim",
    decodes=True,
)
T5_SELF = replace(
    attends("layer.0.SelfAttention", "q k v", "layer.0.SelfAttention.o", "key_value_proj_dim"),
    bias="layer.0.SelfAttention.relative_attention_bias",
)
T5_CROSS = attends(
    "layer.1.EncDecAttention", "q k v", "layer.1.EncDecAttention.o", "key_value_proj_dim"
)
T5_ENCODER = Stack(
    blocks="encoder.block.#",
    attentions=(T5_SELF,),
    feed_forward=FeedForward(
        inputs=tuple(f"layer.1.DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1")),
        output="layer.1.DenseReluDense.wo",
    ),
    layers="num_layers",
    neurons="d_ff",
    heads="num_heads",
    head_size="d_kv",
    own_layers="num_layers",
)
T5_DECODER = replace(
    T5_ENCODER,
    blocks="decoder.block.#",
    attentions=(T5_SELF, T5_CROSS),
    feed_forward=FeedForward(
        inputs=tuple(f"layer.2.DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1")),
        output="layer.2.DenseReluDense.wo",
    ),
    layers="num_decoder_layers",
    decodes=True,
)
BART, T5 = (BART_ENCODER, BART_DECODER), (T5_ENCODER, T5_DECODER)

STACKS: dict[str, tuple[Stack, ...]] = {
    kind: stacks
    for kinds, stacks in (
        ("llama mistral qwen2 qwen3 smollm3 granite gemma gemma2 gemma3_text", (LLAMA,)),
        ("phi", (PHI,)),
        ("starcoder2", (STARCODER2,)),
        ("gpt2", (GPT2,)),
        ("gptj", (GPTJ,)),
        ("gpt_neox", (GPT_NEOX,)),
        ("opt", (OPT,)),
        ("bert roberta xlm-roberta camembert electra", (BERT,)),
        ("distilbert", (DISTILBERT,)),
        ("albert", (ALBERT,)),
        ("modernbert", (MODERNBERT,)),
        ("bart mbart marian pegasus blenderbot blenderbot-small m2m_100", BART),
        ("t5 mt5 umt5", T5),
    )
    for kind in kinds.split()
}
"""By model type."""


def stacks_of(module: nn.Module) -> tuple[Stack, ...]:
    """The stacks of a model.

    Raises:
        RecipeError: its type is not in the table.
    """
    kind = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
    found = STACKS.get(kind)
    if found is None:
        message = (
            f"where the heads, neurons and layers of a model of type '{kind}' are is not known, so "
            f"none can be removed. Known: {', '.join(sorted(STACKS))}."
        )
        raise RecipeError(message)
    return found


def blocks_of(module: nn.Module, stack: Stack) -> dict[str, nn.Module]:
    """The blocks of a stack by dotted name, in the order in which they are run.

    Raises:
        RecipeError: there are none.
    """
    body = getattr(module, "base_model_prefix", "")
    prefix = f"{body}." if body and hasattr(module, body) else ""
    pattern = re.compile(re.escape(prefix + stack.blocks).replace(r"\#", r"\d+"))
    found = {name: part for name, part in module.named_modules() if pattern.fullmatch(name)}
    if not found:
        message = (
            f"a {type(module).__name__} has no '{prefix}{stack.blocks}': where an earlier step put "
            "another library's network in place of the model, put this step first."
        )
        raise RecipeError(message)
    return found
