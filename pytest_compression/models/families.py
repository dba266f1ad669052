"""The three families, and which layers of a model do what.

The split is the same in every family: the output projection of attention is attention, and
cross-attention too. The output head and the embeddings belong to neither, and are targets only
where they are named.
"""

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import ModelError, RecipeError
from pytest_compression.types import Family, TargetSet

SETS = get_args(TargetSet)

AUTO_CLASSES: dict[Family, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
QKV = re.compile(
    r"(^|_)w?(q|k|v|kv|qkvz?|query|key|value)(_|$)|^(c_attn|in_proj|pos_proj)$", re.IGNORECASE
)
"""A word between underscores: what makes queries, keys and values goes by many names, such as
``pos_key_proj`` of DeBERTa and ``kv_a_proj_with_mqa`` of DeepSeek."""
FEED_FORWARD = re.compile(
    r"mlp|ffn|feed_?forward|densereludense|intermediate|^output$|^fc_?[12]$|^lin[12]$|^wi|^wo$",
    re.IGNORECASE,
)


def family_of(config: Any) -> Family:
    """The family of a model, from its configuration alone.

    A type that ``transformers`` knows both as masked and as causal (BERT is one) is masked
    unless it is configured as a decoder: read as a decoder its attention would see the answer.

    Raises:
        ModelError: it is no language model.
    """
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    kind = config.model_type
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if masked and not (causal and getattr(config, "is_decoder", False)):
        return "masked"
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if causal or architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    message = (
        f"a model of type '{kind}' is none of causal, masked and seq2seq language models, so "
        "no question can be asked of it."
    )
    raise ModelError(message)


def role(name: str) -> TargetSet:
    """What the layer of this dotted name does; ``all`` if it is neither of the two kinds."""
    parts = name.split(".")
    if any(ATTENTION.search(part) for part in parts):
        return "qkv" if QKV.search(parts[-1]) else "projection"
    if any(FEED_FORWARD.search(part) for part in parts):
        return "feed-forward"
    return "all"


def in_set(name: str, targets: str) -> bool:
    """Whether the linear layer of this name, not the head, is in a set, or fits a pattern."""
    found = role(name)
    if targets == "attention":
        return found in ("qkv", "projection")
    return targets in ("all", found) or fnmatchcase(name, targets)


def ends(module: Any) -> tuple[Any, Any]:
    """The output head and the token embeddings; None if there is none."""
    return module.get_output_embeddings(), module.get_input_embeddings()


def untie(module: nn.Module, head: Any) -> None:
    """Give the output head a matrix of its own, and a bias, if others share it."""
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    named = module.named_parameters(remove_duplicate=False)
    bias = getattr(head, "bias", None)
    if bias is not None and sum(one is bias for _, one in named) > 1:
        head.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)


def named_layers(
    module: nn.Module, adopted: Collection[str] = ()
) -> tuple[dict[str, nn.Module], str, str]:
    """All layers whose weights a step may be told to work on, in the model's order.

    GPT-2's ``Conv1D`` is among them. A layer that is shared (ALBERT's) comes once.

    Args:
        module: the whole network.
        adopted: names of layers of any other kind that stand where linear ones stood.

    Returns:
        Linear layers and the token embeddings by name; the name of the embeddings; that of the
        output head. A name is empty if there is no such layer.
    """
    head, embeddings = ends(module)
    found = {
        name: layer
        for name, layer in module.named_modules()
        if layer is embeddings or isinstance(layer, (nn.Linear, Conv1D)) or name in adopted
    }
    names = {id(layer): name for name, layer in reversed(found.items())}
    return found, names.get(id(embeddings), ""), names.get(id(head), "")


def targeted(
    module: nn.Module,
    targets: Sequence[str],
    ignore: Sequence[str] = (),
    adopted: Collection[str] = (),
) -> dict[str, nn.Module]:
    """The layers that a step works on, by name, in the model's order.

    Raises:
        RecipeError: one of the targets, or of what is to be ignored, is nothing of this model.
    """
    layers, embeddings, head = named_layers(module, adopted)
    ends = {"embeddings": embeddings, "head": head}
    chosen: set[str] = set()
    for target in targets:
        if target in ends:
            hits = {ends[target]} - {""}
        else:
            plain = target not in SETS
            hits = {
                name
                for name in layers
                if (fnmatchcase(name, target) if name in ends.values() else in_set(name, target))
                and (plain or name not in ends.values())
            }
        if not hits:
            shown = ", ".join(list(layers)[:8]) or "none"
            message = f"no layer of this model is '{target}'; its layers are: {shown} ..."
            raise RecipeError(message)
        chosen |= hits
    for pattern in ignore:
        ignored = {name for name in layers if fnmatchcase(name, pattern)}
        if not ignored:
            message = f"no layer of this model fits '{pattern}', which is to be ignored"
            raise RecipeError(message)
        chosen -= ignored
    if not chosen:
        message = f"all layers that are '{', '.join(targets)}' are to be ignored"
        raise RecipeError(message)
    return {name: layer for name, layer in layers.items() if name in chosen}
