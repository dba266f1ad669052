"""Early stop: ask in a random order, and stop once it is known what the whole trial would say.

The questions of a trial are a finite population, sampled without replacement. What has to be met
is that bounded values of all of them reach a sum, such as ``sum(c - d) >= -(1 - floor) sum(d - h)``
for the retention. Whether they will is betted on.

**Order.** Sorted by stratum, the questions are cut into blocks of as many as there are rounds, and
each round takes one question of each block: stratified sampling in equal shares. The few questions
that fill no block are asked first, and nothing is betted on them.

**Bets.** They are those of :mod:`pytest_compression.gate.betting`: if a doubted total is true, the
chance that the capital against it *ever* reaches ``1 / alpha`` is at most ``alpha``.

**Two answers.** The trial is kept once every condition has been proven; if one is not met, its own
proof was an error, so each may use the whole ``alpha``. It is lost once the *mean* capital of those
who bet that a condition is broken reaches ``1 / alpha``: if all are met, that mean is a
supermartingale, too. A wrong answer of either kind thus has a chance of at most ``alpha``.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, log
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_compression.gate.betting import ROUNDING, Capital
from pytest_compression.gate.retention import corrected

Array = NDArray[np.float64]
Decision = Literal["kept", "lost"]

ROUNDS = 64
"""At most so many, and no fewer than half of it if there are questions enough."""
STEP = 0.01
"""Questions: how finely the limits of graded scores are found."""
ALL = slice(None)


def rounds(strata: Sequence[tuple[str, float]], seed: int) -> list[list[int]]:
    """In which rounds to ask which questions; together they are all positions of ``strata``.

    All rounds but the first are equally large; the first begins with the questions that would not
    fill a block. A stratum has a question for every round as often as it fills a block.

    Args:
        strata: of each question, ``[n]``: its cluster, and the dense score, which tells what may
            become of it.
        seed: the same seed gives the same order on every machine.
    """
    n = len(strata)
    if n == 0:
        return []
    most = min(ROUNDS, n)
    count = min(range(min(ROUNDS // 2, n), most + 1), key=lambda rounds: (n % rounds, -rounds))
    random = Random(seed)  # noqa: S311  # an order needs no cryptography
    shuffled = sorted(range(n), key=lambda _: random.random())
    rest, sorted_ = shuffled[: n % count], sorted(shuffled[n % count :], key=strata.__getitem__)
    blocks = [sorted_[i : i + count] for i in range(0, len(sorted_), count)]
    mixed = [sorted(block, key=lambda _: random.random()) for block in blocks]
    first, *others = (list(part) for part in zip(*mixed, strict=True))
    return [rest + first, *others]


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """That the values of all questions reach a sum.

    The value of a question with the score ``c`` is ``c - reference``, if ``forgotten`` no more than
    0, and 0 where the question does not count.
    """

    name: str
    reference: Array
    """Scores in [0, 1] to compare with, ``[n]``."""
    total: float
    """The sum to be reached."""
    counted: NDArray[np.bool_]
    """``[n]``."""
    forgotten: bool = False
    loses: bool = True
    """Whether a trial that breaks it is lost for certain."""
    origin: float = 0.0
    scale: float = 1.0
    """The figure to show is ``origin + sum / scale``."""

    def values(self, positions: Sequence[int] | slice, scores: ArrayLike) -> Array:
        """Values of the questions at these positions, ``[len(positions)]``."""
        found = corrected(scores, self.reference[positions]) * self.counted[positions]
        return np.minimum(found, 0.0) if self.forgotten else found


def retained(
    dense: Sequence[float],
    chance: Sequence[float],
    least: float,
    *,
    counted: Sequence[bool] | None = None,
    name: str = "retention",
) -> Condition:
    """That the retention reaches a floor; its figure is the retention.

    Args:
        dense: scores of the dense model, ``[n]``.
        chance: what guessing would get, ``[n]``.
        least: the floor.
        counted: the questions of the one relation that is meant, ``[n]``; all if not said.
        name: for messages.

    Raises:
        ValueError: the dense model knows no more than guessing.
    """
    which = np.asarray([True] * len(dense) if counted is None else counted, dtype=np.bool_)
    known = fsum(corrected(dense, chance)[which])
    if known <= 0:
        message = f"{name}: the dense model knows nothing here that could be retained"
        raise ValueError(message)
    return Condition(
        name=name,
        reference=np.asarray(dense, dtype=np.float64),
        total=-(1 - least) * known,
        counted=which,
        origin=1.0,
        scale=known,
    )


def unforgotten(dense: Sequence[float], limit: float) -> Condition:
    """That no more than a share of the right answers is lost; its figure is the share that is not.

    Args:
        dense: scores of the dense model, ``[n]``; some above 0.
        limit: the largest share that may be lost.
    """
    right = fsum(dense)
    return Condition(
        name="forgotten",
        reference=np.asarray(dense, dtype=np.float64),
        total=-limit * right,
        counted=np.ones(len(dense), dtype=np.bool_),
        forgotten=True,
        origin=1.0,
        scale=right,
    )


def unregressed(accepted: Sequence[float], margin: float) -> Condition:
    """That no more than the margin is lost against what was accepted; its figure is the change.

    More than that decides nothing early, as a regression must be significant, too.

    Args:
        accepted: scores that were accepted last, ``[n]``.
        margin: share of the questions.
    """
    n = len(accepted)
    return Condition(
        name="regression",
        reference=np.asarray(accepted, dtype=np.float64),
        total=-margin * n,
        counted=np.ones(n, dtype=np.bool_),
        loses=False,
        scale=n,
    )


class EarlyStop:
    """A trial that is asked round by round, and what is certain enough of it by now.

    A model that is faster on many questions may be asked several rounds at once; they are told one
    after the other.

    Args:
        order: what :func:`rounds` gave.
        conditions: what must be met, one at least, for the trial to be kept.
        alpha: the largest chance of another answer than the whole trial would give.
        graded: whether scores lie between 0 and 1; otherwise each is 0 or 1.
        keeps: whether the conditions are all that it takes to be kept; if not, only a loss is
            decided early.

    Raises:
        ValueError: no conditions, two of one name or of other questions than the order's, or
            references out of range.
    """

    def __init__(
        self,
        order: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        alpha: float,
        *,
        graded: bool = False,
        keeps: bool = True,
    ) -> None:
        self.order = [list(part) for part in order]
        self.conditions = {condition.name: condition for condition in conditions}
        self.bar = -log(alpha)
        self.graded = graded
        self.keeps = keeps
        self.decision: Decision | None = None
        """What the whole trial would say; once made it stays."""
        if not len(self.conditions) == len(conditions) > 0:
            message = f"{len(conditions)} conditions with {len(self.conditions)} names"
            raise ValueError(message)
        self._scores = np.full(sum(map(len, self.order)), np.nan)
        self._told = 0
        for condition in conditions:
            self._require_range(condition.reference, len(self._scores))
        self._met = {c.name: self._capital(c, 1) for c in conditions}
        self._broken = {c.name: self._capital(c, -1) for c in conditions if c.loses}

    @property
    def upcoming(self) -> list[int]:
        """Positions to ask next; none when all are asked."""
        return self.order[self._told] if self._told < len(self.order) else []

    @property
    def asked(self) -> int:
        """How many questions were asked."""
        return sum(map(len, self.order[: self._told]))

    def tell(self, scores: Sequence[float]) -> Decision | None:
        """What the upcoming questions got, in their order; returns what is decided by now.

        Raises:
            ValueError: too few or too many scores, or one that is out of range.
        """
        part = self.upcoming
        if not part:
            message = "all questions were asked"
            raise ValueError(message)
        self._require_range(scores, len(part))
        self._scores[part] = scores
        for name, condition in self.conditions.items():
            values = condition.values(part, scores)
            self._bet(self._met[name], values, self._told)
            if name in self._broken:
                self._bet(self._broken[name], -values, self._told)
        self._told += 1
        self.decision = self.decision or self._decide()
        return self.decision

    def limits(self, name: str) -> tuple[float, float]:
        """Lower and upper confidence limit of a condition's figure for the whole trial, so far.

        Each holds at all times together at the level ``1 - alpha``: a total is ruled out once a
        bet against it has reached ``1 / alpha``. Totals that the scores so far leave impossible
        are ruled out, too.
        """
        condition = self.conditions[name]
        sums = sorted((self._lowest(condition, 1), -self._lowest(condition, -1)))
        low, high = (condition.origin + found / condition.scale for found in sums)
        return low, high

    def _require_range(self, scores: ArrayLike, count: int) -> None:
        found = np.asarray(scores, dtype=np.float64)
        if found.shape != (count,):
            message = f"{found.size} scores for {count} questions"
            raise ValueError(message)
        fits = (found >= 0) & (found <= 1) if self.graded else (found == 0) | (found == 1)
        if not fits.all():
            message = (
                f"a score is {found[~fits][0]:g}, not {'in [0, 1]' if self.graded else '0 or 1'}"
            )
            raise ValueError(message)

    def _bet(self, capital: Capital, values: Array, told: int) -> None:
        """Bet on a round; of the first, not on the questions that fill no block."""
        rest = len(self.order[0]) - len(self.order[-1]) if told == 0 else 0
        capital.see(values[:rest])
        capital.bet(values[rest:])

    def _decide(self) -> Decision | None:
        certain = {name: self._certain(c) for name, c in self.conditions.items()}
        logs = [capital.log for capital in self._broken.values()]
        lost = bool(logs) and float(np.logaddexp.reduce(logs)) - log(len(logs)) >= self.bar
        if lost or any(certain[name] is False for name in self._broken):
            return "lost"
        proven = all(certain[name] or self._met[name].peak >= self.bar for name in certain)
        return "kept" if self.keeps and proven else None

    def _certain(self, condition: Condition) -> bool | None:
        """Whether it is met or broken whatever the other answers are; None if that is open."""
        low, high = self._possible(condition)
        edge = (self._doubted(condition, 1) - self._doubted(condition, -1)) / 2
        slack = ROUNDING * len(self._scores)
        return True if low > edge + slack else False if high < edge - slack else None

    def _doubted(self, condition: Condition, sign: int) -> float:
        """The sum to bet against: the largest that breaks it, or minus the least that meets it."""
        if self.graded:
            return sign * condition.total
        met = ceil(condition.total - ROUNDING * len(self._scores))
        return met - 1 if sign > 0 else -met

    def _possible(self, condition: Condition) -> tuple[float, float]:
        """The least and the largest sum that all values can have, given the scores so far."""
        low, high = (np.where(np.isnan(self._scores), end, self._scores) for end in (0.0, 1.0))
        return float(condition.values(ALL, low).sum()), float(condition.values(ALL, high).sum())

    def _capital(self, condition: Condition, sign: int, total: float | None = None) -> Capital:
        ends = (sign * condition.values(ALL, np.full(len(self._scores), end)) for end in (0.0, 1.0))
        doubted = self._doubted(condition, sign) if total is None else total
        return Capital(len(self._scores), doubted, min(float(end.min()) for end in ends))

    def _lowest(self, condition: Condition, sign: int) -> float:
        """Confidence limit from below of the sum, or of its negative with the sign -1.

        The more is doubted, the less a bet against it wins, so the totals are halved. They are
        counted from the one that decides: limits and decision cannot contradict each other.
        """
        parts = [sign * condition.values(p, self._scores[p]) for p in self.order[: self._told]]
        start, step = self._doubted(condition, sign), STEP if self.graded else 1
        least, most = sorted(sign * end for end in self._possible(condition))

        def refuted(steps: int) -> bool:
            capital = self._capital(condition, sign, start + steps * step)
            for told, part in enumerate(parts):
                self._bet(capital, part, told)
            return capital.peak >= self.bar

        within = range(floor((least - start) / step), ceil((most - start) / step) + 1)
        refutable = bisect_left(within, x=True, key=lambda steps: not refuted(steps))
        last = within.start + refutable - (1 if self.graded else 0)
        return min(max(least, start + last * step), most)
