"""Many tests in one run: the chance of any false alarm, and a small loss spread over all.

A run of 200 trials makes 200 regression tests and one more, of all trials together. Holm's
procedure keeps the chance that any of them is wrongly significant at alpha, however they depend
on each other: recipes share questions, so they do. It is applied once, to the tests of the whole
run, wherever they ran.

Two things make it see more at the same level (``tests/simulations/false_red.py``). Trials of which
so few answers changed that they could not be significant are not counted, and in most runs those
are most. And the test of all trials together gets half of alpha: as one of 201 equals it would
need 3.5 standard errors. In simulated suites that lost 0.3 points everywhere it is red in 57 of
100 instead of 7, at the price of 0.2 standard errors for the single trials.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt

from pytest_compression.gate.clusters import ENOUGH
from pytest_compression.gate.regression import sign_flip


def holm(p: Sequence[float], alpha: float, total: int | None = None) -> list[bool]:
    """Which of the tests are significant (Holm 1979, https://www.jstor.org/stable/4615733).

    Where only some of ``total`` tests are seen, those found are among those that Holm finds over
    all. For let the i-th smallest p seen (from 0 on) pass ``alpha / (total - i)``, and all smaller
    ones theirs. Over all, the s-th smallest passes for s <= i, being no larger than the s-th seen;
    those from there up to the rank of the one in question are no larger than it and have higher
    limits.

    Args:
        p: one-sided p-values, ``[m]``.
        alpha: chance of any false alarm.
        total: number of tests in all; as many as there are if not given.

    Raises:
        ValueError: a p outside [0, 1], or fewer tests in all than are given.
    """
    require_shares(p)
    total = len(p) if total is None else total
    if total < len(p):
        message = f"{len(p)} of {total} tests"
        raise ValueError(message)
    significant = [False] * len(p)
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[i] > alpha / (total - rank):
            break
        significant[i] = True
    return significant


def tarone(p: Sequence[float], flipped: Sequence[int], alpha: float) -> list[bool]:
    """Which of the tests are significant; at least those that Holm finds.

    Of k units that differ no p is below ``2 ** -k``. So a limit of ``alpha / tests`` is enough if
    at most so many tests can reach it (Tarone 1990, https://doi.org/10.2307/2531456). What is
    significant at the largest such limit is set aside and the rest tested again, as by Holm: the
    limit of a subset is never lower, so that of the tests without a loss bounds the chance that
    any of those passes. How many units differ says nothing of the direction.

    Args:
        p: one-sided p-values, ``[m]``.
        flipped: units that differ in each test, ``[m]``.
        alpha: chance of any false alarm.

    Raises:
        ValueError: a p outside [0, 1].
    """
    require_shares(p)
    left = set(range(len(p)))
    found = left
    while found:
        highest = limit([flipped[i] for i in left], alpha)
        found = {i for i in left if p[i] <= highest}
        left = left - found
    return [i not in left for i in range(len(p))]


def limit(flipped: Sequence[int], alpha: float) -> float:
    """The largest ``alpha / tests`` that at most so many tests can reach."""
    least = sorted(0.5**count for count in flipped)
    limits = (alpha / tests for tests in range(1, len(least) + 1))
    enough = (p for tests, p in enumerate(limits, 1) if bisect_right(least, p) <= tests)
    return next(enough, alpha)


def significant(
    trials: Sequence[float], flipped: Sequence[int], together: Sequence[float], alpha: float
) -> tuple[list[bool], list[bool]]:
    """Which trials' tests are significant, and which of those of many trials together.

    The trials have half of alpha and those of many together the other half; where one side is
    rejected wholly, its half goes over (Bretz, Maurer, Brannath and Posch 2009,
    https://doi.org/10.1002/sim.3495). With none together, the trials have all of it.

    Args:
        trials: one-sided p of each trial, ``[m]``.
        flipped: units that differ in each, ``[m]``.
        together: p of each pool of trials, see :func:`pooled`.
        alpha: chance of any false alarm.

    Raises:
        ValueError: a p outside [0, 1].
    """
    if not together:
        return tarone(trials, flipped, alpha), []
    found = tarone(trials, flipped, alpha / 2)
    also = holm(together, alpha if all(found) else alpha / 2)
    return (tarone(trials, flipped, alpha) if all(also) else found), also


def require_shares(p: Sequence[float]) -> None:
    """All must be in [0, 1]; NaN is not."""
    wrong = [value for value in p if not 0 <= value <= 1]
    if wrong:
        message = f"not a p-value: {wrong[0]}"
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class PooledChange:
    """The change of all trials together."""

    loss: float
    """Mean of accepted - now over all pairs of a trial and a question; negative if improved."""
    p: float
    """One-sided, of a loss."""
    trials: int
    units: int
    """Those in which anything differs."""
    clustered: bool
    """Whether the units are clusters; otherwise they are questions."""


def pooled(
    differences: Iterable[Mapping[tuple[str, str], float]], clusters: Iterable[str], asked: int
) -> PooledChange:
    """One test of whether a loss, however small in each trial, is spread over all.

    A question that many recipes or models were asked is one unit, the sum of its differences:
    what makes one recipe flip makes others flip. Where the run has enough clusters, whole
    clusters are.

    Args:
        differences: for each trial those that are not zero, accepted - now, by cluster and id
            of the question; all scores of one scale.
        clusters: of all questions asked, flipped or not; repetitions do not matter.
        asked: pairs of a trial and a question, flipped or not.

    Raises:
        ValueError: more differences than pairs, no pairs, or a cluster that is not among them.
    """
    known = set(clusters)
    clustered = len(known) >= ENOUGH
    units: dict[tuple[str, ...], list[float]] = defaultdict(list)
    trials = 0
    for trial in differences:
        trials += 1
        for (cluster, question), difference in trial.items():
            unit = (cluster,) if clustered else (cluster, question)
            units[unit].append(difference)
    flips = sum(map(len, units.values()))
    if not flips <= asked > 0 or not {unit[0] for unit in units} <= known:
        message = f"{flips} differences of {asked} questions, in clusters {sorted(known)}"
        raise ValueError(message)
    sums = [fsum(units[unit]) for unit in sorted(units)]
    return PooledChange(
        loss=fsum(sums) / asked,
        p=sign_flip(sums),
        trials=trials,
        units=len(sums),
        clustered=clustered,
    )


def pooled_margin(margin: float, trials: int) -> float:
    """The margin of the mean loss over so many trials, given that of a single one.

    A mean beyond the margin of single trials needs a trial beyond it, so the test of all would
    find nothing of its own. Without a margin it would be red for losses that matter to nobody.
    A mean scatters less than what it is made of by the root of their number, and so does this
    margin: 0.07 points for 200 trials with 1 point each, that of the trial itself for one. In
    simulated suites it hides no significant loss of 0.1 points; a quarter of the trials' margin
    hides up to 5 of 6.
    """
    return margin / sqrt(trials)
