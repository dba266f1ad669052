"""Quantization-aware training. The options are light to import; torch comes with ``apply``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.targets import check_targets
from pytest_compression.modifiers.training.course import Course
from pytest_compression.types import Claim, Targets

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_compression.kernels.grids import Grid
    from pytest_compression.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Qat(Course):
    """Train with weights that are rounded in each forward pass, and leave them packed.

    Gradients go straight through the rounding (Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877); the grid is fitted anew at each step. A mask of an earlier
    step stays.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877; Ma et al. 2024,
    https://arxiv.org/abs/2402.17764.
    """

    bits: Annotated[int, Meta(ge=2, le=8)] | Literal["ternary"]
    """Of a code; ``ternary`` is the absmean grid of BitNet b1.58 (Ma et al. 2024,
    https://arxiv.org/abs/2402.17764): one scale a matrix, stored in 2 bits."""
    granularity: Literal["tensor", "channel", "group"] | None = None
    """What shares one scale: the matrix, an output channel (if not given), or ``group_size`` inputs
    of one."""
    group_size: Annotated[int, Meta(ge=1)] | None = None
    """Inputs a group; for granularity ``group`` only."""
    symmetric: bool = True
    """A range that is equal on both sides of zero; otherwise affine, with a zero point."""
    targets: Targets = "all"
    """What is quantized."""
    ignore: tuple[str, ...] = ()
    """Patterns of module names that are not quantized."""

    def __post_init__(self) -> None:
        """Check the length, the targets and the grid."""
        super().__post_init__()
        check_targets(self.targets, self.ignore)
        if (self.granularity == "group") != (self.group_size is not None):
            message = "'group_size' is needed for granularity 'group', and for no other"
            raise ValueError(message)
        if self.bits == "ternary" and not (self.granularity is None and self.symmetric):
            message = "'granularity' and 'symmetric' are decided where bits are 'ternary'"
            raise ValueError(message)

    def apply(self, model: "LanguageModel") -> Claim:
        """Train and quantize in place.

        Raises:
            RecipeError: a layer passes no gradient, a target is another library's or in fewer bits
                already, or the loss is not finite.
        """
        from pytest_compression.kernels import ternary
        from pytest_compression.modifiers.training.codings import FittedAnew
        from pytest_compression.modifiers.training.loop import plain_loss, teach
        from pytest_compression.modifiers.training.trainee import trainee_of

        bits = ternary.BITS if self.bits == "ternary" else self.bits
        weights = model.weights(self.targets, self.ignore)
        for weight in weights:
            if weight.stored is not None and weight.stored.bits < bits:
                message = (
                    f"'{weight.name}' is stored in {weight.stored.bits} bits by now, and {bits} "
                    "would undo that: ask for as few here, or leave the earlier step out."
                )
                raise RecipeError(message)
            if not weight.values.isfinite().all():
                message = f"'{weight.name}' holds NaN or infinite weights, which cannot be rounded."
                raise RecipeError(message)
        names = [weight.name for weight in weights]
        trainee = trainee_of(model, embeddings=self.embeddings, targets=names)
        for weight in weights:
            dtype = weight.values.dtype
            trainee.roundings[weight.name] = FittedAnew(fit=self.grid, dtype=dtype)
        batches = self.material.batches(model, self.batch)
        teach(trainee, batches, self, plain_loss(trainee))
        trainee.put()
        return Claim(targets=names, bits=bits)

    def grid(self, weight: "Tensor") -> "Grid":
        """The grid of a weight ``[out_features, in_features]`` as it is now."""
        from pytest_compression.kernels.grids import fit_grid
        from pytest_compression.kernels.ternary import absmean_grid

        if self.bits == "ternary":
            return absmean_grid(weight)
        return fit_grid(
            weight,
            bits=self.bits,
            granularity=self.granularity or "channel",
            group_size=self.group_size,
            symmetric=self.symmetric,
        )
