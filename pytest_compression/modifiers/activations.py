"""Steps that round activations. The options are light to import; torch comes with ``apply``."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.targets import Targeted
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight

Ranges = dict[str, tuple[float, float]]
"""The lower and the upper end of each layer's inputs, zero between them, by the layer's name."""


@dataclass(frozen=True, kw_only=True)
class Activations(Targeted):
    """Round the inputs of each target, as integer arithmetic does; weights stay as they are.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877.
    """

    bits: Annotated[int, Meta(ge=2, le=8)] = 8
    granularity: Literal["token", "tensor"] = "token"
    """What shares one scale: the inputs of one token, or all of a layer's. A dynamic scale of all
    depends on what is run together, so each request is then run by itself, which is slow."""
    scheme: Literal["dynamic", "static"] = "dynamic"
    """Scales of the inputs as they come, or of those that were seen in ``calibration``."""
    symmetric: bool = True
    """A range that is equal on both sides of zero; otherwise affine, with a zero point."""
    calibration: Material | None = None
    """What a static range is the range of."""

    def __post_init__(self) -> None:
        """Check that there is something to calibrate on where, and only where, it is used."""
        if (self.scheme == "static") != (self.calibration is not None):
            message = "'calibration' is needed for scheme 'static', and for no other"
            raise ValueError(message)
        if self.scheme == "static" and self.granularity == "token":
            message = "a static scale knows no token: scheme 'static' needs granularity 'tensor'"
            raise ValueError(message)
        super().__post_init__()

    def apply(self, model: "LanguageModel") -> Claim:
        """Let the layers round their inputs from now on.

        Raises:
            RecipeError: a target's inputs cannot be rounded, or have no range after calibration.
        """
        from pytest_compression.models.layers import round_inputs_of

        weights = model.weights(self.targets, self.ignore, writes=False)
        for weight in weights:
            require_plain(weight)
        ranges: Ranges = {}
        if self.calibration is not None:
            ranges = calibrated(model, weights, self.calibration)
        for weight in weights:
            round_inputs_of(
                weight.layer,
                bits=self.bits,
                granularity=self.granularity,
                symmetric=self.symmetric,
                static=ranges.get(weight.name),
            )
        if self.scheme == "dynamic" and self.granularity == "tensor":
            model.alone = True
        return Claim(targets=[weight.name for weight in weights], activation_bits=self.bits)


def require_plain(weight: "LinearWeight") -> None:
    """Refuse layers whose inputs cannot be rounded here."""
    from pytest_compression.models.layers import KINDS

    kind = type(weight.layer)
    if kind in KINDS:
        return
    if getattr(weight.layer, "activation_bits", None) is not None:
        message = f"the inputs of '{weight.name}' are rounded already: one step is enough."
        raise RecipeError(message)
    message = (
        f"the inputs of '{weight.name}' cannot be rounded: it is a "
        f"{kind.__module__}.{kind.__qualname__}, not a plain linear layer. Name it in 'ignore', or "
        "round the inputs before the step that put it there."
    )
    raise RecipeError(message)


def calibrated(
    model: "LanguageModel", weights: Sequence["LinearWeight"], material: Material
) -> Ranges:
    """The range of each layer's inputs over all of the material.

    Raises:
        RecipeError: a layer saw nothing, nothing but zeros, or NaN or infinities.
    """
    import torch

    seen: dict[str, Tensor] = {}
    rows = material.batches(model, size=1)  # nothing is padded, so that no range is that of padding
    with torch.inference_mode(), watched(weights, seen):
        for done, row in enumerate(rows, 1):
            if model.family != "seq2seq":  # whose decoder reads them
                del row["labels"]
            model.module(**row)
            model.progress(done, len(rows))
    return {weight.name: range_of(weight.name, seen.get(weight.name)) for weight in weights}


def range_of(name: str, seen: "Tensor | None") -> tuple[float, float]:
    """The range that a layer has seen.

    Raises:
        RecipeError: it is none to round by.
    """
    if seen is None or not seen.any():
        what = "nothing" if seen is None else "nothing but zeros"
        message = (
            f"'{name}' saw {what} in calibration, so its inputs have no range: calibrate on text "
            "that reaches it, or name it in 'ignore'."
        )
        raise RecipeError(message)
    low, high = seen.tolist()
    if not math.isfinite(high - low):
        message = (
            f"'{name}' saw NaN or infinite inputs in calibration: the model is broken numerically "
            "before its inputs are rounded."
        )
        raise RecipeError(message)
    return low, high


@contextlib.contextmanager
def watched(weights: Sequence["LinearWeight"], seen: dict[str, "Tensor"]) -> Iterator[None]:
    """Note the range of what the layers are given, ``[2]`` each, for as long as this lasts."""

    def note(name: str, _: "nn.Module", given: tuple["Tensor", ...]) -> None:
        from pytest_compression.kernels.activations import widened

        seen[name] = widened(seen.get(name), given[0])

    hooks = [
        weight.layer.register_forward_pre_hook(partial(note, weight.name)) for weight in weights
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
