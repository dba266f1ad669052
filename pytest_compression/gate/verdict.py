"""From scores to a verdict: which rules are broken, and what the questions are too few to tell.

Answers whose margin is within noise may flip by numerics alone, on another processor or with
another number of threads. A threshold on the margin would only move the cliff, so the accepted
baseline settles them: where it recorded a near tie, and the margin is still within twice that
distance now, the accepted answer counts. As long as numerics move a margin by less than
``near_tie``, the verdict is then the same on every machine.

Two questions are kept apart. *Retention*: is knowledge kept, relative to the dense model?
*Regression*: is it less than what was last accepted for this recipe? The first is decided here; of
the second only what one trial can say, for whether a loss is significant depends on how many
were looked at (see :mod:`pytest_compression.gate.multiplicity`).
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import ceil, isfinite, sqrt
from typing import Literal

import numpy as np
from msgspec import Struct

from pytest_compression.gate.clusters import totals, units
from pytest_compression.gate.power import PairedTest, questions_to_prove
from pytest_compression.gate.regression import Change, change
from pytest_compression.gate.retention import Retention, retention
from pytest_compression.types import Gate, Measurement

Outcome = Literal["kept", "lost", "inconclusive"]


class Regression(Struct, frozen=True, kw_only=True):
    """What the trial alone says of a loss against the last accepted result."""

    change: Change
    suspected: bool
    """Beyond the margin and significant by itself: red unless the run's other tests explain it."""
    improved: bool
    """The same of a gain."""
    unclear: str
    """What cannot be told of a loss beyond the margin that is not significant; else empty."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What is said of a trial: its figures, and whether it is above its floors."""

    outcome: Outcome
    broken: tuple[str, ...]
    """The rules that it breaks, in words."""
    unclear: tuple[str, ...]
    """What its questions are too few to tell."""
    questions: int
    dense: float
    """Mean score."""
    compressed: float
    chance: float
    retention: float
    interval: tuple[float, float]
    """Each limit holds with probability ``1 - alpha``."""
    standard_error: float
    clustered: bool
    """Whether relations are the units of the interval, not questions."""
    proven: bool
    """The lower limit reaches the floor."""
    floor: float
    forgotten: tuple[int, ...]
    """Positions of the questions that were right before and are wrong now."""
    learned: tuple[int, ...]
    near_ties: int
    """Questions decided by the accepted answer, because they may flip by numerics alone."""
    regression: Regression | None = None
    """None if there is no accepted result to compare with."""


class Stopped(Struct, frozen=True, kw_only=True):
    """Why no more was asked of a trial."""

    decision: Literal["kept", "lost"]
    """What the whole trial would say."""
    limits: tuple[float, float]
    """Of the whole trial's retention; they hold at every stopping time together."""


def near_ties(margins: Sequence[float], distance: float) -> list[int]:
    """Positions of the questions whose answer leads or trails by less than ``distance`` nats."""
    return [i for i, margin in enumerate(margins) if abs(margin) < distance]


def settled(
    measured: Measurement, accepted: Mapping[int, float], distance: float
) -> tuple[list[float], list[int]]:
    """Scores with near ties settled by what was accepted.

    Args:
        measured: the scores now.
        accepted: scores that the baseline recorded for its near ties, by position; all of them, if
            they are graded.
        distance: nats, as when the near ties were recorded; of graded scores, how far they may
            move by numerics.

    Returns:
        The scores, and the positions that were settled against what was measured now.
    """
    scores = list(measured.scores)
    changed = []
    for i, score in accepted.items():
        if measured.values:  # what moved no further has not changed
            scores[i] = score if abs(scores[i] - score) <= distance else scores[i]
        elif abs(measured.margins[i]) < 2 * distance and scores[i] != score:
            scores[i] = score
            changed.append(i)
    return scores, changed


class Scored(Struct, frozen=True, kw_only=True):
    """Scores that are judged, on questions of known chance; parallel, ``[n]``."""

    scores: Sequence[float]
    """Near ties settled."""
    dense: Sequence[float]
    """The dense model's."""
    chance: Sequence[float]
    clusters: Sequence[str]

    def of(self, relation: str) -> "Scored":
        """The part of one relation."""
        where = [i for i, cluster in enumerate(self.clusters) if cluster == relation]
        return Scored(
            scores=[self.scores[i] for i in where],
            dense=[self.dense[i] for i in where],
            chance=[self.chance[i] for i in where],
            clusters=[relation] * len(where),
        )

    def retention(self, alpha: float) -> Retention:
        """What is retained, and between what limits."""
        return retention(self.dense, self.scores, self.chance, self.clusters, alpha)


