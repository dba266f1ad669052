"""The contract trial of a suite: the steps of one recipe, and what they did to the model."""

from collections.abc import Sequence
from typing import Any

from transformers.pytorch_utils import Conv1D

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.testing.contracts import Contract
from pytest_compression.testing.importing import check_light
from pytest_compression.testing.options import brief, exactness
from pytest_compression.testing.properties import ContractError, require
from pytest_compression.testing.sizes import sizes_like
from pytest_compression.testing.specimens import FAMILIES, Architecture
from pytest_compression.types import Footprint

EXAMPLES, FEW = 20, 2
"""Models drawn for a step; for one that calibrates or learns, which takes far longer."""


def violation(steps: Sequence[Any], model: Any, footprint: Footprint) -> str:
    """What a recipe breaks; empty if it keeps all contracts.

    Args:
        steps: of the recipe, in order.
        model: as the recipe left it.
        footprint: of the recipe on it.
    """
    try:
        require_effect(model, footprint)
        check_light(*map(type, steps))
        for step in dict.fromkeys(steps):
            if isinstance(model, LanguageModel) and exactness(step) != "model":
                check_step(step, model)
    except ContractError as error:
        return str(error)
    return ""


def require_effect(model: Any, footprint: Footprint) -> None:
    """The recipe left a trace on the model, and numbers that can be computed with."""
    removed = footprint.bytes < footprint.dense_bytes
    require(
        footprint.modules_touched or removed,
        "the recipe took no effect on the model: no layer is touched, and no byte is saved.",
    )
    if isinstance(model, LanguageModel):
        for weight in model.layers():
            require(
                weight.values.isfinite().all(), f"'{weight.name}' holds NaN or infinities by now."
            )


def check_step(step: Any, model: LanguageModel) -> None:
    """Try a step on small models of the same family, which read the same tokens.

    Raises:
        ContractError: it breaks a rule.
    """
    shorter, learns = brief(step)
    few = learns or exactness(step) == "adjusts"
    Contract(
        step=shorter,
        kind="modifier",
        architectures=architectures_like(model),
        examples=FEW if few else EXAMPLES,
        learns=few,
        tokenizer=model.tokenizer,
        sizes=sizes_like(model),
    ).check()


def architectures_like(model: LanguageModel) -> tuple[Architecture, ...]:
    """What stands for a model: of its family, and with layers that are stored as its are."""
    turned = any(isinstance(part, Conv1D) for part, _, _ in model.snapshot.modules)
    return tuple(
        name
        for name, family in FAMILIES.items()
        if family == model.family and (family != "causal" or (name == "gpt2") == turned)
    )
