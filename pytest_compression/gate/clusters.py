"""What a sample is made of: questions, or whole relations.

The questions of a relation stand or fall together more than those of different ones: on real
pairs of models this widens an interval 1.5 to 2.2 times. So where a benchmark has a dozen relations
or more, they are a sample of relations, and a relation is the unit of every interval and test.
With fewer they are taken as the very relations that are meant, and questions are the units: the
smallest p that whole relations could reach by sign flips is ``2 ** -relations``, so that fewer than
a dozen could never be told from chance in a suite of 200 trials (0.05 / 200).

So what few relations lose is told as a loss even if others, had they been asked, would have gained
as much. In simulated suites of 2 to 6 relations, of which each is forgotten or learned as by one
coin, that makes every second suite red; but only 3 in 1,000 are red by a trial whose own relations
lost nothing (``tests/simulations/false_red.py``).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ENOUGH = 12
"""Clusters from which on they are the units."""


def units(clusters: Sequence[str]) -> NDArray[np.intp] | None:
    """For each question the number of its unit, from 0 on; None if questions are the units.

    Args:
        clusters: of each question, ``[n]``.
    """
    names = sorted(set(clusters))
    if len(names) < ENOUGH:
        return None
    number = {name: i for i, name in enumerate(names)}
    return np.fromiter(map(number.__getitem__, clusters), dtype=np.intp, count=len(clusters))


def totals(values: NDArray[np.float64], unit: NDArray[np.intp] | None) -> NDArray[np.float64]:
    """Sums of ``[n]`` values by unit, ``[units]``; the values themselves without units."""
    return values if unit is None else np.bincount(unit, weights=values).astype(np.float64)
