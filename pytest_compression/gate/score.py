"""The score test of a retention, and the limits that it leaves.

A limit is the furthest ``R`` that a score test of ``sum(e_i(R)) = 0`` does not reject, with the
errors ``e_i`` of :mod:`pytest_compression.gate.retention`. The variance of the sum
and its third moment are those under the likeliest distribution of answers in which that ``R`` is
true (Tango 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B,
for a difference; Nam & Blackwelder 2002, https://doi.org/10.1002/sim.1017, for a ratio), where
right-to-wrong and wrong-to-right are possible although nobody saw them: no change in 100
questions does not prove that nothing was lost. The third moment corrects the test for skewness
(Bartlett 1953, https://doi.org/10.1093/biomet/40.3-4.306; for ratios Gart & Nam 1988,
https://doi.org/10.2307/2531848), but only where that widens the interval: the other half would
make it too narrow below five changes.

Where clusters are the units, the variance is multiplied by the design effect (Kish, *Survey
Sampling*, 1965): the variance of cluster totals over that of as many independent questions, at
the same ``R``, and at least 1. What is above 1 is known from ``G`` totals only, so the quantile
goes from the normal distribution's to that of Student's with ``G - 1`` degrees of freedom as the
effect grows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import atan2, copysign, cos, inf, pi, sin, sqrt, tan

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from pytest_compression.gate import clusters as cluster

Array = NDArray[np.float64]

FEW = 20
"""Changed answers below which graded scores may have changed by more than any change seen."""

CORNERS = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
"""Dense and compressed scores: both wrong, learned, forgotten, both right."""


def turned(scores: Array, value: float) -> Array:
    """The error at the estimate, and the dense score above chance: ``[2, n]``.

    In these two an error at any other retention is ``e(R) = e(value) + (value - R) (d - h)``,
    which stays exactly 0 for equal answers where the estimate is 1.

    Args:
        scores: dense ones, compressed ones, and what guessing gets, ``[3, n]``.
        value: the estimate.
    """
    dense, compressed = scores[:2] - scores[2]
    return np.stack([compressed - value * dense, dense])


def scatter(sums: Array) -> Array:
    """Covariances ``[2, 2]`` of the total of sums ``[2, units]`` that were drawn independently."""
    centred = sums - sums.mean(axis=1, keepdims=True)
    units = sums.shape[1]
    covariances: Array = centred @ centred.T * (units / (units - 1))
    return covariances


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers that were seen and those that are possible besides, as by ``turned``."""

    pairs: Array
    """``[2, k]``."""
    counts: Array
    """How often each was seen, ``[k]``."""
    possible: Array
    """``[2, 4]``, or ``[2, 0]`` where only what was seen is possible."""

    def moments(self, axis: Array) -> tuple[float, float]:
        """Second and third moment of the total error, if its mean is none.

        The errors are ``axis @ pairs``. The likeliest shares of answers whose mean error is 0
        are ``count / (n (1 + tilt * error))``. If even the steepest tilt that is possible leaves
        a mean, the rest of the answers are the most extreme ones that are possible.
        """
        errors = axis @ self.pairs
        n = float(self.counts.sum())
        sign = copysign(1.0, float(self.counts @ errors))
        errors = sign * errors
        least = float(errors.min())
        extreme = min(least, float((sign * (axis @ self.possible)).min(initial=0.0)))
        if extreme >= 0:
            return 0.0, 0.0
        steepest = -1 / extreme
        room = 1 + steepest * errors  # 0 by rounding if extreme is hardly below least
        if extreme < least and room.min() > 0 and float(self.counts @ (errors / room)) >= 0:
            shares = self.counts / room
            rest = max(0.0, n - float(shares.sum()))
        else:
            shares = self.counts / (1 + tilt(errors, self.counts, steepest) * errors)
            rest = 0.0
        weighted = shares * errors
        second = float(weighted @ errors) + rest * extreme**2
        third = float((weighted * errors) @ errors) + rest * extreme**3
        return second * n / (n - 1), sign * third


def tilt(errors: Array, counts: Array, steepest: float) -> float:
    """Where ``sum(count * error / (1 + tilt * error))`` is 0, by Newton's method kept in bounds.

    Args:
        errors: with a mean that is not negative, ``[k]``.
        counts: ``[k]``.
        steepest: the tilt at which a denominator vanishes.
    """
    low, high = 0.0, steepest
    found = min(float(counts @ errors) / float(counts @ (errors * errors)), 0.5 * steepest)
    for _ in range(60):
        reduced = errors / (1 + found * errors)
        mean = float(counts @ reduced)
        low, high = (found, high) if mean > 0 else (low, found)
        last, found = found, found + mean / float((counts * reduced) @ reduced)
        if abs(found - last) < 1e-9 * steepest:
            break
        if not low < found < high:
            found = 0.5 * (low + high)
    return min(max(found, low), high)


