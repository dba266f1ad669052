"""Steps that set single weights to zero. Light to import; torch comes with ``apply``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.errors import RecipeError
from pytest_compression.fingerprints import digest
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.unstructured import Scope, Unstructured, require_numbers
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight


@dataclass(frozen=True, kw_only=True)
class Magnitude(Unstructured):
    """Set the weights of smallest magnitude to zero.

    Source: Han et al. 2015, https://arxiv.org/abs/1506.02626.
    """

    scope: Scope = "global"
    """One ranking over all targets, one for each layer, or one for each row of a layer (the
    weights of one output). Of a pattern, each run has its own."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Prune in place.

        Raises:
            RecipeError: there are too few weights, a pattern does not fit, or a weight is NaN.
        """
        weights = model.weights(self.targets, self.ignore)
        if self.scope == "global" and self.pattern is None:
            total = self.total(model, weights)
            self.cut(weights, total)
            return self.claim(weights, total)
        counts = self.counts(model, weights, self.scope)
        for weight, count in zip(weights, counts, strict=True):
            if self.scope == "row" or self.pattern is not None:
                require_numbers([weight])
                mask = self.keep(weight.values.abs(), count, self.scope)
                weight.write(weight.values.where(mask, 0))
            else:
                self.cut([weight], count)
        return self.claim(weights, sum(counts))

    def cut(self, weights: Sequence["LinearWeight"], count: int) -> None:
        """Prune by one ranking, without masks or scores in memory."""
        from pytest_compression.kernels.ranking import cut_at

        try:
            cut = cut_at([weight.values for weight in weights], count)
        except ValueError:
            require_numbers(weights)
            raise
        for place, weight in enumerate(weights):
            weight.write(cut.prune(weight.values, place))


@dataclass(frozen=True, kw_only=True)
class RandomPruning(Unstructured):
    """Set weights to zero that a seed chooses: the control of every other criterion.

    Source: Gale et al. 2019, https://arxiv.org/abs/1902.09574, as a control.
    """

    scope: Scope = "global"
    """Where the share is exact: over all targets, in each layer, or in each row."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Of the choice. A layer's draw depends on this and its name alone."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Prune in place.

        Raises:
            RecipeError: there are too few weights, or a pattern does not fit.
        """
        from pytest_compression.kernels.ranking import cut_at

        weights = model.weights(self.targets, self.ignore)
        require_numbers(weights)
        draws = Draws(weights, self.seed)
        if self.scope == "global" and self.pattern is None:
            counts = [self.total(model, weights)]
            cut = cut_at(draws, counts[0])
            masks = (cut.keep(scores, place) for place, scores in enumerate(draws))
        else:
            counts = self.counts(model, weights, self.scope)
            masks = (
                self.keep(scores, count, self.scope)
                for scores, count in zip(draws, counts, strict=True)
            )
        for weight, mask in zip(weights, masks, strict=True):
            weight.write(weight.values.where(mask, 0))
        return self.claim(weights, sum(counts))


class Draws(Sequence["Tensor"]):
    """A random number for each weight, the same ones whenever a layer's are asked for.

    Drawn on the processor and in double precision, so that no device and no tie decides.
    """

    def __init__(self, weights: Sequence["LinearWeight"], seed: int) -> None:
        self.weights = weights
        self.seed = seed

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.weights)

    def __getitem__(self, place: int) -> "Tensor":  # type: ignore[override]  # never sliced
        """Of one layer, float64 ``[out_features, in_features]``."""
        import torch

        weight = self.weights[place]
        own = int(digest([str(self.seed).encode(), weight.name.encode()])[:15], 16)
        generator = torch.Generator().manual_seed(own)
        drawn = torch.rand(weight.values.shape, dtype=torch.float64, generator=generator)
        return drawn.to(weight.values.device)


@dataclass(frozen=True, kw_only=True)
class Wanda(Unstructured):
    """Set to zero the weights of smallest ``|weight| * norm of its input``, on calibration text.

    The published code prunes ``floor(sparsity * inputs)`` weights of each row, this
    ``round(sparsity * inputs)``, as everywhere else; ties go alike, the earlier ones first.

    Source: Sun et al. 2023, https://arxiv.org/abs/2306.11695.
    """

    calibration: Material
    """Whose tokens are the inputs."""
    scope: Literal["row", "layer"] = "row"
    """One ranking for each output of a layer, as published, or one for each layer."""
    sequential: bool = True
    """Inputs of a block are those that the pruned blocks before it give, as published; otherwise
    those of the dense model."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Run the calibration text and prune in place, block by block.

        Raises:
            RecipeError: there are too few weights, a pattern does not fit, a weight is NaN, or a
                layer has no inputs to weigh by.
        """
        from pytest_compression.kernels.saliency import by_inputs
        from pytest_compression.modifiers.input_norms import at_once, by_blocks, rows_alike

        weights = model.weights(self.targets, self.ignore)
        require_inputs(weights)
        require_numbers(weights)
        counts = self.counts(model, weights, self.scope)
        wanted = dict(zip([weight.name for weight in weights], counts, strict=True))
        batches = rows_alike(model, self.calibration)
        steps = by_blocks if self.sequential else at_once
        done = 0
        for some, squares in steps(model, batches, weights):
            for weight in some:
                scores = by_inputs(weight.values, squares[weight.name])
                mask = self.keep(scores, wanted[weight.name], self.scope)
                weight.write(weight.values.where(mask, 0))
            done += len(some)
            model.progress(done, len(weights))
        return self.claim(weights, sum(counts))


def require_inputs(weights: Sequence["LinearWeight"]) -> None:
    """Refuse token embeddings, which are looked up.

    Raises:
        RecipeError: they are among the targets.
    """
    from torch import nn

    for weight in weights:
        if isinstance(weight.layer, nn.Embedding):
            message = (
                f"'{weight.name}' is a table of embeddings, whose weights multiply no inputs: "
                "prune it by magnitude."
            )
            raise RecipeError(message)
