"""A measured trial against its baselines: whether it is comparable, and the verdict."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from pytest_compression.errors import BaselineError, MeasurementError
from pytest_compression.fingerprints import of_questions
from pytest_compression.gate.retention import better_than_chance
from pytest_compression.gate.verdict import judge, near_ties, settled
from pytest_compression.store import baselines
from pytest_compression.store.baselines import Baseline
from pytest_compression.types import (
    Acceptance,
    Fingerprint,
    Footprint,
    Measurement,
    Part,
    TrialSpec,
    Verdict,
)

if TYPE_CHECKING:
    from pytest_compression.settings import Settings

SHOWN = 5
"""Questions that a message lists."""


class Subject(Struct, frozen=True, kw_only=True):
    """What was measured, and where its references are."""

    trial: str
    dense_trial: str
    spec: TrialSpec
    steps: tuple[Part, ...]
    path: Path
    """Of the trial's own baseline."""
    dense_path: Path
    measured: Measurement
    weights: str
    """Fingerprint of the dense weights."""
    footprint: Footprint
    environment: dict[str, str]
    dense: Measurement | None
    """The dense model's measurement of this run, if the run records it."""

    @property
    def is_dense(self) -> bool:
        """Whether this is the trial of the dense model."""
        return not self.steps

    @property
    def recipe(self) -> list[dict[str, Any]]:
        """The steps as a baseline keeps them."""
        return [{"use": step.use, **step.options} for step in self.steps]

    @property
    def fingerprint(self) -> Fingerprint:
        """Of what was measured."""
        return Fingerprint(
            weights=self.weights,
            questions=of_questions(self.measured.questions),
            scoring=self.measured.scoring,
        )


class Examination(Struct, frozen=True, kw_only=True):
    """A verdict with what explains it."""

    subject: Subject
    baseline: Baseline
    """The accepted one of the same trial."""
    verdict: Verdict


def examine(subject: Subject, settings: "Settings") -> Examination:
    """Record if asked to, then compare.

    Raises:
        BaselineError: a baseline is missing, or of other weights, questions or scoring, or was
            accepted under another floor; or the dense model no longer gives its answers.
        MeasurementError: the dense model does no better than guessing.
    """
    if subject.is_dense:
        require_knowledge(subject.measured.scores, subject.measured)
    dense = dense_scores(subject)
    require_knowledge(dense, subject.measured)
    if settings.update or (settings.update_new and not subject.path.exists()):
        baselines.write(subject.path, recorded(subject, settings.reason))
    own = fetch(subject, subject.path, subject.trial)
    distance = own.near_tie
    accepted = baselines.near_tie_scores(own, subject.measured)
    scores, changed = settled(subject.measured, accepted, distance)
    if subject.is_dense:
        require_reproduction(subject, own, scores)
    verdict = judge(subject.measured, scores, dense, subject.spec.gate, near=len(changed))
    return Examination(subject=subject, baseline=own, verdict=verdict)


def dense_scores(subject: Subject) -> list[int]:
    """The dense model's scores: of this run if it records them, otherwise as accepted."""
    if subject.dense is not None:
        return list(subject.dense.scores)
    dense = fetch(subject, subject.dense_path, subject.dense_trial)
    return baselines.unpacked(dense, subject.measured)


def require_knowledge(scores: Sequence[int], measured: Measurement) -> None:
    """There must be something to retain."""
    if not better_than_chance(scores, measured.chance):
        n = len(scores)
        message = (
            f"the dense model does not answer better than chance ({sum(scores)} of {n} right, "
            f"guessing gets {sum(measured.chance):.1f}): there is no knowledge here to retain. "
            "Ask it something it knows, or check model and tokenizer."
        )
        raise MeasurementError(message)


