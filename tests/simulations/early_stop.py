"""How often the early stop errs, and how many questions it saves. Takes two minutes on one core.

Run by name: ``pytest tests/simulations/early_stop.py -s``. Every population is fixed, and it is the
order of the questions that is drawn anew, seeds 0, 1, 2 and so on: that is the only chance there is
in an early stop. 70 % of the questions are right before, in 33 relations; alpha is 0.05.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log
from statistics import mean

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from pytest_compression.gate.sequential import (
    Condition,
    EarlyStop,
    retained,
    rounds,
    unforgotten,
    unregressed,
)

ALPHA = 0.05
RELATIONS = 33
KNOWN = 0.7
LOOKS = (0.25, 0.5, 0.75)
"""Shares of the questions after which one looks who looks at fixed times only."""
SIZES = (200, 600, 1209, 4000, 14_042)


@dataclass(frozen=True, kw_only=True)
class Population:
    """Right answers before and now."""

    dense: NDArray[np.float64]
    compressed: NDArray[np.float64]
    clusters: list[str]

    @property
    def strata(self) -> list[tuple[str, float]]:
        return list(zip(self.clusters, self.dense.tolist(), strict=True))


def population(n: int, *, forgotten: int, learned: int, clustered: bool = False) -> Population:
    """So many flips; clustered ones strike some relations many times as often as others."""
    draw = np.random.default_rng(n + forgotten)
    relation = np.arange(n) % RELATIONS
    dense = np.zeros(n)
    dense[draw.permutation(n)[: round(KNOWN * n)]] = 1
    compressed = dense.copy()
    weight = draw.exponential(size=RELATIONS) ** 3 if clustered else np.ones(RELATIONS)
    for value, count in ((1, forgotten), (0, learned)):
        where = np.flatnonzero(dense == value)
        # Keys of a weighted draw without replacement (Efraimidis and Spirakis 2006).
        keys = draw.exponential(size=len(where)) / weight[relation[where]]
        compressed[where[np.argsort(keys)[:count]]] = 1 - value
    clusters = [f"r{number:02}" for number in relation]
    return Population(dense=dense, compressed=compressed, clusters=clusters)


def net_loss(n: int, floor: float) -> int:
    """The largest loss, in questions, that still reaches the floor."""
    return int((1 - floor) * round(KNOWN * n) + 1e-9)


def retention(found: Population, floor: float) -> Condition:
    return retained(found.dense.tolist(), [0.0] * len(found.dense), floor)


def wrong_rates(
    found: Population, conditions: Sequence[Condition], wrong: str, runs: int
) -> dict[str, float]:
    """How often the wrong answer is given, by the rule that one stops by."""
    errs = dict.fromkeys(("at once", "fixed looks", "at its best"), 0)
    for seed in range(runs):
        stop = EarlyStop(rounds(found.strata, seed), conditions, ALPHA)
        best, now, looks = -np.inf, -np.inf, list(LOOKS)
        errs_looking = False
        while stop.upcoming:
            stop.tell(found.compressed[stop.upcoming].tolist())
            if wrong == "kept":
                now = min(capital.log for capital in stop._met.values())
                best = min(capital.peak for capital in stop._met.values())
            else:
                logs = [capital.log for capital in stop._broken.values()]
                now = np.logaddexp.reduce(logs) - log(len(logs))
                best = max(best, now)
            if looks and stop.asked >= looks[0] * len(found.dense):
                errs_looking |= now >= -log(ALPHA)
                looks.pop(0)
        errs["at once"] += stop.decision == wrong
        errs["fixed looks"] += errs_looking
        errs["at its best"] += best >= -log(ALPHA)
    return {rule: count / runs for rule, count in errs.items()}


@pytest.mark.parametrize("wrong", ["kept", "lost"])
@pytest.mark.parametrize(
    ("n", "floor", "flips", "clustered", "runs"),
    [
        pytest.param(200, 0.9, 0.0, False, 1000, id="200-losses-only"),
        pytest.param(200, 0.95, 0.25, False, 1000, id="200-many-flips"),
        pytest.param(1209, 0.95, 0.0, True, 500, id="1209-losses-only-clustered"),
        pytest.param(1209, 0.95, 0.12, True, 500, id="1209-clustered"),
        pytest.param(1209, 0.5, 0.25, False, 500, id="1209-low-floor"),
        pytest.param(14_042, 0.95, 0.04, True, 150, id="14042-clustered"),
    ],
)
def test_one_question_beyond_the_floor_or_above_it(  # noqa: PLR0913
    n: int, floor: float, flips: float, runs: int, wrong: str, *, clustered: bool
) -> None:
    loss = net_loss(n, floor) + (wrong == "kept")
    learned = round(flips * n / 2)
    found = population(n, forgotten=loss + learned, learned=learned, clustered=clustered)
    rates = wrong_rates(found, [retention(found, floor)], wrong, runs)
    label = f"n {n:6} floor {floor:.2f} flips {flips:4.0%} {'clustered' if clustered else '':9}"
    report(f"{label} wrongly {wrong}", rates, runs)


@pytest.mark.parametrize("wrong", ["kept", "lost"])
def test_several_conditions_together_err_no_more_often(wrong: str) -> None:
    n, floor, runs = 600, 0.9, 600
    loss = net_loss(n, floor)
    found = population(n, forgotten=loss + 6, learned=6)
    accepted = found.dense.copy()
    # Either all is well but for a loss of one question beyond the margin; or all limits are met
    # with none to spare, and the regression, which alone is broken, loses no trial.
    limit = (loss + 6) / found.dense.sum()
    margin = (loss - 1) / n if wrong == "kept" else 0.0
    conditions = [
        retention(found, 0.5 if wrong == "kept" else floor),
        unforgotten(found.dense.tolist(), 0.5 if wrong == "kept" else limit),
        unregressed(accepted.tolist(), margin),
    ]
    rates = wrong_rates(found, conditions, wrong, runs)
    report(f"n {n:6} three conditions, one at its edge, wrongly {wrong}", rates, runs)


def report(label: str, rates: dict[str, float], runs: int) -> None:
    """Print a row; no rate may be above alpha by more than chance explains."""
    row = "  ".join(f"{rule} {rate:6.2%}" for rule, rate in rates.items())
    print(f"{label:62} {row}  ({runs} orders)")  # noqa: T201
    for rule, rate in rates.items():
        assert binom.sf(rate * runs - 1, runs, ALPHA) > 0.01, f"{rule}: {rate} > {ALPHA}"


def saved(found: Population, conditions: Sequence[Condition], answer: str, runs: int) -> float:
    """How many times fewer questions are asked, on the mean; each run must give the answer."""
    asked = []
    for seed in range(runs):
        stop = EarlyStop(rounds(found.strata, seed), conditions, ALPHA)
        while stop.upcoming and stop.decision is None:
            stop.tell(found.compressed[stop.upcoming].tolist())
        assert stop.decision in (answer, None)
        asked.append(stop.asked)
    return len(found.dense) / mean(asked)


def moved(scores: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Scores that differ in a share of the questions, as many up as down."""
    found, draw = scores.copy(), np.random.default_rng(1)
    for value in (0, 1):
        where = np.flatnonzero(scores == value)
        found[draw.permutation(where)[: ceil(share * len(scores) / 2)]] = 1 - value
    return found


