"""The score test against direct maximisation, Tango's and Nam's; limits are where it rejects."""

from math import atan, isinf, pi, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats
from statsmodels.stats.proportion import _confint_riskratio_paired_nam

from pytest_compression.gate.clusters import units
from pytest_compression.gate.score import CORNERS, Answers, limit, score_test

Array = NDArray[np.float64]
Counts = tuple[int, int, int, int]
"""Both right, forgotten, learned, both wrong."""


def answered(counts: Counts, chance: float) -> tuple[Array, float, float]:
    """Scores ``[3, n]`` with these counts, what is known, and the estimate."""
    answers = np.repeat(CORNERS[:, ::-1], counts, axis=1)
    scores = np.vstack([answers, np.full(sum(counts), chance)])
    dense, compressed = (scores[:2] - chance).sum(axis=1)
    return scores, dense, compressed / dense


@given(
    st.tuples(*[st.integers(0, 30)] * 4),
    st.sampled_from([0.0, 0.1, 0.25]),
    st.floats(-1.5, 1.5),
    st.sampled_from([1, 13]),
)
def test_between_the_limits_is_just_what_the_test_does_not_reject(
    counts: Counts, chance: float, angle: float, number: int
) -> None:
    n, right = sum(counts), counts[0] + counts[1]
    assume(n >= 13 and right - n * chance > 1e-9)
    scores, known, value = answered(counts, chance)
    clusters = [f"r{i % number}" for i in range(n)]
    test = score_test(scores, known, value, units(clusters), 0.05)
    for side in (1, -1):
        found = limit(test, side)
        if isinf(found):
            assert test.excess(-side * pi / 2, side) <= 0
        elif side * (atan(found) - angle) > 1e-6:
            assert test.excess(angle, side) > 0
        elif side * (angle - atan(found)) > 1e-6 and side * (atan(value) - angle) > 0:
            assert test.excess(angle, side) <= 0


def likeliest(values: Array, counts: Array) -> Array:
    """Shares ``[k]`` of the largest likelihood whose mean value is 0, by direct maximisation."""
    found = optimize.minimize(
        lambda shares: -float(counts @ np.log(np.maximum(shares, 1e-300))),
        np.full(len(values), 1 / len(values)),
        jac=lambda shares: -counts / np.maximum(shares, 1e-300),
        bounds=[(1e-12, 1)] * len(values),
        constraints=[
            {"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": np.ones_like},
            {"type": "eq", "fun": lambda shares: shares @ values, "jac": lambda _: values},
        ],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    shares: Array = found.x
    return shares


@pytest.mark.parametrize("counts", [(60, 10, 5, 25), (80, 3, 0, 17), (29, 0, 2, 9), (30, 0, 0, 20)])
@pytest.mark.parametrize("chance", [0.0, 0.25])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_limits_are_where_a_score_test_by_direct_maximisation_just_rejects(
    counts: Counts, chance: float, alpha: float
) -> None:
    scores, known, value = answered(counts, chance)
    n, z = sum(counts), stats.norm.isf(alpha)
    test = score_test(scores, known, value, None, alpha)
    cells = np.array([(1, 1), (1, 0), (0, 1), (0, 0)]) - chance
    for side in (1, -1):
        values = cells @ (-limit(test, side), 1.0)
        shares = likeliest(values, np.array(counts, dtype=np.float64))
        variance = n * (shares @ values**2) * n / (n - 1)
        step = max(0.0, side * n * (shares @ values**3) / variance)
        critical = z * sqrt(variance) + (z * z - 1) / 6 * step
        assert side * (values @ counts) == pytest.approx(critical, rel=2e-4)


def test_the_variance_of_a_difference_is_tangos() -> None:
    # 60 forgotten, 40 learned of 1000, and a loss of 1 %: T = 1.005089, q = 0.044545.
    changes = np.array([[-1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    answers = Answers(
        pairs=changes, counts=np.array([60.0, 40.0, 900.0]), possible=np.empty((2, 0))
    )
    second, _ = answers.moments(np.array([1.0, 0.01]))
    variance = second * 999 / 1000
    assert variance == pytest.approx(1000 * (2 * 0.044545 + 0.01 * 0.99), rel=1e-5)
    assert (60 - 40 - 10) / sqrt(variance) == pytest.approx(1.005089, abs=1e-6)


@pytest.mark.parametrize("counts", [(60, 10, 5, 25), (761, 86, 64, 298), (552, 181, 148, 328)])
def test_without_chance_and_skewness_limits_are_those_of_a_ratio_of_paired_proportions(
    counts: Counts,
) -> None:
    both, forgotten, learned, neither = counts
    n = sum(counts)
    table = np.array([[both, learned], [forgotten, neither]])
    scores, known, value = answered(counts, 0.0)
    test = score_test(scores, known, value, None, 0.05)
    for theirs in _confint_riskratio_paired_nam(table, alpha=0.1).confint:
        axis = np.array([1.0, value - theirs])
        second, _ = test.answers.moments(axis)
        statistic = axis[1] * known / sqrt(second * (n - 1) / n)
        assert abs(statistic) == pytest.approx(stats.norm.isf(0.05), rel=1e-6)
