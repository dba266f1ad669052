"""What a trial is compared with, and whether it can be.

Only the same questions, scored alike, of the same dense weights compare; and only where the dense
model still gives the answers that were accepted.
"""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from pytest_compression.errors import BaselineError, MeasurementError, nearest
from pytest_compression.fingerprints import of_questions
from pytest_compression.gate.erosion import Terms
from pytest_compression.gate.erosion import changed as gate_changes
from pytest_compression.gate.retention import better_than_chance
from pytest_compression.gate.verdict import (
    relation_floors,
    settled,
)
from pytest_compression.store import baselines
from pytest_compression.store.baselines import Baseline, hardware
from pytest_compression.types import (
    Fingerprint,
    Footprint,
    Gate,
    Measurement,
    Part,
    Question,
    TrialSpec,
)

if TYPE_CHECKING:
    from pytest_compression.settings import Settings

GRADED = 1e-4
"""Graded scores that moved no further have not changed, unless a calibration says more."""
SHOWN = 5
"""Questions that a message lists."""


class Subject(Struct, frozen=True, kw_only=True):
    """What is measured, and where its references are."""

    trial: str
    dense_trial: str
    spec: TrialSpec
    steps: tuple[Part, ...]
    path: Path
    """Of the trial's own baseline."""
    dense_path: Path
    dense: Measurement
    """The dense model's, here and now: all questions."""
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
    def questions(self) -> tuple[Question, ...]:
        """All of them, whether asked or not."""
        return self.dense.questions

    @property
    def hardware(self) -> str:
        """What baselines of this environment are kept under."""
        return hardware(self.environment)

    @property
    def gate(self) -> Gate:
        """The rules, with a floor for each relation in the place of patterns."""
        gate = self.spec.gate
        floors = relation_floors(self.dense.clusters, gate.relation_floors)
        return replace(gate, relation_floors=dict(floors))

    @property
    def terms(self) -> Terms:
        """On what a result would be accepted now."""
        return Terms(self.gate, self.spec.expect)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of what is measured."""
        return Fingerprint(
            weights=self.weights,
            questions=of_questions(self.questions),
            scoring=self.dense.scoring,
        )

    def accept(self, trial: str, how: str = "--compress-update") -> str:
        """What to type to accept a change."""
        return f"{self.command} '{trial}' {how} --compress-reason \"...\""


class References(Struct, frozen=True, kw_only=True):
    """What a trial is compared with; scores are in the order of all questions."""

    dense: list[float]
    near_tie: float
    """Nats: what the suite asks for, or what a calibration of the dense model found to be
    needed."""
    own: Baseline | None = None
    """The accepted one of the same trial; None if this run records the first."""
    hardware: str = ""
    """What hardware it is of; another than this if there is none of this."""
    accepted: list[float] = []
    near: dict[int, float] = {}
    """Accepted scores of its near ties, by position."""

    def scores(
        self, measured: Measurement, asked: Sequence[int], subject: Subject
    ) -> tuple[list[float], list[float]]:
        """Scores to compare with the dense model's, and with the accepted ones.

        Near ties are settled by what was accepted; for the retention of an edited recipe they are
        not, for it has no accepted answers yet.

        Args:
            measured: of the questions asked.
            asked: their positions among all questions.
            subject: the trial.
        """
        near = {place: self.near[i] for place, i in enumerate(asked) if i in self.near}
        calm, _ = settled(measured, near, self.own.near_tie if self.own else 0.0)
        edited = self.own is None or self.own.recipe != subject.recipe
        return (list(measured.scores) if edited else calm), calm


def refer(subject: Subject, settings: "Settings") -> References:
    """Fetch what the trial is compared with, and check that it can be.

    Raises:
        BaselineError: a baseline is missing, or of other weights, questions or scoring, or was
            accepted under another gate; or the dense model no longer gives its answers.
        MeasurementError: the dense model does no better than guessing, or a floor is set for a
            relation that is not asked or that the dense model knows nothing of.
    """
    require_knowledge(subject.dense)
    require_relations(subject)
    here = subject.hardware
    dense = None if subject.records_dense else fetch(subject, subject.dense_path)
    scores = list(subject.dense.scores)
    if dense is not None:
        require_reproduction(subject, *dense)
        scores = baselines.unpacked(dense[1], subject.questions)
    near_tie = calibrated(subject)
    if settings.records or (settings.update_new and not subject.path.exists()):
        return References(dense=scores, near_tie=near_tie, hardware=here)
    name, own = fetch(subject, subject.path, None if settings.calibrate else near_tie)
    return References(
        dense=scores,
        near_tie=near_tie,
        own=own,
        hardware=name,
        accepted=baselines.unpacked(own, subject.questions),
        near=baselines.near_tie_scores(own, subject.questions),
    )


def require_knowledge(dense: Measurement) -> None:
    """There must be something to retain: more than luck, and more than one answer for all."""
    right, chance = sum(dense.scores), dense.chance
    answers: dict[str, Counter[str]] = {}
    for question in dense.questions:
        answers.setdefault(question.cluster, Counter())[question.answer] += 1
    constant = sum(max(counts.values()) for counts in answers.values())
    several = any(len(counts) > 1 for counts in answers.values()) and not dense.values
    if not better_than_chance(dense.scores, chance) or (several and right <= constant):
        message = (
            f"the dense model does not answer better than chance ({right:g} of {len(chance)} "
            f"right; guessing gets {sum(chance):.1f}, one answer a relation {constant}): there is "
            "no knowledge here to retain. Ask it something it knows, or check model and tokenizer."
        )
        raise MeasurementError(message)


def require_relations(subject: Subject) -> None:
    """Every floor of a relation must be of one that is asked, and that the dense model knows."""
    gate, dense = subject.spec.gate, subject.dense
    asked = sorted(set(dense.clusters))
    for pattern in gate.relation_floors:
        matching = [relation for relation in asked if fnmatchcase(relation, pattern)]
        if not matching:
            message = (
                f"relation_floors: '{pattern}' matches no relation of {subject.spec.benchmark}. "
                f"{nearest(pattern, asked)} A floor for one benchmark only belongs in an override "
                "that names it."
            )
            raise MeasurementError(message)
        for relation in matching:
            where = [i for i, cluster in enumerate(dense.clusters) if cluster == relation]
            known = sum(dense.scores[i] for i in where)
            guessed = sum(dense.chance[i] for i in where)
            if known <= guessed:
                message = (
                    f"relation_floors: the dense model knows nothing of '{relation}' that could be "
                    f"retained ({known:g} of {len(where)} right, guessing gets {guessed:.1f}). "
                    "Remove that floor."
                )
                raise MeasurementError(message)


def require_reproduction(subject: Subject, name: str, accepted: Baseline) -> None:
    """The dense model must give the answers that were accepted, near ties aside."""
    then = baselines.unpacked(accepted, subject.questions)
    near = baselines.near_tie_scores(accepted, subject.questions)
    scores, _ = settled(subject.dense, near, accepted.near_tie)
    moved = [i for i, (a, b) in enumerate(zip(then, scores, strict=True)) if a != b]
    if not moved:
        return
    names = ", ".join(subject.questions[i].id for i in moved[:SHOWN])
    differs = baselines.differences(accepted.environment, subject.environment)
    message = (
        f"environment drift: the same dense weights answer {len(moved)} of {len(scores)} "
        f"questions otherwise than when the baseline was accepted ({names}), beyond near ties. "
        f"No recipe is to blame. Changed since: {', '.join(differs) or 'nothing recorded'}. "
        f"If this environment is right, accept it: {subject.accept(subject.dense_trial)}"
    )
    if name != subject.hardware:
        message += (
            f". The baseline is that of {name}, for there is none of {subject.hardware}; to keep "
            f"both: {subject.accept(subject.dense_trial, '--compress-update-hardware')}"
        )
    raise BaselineError(message)


def calibrated(subject: Subject) -> float:
    """Within what distance answers are near ties: as the suite says, or as a calibration found.

    Graded scores have a distance of their own, not nats.
    """
    distance = GRADED if subject.dense.values else subject.gate.near_tie
    try:
        stored = baselines.read(subject.dense_path, subject.dense_trial)
    except FileNotFoundError:
        return distance
    found = stored.hardware.get(subject.hardware)
    if found is None or found.noise is None or found.fingerprint != subject.fingerprint:
        return distance
    return max(distance, found.noise.near_tie)


def existing(subject: Subject, *, dense: bool = False) -> tuple[str, Baseline] | None:
    """The baseline that this run would replace, and its hardware; None if there is none.

    Args:
        subject: the trial.
        dense: the dense model's, not the trial's own.
    """
    path, trial = subject.path, subject.trial
    if dense:
        path, trial = subject.dense_path, subject.dense_trial
    try:
        return baselines.read(path, trial).chosen(subject.hardware)
    except FileNotFoundError:
        return None


def fetch(subject: Subject, path: Path, near_tie: float | None = None) -> tuple[str, Baseline]:
    """A baseline that is one of the same weights, questions and scoring, and its hardware.

    Args:
        subject: the trial.
        path: of its own baseline, or of the dense model's.
        near_tie: nats within which near ties must have been recorded; None if that is as it was.
    """
    own = path == subject.path
    trial = subject.trial if own else subject.dense_trial
    try:
        name, found = baselines.read(path, trial).chosen(subject.hardware)
    except FileNotFoundError:
        missing = [f"'{trial}'"]
        if trial == subject.dense_trial != subject.trial and not subject.path.exists():
            missing.append(f"'{subject.trial}'")
        message = (
            f"no baseline of {trial} ({path}). Look at its figures, then record it: "
            f"{subject.command} {' '.join(missing)} --compress-update-new"
        )
        raise BaselineError(message) from None
    said = stale(found, subject, subject.terms if own else None, near_tie)
    if said:
        message = (
            f"stale baseline {path}: {'; '.join(said)}. If the change is meant, accept it: "
            f"{subject.accept(trial)}"
        )
        raise BaselineError(message)
    try:
        baselines.unpacked(found, subject.questions)
    except BaselineError as error:
        message = f"damaged baseline {path}: {error}. Restore it, or record it anew."
        raise BaselineError(message) from error
    return name, found


def stale(
    found: Baseline, subject: Subject, terms: Terms | None, near_tie: float | None
) -> list[str]:
    """Why a baseline is one of something else, in words."""
    now, said = subject.fingerprint, []
    then, here = found.environment.get("dtype"), subject.environment.get("dtype")
    if found.fingerprint.weights != now.weights and then != here:
        said.append(
            f"environment drift: the dense model is loaded as {here} and was accepted as {then}"
        )
    elif found.fingerprint.weights != now.weights:
        said.append("the dense weights are not those of the baseline")
    if found.fingerprint.questions != now.questions:
        said.append(f"the questions are not those of the baseline{counts(found, subject)}")
    if found.fingerprint.scoring != now.scoring and not said:
        said.append("the questions are tokenized or scored otherwise than for the baseline")
    accepted = Terms(found.gate, found.expect)
    if terms is not None and (changes := gate_changes(accepted, terms)):
        said.append(f"it was accepted under another gate ({', '.join(changes)})")
    elif near_tie is not None and found.near_tie < near_tie:
        said.append(
            f"its near ties were recorded within {found.near_tie:g} nats, and {near_tie:g} are "
            "needed by the suite or by the dense model's calibration"
        )
    return said


def counts(found: Baseline, subject: Subject) -> str:
    """How many questions there were and are, where that differs."""
    now = Counter(question.cluster for question in subject.questions)
    then = {name: part.questions for name, part in found.scores.items()}
    differs = [
        f"{name} {then.get(name, 0)} -> {now.get(name, 0)}"
        for name in sorted({*then, *now})
        if then.get(name, 0) != now.get(name, 0)
    ]
    return f" ({', '.join(differs)})" if differs else ""
