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

The limits do not use that error, which is far too small where few answers changed: they are those
of a score test (:mod:`pytest_compression.gate.score`).

In simulations a limit for 0.95 covers within 2 points of it from 50 questions and 5 changed
answers on; with fewer changes it covers more. The lower limit covers only about 0.89 where changes
are rare and come in heaps, in relations of which the sample may have none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_compression.gate import clusters as cluster
from pytest_compression.gate.score import limit, score_test

Array = NDArray[np.float64]


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
