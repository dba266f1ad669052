"""Whether the stated power is the power of the real tests, and how much can be seen at 1 % flips.

``pytest tests/simulations/power.py -s`` prints the tables and asserts what they show, in about a
minute on one core. Every cell has a seed of its own, made of :data:`SEED` and what the cell is.

- Questions as units: 20,000 times the four cells (both right, forgotten, learned, both wrong) are
  drawn, and McNemar's test rejects or not. One standard error of a share is at most 0.35 points.
- Relations as units: 1,209 questions in 33 relations of unequal size. A flip is forgotten or
  learned with a chance that each relation has for itself (a beta distribution around 1/2, so that
  without a loss signs are symmetric). A loss comes on top: everywhere alike, or all of it in a
  random third of the relations. 4,000 draws, judged by the sign flips of the relations' totals.
"""

from bisect import bisect_left
from functools import cache
from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_compression.gate.power import PairedTest, approximate, table
from pytest_compression.gate.regression import mcnemar, sign_flip

SEED = 20_260_803
RUNS = 20_000
SIZES = (50, 198, 1000, 1319, 4096, 14_042)
FLIPS = (0.01, 0.02, 0.04, 0.08, 0.15, 0.20)
LEVELS = {"alone": 0.05, "first of 200": 0.05 / 200}

RELATIONS = 33
QUESTIONS = 1209
CLUSTERED_RUNS = 4000
HARMLESS = 0.12


@cache
def least_forgotten(flips: int, alpha: float) -> int:
    """The least number at which the real test rejects; its p falls with every one forgotten."""
    return bisect_left(range(flips + 1), -alpha, key=lambda b: -mcnemar(b, flips - b))


def rejected(n: int, flips: float, loss: float, alpha: float) -> float:
    """The share of drawn outcomes in which the real test sees a loss."""
    cell = (n, round(1000 * flips), round(1e6 * loss), round(1e6 * alpha))
    draw = np.random.default_rng((SEED, *cell))
    shares = [(flips + loss) / 2, (flips - loss) / 2, 1 - flips]
    b, c, _ = draw.multinomial(n, shares, size=RUNS).T
    totals, where = np.unique(b + c, return_inverse=True)
    least = np.array([least_forgotten(m, alpha) for m in totals.tolist()])
    return float((b >= least[where]).mean())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", SIZES)
def test_the_power_of_questions_is_that_of_the_real_test(n: int, level: str) -> None:
    alpha = LEVELS[level]
    test = PairedTest(alpha=alpha)
    deviations = []
    for flips in FLIPS:
        middle = approximate(n, flips=flips, alpha=alpha, power=0.5)
        nearly = approximate(n, flips=flips, alpha=alpha, power=0.8)
        for loss in (0.0, *(min(flips, size) for size in (middle, nearly))):
            stated = test.power(n, flips=flips, loss=loss)
            found = rejected(n, flips, loss, alpha)
            assert abs(stated - found) <= 0.02
            error = sqrt(max(stated * (1 - stated), 1 / RUNS) / RUNS)
            deviations.append((stated - found, (stated - found) / error))
    points, standard = np.abs(deviations).T
    say(
        f"n = {n:6}, {level:12}: {len(points)} cells, power off by {100 * points.max():.2f} points "
        f"at most, {100 * points.mean():.2f} on average; {standard.max():.1f} standard errors of "
        f"the simulation at most, {sqrt((standard**2).mean()):.2f} by root mean square"
    )
    assert standard.max() < 5


