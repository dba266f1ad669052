"""Regression: whether the answers are worse than those that were last accepted.

The same questions were asked then and now, so only questions that differ say anything. Were there
neither loss nor gain, each unit's difference (accepted - now) would be as likely to have the other
sign. That gives an exact test: the p-value is the share of all sign patterns in which the signed
differences sum to at least what was seen (Fisher, *The Design of Experiments*, 1935, section 21).
For right and wrong answers with questions as units it is the one-sided McNemar test (1947,
https://doi.org/10.1007/BF02295996). Where whole relations are the units (see ``clusters``), the
signs are those of relations: questions of one relation may flip together as they like (Canay,
Romano and Shaikh 2017, https://doi.org/10.3982/ECTA13081).

A loss is a regression only if it is significant among all tests of the run (``multiplicity``) and
beyond the margin. Near ties are no matter of this module: they were settled by the accepted answer
before, and come as equal scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_compression.gate.clusters import totals, units

DRAWS = 99_999
"""Random sign patterns where there are too many to try all: the smallest p is 1e-5."""
FEW = 18
"""Differences up to which all sign patterns are tried."""
WORK = 2 * 10**9
"""Additions that a convolution may take, a few seconds; beyond, patterns are drawn."""
CHUNK = 12
"""Differences whose signs are drawn as one number."""
ROUNDING = 1e-9
"""Of the sum of all magnitudes: sums that differ by less are ties, and count against a loss."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Scores now beside the accepted ones, on the same questions."""

    loss: float
    """Mean of accepted - now over the questions; negative if improved."""
    p_loss: float
    """One-sided: how often chance alone loses so much."""
    p_gain: float
    """One-sided: how often chance alone gains so much."""
    forgotten: tuple[int, ...]
    """Positions of the questions that were answered better when accepted."""
    learned: tuple[int, ...]
    """Positions of those answered better now."""
    units: int
    """Questions, or clusters if they are the units; equal ones count too."""
    flipped: int
    """Units that differ; no p can be below ``2 ** -flipped``."""
    clustered: bool
    """Whether the units are clusters."""


def change(accepted: Sequence[float], now: Sequence[float], clusters: Sequence[str]) -> Change:
    """Compare with what was accepted, cluster-aware; all three are ``[n]``, near ties settled.

    Raises:
        ValueError: no questions, different numbers of them, or scores that are not finite.
    """
    if not len(accepted) == len(now) == len(clusters) > 0:
        message = f"{len(accepted)} accepted scores, {len(now)} now, {len(clusters)} clusters"
        raise ValueError(message)
    differences = np.asarray(accepted, dtype=np.float64) - np.asarray(now, dtype=np.float64)
    unit = units(clusters)
    of_units = totals(differences, unit)
    return Change(
        loss=fsum(differences) / len(differences),
        p_loss=sign_flip(of_units),
        p_gain=sign_flip(-of_units),
        forgotten=tuple(np.flatnonzero(differences > 0).tolist()),
        learned=tuple(np.flatnonzero(differences < 0).tolist()),
        units=len(of_units),
        flipped=int(np.count_nonzero(of_units)),
        clustered=unit is not None,
    )


def mcnemar(forgotten: int, learned: int) -> float:
    """Exact one-sided p of a loss: ``P[Bin(forgotten + learned, 1/2) >= forgotten]``.

    Counted in whole numbers and rounded once. Without flips it is 1.
    """
    flips = forgotten + learned
    ways, tail = 1, 0  # to choose so many learned ones among the flips
    for chosen in range(learned + 1):
        tail += ways
        ways = ways * (flips - chosen) // (chosen + 1)
    return tail / (1 << flips)


def sign_flip(differences: ArrayLike, seed: int = 0) -> float:
    """One-sided p of a loss: how often random signs give a sum at least as large.

    Exact for equal magnitudes (it is McNemar's test), for whole numbers, and for up to 18
    differences; otherwise from 99,999 random patterns. The order is irrelevant.

    Args:
        differences: accepted - now of each unit, ``[n]``; zeros do not matter.
        seed: of the random patterns.

    Raises:
        ValueError: a difference is not finite.
    """
    signed = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(signed).all():
        message = "a difference of scores is not finite"
        raise ValueError(message)
    signed = signed[signed != 0]
    lost = np.sort(signed[signed > 0])
    if not lost.size:
        return 1.0
    sizes = np.sort(np.abs(signed))
    if sizes[0] == sizes[-1]:
        return mcnemar(len(lost), len(sizes) - len(lost))
    whole = bool((sizes == np.rint(sizes)).all())
    if whole and len(sizes) * fsum(sizes) <= WORK:
        return whole_tail(sizes.astype(np.int64), int(fsum(lost)))
    least = fsum(lost) - ROUNDING * fsum(sizes)
    if len(sizes) <= FEW:
        return float((subset_sums(sizes) >= least).mean())
    return drawn_tail(sizes, least, seed)


# A sum of signed magnitudes is large exactly where the sum of those with a plus is. So random
# signs become random subsets, each of which leaves out or takes in every magnitude evenly.


def whole_tail(sizes: NDArray[np.int64], least: int) -> float:
    """Chance that a random subset of whole ``[n]`` sizes sums to at least ``least``.

    The distribution is built up size by size (Pagano and Tritchler 1983,
    https://doi.org/10.1080/01621459.1983.10477990). Only positive numbers are added, never by
    Fourier transform, so that a p of 1e-12 is as exact as one of 0.5.
    """
    step = int(np.gcd.reduce(sizes))
    sizes = sizes // step
    chance = np.zeros(int(sizes.sum()) + 1)  # of each sum
    chance[0], top = 1.0, 1
    for size in sizes.tolist():
        half = chance[:top] / 2
        chance[:top] = half
        chance[size : size + top] += half
        top += size
    return min(1.0, float(chance[-(-least // step) :].sum()))


def drawn_tail(sizes: NDArray[np.float64], least: float, seed: int) -> float:
    """Chance that a random subset sums to at least ``least``, from ``DRAWS`` of them.

    What was seen counts as one draw, so that the test keeps its level (Phipson and Smyth 2010,
    https://arxiv.org/abs/1603.05766).
    """
    draw = np.random.default_rng(seed)
    sums = np.zeros(DRAWS)
    for start in range(0, len(sizes), CHUNK):
        possible = subset_sums(sizes[start : start + CHUNK])
        sums += possible[draw.integers(len(possible), size=DRAWS)]
    return (1 + int((sums >= least).sum())) / (1 + DRAWS)


def subset_sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of all subsets of ``[n]`` sizes, ``[2 ** n]``."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums, sums + size])
    return sums
