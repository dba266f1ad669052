"""Weights in 8, 4 and 2 bits as optimum-quanto stores them."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from pytest_compression.modifiers.backends.foreign import Stored, imported, replace, stored_bytes
from pytest_compression.modifiers.targets import Targeted
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from torch import nn

    from pytest_compression.models.language_model import LanguageModel

BACKEND = "quanto"
DISTRIBUTION = "optimum-quanto"
BITS = {"int8": 8, "int4": 4, "int2": 2, "float8": 8}


@dataclass(frozen=True, kw_only=True)
class Quanto(Targeted):
    """Replace linear layers by quanto's; their inputs stay as they are.

    Source: https://github.com/huggingface/optimum-quanto.
    """

    weights: Literal["int8", "int4", "int2", "float8"]
    """``int8``, ``float8`` (e4m3): symmetric, one scale an output; ``int4``, ``int2``: one scale
    and offset a group."""
    group_size: Literal[32, 64, 96, 128] | None = None
    """Inputs that share a scale, for int4 and int2 only. If not said, quanto's rule: the largest
    of these that divides the inputs, and the whole row if none does or it has no more than 128."""

    def __post_init__(self) -> None:
        """Check that a group size is given only where it means something."""
        if self.group_size is not None and BITS[self.weights] == 8:
            message = f"'group_size' means nothing to weights '{self.weights}'"
            raise ValueError(message)
        super().__post_init__()

    def apply(self, model: "LanguageModel") -> Claim:
        """Replace the targets; bytes are those that quanto would save."""
        imported("optimum.quanto", distribution=DISTRIBUTION, backend=BACKEND, extra=BACKEND)
        names = replace(
            model, model.weights(self.targets, self.ignore), self.build, backend=BACKEND
        )
        return Claim(targets=names, bits=BITS[self.weights])

    def build(self, linear: "nn.Linear") -> "tuple[nn.Module, Stored]":
        """A ``QLinear`` with the codes of a layer."""
        from pytest_compression.modifiers.backends.dequantizing import Dequantizing

        layer = Dequantizing.of(linear, kind=self.weights, group_size=self.group_size)
        return layer, Stored(
            nbytes=stored_bytes(layer), bits=BITS[self.weights], read=layer.weight.dequantize
        )

    def environment(self) -> dict[str, str]:
        """The version that decides codes and scores."""
        return {DISTRIBUTION: version(DISTRIBUTION)}
