"""How large a loss a paired test can see, and how many questions that takes.

The test is McNemar's, exact and one-sided: of ``m`` questions that flipped, ``b`` were forgotten,
and a loss is seen if ``P[Bin(m, 1/2) >= b] <= alpha`` (McNemar 1947, Psychometrika 12:153,
https://doi.org/10.1007/BF02295996). Its power needs no approximation: ``m`` is binomial among the
questions and ``b`` binomial among the flips, so it is a finite sum (Connor 1987, Biometrics 43:207,
https://doi.org/10.2307/2531961).

All sizes are shares of the questions. *Flips* are forgotten plus learned, a *loss* is forgotten
less learned, so no loss exceeds the flips. The usual tables of detectable effects hold all flips
fixed, the loss among them: :func:`table`. To plan, one knows how many questions flip *harmlessly*,
as many forgotten as learned, and asks for a loss on top: :meth:`PairedTest.detectable`. Only that
has an answer where nothing flipped so far. In an accepted measurement the harmless flips are
``2 * min(forgotten, learned) / n``.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from math import ceil, copysign, isfinite, log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, gammaln, ndtr, ndtri, stdtrit, xlog1py, xlogy

from pytest_compression.gate.retention import Retention

CLOSE = 1e-4
"""Relative distance within which a detectable loss is found; it is rounded up."""
MANY = 1_000_000
"""Questions beyond which their number is only estimated, by the normal approximation."""

_NEGLIGIBLE = log(2e10)  # as an exponent: numbers of flips this improbable are left out
_BLOCK = 256  # critical values are computed, and kept, for so many numbers of flips at once


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """The exact one-sided test of a loss, whose power is asked for.

    Raises:
        ValueError: a level that is not in (0, 1).
    """

    alpha: float
    """Its level: chance of seeing a loss where there is none."""
    margin: float = 0.0
    """Share of the questions that a net loss must exceed, besides being significant."""
    inflation: float = 1.0
    """Clustered over paired standard error, where whole clusters are the units: ``n`` questions are
    then taken for ``n / inflation ** 2`` independent ones (the design effect: Kish, *Survey
    Sampling*, 1965, ch. 5). Below 1 it counts as 1: relations within which flips happened to cancel
    promise nothing."""
    clusters: int | None = None
    """How many there are, where they are the units. The signs of few clusters have few patterns: no
    p is below ``2 ** -clusters``, and what is significant is further out, about as far as Student's
    t is further than the normal deviate. This is an approximation, for losses that strike all
    relations alike: one in a few relations is seen less often, in a strict test hardly ever."""

    def __post_init__(self) -> None:
        """Refuse what is no level."""
        if not 0 < self.alpha < 1:
            message = f"a level of {self.alpha} is not in (0, 1)"
            raise ValueError(message)

    def power(self, n: int, *, flips: float, loss: float) -> float:
        """Chance that the loss is seen; exact to ``1e-9`` where questions are the units.

        Args:
            n: questions.
            flips: share forgotten or learned, the loss among it.
            loss: share forgotten less share learned; a gain is negative.

        Raises:
            ValueError: flips that are no share, or fewer than the loss.
        """
        if abs(loss) > flips:
            message = f"a loss of {loss} is impossible with flips of {flips}"
            raise ValueError(message)
        return self._seen(self._independent(n), _share(flips), loss)

    def detectable(self, n: int, *, harmless: float, power: float) -> float | None:
        """The least loss on top of harmless flips that is seen with that power.

        Every larger loss is seen with more. None if not even losing all others would be seen.

        Args:
            n: questions.
            harmless: share that flips without any loss, half forgotten and half learned.
            power: chance of seeing the loss, above ``alpha``.

        Raises:
            ValueError: flips that are no share, or a power not above ``alpha``.
        """
        harmless = _share(harmless)
        return self._least(n, power, lambda loss: min(1.0, harmless + loss), most=1 - harmless)

    def detectable_within(self, n: int, *, flips: float, power: float) -> float | None:
        """The same for a loss that is part of given flips; None if losing them is not seen.

        Args:
            n: questions.
            flips: share forgotten or learned, the loss among it.
            power: chance of seeing the loss, above ``alpha``.

        Raises:
            ValueError: flips that are no share, or a power not above ``alpha``.
        """
        flips = _share(flips)
        return self._least(n, power, lambda _: flips, most=flips)

    def questions_needed(self, loss: float, *, harmless: float, power: float) -> int | None:
        """The fewest questions from which on a loss on top of harmless flips is seen so often.

        A question more can lower the power: where the least net loss beyond the margin steps up,
        and where most questions flip. Steps are looked through, so that every larger number does as
        well; if over 60 % flip, or for a power below 1/2, it is the first number that does. Above
        ``MANY`` the normal approximation answers. With ``inflation``, what is added must be further
        relations. None if the loss is within the margin, or clusters too few for any p so small.

        Args:
            loss: share of the questions.
            harmless: share that flips without any loss, half forgotten and half learned.
            power: chance of seeing the loss, above ``alpha``.

        Raises:
            ValueError: flips that are no share, or a power not above ``alpha``.
        """
        self._check(power)
        flips = _share(harmless + loss)
        if loss <= self.margin or not self._level:
            return None
        beyond = max(0.0, float(ndtri(power))) / (loss - self.margin)
        needed = ceil(flips * max(_deviations(self._level, power) / loss, beyond) ** 2)
        if needed <= MANY:
            needed = self._fewest(flips, loss, power)
        clustered = int(needed * max(1.0, self.inflation) ** 2)
        return next(n for n in count(clustered) if self._independent(n) >= needed)

    @property
    def _level(self) -> float:
        """The level at which questions would be as hard to convince; 0 if clusters never are."""
        if self.clusters is None:
            return self.alpha
        if 0.5**self.clusters > self.alpha:
            return 0.0
        return float(ndtr(stdtrit(max(1, self.clusters - 1), self.alpha)))

    def _check(self, power: float) -> None:
        if not self.alpha < power < 1:
            message = f"a power of {power} is not between the level of {self.alpha} and 1"
            raise ValueError(message)

    def _independent(self, n: int) -> int:
        """Independent questions that tell as much as ``n`` clustered ones."""
        return int(n / max(1.0, self.inflation) ** 2 + 1e-9)  # 12 / sqrt(2) ** 2 is 6

    def _excess(self, n: int) -> int:
        """The least net number of forgotten questions whose share exceeds the margin."""
        return next(lost for lost in count(int(self.margin * n)) if lost / n > self.margin)

    def _seen(self, n: int, flips: float, loss: float) -> float:
        """The power for independent questions: sum over ``m`` flips of P[m] P[seen | m]."""
        level = self._level
        if n == 0 or not level:
            return 0.0
        m = _likely(n, flips)
        logs = xlogy(m, flips) + xlog1py(n - m, -flips) - gammaln(m + 1) - gammaln(n - m + 1)
        mass = np.exp(logs - logs.max())
        beyond = (m + self._excess(n) + 1) // 2  # forgotten, for a net loss of 2 b - m
        least = np.maximum(_critical(int(m[0]), int(m[-1]), level), beyond)
        forgotten = min(1.0, (1 + loss / flips) / 2) if flips else 0.5  # of the flips
        seen = bdtrc(np.minimum(least, m + 1) - 1, m, forgotten)
        return float(min(1.0, mass @ seen / mass.sum()))

    def _least(
        self, n: int, power: float, flips: Callable[[float], float], *, most: float
    ) -> float | None:
        """Where the power, which grows with the loss, reaches what is asked for, rounded up.

        In deviates it is nearly a straight line whose slope is known. A step along it nearly hits,
        and half the tolerance more brackets the place from both sides; where the line misleads the
        bracket is halved.
        """
        self._check(power)
        units = self._independent(n)
        if self._seen(units, flips(most), most) < power:
            return None
        low, high = 0.0, most
        alone = _deviations(self._level, power) ** 2 / units  # the loss if nothing else flips
        loss = approximate(units, flips=flips(alone), alpha=self._level, power=power)
        while high - low > CLOSE * high:
            if not low < loss < high:
                loss = (low + high) / 2
            missing = float(ndtri(power) - ndtri(self._seen(units, flips(loss), loss)))
            low, high = (loss, high) if missing > 0 else (low, loss)
            loss += missing * sqrt(flips(loss) / units) + copysign(CLOSE * loss / 2, missing)
        return high

    def _fewest(self, flips: float, loss: float, power: float) -> int:
        """The fewest independent questions; see :meth:`questions_needed`."""

        def seen(n: int) -> float:
            return self._seen(n, flips, loss)

        enough = next(n for n in (2**i for i in count()) if seen(n) >= power)
        needed = bisect_left(range(enough), power, lo=1, key=seen)
        if not self.margin:
            return needed
        # Meanwhile the loss outgrows the margin by a question, and two steps are passed.
        ahead = needed + ceil(1 / (loss - self.margin) + 2 / self.margin)
        steps = [n for n in range(needed + 1, ahead) if self._excess(n) > self._excess(n - 1)]
        for step, following in reversed(list(zip(steps, [*steps[1:], ahead], strict=True))):
            if seen(step) < power:
                return bisect_left(range(following), power, lo=step, key=seen)
        return needed


@dataclass(frozen=True, kw_only=True)
class Row:
    """What can be seen if that share flips, the loss among it; all are shares of the questions."""

    flips: float
    fails_from: float
    """The loss that is significant, by the normal approximation: it is seen every other time."""
    approximate: float
    """The least loss seen with the power asked for, by the normal approximation."""
    exact: float | None
    """The same by the exact test; None if not even losing all that flips is seen."""
    unpaired: float
    """The same by TensorRT-LLM's rule, which does not know that the questions are the same."""


