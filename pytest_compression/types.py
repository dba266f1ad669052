"""The values that travel between the parts, and the protocols that plug-ins meet.

All values are frozen and keyword-only. Nothing here imports torch.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct, field

Expectation = Literal["pass", "fail"]
Family = Literal["causal", "masked", "seq2seq"]
Assurance = Literal["point", "proven"]
OnInconclusive = Literal["pass", "fail", "warn"]
OnImprovement = Literal["report", "accept"]
TargetSet = Literal["all", "attention", "qkv", "projection", "feed-forward", "embeddings", "head"]
"""Sets of weights: every linear layer but the output head; those of attention; of these the
projections of its inputs, and of its output; those of the feed-forward blocks; the matrix of token
embeddings; the output head."""
Targets = str | tuple[str, ...]
"""Which weights a step works on: one or several of the sets by name, or patterns (``*``, ``?``,
``[``) of dotted module names."""


class Part(Struct, frozen=True, kw_only=True):
    """A named thing and its options: a model source, a step of a recipe, a benchmark."""

    use: str
    """A name of an entry point, or ``module:attribute``."""
    options: dict[str, Any] = field(default_factory=dict)


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a trial passes."""

    min_retention: float = 0.95
    """The floor: the least share of the dense model's knowledge that must be retained."""
    relation_floors: dict[str, float] = field(default_factory=dict)
    """The same for single relations, by name or pattern (``*``, ``?``)."""
    max_forgotten: float | None = None
    """The largest share of the dense model's right answers that may be lost, whatever was
    learned in their place."""
    assurance: Assurance = "point"
    """``point``: the estimate must reach the floor; ``proven``: its lower limit must."""
    margin: float = 0.01
    """Share of the questions. A loss against the last accepted result is no regression up to
    here, however significant."""
    alpha: float = 0.05
    """Chance of a false alarm: of all the regression tests of a run together, and of each limit
    of an interval."""
    power: float = 0.8
    """Chance of seeing an effect, where it is said how large an effect could be seen."""
    inconclusive: OnInconclusive | None = None
    """What becomes of a trial that cannot be decided: ``fail`` if not said and the retention must
    be proven, otherwise ``warn``."""
    improvement: OnImprovement = "report"
    """Whether an improvement over the last accepted result must be accepted, too."""
    near_tie: float = 0.01
    """Nats. An answer that leads or trails by less than twice this may flip by numerics alone;
    there the accepted answer counts. A calibration may find that more is needed."""

    @property
    def on_inconclusive(self) -> OnInconclusive:
        """What becomes of a trial that cannot be decided."""
        return self.inconclusive or ("fail" if self.assurance == "proven" else "warn")


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

    @property
    def names(self) -> tuple[str, str, str]:
        """Model, recipe and benchmark."""
        return self.model, self.recipe, self.benchmark

    @property
    def is_tested(self) -> bool:
        """Whether a loss against the last accepted result would be the recipe's.

        The dense model's would be drift, and a control has lost its knowledge anyway.
        """
        return self.recipe != "dense" and self.expect == "pass"

    @property
    def tests(self) -> int:
        """How many hypothesis tests that makes: of a loss, and of a gain that must be accepted."""
        return int(self.is_tested) * (1 + (self.gate.improvement == "accept"))


class Suite(Struct, frozen=True, kw_only=True):
    """A validated suite file."""

    models: dict[str, Part]
    recipes: dict[str, Recipe]
    benchmarks: dict[str, Part]
    trials: tuple[TrialSpec, ...]
    """In the order of models, recipes and benchmarks; ``dense`` first of each model."""
    contracts: bool = False
    """Whether the steps of each recipe are checked against the contract of their kind."""


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
    accepted: tuple[str, ...] = ()
    """Other forms of the answer that count, where it is generated."""
    before: str = ""
    """A sentence before the blank's own, in a segment of its own where a model knows segments."""
    behind: str = ""
    """The same, behind it."""
    beside: tuple[str, str] | None = None
    """Of a window of a text: what stands there before and behind it, for its seams cut words."""


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
    values: tuple[float, ...] = ()
    """Graded scores, of a benchmark that has no right and wrong; then there are no margins."""
    tokens: int = 0
    """Forward tokens that it took: of each row that was run through the model."""
    figures: dict[str, float] = field(default_factory=dict)
    """What else the benchmark says, such as a consistency or a perplexity; shown and kept, not
    judged."""
    expected: tuple[float, ...] = ()
    """For each question, the score that guessing would get, if it is not one in so many
    candidates."""

    @property
    def scores(self) -> tuple[float, ...]:
        """Graded, or 1 where the right answer leads and 0 where it does not; a tie is none."""
        return self.values or tuple(int(margin > 0) for margin in self.margins)

    @property
    def clusters(self) -> tuple[str, ...]:
        """Of each question."""
        return tuple(question.cluster for question in self.questions)

    @property
    def chance(self) -> tuple[float, ...]:
        """For each question, the score that guessing would get."""
        if self.expected:
            return self.expected
        if self.open_vocabulary:
            return (0.0,) * len(self.questions)
        return tuple(1 / len(question.candidates) for question in self.questions)


class Footprint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
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
    """``||dense - compressed|| / ||dense||`` over the touched weights that the dense model has."""
    activation_bits: int | None = None
    """Of the inputs of the touched modules, where they are rounded, too."""
    reshaped: int = 0
    """How many of the touched modules have another shape than the dense model's, or are none of
    its modules, so that the error leaves them out."""


class Fingerprint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a measurement is a measurement of."""

    weights: str
    """The dense weights, before the recipe."""
    questions: str
    scoring: str


class Claim(NamedTuple):
    """What a modifier says it did; the model measures whether it is so."""

    targets: Sequence[str]
    """Names of the layers it was put to work on."""
    sparsity: float | None = None
    """Share of the targets' weights that must now be zero: ``round(sparsity * n)`` weights, half a
    weight a layer allowed for rounding, or more where they were zero before."""
    bits: int | None = None
    """Each target must now be stored as packed codes of so many bits."""
    zeros: int | None = None
    """How many of the targets' weights must now be zero, exactly, or more where they were zero
    before."""
    pattern: tuple[int, int] | None = None
    """(n, m): each run of m consecutive inputs of a row must hold at most n that are not zero."""
    removed: int | None = None
    """How many parameters must be gone from the model, exactly."""
    activation_bits: int | None = None
    """The inputs of each target must be rounded to so many bits, as its layer says."""


class Stored(Protocol):
    """The packed form of a weight."""

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and of all that is needed to read them."""

    @property
    def bits(self) -> int:
        """Of a code."""

    def dequantize(self) -> Any:
        """The weight that it stands for, ``[out_features, in_features]``, bit for bit."""

    def with_zeros(self, zero: Any) -> "Stored | None":
        """The same with exact zeros where ``zero`` (boolean) says so; None if it cannot."""


class Weight(Protocol):
    """The weight of one linear layer, always ``[out_features, in_features]``."""

    @property
    def name(self) -> str:
        """Dotted name of its module."""

    @property
    def values(self) -> Any:
        """The tensor, turned if the layer stores it turned; writing to it is not for you."""

    def write(self, values: Any, stored: Stored | None = None) -> None:
        """Replace the values; ``stored`` is their packed form, if they have one."""


@runtime_checkable
class Model(Protocol):
    """A loaded language model, dense or compressed."""

    family: Family

    def weights(self, targets: Targets, ignore: Sequence[str] = ()) -> Sequence[Weight]:
        """The weights a step works on, in the model's order."""

    def restore(self) -> bool:
        """Put the dense weights back; False if the model must be loaded again for that."""

    def compress(self, steps: Sequence["Modifier"]) -> Footprint:
        """Apply the steps in order and measure what they did."""

    def fingerprint(self) -> str:
        """Of the dense weights."""

    def environment(self) -> dict[str, str]:
        """Versions, processor and dtype that figures may depend on."""

    def save(self, folder: Path) -> None:
        """Write it as it is now, so that it can be loaded again."""


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
class Depends(Protocol):
    """A step, or the value of an option of one, whose effect depends on what it does not say."""

    def environment(self) -> dict[str, str]:
        """What it is, such as a library's version; asked after the step was applied."""


@runtime_checkable
class Benchmark(Protocol):
    """Questions and how they are scored; a frozen dataclass whose fields are its options."""

    def measure(self, model: Any) -> Measurement:
        """Ask the model, compressed or not."""


@runtime_checkable
class PartialBenchmark(Benchmark, Protocol):
    """A benchmark of which a part can be asked, so that a trial can stop early."""

    def measure_part(self, model: Any, ids: Collection[str]) -> Measurement:
        """Ask only the questions with these ids; their scores are those of a whole measurement."""


@runtime_checkable
class Calibrated(Protocol):
    """A model whose numerics can be varied, so that their noise can be measured."""

    def conditions(self) -> Mapping[str, AbstractContextManager[None]]:
        """Ways to compute the same: names such as ``threads 1``, and what sets them for a while.

        Those that begin with ``dtype`` are another precision: they say what a change of dtype
        would do, and do not count as noise of this one.
        """


class Identity(NamedTuple):
    """What a model's answers are determined by."""

    digest: str
    """Of tensors, code, settings and tokenizer; empty if it is not known."""
    unknown: str = ""
    """Why it cannot be known."""


@runtime_checkable
class Keyed(Protocol):
    """A model whose answers can be kept, because it can say what they are determined by."""

    def identity(self) -> Identity:
        """Of the model as it is now, compressed or not."""


class Cost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a measurement took."""

    tokens: int
    """Forward tokens; 0 if the benchmark does not count them."""
    seconds: float
    """On the machine where it was accepted, to two digits."""


class Noise(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What numerics alone do to the dense model's answers, as a calibration found."""

    near_tie: float
    """Nats: no margin moved further than this in any condition of the model's own dtype."""
    shifts: dict[str, float]
    """Nats, by condition: the furthest that any margin moved."""
    flips: dict[str, int]
    """Answers that came out otherwise, by condition."""
    false_red: float
    """Chance that a run calls the unchanged dense model drift, by numerics alone."""
    date: str


class Past(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A result that was accepted once and replaced since."""

    date: str
    reason: str
    score: float
    """Mean score."""
    questions: int
    floor: float
    recipe: list[dict[str, Any]]


class Acceptance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and why a baseline was accepted, and what it replaced."""

    date: str
    reason: str
    history: list[Past] = field(default_factory=list)
    """The first accepted result first."""
