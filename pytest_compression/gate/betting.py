"""Betting on what the values of a finite population sum to, while they are drawn.

The method is that of Waudby-Smith & Ramdas 2023, *Estimating means of bounded random variables by
betting*, https://arxiv.org/abs/2010.09686, section 5: without replacement.

For every round a gambler splits the capital: a fraction ``1 - g`` is kept, a fraction
``g`` is put on each question in turn and pays ``(z - least) / (m - least)``, where ``z`` is its
value, ``least`` the least that a value can be, and ``m`` the mean of what has not been asked, *if*
all values sum to just the total that is doubted. There is a gambler for each of a few fractions,
and their mean capital counts (Cover's universal portfolio, for confidence sequences: Ryu & Bhatt
2022, https://arxiv.org/abs/2207.12382), so that nothing has to be guessed of the flips.

Why it is valid: suppose that all values sum to no more than that total. In each round comes one
question of each of several blocks (:func:`pytest_compression.gate.sequential.rounds`). Given the
past, the question that a block gives is any of those left in it, equally likely, and independently
of the other blocks. So the factor by which a round multiplies the capital has the expectation
``prod_k x_k``, ``x_k >= 0`` the mean of ``1 - g + g (z - least) / (m - least)`` over what block
``k`` has left. As all blocks have equally many left, the mean of the ``x_k`` is that over all
questions left, at most 1; and a geometric mean is no larger than the arithmetic one. So the capital
is a nonnegative supermartingale at the ends of rounds, and the chance that it *ever* reaches
``1 / alpha`` is at most ``alpha`` (Ville 1939), by whatever rule one stops.
"""

from math import log

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FRACTIONS = np.linspace(0.12, 0.98, 8)
"""What the gamblers put at stake. Small ones serve trials with many flips, large ones those with
none."""
ROUNDING = 1e-9
"""A share of the questions that is within rounding."""


class Capital:
    """What those own who bet that all values sum to more than ``total``; they begin with 1.

    Args:
        n: how many values there are in all.
        total: the sum that is doubted.
        least: no value is below it.
    """

    def __init__(self, n: int, total: float, least: float) -> None:
        self.left = n
        self.needed = total
        """What the values not seen yet sum to if the doubted total is just met."""
        self.least = least
        self.logs = np.zeros(len(FRACTIONS))
        self.log = 0.0
        """Logarithm of the mean capital now."""
        self.peak = 0.0
        """The highest it has been at the end of a round."""

    def see(self, values: Array) -> None:
        """Take note of values without a bet."""
        self.left -= len(values)
        self.needed -= float(values.sum())

    def bet(self, values: Array) -> None:
        """Bet on a round of values, then see them."""
        room = self.needed / self.left - self.least
        if room > ROUNDING:  # otherwise the total is refuted already, without a bet
            gains = (values - self.least) / room - 1
            self.logs += np.log1p(np.outer(FRACTIONS, gains)).sum(axis=1)
            self.log = float(np.logaddexp.reduce(self.logs)) - log(len(FRACTIONS))
            self.peak = max(self.peak, self.log)
        self.see(values)
