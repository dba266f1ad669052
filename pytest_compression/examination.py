"""A measured trial against its baselines: whether it is comparable, and the verdict."""

from collections import Counter
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
    dense: Measurement
    """The dense model's, here and now."""
    records_dense: bool
    """Whether this run records the dense trial, so that what is stored of it is outdated."""
    weights: str
    """Fingerprint of the dense weights."""
    footprint: Footprint
    environment: dict[str, str]
    command: str
    """How this run was started, for commands to type."""

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

    def accept(self, trial: str) -> str:
        """What to type to accept a change."""
        return f"{self.command} '{trial}' --compress-update --compress-reason \"...\""


class Examination(Struct, frozen=True, kw_only=True):
    """A verdict with what explains it."""

    subject: Subject
    baseline: Baseline
    """The accepted one of the same trial; if this run replaces it, the one before."""
    verdict: Verdict
    recorded: bool
    """Whether this run has recorded the trial."""


def examine(subject: Subject, settings: "Settings") -> Examination:
    """Compare with what was accepted, and record if asked to.

    Raises:
        BaselineError: a baseline is missing, or of other weights, questions or scoring, or was
            accepted under another floor; or the dense model no longer gives its answers.
        MeasurementError: the dense model does no better than guessing.
    """
    require_knowledge(subject.dense)
    dense = list(subject.dense.scores)
    if not subject.records_dense:
        accepted = fetch(subject, subject.dense_path, subject.dense_trial)
        require_reproduction(subject, accepted)
        dense = baselines.unpacked(accepted, subject.measured)
    records = settings.update or (settings.update_new and not subject.path.exists())
    if records:
        new = recorded(subject, settings.reason)
        verdict = judge(subject.measured, subject.measured.scores, dense, subject.spec.gate)
        old = existing(subject)
        baselines.write(subject.path, new)
        return Examination(subject=subject, baseline=old or new, verdict=verdict, recorded=True)
    own = fetch(subject, subject.path, subject.trial)
    scores, changed = list(subject.measured.scores), list[int]()
    if own.recipe == subject.recipe:  # an edited recipe has no accepted answers yet
        near = baselines.near_tie_scores(own, subject.measured)
        scores, changed = settled(subject.measured, near, own.near_tie)
    verdict = judge(subject.measured, scores, dense, subject.spec.gate, near=len(changed))
    return Examination(subject=subject, baseline=own, verdict=verdict, recorded=False)


def require_knowledge(dense: Measurement) -> None:
    """There must be something to retain: more than luck, and more than one answer for all."""
    right, chance = sum(dense.scores), dense.chance
    answers: dict[str, Counter[str]] = {}
    for question in dense.questions:
        answers.setdefault(question.cluster, Counter())[question.answer] += 1
    constant = sum(max(counts.values()) for counts in answers.values())
    several = any(len(counts) > 1 for counts in answers.values())
    if not better_than_chance(dense.scores, chance) or (several and right <= constant):
        message = (
            f"the dense model does not answer better than chance ({right} of {len(chance)} right; "
            f"guessing gets {sum(chance):.1f}, one answer a relation {constant}): there is no "
            "knowledge here to retain. Ask it something it knows, or check model and tokenizer."
        )
        raise MeasurementError(message)


def require_reproduction(subject: Subject, accepted: Baseline) -> None:
    """The dense model must give the answers that were accepted, near ties aside."""
    then = baselines.unpacked(accepted, subject.dense)
    near = baselines.near_tie_scores(accepted, subject.dense)
    scores, _ = settled(subject.dense, near, accepted.near_tie)
    changed = [i for i, (a, b) in enumerate(zip(then, scores, strict=True)) if a != b]
    if changed:
        names = ", ".join(subject.dense.questions[i].id for i in changed[:SHOWN])
        differs = baselines.differences(accepted.environment, subject.environment)
        message = (
            f"environment drift: the same dense weights answer {len(changed)} of {len(scores)} "
            f"questions otherwise than when the baseline was accepted ({names}), beyond near ties. "
            f"No recipe is to blame. Changed since: {', '.join(differs) or 'nothing recorded'}. "
            f"If this environment is right, accept it: {subject.accept(subject.dense_trial)}"
        )
        raise BaselineError(message)


def existing(subject: Subject) -> Baseline | None:
    """The baseline that there is, of whatever; None if there is none."""
    try:
        return baselines.read(subject.path, subject.trial)
    except FileNotFoundError:
        return None


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
            f"{subject.command} {' '.join(missing)} --compress-update-new"
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
    gate = subject.spec.gate
    if trial == subject.trial and found.floor != gate.min_retention:
        stale.append(
            f"it was accepted with the floor {found.floor:g}, and the suite now says "
            f"{gate.min_retention:g}"
        )
    if trial == subject.trial and found.near_tie != gate.near_tie:
        stale.append(
            f"its near ties were recorded within {found.near_tie:g} nats, and the suite now says "
            f"{gate.near_tie:g}"
        )
    if stale:
        message = (
            f"stale baseline {path}: {'; '.join(stale)}. If the change is meant, accept it: "
            f"{subject.accept(trial)}"
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


def recorded(subject: Subject, reason: str) -> Baseline:
    """What is measured now, as a baseline that replaces the one there is."""
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
            previous=baselines.previous(existing(subject)),
        ),
    )
