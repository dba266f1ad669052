"""Baselines: one reviewed JSON file a trial, with the score of every question.

Scores are packed as bits, a relation at a time, over the questions' sorted ids. Keys are
sorted, floats are written shortest, lines end in LF: a change is a small diff. A file is
written beside its place and renamed, so a reader never meets half of one.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from pytest_compression.errors import BaselineError
from pytest_compression.types import Acceptance, Fingerprint, Footprint, Measurement

SCHEMA = 1


class Versioned(Struct, frozen=True):
    """The one key that all versions of a baseline have."""

    schema: int


class Packed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scores of one cluster."""

    questions: int
    right: int
    bits: str
    """Hexadecimal; the first question is the most significant bit of the first digit."""


class Baseline(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measurement that was accepted."""

    schema: int = SCHEMA
    trial: str
    """``suite.yaml::model/recipe::benchmark``."""
    recipe: list[dict[str, Any]]
    """Its steps when it was accepted."""
    metric: str
    scores: dict[str, Packed]
    """By cluster."""
    near_ties: dict[str, float]
    """Margins in nats, by question id, of the answers that may flip by numerics alone."""
    near_tie: float
    """The distance below which they were recorded."""
    floor: float
    """The least retention that was asked for when this was accepted."""
    left_out: dict[str, int]
    fingerprint: Fingerprint
    footprint: Footprint
    environment: dict[str, str]
    accepted: Acceptance

    @property
    def questions(self) -> int:
        """How many there were."""
        return sum(part.questions for part in self.scores.values())

    @property
    def score(self) -> float:
        """Share of right answers."""
        return sum(part.right for part in self.scores.values()) / max(1, self.questions)


def pack_bits(scores: Sequence[int]) -> str:
    """Zeros and ones as hexadecimal digits, filled up with zeros at the end."""
    bits = "".join("1" if score else "0" for score in scores)
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[i : i + 4], 2):x}" for i in range(0, len(bits), 4))


def unpack_bits(digits: str, count: int) -> list[int]:
    """The inverse of :func:`pack_bits`.

    Raises:
        ValueError: not hexadecimal, or not as many digits as the count needs.
    """
    if len(digits) != -(-count // 4):
        message = f"{len(digits)} digits cannot hold {count} scores"
        raise ValueError(message)
    bits = "".join(f"{int(digit, 16):04b}" for digit in digits)
    return [int(bit) for bit in bits[:count]]


def by_cluster(measured: Measurement) -> Iterator[tuple[str, list[int]]]:
    """Positions of the questions of each cluster, in the order of the ids."""
    clusters = [question.cluster for question in measured.questions]
    order = sorted(range(len(clusters)), key=lambda i: (clusters[i], i))
    for cluster, positions in groupby(order, key=lambda i: clusters[i]):
        yield cluster, list(positions)


def packed(measured: Measurement) -> dict[str, Packed]:
    """The scores of a measurement, by cluster."""
    scores = measured.scores
    return {
        cluster: Packed(
            questions=len(positions),
            right=sum(scores[i] for i in positions),
            bits=pack_bits([scores[i] for i in positions]),
        )
        for cluster, positions in by_cluster(measured)
    }


def unpacked(baseline: Baseline, measured: Measurement) -> list[int]:
    """The baseline's scores in the order of the questions measured now.

    Raises:
        BaselineError: it holds scores of other clusters or another number of questions.
    """
    scores = [0] * len(measured.questions)
    clusters = dict(by_cluster(measured))
    counts = {name: len(positions) for name, positions in clusters.items()}
    stored = {name: part.questions for name, part in baseline.scores.items()}
    if counts != stored:
        message = f"its scores are of {stored}, the questions now of {counts}"
        raise BaselineError(message)
    for cluster, positions in clusters.items():
        part = baseline.scores[cluster]
        try:
            values = unpack_bits(part.bits, part.questions)
        except ValueError as error:
            message = f"the bits of '{cluster}' are damaged: {error}"
            raise BaselineError(message) from error
        if sum(values) != part.right:
            message = (
                f"'{cluster}' has {sum(values)} right answers in its bits but says {part.right}"
            )
            raise BaselineError(message)
        for i, value in zip(positions, values, strict=True):
            scores[i] = value
    return scores


def near_tie_scores(baseline: Baseline, measured: Measurement) -> dict[int, int]:
    """What the baseline accepted where it was a near tie, by position."""
    scores = unpacked(baseline, measured)
    ids = enumerate(question.id for question in measured.questions)
    return {i: scores[i] for i, name in ids if name in baseline.near_ties}


def read(path: Path, trial: str) -> Baseline:
    """The baseline of a trial.

    Raises:
        FileNotFoundError: there is none.
        BaselineError: it is not a baseline, of another schema, or of another trial.
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
        found = msgspec.json.decode(text, type=Baseline)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"{path} is not a baseline: {error}. Restore it, or delete it and record anew."
        raise BaselineError(message) from error
    if found.trial != trial:
        message = (
            f"{path} is the baseline of {found.trial}, not of {trial}: rename one of "
            "the two suites, or, if the suite was renamed, delete the file and record anew."
        )
        raise BaselineError(message)
    return found


def write(path: Path, baseline: Baseline) -> None:
    """Write a baseline whole or not at all; the last of several writers wins."""
    text = msgspec.json.format(msgspec.json.encode(baseline, order="sorted"), indent=2)
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


def previous(old: Baseline | None) -> dict[str, Any] | None:
    """What an acceptance record keeps of the baseline that it replaces."""
    if old is None:
        return None
    return {
        "date": old.accepted.date,
        "reason": old.accepted.reason,
        "score": old.score,
        "questions": old.questions,
        "floor": old.floor,
        "recipe": old.recipe,
    }


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What of an environment has changed, as ``torch 2.12.0 -> 2.13.0``."""
    return [
        f"{key} {then.get(key, 'none')} -> {now.get(key, 'none')}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
