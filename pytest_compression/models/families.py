"""The three families, and which linear layers of a model do what.

The split is the same in every family: the output projection of attention is attention, and
cross-attention too. The output head belongs to neither and is never a target.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import ModelError
from pytest_compression.types import Family, Targets

AUTO_CLASSES: dict[Family, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
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


def linear_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer with a weight matrix that maps features, GPT-2's ``Conv1D`` among them.

    A layer that is shared (ALBERT's) comes once.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, Conv1D)):
            yield name, layer


def role(name: str) -> Targets:
    """What the layer of this dotted name does; ``all`` if it belongs to neither set."""
    parts = name.split(".")
    if any(ATTENTION.search(part) for part in parts):
        return "attention"
    if any(FEED_FORWARD.search(part) for part in parts):
        return "feed-forward"
    return "all"


def targeted(module: nn.Module, targets: Targets) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers that a step works on, without the output head."""
    head = module.get_output_embeddings()  # type: ignore[operator]
    for name, layer in linear_layers(module):
        if layer is not head and targets in ("all", role(name)):
            yield name, layer