def table(n: int, *, flips: Iterable[float], alpha: float, power: float) -> list[Row]:
    """What ``n`` questions can see at each share of flips.

    Raises:
        ValueError: flips that are no share, or a power not above ``alpha``.
    """
    test = PairedTest(alpha=alpha)
    return [
        Row(
            flips=share,
            fails_from=approximate(n, flips=share, alpha=alpha, power=0.5),
            approximate=approximate(n, flips=share, alpha=alpha, power=power),
            exact=test.detectable_within(n, flips=share, power=power),
            unpaired=unpaired(n, alpha=alpha, power=power),
        )
        for share in flips
    ]


def approximate(n: int, *, flips: float, alpha: float, power: float) -> float:
    """The detectable loss by the normal approximation: ``(z_alpha + z_power) sqrt(flips / n)``.

    At a power of 1/2 it is the loss from which on the test fails. The standard error is that of
    paired differences (Miller 2024, https://arxiv.org/abs/2411.00640) that have no mean. The exact
    test sees it a little less often: 77.6 % instead of 80 % at n = 1319 and 8 % flips.
    """
    return _deviations(alpha, power) * sqrt(flips / n)


def unpaired(n: int, *, alpha: float, power: float, sigma: float = 0.5) -> float:
    """The detectable loss of two independent sets of answers, as TensorRT-LLM's rule has it.

    ``(z_alpha + z_power) sqrt(2 sigma^2 / n)``; at a power of 1/2 the loss from which on it fails
    (``tests/integration/defs/accuracy`` in https://github.com/NVIDIA/TensorRT-LLM). The result is
    in the unit of ``sigma``, the standard deviation of a question's score; there it is 50 of 100.
    """
    return _deviations(alpha, power) * sqrt(2 / n) * sigma


