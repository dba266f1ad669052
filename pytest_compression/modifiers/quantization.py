"""Quantization steps. The options are light to import; torch comes with ``apply``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.types import Claim, Targets

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class RoundToNearest:
    """Round each weight to the nearest value of a min-max grid; activations stay as they are."""

    bits: Annotated[int, Meta(ge=2, le=8)]
    granularity: Literal["tensor", "channel", "group"] = "channel"
    """What shares one scale: the matrix, an output channel, or ``group_size`` inputs of one."""
    group_size: Annotated[int, Meta(ge=1)] | None = None
    """Inputs a group; for granularity ``group`` only."""
    symmetric: bool = True
    """A range that is equal on both sides of zero; otherwise affine, with a zero point."""
    targets: Targets = "all"

    def __post_init__(self) -> None:
        """Check that a group size is given where, and only where, it means something."""
        if (self.granularity == "group") != (self.group_size is not None):
            message = "'group_size' is needed for granularity 'group', and for no other"
            raise ValueError(message)

    def apply(self, model: "LanguageModel") -> Claim:
        """Quantize in place; the model keeps the packed codes for its footprint."""
        from pytest_compression.kernels.quantization import quantize

        weights = model.weights(self.targets)
        for weight in weights:
            stored = quantize(
                weight.values,
                bits=self.bits,
                granularity=self.granularity,
                group_size=self.group_size,
                symmetric=self.symmetric,
            )
            weight.write(stored.dequantize(), stored)
        return Claim(targets=[weight.name for weight in weights], bits=self.bits)
