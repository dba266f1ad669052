"""From two measurements and an accepted one to a verdict.

Answers whose margin is within noise may flip by numerics alone, on another processor or with
another number of threads. A threshold on the margin would only move the cliff, so the accepted
baseline settles them: where it recorded a near tie, and the margin is still within twice that
distance now, the accepted answer counts. As long as numerics move a margin by less than
``near_tie``, the verdict is then the same on every machine.
"""

from collections.abc import Mapping, Sequence

from pytest_compression.gate.retention import retention
from pytest_compression.types import Gate, Measurement, Verdict


def near_ties(margins: Sequence[float], distance: float) -> list[int]:
    """Positions of the questions whose answer leads or trails by less than ``distance`` nats."""
    return [i for i, margin in enumerate(margins) if abs(margin) < distance]


def settled(
    measured: Measurement, accepted: Mapping[int, int], distance: float
) -> tuple[list[int], list[int]]:
    """Scores with near ties settled by what was accepted.

    Args:
        measured: the scores now.
        accepted: scores that the baseline recorded for its near ties, by position.
        distance: nats, as when the near ties were recorded.

    Returns:
        The scores, and the positions that were settled against what was measured now.
    """
    scores = list(measured.scores)
    changed = []
    for i, score in accepted.items():
        if abs(measured.margins[i]) < 2 * distance and scores[i] != score:
            scores[i] = score
            changed.append(i)
    return scores, changed


def judge(
    measured: Measurement,
    scores: Sequence[int],
    dense: Sequence[int],
    gate: Gate,
    *,
    near: int = 0,
) -> Verdict:
    """Compare settled scores with the dense model's on the same questions.

    The estimate itself must reach the floor; its interval is shown beside it.

    Args:
        measured: what was measured; gives questions and chance.
        scores: its scores, near ties settled.
        dense: the dense model's scores, in the same order.
        gate: the floor and the level of the interval.
        near: how many near ties were settled.

    Raises:
        ValueError: the dense model knows no more than guessing.
    """
    chance = measured.chance
    kept = retention(dense, scores, chance)
    n = len(scores)
    return Verdict(
        passed=kept.value >= gate.min_retention,
        questions=n,
        dense=sum(dense) / n,
        compressed=sum(scores) / n,
        chance=sum(chance) / n,
        retention=kept.value,
        interval=kept.interval(gate.confidence),
        standard_error=kept.standard_error,
        floor=gate.min_retention,
        forgotten=tuple(i for i, (d, c) in enumerate(zip(dense, scores, strict=True)) if d > c),
        learned=tuple(i for i, (d, c) in enumerate(zip(dense, scores, strict=True)) if c > d),
        near_ties=near,
    )