def test_what_1319_questions_can_see_at_1_to_20_percent_flips() -> None:
    test = PairedTest(alpha=0.05)
    say("n = 1319, level 5 %, power 80 %: losses in points")
    say("flips   fails from   approximate   exact   on top of harmless   unpaired   exact/unpaired")
    for row in table(1319, flips=[i / 100 for i in range(1, 21)], alpha=0.05, power=0.8):
        on_top = test.detectable(1319, harmless=row.flips, power=0.8)
        assert row.exact is not None
        assert on_top is not None
        shown = [100 * loss for loss in (row.fails_from, row.approximate, row.exact, on_top)]
        say(
            f"{row.flips:4.0%} {shown[0]:10.2f} {shown[1]:13.2f} {shown[2]:10.2f} {shown[3]:14.2f}"
            f" {100 * row.unpaired:17.2f} {row.exact / row.unpaired:13.2f}"
        )
        assert row.exact < row.unpaired
        if row.flips <= 0.08:
            assert on_top <= row.unpaired / 2
        assert rejected(1319, row.flips, row.exact, 0.05) == pytest.approx(0.8, abs=0.015)


def relations() -> NDArray[np.int64]:
    """Sizes of the relations, the largest about ten times the smallest."""
    weights = np.geomspace(1, 10, RELATIONS)
    sizes: NDArray[np.int64] = np.floor(QUESTIONS * weights / weights.sum()).astype(np.int64)
    sizes[-1] += QUESTIONS - sizes.sum()
    return sizes


def concentration(inflation: float) -> float:
    """Of the beta distribution, so that the clustered error is so many times the paired one.

    The signs of two flips of a relation correlate by ``1 / (concentration + 1)``, which multiplies
    the variance by ``1 + harmless sum n_g (n_g - 1) / (n (concentration + 1))``.
    """
    sizes = relations()
    pairs = float((sizes * (sizes - 1)).sum()) / QUESTIONS
    return HARMLESS * pairs / (inflation**2 - 1) - 1


def clustered(inflation: float, loss: float, *, struck: float, draw: np.random.Generator) -> float:
    """The p of one draw whose loss lies in that share of the relations."""
    sizes = relations()
    half = concentration(inflation) / 2
    flips = draw.binomial(sizes, HARMLESS)
    b = draw.binomial(flips, draw.beta(half, half, RELATIONS) if inflation > 1 else 0.5)
    hit = draw.permutation(RELATIONS) < round(struck * RELATIONS)
    share = loss * QUESTIONS / max(1, sizes[hit].sum())
    lost = draw.binomial(sizes - flips, min(1.0, share / (1 - HARMLESS))) * hit
    return sign_flip(2 * b - flips + lost)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("inflation", [1.0001, 1.5, 2.2], ids=["none", "1.5", "2.2"])
def test_the_power_of_relations_is_about_what_the_inflation_says(
    inflation: float, level: str
) -> None:
    alpha = LEVELS[level]
    test = PairedTest(alpha=alpha, inflation=inflation, clusters=RELATIONS)
    loss = test.detectable(QUESTIONS, harmless=HARMLESS, power=0.8)
    assert loss is not None
    found = {}
    for name, size, struck in (("none", 0.0, 1.0), ("alike", loss, 1.0), ("a third", loss, 1 / 3)):
        cell = (round(100 * inflation), round(1e6 * alpha), round(100 * struck), round(1e4 * size))
        draw = np.random.default_rng((SEED, *cell))
        p = [clustered(inflation, size, struck=struck, draw=draw) for _ in range(CLUSTERED_RUNS)]
        found[name] = float((np.array(p) <= alpha).mean())
    say(
        f"33 relations, inflation {inflation:.1f}, {level:12}: {100 * loss:.2f} points should be "
        f"seen in 80 %; alike everywhere {found['alike']:.1%}, in a third of the relations "
        f"{found['a third']:.1%}; false alarms {found['none']:.2%}"
    )
    assert found["none"] <= alpha + 4 * sqrt(alpha / CLUSTERED_RUNS)
    assert found["alike"] > (0.75 if level == "alone" else 0.65)
    if level == "alone":
        assert found["a third"] > 0.6


def say(line: str) -> None:
    """A line of a table."""
    print(line)  # noqa: T201  # the tables are to be read
