"""Pruning steps. The options are light to import; torch comes with ``apply``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.types import Claim, Targets

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Set the weights of smallest magnitude to zero: exactly ``round(sparsity * n)`` of them."""

    sparsity: Annotated[float, Meta(gt=0, le=1)]
    """Share of the targets' weights to prune."""
    scope: Literal["global", "layer"] = "global"
    """One ranking over all targets, or one for each layer."""
    targets: Targets = "all"

    def apply(self, model: "LanguageModel") -> Claim:
        """Prune in place."""
        from pytest_compression.kernels.pruning import keep_top, keep_top_globally

        weights = model.weights(self.targets)
        scores = [weight.values.abs() for weight in weights]
        if self.scope == "global":
            masks = keep_top_globally(scores, self.sparsity)
        else:
            masks = [keep_top(score, self.sparsity) for score in scores]
        for weight, mask in zip(weights, masks, strict=True):
            weight.write(weight.values.where(mask, 0))
        return Claim(targets=[weight.name for weight in weights], sparsity=self.sparsity)
