"""The options that all steps share that learn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from pytest_compression.modifiers.material import Material


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is learned from, for how long, and how fast."""

    contract: ClassVar[str] = "adjusts"

    material: Material
    """A text or facts; what the gate asks is refused."""
    steps: Annotated[int, Meta(ge=1)] | None = None
    """How many batches; the material comes again, in another order, where it is smaller."""
    epochs: Annotated[int, Meta(ge=1)] | None = None
    """The same, said as passes over the material; exactly one of both is needed."""
    batch: Annotated[int, Meta(ge=1)] = 32
    """Rows of the material that are learned from at once."""
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 1e-4
    """At its highest: it rises over the first 5 % of the steps and then falls to zero."""
    embeddings: bool = False
    """Whether token embeddings and output head learn, too, which makes them layers that the recipe
    touched; all other parameters always learn, but for those of other libraries' layers."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Of the order of batches, and of dropout."""

    def __post_init__(self) -> None:
        """Check that the length is said once."""
        if (self.steps is None) == (self.epochs is None):
            message = "exactly one of 'steps' and 'epochs' is needed"
            raise ValueError(message)

    def length(self, batches: int) -> int:
        """How many steps, if the material is so many batches."""
        return self.steps if self.steps is not None else (self.epochs or 0) * batches

    def lessons(self) -> Iterator[str]:
        """Each passage that may be learned from.

        Raises:
            RecipeError: the text cannot be read.
        """
        return self.material.passages()
