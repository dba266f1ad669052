"""Recovery: train what is left after any recipe. The options are light to import."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_compression.modifiers.training.course import Course
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class FineTune(Course):
    """Train what is left; masks, codes and rounded inputs of earlier steps stay.

    Weights that are zero stay zero. A quantized weight is trained straight through its rounding, on
    the scales it has, and stays packed. A layer of another library stays as it is.

    Source: Han et al. 2015, https://arxiv.org/abs/1506.02626.
    """

    keep_zeros: bool = True
    """Whether weights that are zero stay zero, also those that rounding made so. Where a layer was
    never pruned its zeros are codes as any other, and may be set free."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Train in place.

        Raises:
            RecipeError: a layer passes no gradient, nothing is left that could learn, or the loss
                is not finite.
        """
        from pytest_compression.modifiers.training.loop import plain_loss, teach
        from pytest_compression.modifiers.training.trainee import trainee_of

        trainee = trainee_of(model, embeddings=self.embeddings, keep_zeros=self.keep_zeros)
        batches = self.material.batches(model, self.batch)
        teach(trainee, batches, self, plain_loss(trainee))
        trainee.put()
        # Where all weights are another library's, what lies between them has learned.
        return Claim(targets=[*trainee.names] or [weight.name for weight in model.linear()])
