"""torch's dynamic quantization, as *The Cost of Compression* used it. Light to import.

Each weight matrix has one symmetric scale, ``max |W| / 127.5``, and int8 codes. Inputs are rounded
anew in each call, on one affine range for all that is run together, to 8 bits by name; the engines
of x86 processors are told to leave one bit unused, so that sums do not overflow
(https://docs.pytorch.org/docs/2.13/quantization.html). As the range depends on what is run beside
a row, each row is run alone.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.backends.foreign import Stored, replace
from pytest_compression.modifiers.targets import Targeted
from pytest_compression.types import Claim, Targets

if TYPE_CHECKING:
    from torch import nn

    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight

BACKEND = "torch-dynamic"
BITS = {"qint8": 8, "float16": 16}
OFFSETS = 16
"""Bytes that torch keeps with the codes of a matrix: a scale and a zero point, eight each."""
NO_ENGINE = "none"
"""Where torch was built without any."""
DEPRECATED = (
    (r"torch\.ao\.quantization is deprecated", DeprecationWarning),
    (r"torch\.quantize_per_tensor", UserWarning),
)
"""What torch says of the functions used here, each time."""


@dataclass(frozen=True, kw_only=True)
class TorchDynamic(Targeted):
    """``torch.ao.quantization.quantize_dynamic``, one layer at a time; on processors only.

    Source: Namburi et al. 2023, https://arxiv.org/abs/2312.00960.
    """

    dtype: Literal["qint8", "float16"] = "qint8"
    """``qint8`` rounds weights and inputs; ``float16`` weights only."""
    targets: Targets = "all"
    """The published study had the output head in: ``[all, head]``."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Put torch's layers in place.

        Raises:
            RecipeError: this torch cannot do it, or it cannot be done to such a layer.
        """
        weights = model.weights(self.targets, self.ignore)
        rounded = input_bits(engine()) if self.dtype == "qint8" else None
        for weight in weights:
            check_layer(weight)

        def build(linear: "nn.Linear") -> "tuple[nn.Module, Stored]":
            layer: Any = dynamic(linear, self.dtype)
            if rounded is not None:
                layer.activation_bits = rounded
            return layer, stored(layer, self.dtype)

        names = replace(model, weights, build, backend=BACKEND)
        model.alone = model.alone or self.dtype == "qint8"
        return Claim(targets=names, bits=BITS[self.dtype], activation_bits=rounded)

    def environment(self) -> dict[str, str]:
        """The engine that computes with the codes: not all round inputs alike."""
        return {"torch quantized engine": engine()}


def check_layer(weight: "LinearWeight") -> None:
    """Refuse what torch would only refuse when it runs.

    Raises:
        RecipeError: the layer is not in single precision and on a processor.
    """
    values = weight.values
    kind = str(values.dtype).removeprefix("torch.")
    if kind != "float32" or values.device.type != "cpu":
        message = (
            f"{BACKEND} computes in float32 on processors, and '{weight.name}' is {kind} on "
            f"{values.device}: load the model with 'dtype: float32' and 'device: cpu'."
        )
        raise RecipeError(message)


def engine() -> str:
    """The name of the engine that torch would use.

    Raises:
        RecipeError: this torch was built without any.
    """
    import torch

    found = str(torch.backends.quantized.engine)
    if found == NO_ENGINE:
        message = (
            f"{BACKEND}: this torch ({torch.__version__}) was built without an engine for int8; "
            "install another build, or use 'rtn'."
        )
        raise RecipeError(message)
    return found


@contextmanager
def undisturbed() -> Iterator[None]:
    """Do not warn of what is deprecated: the study's method is wanted as it was."""
    with warnings.catch_warnings():
        for message, category in DEPRECATED:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def dynamic(layer: "nn.Linear", dtype: Literal["qint8", "float16"]) -> "nn.Module":
    """Torch's dynamically quantized layer with the same bias; the layer itself is left alone.

    Raises:
        RecipeError: the installed torch no longer offers it.
    """
    import torch
    from torch import nn

    try:
        from torch.ao.quantization import quantize_dynamic
    except ImportError as error:
        message = (
            f"torch {torch.__version__} no longer has torch.ao.quantization.quantize_dynamic: "
            "install an older torch (2.13 has it), or use 'rtn' with bits: 8."
        )
        raise RecipeError(message) from error
    with undisturbed():
        holder = quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=getattr(torch, dtype))
    made: nn.Module = holder[0]
    return made


def stored(layer: Any, dtype: Literal["qint8", "float16"]) -> Stored:
    """What a layer of torch's holds, by its own account."""
    count = layer.in_features * layer.out_features
    if dtype == "float16":
        return Stored(nbytes=2 * count, bits=16, read=layer.weight)
    return Stored(nbytes=count + OFFSETS, bits=8, read=lambda: layer.weight().dequantize())


@cache
def input_bits(engine: str) -> int:
    """To how many bits an engine rounds inputs, found out by trying it.

    A layer that returns its only input is run on a fine grid over [0, 1]; so many different
    values come back.
    """
    import torch
    from torch import nn

    identity = nn.Linear(1, 1, bias=False)
    nn.init.ones_(identity.weight)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        with torch.inference_mode():
            found = dynamic(identity, "qint8")(torch.linspace(0, 1, 2**10).unsqueeze(1))
    finally:
        torch.backends.quantized.engine = before
    return (len(found.unique()) - 1).bit_length()
