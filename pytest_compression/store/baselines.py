"""Baselines: one reviewed JSON file a trial, with the score of every question.

A file holds a record for each kind of hardware that has one, and names the record that counts on
all others. Keys are sorted, floats are written shortest, lines end in LF: a change is a small
diff. A file is written beside its place and renamed, so a reader never meets half of one.
"""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from math import fsum, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from pytest_compression.errors import BaselineError, MeasurementError
from pytest_compression.store.packing import (
    Chance,
    Packed,
    by_cluster,
    pack,
    pack_chance,
    unpack,
    unpack_chance,
)
from pytest_compression.types import (
    Acceptance,
    Cost,
    Expectation,
    Fingerprint,
    Footprint,
    Gate,
    Measurement,
    Noise,
    Past,
    Question,
)

SCHEMA = 2


class Versioned(Struct, frozen=True):
    """The one key that all versions of a baseline have."""

    schema: int


class Baseline(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A measurement that was accepted, on one kind of hardware."""

    recipe: list[dict[str, Any]]
    """Its steps when it was accepted."""
    metric: str
    scores: dict[str, Packed]
    """By cluster."""
    chance: dict[str, Chance]
    """By cluster."""
    near_ties: dict[str, float]
    """Margins in nats, by question id, of the answers that may flip by numerics alone."""
    near_tie: float
    """The distance below which they were recorded."""
    gate: Gate
    """The whole gate that was in force when this was accepted."""
    left_out: dict[str, int]
    fingerprint: Fingerprint
    footprint: Footprint
    cost: Cost
    environment: dict[str, str]
    accepted: Acceptance
    figures: dict[str, float] = field(default_factory=dict)
    """What else the benchmark said."""
    expect: Expectation = "pass"
    """What the suite expected: a control's result was accepted because it fails."""
    noise: Noise | None = None
    """Of the dense model, once it has been calibrated."""

    @property
    def counts(self) -> dict[str, int]:
        """How many questions each cluster has."""
        return {cluster: part.questions for cluster, part in self.scores.items()}

    @property
    def questions(self) -> int:
        """How many there were."""
        return sum(self.counts.values())

    @property
    def score(self) -> float:
        """Mean score: the share of right answers, where answers are right or wrong."""
        return fsum(part.total for part in self.scores.values()) / max(1, self.questions)


class Stored(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file: the records of a trial."""

    schema: int = SCHEMA
    trial: str
    """``suite.yaml::model/recipe::benchmark``."""
    fallback: str
    """The hardware whose record counts where there is none."""
    hardware: dict[str, Baseline]

    def chosen(self, hardware: str) -> tuple[str, Baseline]:
        """The record that counts on this hardware, and the hardware it was recorded on."""
        name = hardware if hardware in self.hardware else self.fallback
        return name, self.hardware[name]


class Restored(NamedTuple):
    """What a record alone says of each question; parallel lists."""

    scores: list[float]
    chance: list[float]
    clusters: list[str]


def hardware(environment: Mapping[str, str]) -> str:
    """What a record is a record for, such as ``cpu x86_64 AVX512``; ``any`` if nothing is known."""
    known = (environment.get(key) for key in ("device", "machine", "processor"))
    return " ".join(filter(None, known)) or "any"


def packed(measured: Measurement) -> dict[str, Packed]:
    """The scores of a measurement, by cluster.

    Raises:
        MeasurementError: a graded score is not a finite number, which JSON cannot hold.
    """
    scores = measured.scores
    pairs = zip(measured.questions, scores, strict=True)
    broken = [question.id for question, score in pairs if not isfinite(score)]
    if broken:
        message = f"the scores of these questions are not finite numbers: {', '.join(broken)}."
        raise MeasurementError(message)
    graded = bool(measured.values)
    return {
        cluster: pack([scores[i] for i in positions], graded=graded)
        for cluster, positions in by_cluster(measured.questions)
    }


def chance(measured: Measurement) -> dict[str, Chance]:
    """What guessing gets, by cluster."""
    each = measured.chance
    return {
        cluster: pack_chance([each[i] for i in positions])
        for cluster, positions in by_cluster(measured.questions)
    }


def unpacked(baseline: Baseline, questions: Sequence[Question]) -> list[float]:
    """The baseline's scores in the order of the questions.

    Args:
        baseline: the record.
        questions: all of the benchmark, whether or not all are asked now.

    Raises:
        BaselineError: it holds scores of other clusters or another number of questions.
    """
    clusters = dict(by_cluster(questions))
    counts = {name: len(positions) for name, positions in clusters.items()}
    if counts != baseline.counts:
        message = f"its scores are of {baseline.counts}, the questions now of {counts}"
        raise BaselineError(message)
    scores = [0.0] * len(questions)
    for cluster, positions in clusters.items():
        for i, score in zip(positions, unpack(cluster, baseline.scores[cluster]), strict=True):
            scores[i] = score
    return scores


def restored(baseline: Baseline) -> Restored:
    """Scores, chance and cluster of each question, from the record alone.

    Clusters are sorted by name, questions by id: two records of the same questions are parallel.

    Raises:
        BaselineError: the record contradicts itself.
    """
    found = Restored([], [], [])
    for cluster, count in sorted(baseline.counts.items()):
        found.scores.extend(unpack(cluster, baseline.scores[cluster]))
        found.chance.extend(unpack_chance(cluster, baseline.chance.get(cluster), count))
        found.clusters.extend([cluster] * count)
    return found


def near_tie_scores(baseline: Baseline, questions: Sequence[Question]) -> dict[int, float]:
    """What the baseline accepted where it was a near tie, by position; all graded scores."""
    scores = unpacked(baseline, questions)
    if any(part.values is not None for part in baseline.scores.values()):
        return dict(enumerate(scores))
    ids = enumerate(question.id for question in questions)
    return {i: scores[i] for i, name in ids if name in baseline.near_ties}


def read(path: Path, trial: str) -> Stored:
    """The baseline file of a trial.

    Raises:
        FileNotFoundError: there is none.
        BaselineError: it is not a baseline, of another schema, or of another trial; or it has no
            record for hardware that it does not name.
    """
    text = path.read_bytes()
    try:
        schema = msgspec.json.decode(text, type=Versioned).schema
        if schema != SCHEMA:  # first: another version has other keys
            message = (
                f"{path} has schema {schema}; this version reads {SCHEMA}. Update "
                "pytest-compression, or delete it and record anew."
            )
            raise BaselineError(message)
        found = msgspec.json.decode(text, type=Stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"{path} is not a baseline: {error}. Restore it, or delete it and record anew."
        raise BaselineError(message) from error
    if found.trial != trial:
        message = (
            f"{path} is the baseline of {found.trial}, not of {trial}: rename one of "
            "the two suites, or, if the suite was renamed, delete the file and record anew."
        )
        raise BaselineError(message)
    if found.fallback not in found.hardware:
        known = ", ".join(f"'{name}'" for name in sorted(found.hardware)) or "none"
        message = (
            f"{path} falls back to the record of '{found.fallback}', and its records are: {known}. "
            "Restore it, let 'fallback' name one of them, or delete it and record anew."
        )
        raise BaselineError(message)
    return found


def write(path: Path, trial: str, hardware: str, baseline: Baseline, *, beside: bool) -> None:
    """Write a record into its trial's file, which is replaced whole or not at all.

    Processes may write different trials at once, never the same one.

    Args:
        path: of the file; it need not exist.
        trial: whose file it is.
        hardware: on which the record was made; the file's record of the same is replaced.
        baseline: the record.
        beside: where the file has none of this hardware, whether to keep all that it has, with
            its fallback; if not, this record takes the place of the fallback.

    Raises:
        BaselineError: what stands there is not a baseline of this trial.
    """
    try:
        old = read(path, trial)
    except FileNotFoundError:
        old = Stored(trial=trial, fallback=hardware, hardware={})
    records, fallback = dict(old.hardware), old.fallback
    if hardware not in records and not beside:
        records.pop(fallback, None)
        fallback = hardware
    records[hardware] = baseline
    replace(path, Stored(trial=trial, fallback=fallback, hardware=records))


def replace(path: Path, stored: Stored) -> None:
    """Write a file beside its place and rename it."""
    text = msgspec.json.format(msgspec.json.encode(stored, order="sorted"), indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # mkstemp keeps its files to their owner
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def history(old: Baseline | None) -> list[Past]:
    """What an acceptance keeps of the record that it replaces: its figures, and its own history."""
    if old is None:
        return []
    figures = Past(
        date=old.accepted.date,
        reason=old.accepted.reason,
        score=old.score,
        questions=old.questions,
        floor=old.gate.min_retention,
        recipe=old.recipe,
    )
    return [*old.accepted.history, figures]


def cost_kept(old: Cost | None, new: Cost) -> Cost:
    """The cost to record: the old one where only the clock differs, and by less than twice."""
    if old and old.tokens == new.tokens and old.seconds / 2 < new.seconds < 2 * old.seconds:
        return old
    return Cost(tokens=new.tokens, seconds=float(f"{new.seconds:.2g}"))


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What of an environment has changed, as ``torch 2.12.0 -> 2.13.0``."""
    return [
        f"{key} {then.get(key, 'none')} -> {now.get(key, 'none')}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
