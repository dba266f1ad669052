"""A model source, modifiers and a benchmark without torch: whole runs take milliseconds.

A model knows numbered facts, a recipe makes it forget the highest of them, and a benchmark asks.
What happens to a model is noted in ``events.txt`` where pytest was started.
"""

import contextlib
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_compression.errors import MeasurementError, ModelError, RecipeError
from pytest_compression.types import (
    Claim,
    Family,
    Footprint,
    Measurement,
    Modifier,
    Question,
    Targets,
    Weight,
)

EVENTS = Path("events.txt")


def note(event: str, path: Path = EVENTS) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{event}\n")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A model that knows the facts below ``knows``."""

    name: str = "tiny"
    knows: int = 1000
    weights: str = "w1"
    library: str = "1.0"
    tied: tuple[int, ...] = ()
    """Facts that lead by 0.004 nats only."""
    shift: float = 0.0
    """What this machine's arithmetic adds to those."""
    noise: float = -0.003
    """What other conditions add."""
    processor: str = "P1"
    restores: bool = True
    absent: bool = False
    crashes: bool = False

    def load(self) -> "Model":
        note(f"load {self.name}")
        if self.absent:
            message = f"there is no model '{self.name}'"
            raise ModelError(message)
        if self.crashes:
            message = "a bug of somebody's"
            raise ZeroDivisionError(message)
        return Model(self)


class Model:
    """Loaded; ``lost`` are the facts that a recipe made it forget."""

    family: Family = "causal"

    def __init__(self, source: Memory) -> None:
        self.source = source
        self.lost: frozenset[int] = frozenset()
        self.found: frozenset[int] = frozenset()
        self.bits = 32
        weakref.finalize(self, note, f"free {source.name}", EVENTS.absolute())

    def weights(self, targets: Targets, ignore: Sequence[str] = ()) -> Sequence[Weight]:  # noqa: ARG002
        return ()

    def save(self, folder: Path) -> None:
        folder.mkdir()
        note(f"save {self.source.name}")

    def restore(self) -> bool:
        note(f"restore {self.source.name}")
        self.lost, self.found, self.bits = frozenset(), frozenset(), 32
        return self.source.restores

    def compress(self, steps: Sequence[Modifier]) -> Footprint:
        for step in steps:
            step.apply(self)
        return Footprint(
            bytes=1000 * self.bits,
            dense_bytes=32_000,
            parameters=8000,
            zeros=20,
            modules_touched=3 if steps else 0,
            modules=4,
            sparsity=0.0025,
            bits=float(self.bits),
            weight_error=0.125 if steps else 0.0,
        )

    def fingerprint(self) -> str:
        return self.source.weights

    def environment(self) -> dict[str, str]:
        return {
            "library": self.source.library,
            "machine": "fake",
            "processor": self.source.processor,
        }

    def conditions(self) -> Mapping[str, AbstractContextManager[None]]:
        return {
            "threads 2": self.shifted(self.source.noise),
            "dtype half": self.shifted(100 * self.source.noise),
        }

    @contextlib.contextmanager
    def shifted(self, by: float) -> Iterator[None]:
        source, self.source = self.source, replace(self.source, shift=self.source.shift + by)
        try:
            yield
        finally:
            self.source = source

    def margin(self, fact: int) -> float:
        """Nats by which the right answer leads; the higher the fact, the worse if wrong."""
        if fact in self.source.tied:
            return 0.004 + self.source.shift
        knows = (fact < self.source.knows and fact not in self.lost) or fact in self.found
        return 1.0 if knows else -1.0 - fact / 1000


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Forget the facts from ``above`` on, and learn others."""

    above: int = 1000
    learn: tuple[int, ...] = ()
    bits: int = 8
    idle: bool = False

    def apply(self, model: Model) -> Claim:
        if self.idle:
            message = "Forget touched no layer"
            raise RecipeError(message)
        model.lost |= frozenset(range(self.above, 1000))
        model.found |= frozenset(self.learn)
        model.bits = self.bits
        return Claim(targets=["a", "b", "c"])


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Ask ``n`` facts from ``start`` on, each with ``candidates`` answers."""

    n: int = 40
    start: int = 0
    candidates: int = 4
    version: str = "v1"
    left_out: int = 0
    unusable: bool = False
    crashes: bool = False

    def questions(self) -> tuple[Question, ...]:
        return tuple(
            Question(
                id=f"number:{i:03}",
                subject=f"Fact {i}",
                stem=f"Fact {i} is",
                end=".",
                answer=f"right {i}",
                candidates=(f"right {i}", *(f"wrong {i}{c}" for c in "abcdefgh"))[
                    : self.candidates
                ],
                cluster="even" if i % 2 == 0 else "odd",
            )
            for i in range(self.start, self.start + self.n)
        )

    def measure(self, model: Model) -> Measurement:
        note(f"measure {model.source.name} {self.start} bits {model.bits}")
        return self.asked(model, self.questions())

    def measure_part(self, model: Model, ids: Collection[str]) -> Measurement:
        note(f"measure {len(ids)} of {model.source.name} {self.start} bits {model.bits}")
        return self.asked(model, [question for question in self.questions() if question.id in ids])

    def asked(self, model: Model, questions: Sequence[Question]) -> Measurement:
        if self.unusable:
            message = "a logit is not a number"
            raise MeasurementError(message)
        if self.crashes:
            message = "a bug of somebody's"
            raise ZeroDivisionError(message)
        margins = tuple(model.margin(int(question.id.partition(":")[2])) for question in questions)
        return Measurement(
            metric="ranked",
            questions=tuple(questions),
            margins=margins,
            given=tuple(
                q.answer if m > 0 else q.candidates[-1]
                for q, m in zip(questions, margins, strict=True)
            ),
            scoring=self.version,
            left_out={"too long": self.left_out} if self.left_out else {},
            tokens=3 * len(questions),
        )


@dataclass(frozen=True, kw_only=True)
class Grades:
    """Graded scores: how well each fact is put, from 0 to 1."""

    n: int = 40
    worth: float = 0.9

    def measure(self, model: Model) -> Measurement:
        questions = Facts(n=self.n, candidates=1).questions()
        values = tuple(self.worth - i / 1000 if model.margin(i) > 0 else 0.1 for i in range(self.n))
        return Measurement(
            metric="graded",
            questions=questions,
            margins=(),
            given=tuple("good" if value > 0.5 else "bad" for value in values),
            scoring="g1",
            left_out={},
            open_vocabulary=True,
            values=values,
        )