def require_reproduction(subject: Subject, own: Baseline, scores: Sequence[int]) -> None:
    """The dense model must give the answers that were accepted, near ties aside."""
    then = baselines.unpacked(own, subject.measured)
    changed = [i for i, (a, b) in enumerate(zip(then, scores, strict=True)) if a != b]
    if changed:
        names = ", ".join(subject.measured.questions[i].id for i in changed[:SHOWN])
        differs = baselines.differences(own.environment, subject.environment)
        message = (
            f"environment drift: the same dense weights answer {len(changed)} of {len(scores)} "
            f"questions otherwise than when the baseline was accepted ({names}), beyond near ties. "
            f"No recipe is to blame. Changed since: {', '.join(differs) or 'nothing recorded'}. "
            f"If this environment is right, accept it: {accept_command(subject.dense_trial)}"
        )
        raise BaselineError(message)


def fetch(subject: Subject, path: Path, trial: str) -> Baseline:
    """A baseline that is one of the same weights, questions and scoring."""
    try:
        found = baselines.read(path, trial)
    except FileNotFoundError:
        missing = [f"'{trial}'"]
        if trial == subject.dense_trial != subject.trial and not subject.path.exists():
            missing.append(f"'{subject.trial}'")
        message = (
            f"no baseline of {trial} ({path}). Look at its figures, then record it: "
            f"pytest --compress-suite {' '.join(missing)} --compress-update-new"
        )
        raise BaselineError(message) from None
    now = subject.fingerprint
    stale = []
    if found.fingerprint.weights != now.weights:
        stale.append("the dense weights are not those of the baseline")
    if found.fingerprint.questions != now.questions:
        stale.append(f"the questions are not those of the baseline{counts(found, subject)}")
    if found.fingerprint.scoring != now.scoring and not stale:
        stale.append("the questions are tokenized or scored otherwise than for the baseline")
    if trial == subject.trial and found.floor != subject.spec.gate.min_retention:
        stale.append(
            f"it was accepted with the floor {found.floor:g}, and the suite now says "
            f"{subject.spec.gate.min_retention:g}"
        )
    if stale:
        message = (
            f"stale baseline {path}: {'; '.join(stale)}. If the change is meant, accept it: "
            f"{accept_command(trial)}"
        )
        raise BaselineError(message)
    try:
        baselines.unpacked(found, subject.measured)
    except BaselineError as error:
        message = f"damaged baseline {path}: {error}. Restore it, or record it anew."
        raise BaselineError(message) from error
    return found


def counts(found: Baseline, subject: Subject) -> str:
    """How many questions there were and are, where that differs."""
    now = {name: len(positions) for name, positions in baselines.by_cluster(subject.measured)}
    then = {name: part.questions for name, part in found.scores.items()}
    differs = [
        f"{name} {then.get(name, 0)} -> {now.get(name, 0)}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    return f" ({', '.join(differs)})" if differs else ""


def accept_command(trial: str) -> str:
    """What to type to accept a change."""
    return f"pytest --compress-suite '{trial}' --compress-update --compress-reason \"...\""


def recorded(subject: Subject, reason: str) -> Baseline:
    """What is measured now, as a baseline that replaces the one there is."""
    try:
        old = baselines.read(subject.path, subject.trial)
    except FileNotFoundError:
        old = None
    measured, gate = subject.measured, subject.spec.gate
    return Baseline(
        trial=subject.trial,
        recipe=subject.recipe,
        metric=measured.metric,
        scores=baselines.packed(measured),
        near_ties={
            measured.questions[i].id: round(measured.margins[i], 6)
            for i in near_ties(measured.margins, gate.near_tie)
        },
        near_tie=gate.near_tie,
        floor=gate.min_retention,
        left_out=measured.left_out,
        fingerprint=subject.fingerprint,
        footprint=subject.footprint,
        environment=subject.environment,
        accepted=Acceptance(
            date=datetime.now(UTC).date().isoformat(),
            reason=reason,
            previous=baselines.previous(old),
        ),
    )
