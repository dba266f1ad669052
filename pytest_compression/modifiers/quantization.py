"""Weight quantization steps. The options are light to import; torch comes with ``apply``.

Activations stay as they are. The model keeps the packed codes for its footprint.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.targets import Targeted
from pytest_compression.types import Claim, Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pytest_compression.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class RoundToNearest(Targeted):
    """Round each weight to the nearest value of an evenly spaced grid.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877.
    """

    bits: Annotated[int, Meta(ge=2, le=8)]
    granularity: Literal["tensor", "channel", "group"] = "channel"
    """What shares one scale: the matrix, an output channel, or ``group_size`` inputs of one."""
    group_size: Annotated[int, Meta(ge=1)] | None = None
    """Inputs a group; for granularity ``group`` only."""
    symmetric: bool = True
    """A range that is equal on both sides of zero; otherwise affine, with a zero point."""
    clip: Literal["none", "search"] = "none"
    """The range that holds every weight, or for each block the smaller one of least squared error:
    the weights beyond it are cut off, the others lie closer to the grid."""

    def __post_init__(self) -> None:
        """Check that a group size is given where, and only where, it means something."""
        if (self.granularity == "group") != (self.group_size is not None):
            message = "'group_size' is needed for granularity 'group', and for no other"
            raise ValueError(message)
        super().__post_init__()

    def apply(self, model: "LanguageModel") -> Claim:
        """Quantize in place.

        Raises:
            RecipeError: as :func:`write_quantized`.
        """
        from pytest_compression.kernels.clipping import fit_clipped_grid
        from pytest_compression.kernels.quantization import Quantized, fit_grid

        fit = fit_grid if self.clip == "none" else fit_clipped_grid

        def quantized(weight: "Tensor") -> Quantized:
            grid = fit(
                weight,
                bits=self.bits,
                granularity=self.granularity,
                group_size=self.group_size,
                symmetric=self.symmetric,
            )
            return Quantized.on(grid, weight)

        return write_quantized(self, model, quantized, self.bits)


@dataclass(frozen=True, kw_only=True)
class FourBitFloat(Targeted):
    """Give each weight the nearest of 16 levels, times the absmax of its block."""

    codebook: ClassVar[Literal["nf4", "fp4"]]
    block_size: Annotated[int, Meta(ge=1)] = 64
    """Consecutive weights of the flattened matrix that share an absmax; the last may be fewer."""
    double_quant: bool = False
    """Keep each absmax in 8 bits instead of 32."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Quantize in place.

        Raises:
            RecipeError: as :func:`write_quantized`.
        """
        from pytest_compression.kernels.codebooks import quantize_blocks

        quantizer = partial(
            quantize_blocks,
            codebook=self.codebook,
            block=self.block_size,
            double_quant=self.double_quant,
        )
        return write_quantized(self, model, quantizer, 4)


@dataclass(frozen=True, kw_only=True)
class Nf4(FourBitFloat):
    """Give each weight the nearest of 16 quantiles of a normal distribution.

    Source: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314.
    """

    codebook: ClassVar[Literal["nf4", "fp4"]] = "nf4"


@dataclass(frozen=True, kw_only=True)
class Fp4(FourBitFloat):
    """Give each weight the nearest 4-bit float: two bits of exponent, one of fraction.

    Source: Dettmers & Zettlemoyer 2023, https://arxiv.org/abs/2212.09720.
    """

    codebook: ClassVar[Literal["nf4", "fp4"]] = "fp4"


@dataclass(frozen=True, kw_only=True)
class Float8(Targeted):
    """Round each weight to an 8-bit floating point number, scaled so that none is out of range.

    Source: Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433.
    """

    format: Literal["e4m3", "e5m2"] = "e4m3"
    """Four bits of exponent and three of fraction, or five and two: more range, less precision."""
    granularity: Literal["tensor", "channel"] = "channel"
    """What shares one scale: the matrix, or an output channel."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Quantize in place.

        Raises:
            RecipeError: as :func:`write_quantized`.
        """
        from pytest_compression.kernels.float8 import quantize_float8

        quantizer = partial(quantize_float8, form=self.format, granularity=self.granularity)
        return write_quantized(self, model, quantizer, 8)


@dataclass(frozen=True, kw_only=True)
class Ternary(Targeted):
    """Give each weight one of three values: zero, or the mean magnitude of the matrix with a sign.

    Source: Ma et al. 2024, https://arxiv.org/abs/2402.17764.
    """

    def apply(self, model: "LanguageModel") -> Claim:
        """Quantize in place.

        Raises:
            RecipeError: as :func:`write_quantized`.
        """
        from pytest_compression.kernels.ternary import quantize_ternary

        return write_quantized(self, model, quantize_ternary, 2)


@dataclass(frozen=True, kw_only=True)
class Hqq(Targeted):
    """Round each weight to a grid whose zero point was fitted to its group.

    The zero point is a real number, so zeros of an earlier pruning step do not survive.

    Source: Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog/.
    """

    bits: Annotated[int, Meta(ge=2, le=8)] = 4
    group_size: Annotated[int, Meta(ge=1)] = 64
    """Inputs of an output channel that share a grid."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Quantize in place.

        Raises:
            RecipeError: as :func:`write_quantized`.
        """
        from pytest_compression.kernels.hqq import quantize_hqq

        quantizer = partial(quantize_hqq, bits=self.bits, group_size=self.group_size)
        return write_quantized(self, model, quantizer, self.bits)


def write_quantized(
    step: Targeted, model: "LanguageModel", quantizer: "Callable[[Tensor], Stored]", bits: int
) -> Claim:
    """Replace each target by what its packed codes give back, and note these.

    Raises:
        RecipeError: the model has no such layers, or a weight is not finite.
    """
    weights = model.weights(step.targets, step.ignore)
    for done, weight in enumerate(weights, 1):
        try:
            stored = quantizer(weight.values)
        except ValueError as error:
            message = (
                f"'{weight.name}' cannot be quantized: {error}. Mend the model, or name the layer "
                "in 'ignore'."
            )
            raise RecipeError(message) from error
        weight.write(stored.dequantize(), stored)
        model.progress(done, len(weights))
    return Claim(targets=[weight.name for weight in weights], bits=bits)