def seen(scores: Array, value: float) -> Answers:
    """The different answers and their counts; all of them where they are not right or wrong.

    Args:
        scores: as for ``turned``, ``[3, n]``.
        value: the estimate.
    """
    (dense, compressed), chance = scores[:2], scores[2]
    binary = bool(((scores[:2] == 0) | (scores[:2] == 1)).all())
    bounded = scores[:2].min() >= 0 and scores[:2].max() <= 1
    cells = turned(np.vstack([CORNERS, np.full(4, chance.mean())]), value)
    if binary and chance.min() == chance.max():
        cells = turned(np.vstack([CORNERS, np.full(4, chance[0])]), value)
        counts = np.bincount((2 * dense + compressed).astype(np.intp), minlength=4)
        found = counts > 0
        return Answers(pairs=cells[:, found], counts=counts[found].astype(float), possible=cells)
    unseen = binary or (bounded and np.count_nonzero(dense != compressed) < FEW)
    return Answers(
        pairs=turned(scores, value),
        counts=np.ones(len(dense)),
        possible=cells if unseen else cells[:, :0],
    )


@dataclass(frozen=True, kw_only=True)
class ScoreTest:
    """The test of a retention, which is given as an angle: ``R = tan(angle)``."""

    value: float
    known: float
    answers: Answers
    questions: Array
    """Covariances ``[2, 2]`` of totals if questions were drawn independently."""
    units: Array
    """The same if units were."""
    normal: float
    """Quantile of the normal distribution."""
    student: float
    """Quantile of Student's distribution; the normal's where questions are the units."""

    def excess(self, angle: float, side: int) -> float:
        """By how much the total error is beyond its critical value, upwards or downwards.

        Args:
            angle: in [-pi/2, pi/2]; errors are scaled by its cosine, so both ends are finite.
            side: 1 where a retention below the estimate is tested, -1 above it.
        """
        axis = np.array([cos(angle), cos(angle) * self.value - sin(angle)])
        variance, third = self.answers.moments(axis)
        independent = float(axis @ self.questions @ axis)
        effect = float(axis @ self.units @ axis) / independent if independent > 0 else 1.0
        effect = max(1.0, effect)
        quantile = self.normal + (self.student - self.normal) * (1 - effect**-2)
        step = max(0.0, side * third / variance) if variance > 0 else 0.0
        critical = quantile * sqrt(effect * variance)
        critical += (quantile**2 - 1) / 6 * sqrt(effect) * step
        return side * float(axis[1]) * self.known - critical


def score_test(
    scores: Array, known: float, value: float, unit: NDArray[np.intp] | None, alpha: float
) -> ScoreTest:
    """The test at the one-sided level ``alpha``.

    Args:
        scores: as for ``turned``, ``[3, n]``.
        known: sum of the dense scores above chance.
        value: the estimate.
        unit: as by ``clusters.units``, ``[n]``.
        alpha: in (0, 0.5).
    """
    pairs = sums = turned(scores, value)
    normal = student = float(ndtri(1 - alpha))
    if unit is not None:
        sums = np.stack([cluster.totals(row, unit) for row in pairs])
        student = float(stdtrit(sums.shape[1] - 1, 1 - alpha))
    return ScoreTest(
        value=value,
        known=known,
        answers=seen(scores, value),
        questions=scatter(pairs),
        units=scatter(sums),
        normal=normal,
        student=student,
    )


def limit(test: ScoreTest, side: int) -> float:
    """The lower limit (``side`` 1) or the upper one (-1); infinite if nothing is rejected."""

    def excess(angle: float) -> float:
        return test.excess(angle, side)

    inside, outside = atan2(test.value, 1.0), -side * pi / 2
    # No error is beyond anything at the estimate itself, where rounding could say otherwise.
    near, far = (inside, min(0.0, excess(inside))), (outside, excess(outside))
    if far[1] <= 0:
        return -side * inf
    # The guess is usually just outside; from a bracket of all angles it would take twice as long.
    step = 1.5 * (test.normal * sqrt(1 + test.units[0, 0]) + 1) / test.known / (1 + test.value**2)
    while side * (guess := inside - side * step) > side * outside:
        found = guess, excess(guess)
        if found[1] > 0:
            far = found
            break
        near, step = found, 2 * step
    return tan(crossing(excess, near, far))


def crossing(
    function: Callable[[float], float], near: tuple[float, float], far: tuple[float, float]
) -> float:
    """Where a function is 0 between two points, given with its values there.

    False position, with the value at the end that stays weighted down (Anderson & Bjorck 1973,
    https://doi.org/10.1007/BF01951936).
    """
    (a, at_a), (b, at_b) = near, far
    for _ in range(100):
        c = b - at_b * (b - a) / (at_b - at_a)
        if not min(a, b) < c < max(a, b):
            c = 0.5 * (a + b)
        at_c = function(c)
        if at_c == 0 or abs(c - b) < 1e-11:
            return c
        if (at_c > 0) != (at_b > 0):
            a, at_a = b, at_b
        else:
            weight = 1 - at_c / at_b
            at_a *= weight if weight > 0 else 0.5
        b, at_b = c, at_c
    return b
