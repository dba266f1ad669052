"""What all steps that set single weights to zero have in common. Light to import."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.errors import OptionError, RecipeError
from pytest_compression.modifiers.targets import Targeted, check_targets, listed
from pytest_compression.types import Claim, Targets

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight

Scope = Literal["global", "layer", "row"]

PATTERN = re.compile(r"([1-9][0-9]*):([1-9][0-9]*)")


@dataclass(frozen=True, kw_only=True)
class Unstructured(Targeted):
    """How many weights to set to zero, and which of them may be."""

    sparsity: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Share of the targets' weights to prune: exactly ``round(sparsity * n)`` of each ranking."""
    pattern: str | None = None
    """Instead: ``"N:M"``, in quotes, keeps the N best of each M consecutive inputs of a row."""
    count_of: Targets | None = None
    """Prune as many weights as ``sparsity`` is of these, so that unequal sets lose equally many."""

    def __post_init__(self) -> None:
        """Check that one of ``sparsity`` and ``pattern`` is given, and what they can mean."""
        if (self.sparsity is None) == (self.pattern is None):
            message = "exactly one of 'sparsity' and 'pattern' is needed"
            raise ValueError(message)
        if self.count_of is not None and self.pattern is not None:
            message = "'count_of' needs 'sparsity': a pattern has a count of its own"
            raise ValueError(message)
        if self.pattern is not None:
            read_pattern(self.pattern)
        super().__post_init__()
        if self.count_of is not None:
            check_targets(self.count_of, option="count_of")

    def total(self, model: "LanguageModel", weights: Sequence["LinearWeight"]) -> int:
        """How many weights to prune in all, where one ranking decides.

        Raises:
            RecipeError: there are not so many.
        """
        from pytest_compression.kernels.pruning import pruned_count

        mine = sum(weight.values.numel() for weight in weights)
        if self.sparsity is None or self.count_of is None:
            return pruned_count(mine, self.sparsity or 0)
        theirs = size_of(model, self.count_of)
        wanted = pruned_count(theirs, self.sparsity)
        if wanted > mine:
            message = (
                f"sparsity {self.sparsity:g} of '{', '.join(listed(self.count_of))}' ({theirs} "
                f"weights) are {wanted} weights, but '{', '.join(listed(self.targets))}' has only "
                f"{mine}: lower 'sparsity', or let the larger set be counted in the smaller one's "
                "weights."
            )
            raise RecipeError(message)
        return wanted

    def counts(
        self, model: "LanguageModel", weights: Sequence["LinearWeight"], scope: Scope
    ) -> list[int]:
        """How many weights to prune of each layer, where each layer or row has a ranking.

        Raises:
            RecipeError: as :meth:`total`, or a pattern does not fit a layer.
        """
        from pytest_compression.kernels.pruning import apportioned, pruned_count

        shapes = [weight.values.shape for weight in weights]
        if self.pattern is not None:
            keep, run = read_pattern(self.pattern)
            require_runs(weights, self.pattern, run)
            return [shape.numel() // run * (run - keep) for shape in shapes]
        if self.count_of is not None:
            return apportioned(self.total(model, weights), [shape.numel() for shape in shapes])
        sparsity = self.sparsity or 0
        if scope == "row":
            return [shape[0] * pruned_count(shape[1], sparsity) for shape in shapes]
        return [pruned_count(shape.numel(), sparsity) for shape in shapes]

    def keep(self, scores: "Tensor", count: int, scope: Scope) -> "Tensor":
        """The mask of one layer that loses ``count`` weights, True = kept."""
        from pytest_compression.kernels.pruning import keep_all_but, keep_of_runs, keep_top_by_row

        if self.pattern is not None:
            return keep_of_runs(scores, *read_pattern(self.pattern))
        return keep_top_by_row(scores, count) if scope == "row" else keep_all_but(scores, count)

    def claim(self, weights: Sequence["LinearWeight"], zeros: int) -> Claim:
        """What was done."""
        pattern = None if self.pattern is None else read_pattern(self.pattern)
        names = [weight.name for weight in weights]
        return Claim(targets=names, zeros=zeros, pattern=pattern)


def read_pattern(pattern: str) -> tuple[int, int]:
    """N and M.

    Raises:
        OptionError: they are none, or nothing would be pruned.
    """
    found = PATTERN.fullmatch(pattern)
    keep, run = map(int, found.groups()) if found else (0, 0)
    if not 0 < keep < run:
        message = (
            f"'{pattern}' is no pattern: \"2:4\" keeps 2 of each 4 weights, and at least one must "
            "be kept and one pruned"
        )
        raise OptionError(message, option="pattern")
    return keep, run


def size_of(model: "LanguageModel", targets: Targets) -> int:
    """How many weights a set has; unlike to ask for them, this unties nothing."""
    from pytest_compression.models.families import targeted

    names = targeted(model.module, listed(targets), (), model.adopted).keys()
    sizes = {weight.name: weight.values.numel() for weight in model.layers()}
    return sum(sizes[name] for name in names)


def require_runs(weights: Sequence["LinearWeight"], pattern: str, run: int) -> None:
    """Refuse a pattern that does not fit: hardware could not use the result.

    Raises:
        RecipeError: the inputs of a layer are no multiple of the run.
    """
    for weight in weights:
        inputs = weight.values.shape[1]
        if inputs % run:
            message = (
                f"'{weight.name}' has {inputs} inputs, which is no multiple of {run}, so the "
                f"pattern {pattern} does not fit: name it in 'ignore', or choose another pattern."
            )
            raise RecipeError(message)


def require_numbers(weights: Sequence["LinearWeight"]) -> None:
    """Refuse weights that have no order.

    Raises:
        RecipeError: one holds NaN.
    """
    for weight in weights:
        if weight.values.amax().isnan():
            message = (
                f"'{weight.name}' holds NaN, so its weights have no order to be pruned by: the "
                "model is broken numerically before this step."
            )
            raise RecipeError(message)