def questions_to_prove(
    kept: Retention, n: int, *, floor: float, alpha: float, power: float
) -> int | None:
    """Questions at which a retention's lower limit would reach its floor with that power.

    If the retention is what it seems and questions like these are added (whole relations, where
    these are the units). By the normal approximation. None if it is not above the floor, or its
    error unknown.

    Args:
        kept: the retention.
        n: questions it was measured on.
        floor: what is to be proven.
        alpha: chance that the limit exceeds the truth.
        power: chance of reaching the floor.
    """
    if kept.value <= floor or not isfinite(kept.standard_error):
        return None
    ratio = _deviations(alpha, power) * kept.standard_error / (kept.value - floor)
    return max(1, ceil(n * ratio**2))


def _share(flips: float) -> float:
    """The flips, if they are a share but for rounding."""
    if not 0 <= flips <= 1 + 1e-9:
        message = f"flips of {flips} are no share of the questions"
        raise ValueError(message)
    return min(1.0, flips)


def _deviations(alpha: float, power: float) -> float:
    """Standard errors between no loss and one that is seen with that power."""
    return float(ndtri(power) - ndtri(alpha))


def _likely(n: int, flips: float) -> NDArray[np.int64]:
    """All numbers of flips but negligible ones, by Bernstein's inequality."""
    mean, variance = n * flips, n * flips * (1 - flips)
    third = _NEGLIGIBLE / 3
    reach = third + sqrt(third**2 + 2 * _NEGLIGIBLE * variance)
    return np.arange(max(0, int(mean - reach)), min(n, ceil(mean + reach)) + 1, dtype=np.int64)


def _critical(first: int, last: int, alpha: float) -> NDArray[np.int64]:
    """The least number forgotten that is significant, for each number of flips in a range.

    One more than the flips where all of them would not do.
    """
    blocks = range(first // _BLOCK, last // _BLOCK + 1)
    values = np.concatenate([_critical_block(block, alpha) for block in blocks])
    start = first - blocks[0] * _BLOCK
    return values[start : start + last - first + 1]


@lru_cache(maxsize=4096)
def _critical_block(number: int, alpha: float) -> NDArray[np.int64]:
    m = np.arange(number * _BLOCK, (number + 1) * _BLOCK, dtype=np.int64)
    guess = np.ceil((m + 1 - ndtri(alpha) * np.sqrt(m)) / 2)
    least: NDArray[np.int64] = np.clip(guess, 1, m + 1).astype(np.int64)
    level = alpha * (1 + 1e-12)  # equal to alpha is significant, however it is rounded
    while (short := bdtrc(least - 1, m, 0.5) > level).any():
        least += short
    while (over := (least > 1) & (bdtrc(least - 2, m, 0.5) <= level)).any():
        least -= over
    return least
