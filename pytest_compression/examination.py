"""A measured trial against its baselines: whether it is comparable, and the verdict."""

from math import fsum, nan

from msgspec import Struct
from msgspec.structs import replace

from pytest_compression.gate.verdict import (
    Scored,
    Stopped,
    Verdict,
    against_accepted,
    judge,
)
from pytest_compression.references import References, Subject
from pytest_compression.store.baselines import Baseline
from pytest_compression.types import (
    Gate,
    Measurement,
)


class Examination(Struct, frozen=True, kw_only=True):
    """A verdict with what explains it."""

    subject: Subject
    measured: Measurement
    references: References
    verdict: Verdict
    current: Baseline | None = None
    """The trial's baseline as it is after this run."""
    recorded: bool = False
    """Whether this run has recorded the trial."""

    @property
    def asked_all(self) -> bool:
        """Whether every question was asked; otherwise the trial was decided earlier."""
        return len(self.measured.questions) == len(self.subject.questions)


def examine(
    subject: Subject,
    measured: Measurement,
    references: References,
    stopped: Stopped | None = None,
) -> Examination:
    """Judge what was measured.

    Args:
        subject: the trial.
        measured: of all questions, or of those that were asked before it was decided.
        references: what it is compared with.
        stopped: why no more was asked.
    """
    place = {question.id: i for i, question in enumerate(subject.questions)}
    asked = [place[question.id] for question in measured.questions]
    gate, regression = subject.gate, None
    if subject.is_dense:
        gate = replace(gate, assurance="point")  # compared with itself: there is nothing to prove
    scores, calm = references.scores(measured, asked, subject)
    if references.own is not None and subject.spec.is_tested and stopped is None:
        regression = against_accepted(references.accepted, calm, measured.clusters, gate)
    scored = Scored(
        scores=scores,
        dense=[references.dense[i] for i in asked],
        chance=measured.chance,
        clusters=measured.clusters,
    )
    near = sum(a != b for a, b in zip(scores, measured.scores, strict=True))
    if stopped is not None:
        verdict = decided(scored, gate, near, stopped, whole=known(subject, references))
    else:
        verdict = judge(scored, gate, near=near, regression=regression)
    if subject.is_dense:
        verdict = replace(verdict, interval=(1.0, 1.0), proven=True)  # compared with itself
    return Examination(
        subject=subject,
        measured=measured,
        references=references,
        verdict=verdict,
        current=references.own,
    )


def known(subject: Subject, references: References) -> tuple[float, int]:
    """What the dense model knows beyond guessing, as a sum over all questions; and their number."""
    return fsum(references.dense) - fsum(subject.dense.chance), len(references.dense)


def decided(
    scored: Scored, gate: Gate, near: int, stopped: Stopped, whole: tuple[float, int]
) -> Verdict:
    """The verdict of a trial that was stopped: what the whole of it would have said.

    Its retention is estimated by the mean change of the questions asked, and what the dense model
    knows of all of them; it lies within the limits.
    """
    n, (knowledge, questions) = len(scored.scores), whole
    pairs = list(zip(scored.dense, scored.scores, strict=True))
    change = fsum(c - d for d, c in pairs) / n * questions
    low, high = stopped.limits
    said = (
        f"{n} of {questions} questions were enough to know that it misses its floors; the "
        f"retention of the whole trial lies in [{low:.4f}, {high:.4f}], the floor is "
        f"{gate.min_retention:g}"
    )
    return Verdict(
        outcome=stopped.decision,
        broken=(said,) if stopped.decision == "lost" else (),
        unclear=(),
        questions=n,
        dense=fsum(scored.dense) / n,
        compressed=fsum(scored.scores) / n,
        chance=fsum(scored.chance) / n,
        retention=min(max(1 + change / knowledge, low), high),
        interval=stopped.limits,
        standard_error=nan,
        clustered=False,
        proven=low >= gate.min_retention,
        floor=gate.min_retention,
        forgotten=tuple(i for i, (d, c) in enumerate(pairs) if d > c),
        learned=tuple(i for i, (d, c) in enumerate(pairs) if c > d),
        near_ties=near,
    )
