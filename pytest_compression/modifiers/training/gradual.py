"""Pruning while training: masks that grow on a schedule. The options are light to import."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.targets import check_targets
from pytest_compression.modifiers.training.course import Course
from pytest_compression.types import Claim, Targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.modifiers.training.trainee import Trainee


@dataclass(frozen=True, kw_only=True)
class GradualMagnitude(Course):
    """Prune by magnitude little by little while the model learns.

    The share that is pruned grows as in Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878, and in
    the end exactly ``round(sparsity * n)`` weights are zero. What was pruned stays so.

    Source: Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878.
    """

    sparsity: Annotated[float, Meta(gt=0, le=1)]
    """Share of the targets' weights that is pruned in the end."""
    frequency: Annotated[int, Meta(ge=1)] = 10
    """Steps between two prunings."""
    prune_until: Annotated[float, Meta(gt=0, le=1)] = 0.75
    """Share of the steps after which nothing more is pruned: in the rest the model recovers."""
    scope: Literal["global", "layer"] = "global"
    """One ranking over all targets, or one for each layer."""
    targets: Targets = "all"
    """What is pruned."""
    ignore: tuple[str, ...] = ()
    """Patterns of module names that are not pruned."""

    def __post_init__(self) -> None:
        """Check the length and the targets."""
        super().__post_init__()
        check_targets(self.targets, self.ignore)

    def apply(self, model: "LanguageModel") -> Claim:
        """Train and prune in place.

        Raises:
            RecipeError: a target is quantized, a layer passes no gradient, or the loss is not
                finite.
        """
        from pytest_compression.kernels.pruning import pruned_count
        from pytest_compression.modifiers.training.loop import plain_loss, teach
        from pytest_compression.modifiers.training.trainee import trainee_of

        weights = model.weights(self.targets, self.ignore)
        if packed := [weight.name for weight in weights if weight.stored is not None]:
            message = f"'{packed[0]}' is quantized: prune first, then quantize."
            raise RecipeError(message)
        names = [weight.name for weight in weights]
        trainee = trainee_of(model, embeddings=self.embeddings, targets=names)
        batches = self.material.batches(model, self.batch)
        teach(trainee, batches, self, plain_loss(trainee), self._pruning(trainee, names))
        trainee.put()
        counts = [trainee.weight(name).numel() for name in names]
        sizes = [sum(counts)] if self.scope == "global" else counts
        return Claim(targets=names, zeros=sum(pruned_count(n, self.sparsity) for n in sizes))

    def _pruning(self, trainee: "Trainee", names: list[str]) -> "Callable[[int, int], None]":
        """What makes masks anew after those steps at which it is due."""
        from pytest_compression.kernels.pruning import keep_top, keep_top_globally
        from pytest_compression.kernels.schedule import gradual_sparsity, updates

        def prune(step: int, steps: int) -> None:
            end = max(1, round(self.prune_until * steps))
            if step not in updates(0, end, self.frequency):
                return
            due = gradual_sparsity(step, begin=0, end=end, final=self.sparsity)
            trainee.hold()  # so that what is pruned already ranks lowest
            scores = [trainee.weight(name).detach().abs() for name in names]
            if self.scope == "global":
                masks = keep_top_globally(scores, due)
            else:
                masks = [keep_top(score, due) for score in scores]
            for name, mask in zip(names, masks, strict=True):
                earlier = trainee.kept.get(name)
                trainee.kept[name] = mask if earlier is None else mask & earlier

        return prune