def judge(
    scored: Scored, gate: Gate, *, near: int = 0, regression: Regression | None = None
) -> Verdict:
    """Compare settled scores with the dense model's on the same questions.

    Args:
        scored: both scores of each question.
        gate: the rules.
        near: how many near ties were settled.
        regression: what is said against the last accepted result.

    Raises:
        ValueError: the dense model knows no more than guessing, of all or of a relation that has
            a floor of its own.
    """
    n, kept = len(scored.scores), scored.retention(gate.alpha)
    pairs = list(zip(scored.dense, scored.scores, strict=True))
    forgotten = tuple(i for i, (d, c) in enumerate(pairs) if d > c)
    held = [hold(scored, gate.min_retention, gate)]
    for relation, floor in relation_floors(scored.clusters, gate.relation_floors):
        held.append(hold(scored.of(relation), floor, gate, f" of relation {relation}"))
    broken = [broken for broken, _ in held if broken]
    unclear = [unclear for _, unclear in held if unclear]
    share = sum(pairs[i][0] - pairs[i][1] for i in forgotten) / sum(scored.dense)
    if gate.max_forgotten is not None and share > gate.max_forgotten:
        broken.append(
            f"{share:.4f} of the right answers were forgotten, more than max_forgotten "
            f"{gate.max_forgotten:g}"
        )
    if regression is not None and regression.unclear:
        unclear.append(regression.unclear)
    return Verdict(
        outcome="lost" if broken else "inconclusive" if unclear else "kept",
        broken=tuple(broken),
        unclear=tuple(unclear),
        questions=n,
        dense=sum(scored.dense) / n,
        compressed=sum(scored.scores) / n,
        chance=sum(scored.chance) / n,
        retention=kept.value,
        interval=(kept.low, kept.high),
        standard_error=kept.standard_error,
        clustered=kept.clustered,
        proven=bool(kept.low >= gate.min_retention),
        floor=gate.min_retention,
        forgotten=forgotten,
        learned=tuple(i for i, (d, c) in enumerate(pairs) if c > d),
        near_ties=near,
        regression=regression,
    )


def hold(scored: Scored, floor: float, gate: Gate, of: str = "") -> tuple[str, str]:
    """Hold a retention against a floor: by its estimate, or by its lower limit too.

    Returns:
        How the floor is missed, or else what is not proven; empty strings if neither.
    """
    kept, n = scored.retention(gate.alpha), len(scored.scores)
    if kept.value < floor:
        return f"retention{of} {kept.value:.4f} is below the floor {floor:g}", ""
    if gate.assurance == "point" or kept.low >= floor:
        return "", ""
    more = questions_to_prove(kept, n, floor=floor, alpha=gate.alpha, power=gate.power)
    if more is None and kept.value > floor and isfinite(kept.low):
        # Without an error to go by: the limit comes nearer as questions are added.
        more = ceil(n * (kept.value - kept.low) / (kept.value - floor))
    low = f"{kept.low:.4f}" if isfinite(kept.low) else "unknown"
    would = f"; about {more:,} questions would" if more is not None and more > n else ""
    return "", (
        f"{n} questions do not prove that retention{of} reaches the floor {floor:g}: the "
        f"estimate is {kept.value:.4f}, its lower limit {low}{would}"
    )


def relation_floors(
    clusters: Iterable[str], floors: Mapping[str, float]
) -> list[tuple[str, float]]:
    """Each relation with its floor; of several patterns that match, the last one counts."""
    found = {}
    for relation in sorted(set(clusters)):
        for pattern, floor in floors.items():
            if fnmatchcase(relation, pattern):
                found[relation] = floor
    return list(found.items())


def against_accepted(
    accepted: Sequence[float], now: Sequence[float], clusters: Sequence[str], gate: Gate
) -> Regression:
    """Compare with the last accepted result of the same recipe, near ties settled.

    Args:
        accepted: its scores, ``[n]``.
        now: the scores now, in the same order.
        clusters: of each question.
        gate: margin, alpha and power.
    """
    found = change(accepted, now, clusters)
    beyond = found.loss > gate.margin
    return Regression(
        change=found,
        suspected=beyond and found.p_loss <= gate.alpha,
        improved=-found.loss > gate.margin and found.p_gain <= gate.alpha,
        unclear=too_few(found, accepted, now, clusters, gate)
        if beyond and found.p_loss > gate.alpha
        else "",
    )


def too_few(
    found: Change,
    accepted: Sequence[float],
    now: Sequence[float],
    clusters: Sequence[str],
    gate: Gate,
) -> str:
    """Why a loss beyond the margin is not told from chance, and what would tell it."""
    n = len(now)
    harmless = 2 * min(len(found.forgotten), len(found.learned)) / n
    test = paired_test(accepted, now, clusters, alpha=gate.alpha, margin=gate.margin)
    return (
        f"{n} questions cannot tell whether more than {gate.margin:.1%} was lost since the "
        f"result was accepted: {found.loss:.2%} net, p = {found.p_loss:.3f}. "
        f"{shows(test, n, found.loss, harmless, gate.power)}"
    )


def shows(test: PairedTest, n: int, loss: float, harmless: float, power: float) -> str:
    """What so many questions could show, and how many would settle a loss of that size."""
    least = test.detectable(n, harmless=harmless, power=power)
    more = test.questions_needed(loss, harmless=min(harmless, 1 - loss), power=power)
    sees = "show no loss at all" if least is None else f"show a loss of {least:.2%}"
    settles = "" if more is None else f"; about {more:,} would settle one of this size"
    return f"They {sees} with power {power:.0%} at level {test.alpha:.2g}{settles}"


def paired_test(
    accepted: Sequence[float],
    now: Sequence[float],
    clusters: Sequence[str],
    *,
    alpha: float,
    margin: float,
) -> PairedTest:
    """The test of a change between such scores, as far as its power goes.

    Where relations are the units, they widen the standard error of the change as many times as
    they do in these scores.
    """
    unit = units(clusters)
    each = np.asarray(accepted, dtype=np.float64) - np.asarray(now, dtype=np.float64)
    squares = float((each**2).sum())
    inflation = 1.0
    if unit is not None and squares > 0:
        inflation = sqrt(float((totals(each, unit) ** 2).sum()) / squares)
    return PairedTest(
        alpha=alpha,
        margin=margin,
        inflation=inflation,
        clusters=None if unit is None else len(set(clusters)),
    )