@pytest.mark.parametrize("floor", [0.95, 0.9])
@pytest.mark.parametrize("flips", [0.0, 0.01, 0.02, 0.04, 0.08, 0.12])
def test_clear_passes(flips: float, floor: float) -> None:
    """All is retained: as much is learned as forgotten."""
    times = {}
    for n in SIZES:
        half = round(flips * n / 2)
        found = population(n, forgotten=half, learned=half, clustered=True)
        times[n] = saved(found, [retention(found, floor)], "kept", 16)
    table(f"pass, floor {floor:.2f}, flips {flips:3.0%}", times)
    for n, factor in times.items():
        enough = n >= 1209 or (n >= 600 and (flips <= 0.02 or floor == 0.9))
        if (enough and flips <= 0.04) or (floor == 0.9 and flips <= 0.01):
            assert factor >= 3


@pytest.mark.parametrize("share", [0.0, 0.005, 0.01, 0.02])
def test_clear_passes_that_must_also_be_no_regression(share: float) -> None:
    """2 % of the answers flip against the dense model, and a share against what was accepted."""
    times = {}
    for n in SIZES:
        half = round(0.01 * n)
        found = population(n, forgotten=half, learned=half, clustered=True)
        accepted = moved(found.compressed, share) if share else found.compressed
        conditions = [retention(found, 0.95), unregressed(accepted.tolist(), 0.01)]
        times[n] = saved(found, conditions, "kept", 16)
    table(f"pass, floor 0.95, margin 0.01, {share:4.1%} moved since", times)
    for n, factor in times.items():
        if (n >= 4000 and share <= 0.01) or (n >= 1209 and share == 0):
            assert factor >= 3


@pytest.mark.parametrize("floor", [0.95, 0.9])
@pytest.mark.parametrize("kept", [0.5, 0.8])
def test_clear_failures(kept: float, floor: float) -> None:
    times = {}
    for n in SIZES:
        right = round(KNOWN * n)
        learned = round(0.02 * n)
        lost = round((1 - kept) * right) + learned
        found = population(n, forgotten=lost, learned=learned, clustered=True)
        times[n] = saved(found, [retention(found, floor)], "lost", 16)
    table(f"failure, retention {kept}, floor {floor:.2f}", times)
    for n, factor in times.items():
        if kept == 0.5 or n >= 600:
            assert factor >= 3


def table(label: str, times: dict[int, float]) -> None:
    row = "  ".join(f"n {n}: {factor:5.1f}x" for n, factor in times.items())
    print(f"{label:48} {row}")  # noqa: T201
