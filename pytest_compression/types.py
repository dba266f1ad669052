"""The values that travel between the parts, and the protocols that plug-ins meet.

All values are frozen and keyword-only. Nothing here imports torch.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct, field

Expectation = Literal["pass", "fail"]
Family = Literal["causal", "masked", "seq2seq"]
Targets = Literal["all", "attention", "feed-forward"]
"""Which linear layers a step works on: every one but the output head; those of attention, the
output projection among them; those of the feed-forward blocks."""


class Part(Struct, frozen=True, kw_only=True):
    """A named thing and its options: a model source, a step of a recipe, a benchmark."""

    use: str
    """A name of an entry point, or ``module:attribute``."""
    options: dict[str, Any] = field(default_factory=dict)


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a trial passes."""

    min_retention: float = 0.95
    """The floor: the least share of the dense model's knowledge that must be retained."""
    near_tie: float = 0.01
    """Nats. An answer that leads or trails by less than twice this may flip by numerics alone;
    there the accepted answer counts."""
    confidence: float = 0.95
    """Level of the interval that is shown around the retention."""


class Recipe(Struct, frozen=True, kw_only=True):
    """A named, ordered list of steps; ``dense`` is the empty one."""

    name: str
    steps: tuple[Part, ...] = ()


class TrialSpec(Struct, frozen=True, kw_only=True):
    """One (model, recipe, benchmark) triple and when it passes."""

    model: str
    recipe: str
    benchmark: str
    gate: Gate
    expect: Expectation = "pass"
    reason: str = ""
    """Why a control is expected to fail."""


class Suite(Struct, frozen=True, kw_only=True):
    """A validated suite file."""

    models: dict[str, Part]
    recipes: dict[str, Recipe]
    benchmarks: dict[str, Part]
    trials: tuple[TrialSpec, ...]
    """In the order of models, recipes and benchmarks; ``dense`` first of each model."""


class Question(Struct, frozen=True, kw_only=True):
    """One item of a benchmark."""

    id: str
    """Survives reordering: made of the question's content or its own key."""
    subject: str
    stem: str
    """The prompt up to the answer, without the space before it."""
    end: str
    """What follows the answer."""
    answer: str
    candidates: tuple[str, ...]
    """Includes the answer; a single one when the whole vocabulary competes."""
    cluster: str
    """Its relation or task."""


class Measurement(Struct, frozen=True, kw_only=True):
    """Scores of one model on one benchmark; parallel sequences, one entry a question."""

    metric: str
    questions: tuple[Question, ...]
    """Sorted by id."""
    margins: tuple[float, ...]
    """Nats by which the right answer leads the best other one; negative if it trails."""
    given: tuple[str, ...]
    """The answer that the model preferred."""
    scoring: str
    """Fingerprint of how the questions were scored: tokens, metric, version."""
    left_out: dict[str, int]
    """How many questions were not asked, by reason."""
    open_vocabulary: bool = False
    """The answer competes with the whole vocabulary, so chance is none."""

    @property
    def scores(self) -> tuple[int, ...]:
        """1 where the right answer leads, 0 where it does not; a tie is not an answer."""
        return tuple(int(margin > 0) for margin in self.margins)

    @property
    def chance(self) -> tuple[float, ...]:
        """For each question, the score that guessing would get."""
        if self.open_vocabulary:
            return (0.0,) * len(self.questions)
        return tuple(1 / len(question.candidates) for question in self.questions)


class Footprint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a recipe did to a model: measured on the model, never declared."""

    bytes: int
    """Of all parameters and buffers as they would be stored: packed codes with their scales
    and zero points where a weight lies on a grid, otherwise the tensor itself."""
    dense_bytes: int
    parameters: int
    zeros: int
    modules_touched: int
    modules: int
    """Linear layers in all."""
    sparsity: float
    """Share of zeros among the weights of the touched modules."""
    bits: float
    """Stored bits a weight in the touched modules, with scales and zero points."""
    weight_error: float
    """``||dense - compressed|| / ||dense||`` over the touched weights."""


class Fingerprint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a measurement is a measurement of."""

    weights: str
    """The dense weights, before the recipe."""
    questions: str
    scoring: str


class Claim(NamedTuple):
    """What a modifier says it did; the model measures whether it is so."""

    targets: Sequence[str]
    """Names of the weights it was put to work on."""
    sparsity: float | None = None
    """Share of the targets' weights that must now be zero: exactly ``round(sparsity * n)``
    weights, or more where they were zero before."""
    bits: int | None = None
    """Each target must now be stored as packed codes of so many bits."""


class Weight(Protocol):
    """The weight of one linear layer, always ``[out_features, in_features]``."""

    @property
    def name(self) -> str:
        """Dotted name of its module."""

    @property
    def values(self) -> Any:
        """The tensor, turned if the layer stores it turned; writing to it is not for you."""

    def write(self, values: Any, stored: Any = None) -> None:
        """Replace the values; ``stored`` is their packed form, if they have one."""


@runtime_checkable
class Model(Protocol):
    """A loaded language model, dense or compressed."""

    family: Family

    def weights(self, targets: Targets) -> Sequence[Weight]:
        """The weights a step works on, in the model's order."""

    def restore(self) -> bool:
        """Put the dense weights back; False if the model must be loaded again for that."""

    def compress(self, steps: Sequence["Modifier"]) -> Footprint:
        """Apply the steps in order and measure what they did."""

    def fingerprint(self) -> str:
        """Of the dense weights."""

    def environment(self) -> dict[str, str]:
        """Versions, processor and dtype that figures may depend on."""


@runtime_checkable
class ModelSource(Protocol):
    """Where a model comes from; a frozen dataclass whose fields are its options."""

    def load(self) -> Model:
        """Load it, dense."""


@runtime_checkable
class Modifier(Protocol):
    """One step of a recipe; a frozen dataclass whose fields are its options."""

    def apply(self, model: Any) -> Claim:
        """Change the model in place and say what was done."""


@runtime_checkable
class Benchmark(Protocol):
    """Questions and how they are scored; a frozen dataclass whose fields are its options."""

    def measure(self, model: Any) -> Measurement:
        """Ask the model, compressed or not."""


class Acceptance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and why a baseline was accepted, and what it replaced."""

    date: str
    reason: str
    previous: dict[str, Any] | None = None


class Verdict(Struct, frozen=True, kw_only=True):
    """What is said of a trial: its figures, and whether it is above the floor."""

    passed: bool
    questions: int
    dense: float
    """Share of right answers."""
    compressed: float
    chance: float
    retention: float
    interval: tuple[float, float]
    standard_error: float
    floor: float
    forgotten: tuple[int, ...]
    """Positions of the questions that were right before and are wrong now."""
    learned: tuple[int, ...]
    near_ties: int
    """Questions decided by the accepted answer, because they may flip by numerics alone."""
