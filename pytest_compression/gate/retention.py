"""Knowledge retention: the compressed model's score over the dense model's, chance-corrected.

Both models answer the same ``n`` questions with scores ``d_i`` and ``c_i``; guessing would get
``h_i`` (1/candidates, or 0 for an open vocabulary)::

    R      = sum(c_i - h_i) / sum(d_i - h_i)
    e_i(R) = (c_i - h_i) - R (d_i - h_i)
    SE(R)  = sqrt(G/(G-1) * sum_g (sum_{i in g} e_i)^2) / sum(d_i - h_i)

with ``G`` units ``g``: questions, or clusters of them. The standard error is that of a ratio of
paired means (delta method: Cochran, *Sampling Techniques*, 3rd ed. 1977, ch. 6; pairing and
clusters as in Miller 2024, https://arxiv.org/abs/2411.00640). Sums are compared, never rounded
figures: 27 of 30 is exactly 0.9. Summing each of the three by ``fsum`` keeps it so with chance: 28
of 30 is exactly 0.9 if guessing gets a third.

The limits do not use that error, which is far too small where few answers changed. A limit is the
furthest ``R`` that a score test of ``sum(e_i(R)) = 0`` does not reject. The variance of the sum
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

In simulations a limit for 0.95 covers within 2 points of it from 50 questions and 5 changed
answers on; with fewer changes it covers more. The lower limit covers only about 0.89 where changes
are rare and come in heaps, in relations of which the sample may have none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import atan2, copysign, cos, fsum, inf, pi, sin, sqrt, tan
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from pytest_compression.gate import clusters as cluster

Array = NDArray[np.float64]

FEW = 20
"""Changed answers below which graded scores may have changed by more than any change seen."""

CORNERS = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
"""Dense and compressed scores: both wrong, learned, forgotten, both right."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """A retention, its paired standard error, and limits of what it may be."""

    value: float
    standard_error: float
    """By the delta method, from the units."""
    low: float
    """One-sided limit at ``1 - alpha``; ``-inf`` where the dense model is too near to guessing."""
    high: float
    """One-sided limit at ``1 - alpha``; ``inf`` where the dense model is too near to guessing."""
    units: int
    """How many were sampled: questions, or clusters."""
    clustered: bool
    """Whether clusters are the units."""


def corrected(scores: ArrayLike, chance: ArrayLike) -> Array:
    """Scores less what guessing would get."""
    return np.asarray(scores, dtype=np.float64) - np.asarray(chance, dtype=np.float64)


def retention(
    dense: Sequence[float],
    compressed: Sequence[float],
    chance: Sequence[float],
    clusters: Sequence[str] | None = None,
    alpha: float = 0.05,
) -> Retention:
    """Retention of knowledge on the same questions, with limits that cover from 50 of them on.

    Args:
        dense: scores ``[n]``, 1 and 0 for right and wrong or graded.
        compressed: scores ``[n]`` of the compressed model.
        chance: what guessing gets, ``[n]``.
        clusters: of each question, ``[n]``; they are the units where there are enough of them.
        alpha: how often each of the two limits may miss the truth, in (0, 0.5).

    Raises:
        ValueError: no questions, or a dense model that knows no more than guessing.
    """
    n, guessed = len(dense), fsum(chance)
    known = fsum(dense) - guessed
    if n == 0 or known <= 0:
        message = "the dense model knows nothing here that could be retained"
        raise ValueError(message)
    value = (fsum(compressed) - guessed) / known
    unit = None if clusters is None else cluster.units(clusters)
    units = n if unit is None else int(unit.max()) + 1
    error, low, high = inf, -inf, inf
    if units > 1:
        scores = np.array([dense, compressed, chance], dtype=np.float64)
        test = score_test(scores, known, value, unit, alpha)
        error = sqrt(test.units[0, 0]) / known
        low, high = limit(test, 1), limit(test, -1)
    return Retention(
        value=value,
        standard_error=error,
        low=min(low, value),
        high=max(high, value),
        units=units,
        clustered=unit is not None,
    )


def better_than_chance(scores: Sequence[float], chance: Sequence[float]) -> bool:
    """Whether right answers outnumber what guessing gets by luck in 1 case of 20.

    One-sided normal test of the number right against a sum of Bernoulli variables with the
    chances given. Where no chance is given, one right answer is enough.
    """
    h = np.asarray(chance, dtype=np.float64)
    excess = float(corrected(scores, h).sum())
    return excess > NormalDist().inv_cdf(0.95) * float(np.sqrt((h * (1 - h)).sum()))


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
        if extreme < least and float(self.counts @ (errors / (1 + steepest * errors))) >= 0:
            shares = self.counts / (1 + steepest * errors)
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
