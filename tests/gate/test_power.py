"""Power against enumeration, against SciPy's distributions, and against published tables."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil, comb, inf, sqrt
from statistics import NormalDist
from time import process_time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom, norm, t

from pytest_compression.gate.power import (
    CLOSE,
    MANY,
    PairedTest,
    Row,
    approximate,
    questions_to_prove,
    table,
    unpaired,
)
from pytest_compression.gate.retention import Retention

Z = NormalDist().inv_cdf

SHARES = st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.08, 0.2, 0.5, 1.0])
LEVELS = st.sampled_from([0.05 / 200, 0.01, 0.03125, 0.05, 0.1, 0.25])
MARGINS = st.sampled_from([0.0, 0.01, 0.07, 0.25, 0.29])
INFLATIONS = st.sampled_from([1.0, 0.5, sqrt(2), 2.2])
POWERS = st.sampled_from([0.5, 0.8, 0.9, 0.95])


CLUSTERS = st.none() | st.integers(12, 60)
TESTS = st.builds(PairedTest, alpha=LEVELS, inflation=INFLATIONS, margin=MARGINS, clusters=CLUSTERS)
ALONE = PairedTest(alpha=0.05)
OF_200 = PairedTest(alpha=0.05 / 200)


def enumerated(n: int, flips: float, loss: float, alpha: float, margin: float) -> float:
    """The power as the sum over all numbers of forgotten and learned questions."""
    total = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            p = Fraction(sum(comb(b + c, i) for i in range(b, b + c + 1)), 2 ** (b + c))
            if p <= alpha and (b - c) / n > margin:
                ways = comb(n, b) * comb(n - b, c)
                chance = ((flips + loss) / 2) ** b * ((flips - loss) / 2) ** c
                total += ways * chance * (1 - flips) ** (n - b - c)
    return total


@given(
    n=st.integers(0, 14),
    flips=SHARES,
    part=st.floats(-1, 1) | st.sampled_from([-1.0, 0.0, 1.0]),
    alpha=LEVELS,
    margin=MARGINS,
)
def test_power_is_the_sum_over_everything_that_can_happen(
    n: int, flips: float, part: float, alpha: float, margin: float
) -> None:
    loss = part * flips
    found = PairedTest(alpha=alpha, margin=margin).power(n, flips=flips, loss=loss)
    assert found == pytest.approx(enumerated(n, flips, loss, alpha, margin), abs=1e-9)


@pytest.mark.parametrize("n", [198, 1319, 14042])
@pytest.mark.parametrize("flips", [0.001, 0.08, 0.9])
@pytest.mark.parametrize("test", [ALONE, OF_200], ids=["alone", "of-200"])
def test_power_is_what_scipy_makes_of_it(n: int, flips: float, test: PairedTest) -> None:
    loss = min(flips, 3 * sqrt(flips / n))
    m = np.arange(n + 1)
    least = binom.isf(test.alpha, m, 0.5) + 1  # the first whose tail is within alpha
    assert (binom.sf(least - 1, m, 0.5) <= test.alpha).all()
    assert (binom.sf(least - 2, m, 0.5) > test.alpha).all()
    seen = binom.sf(least - 1, m, (flips + loss) / 2 / flips)
    found = test.power(n, flips=flips, loss=loss)
    assert found == pytest.approx(float(binom.pmf(m, n, flips) @ seen), abs=1e-9)


@given(test=TESTS, n=st.integers(0, 20_000), flips=SHARES, parts=st.tuples(SHARES, SHARES))
def test_power_is_a_chance_that_grows_with_the_loss(
    test: PairedTest, n: int, flips: float, parts: tuple[float, float]
) -> None:
    losses = sorted(flips * part for part in (-1, 0, *parts))
    chances = [test.power(n, flips=flips, loss=loss) for loss in losses]
    assert chances[0] >= 0
    assert all(less <= more + 1e-9 for less, more in pairwise(chances))
    assert chances[-1] <= 1
    assert chances[1] <= test.alpha + 1e-9  # without a loss


@given(test=TESTS, n=st.integers(1, 20_000), flips=SHARES, part=SHARES)
def test_margin_clusters_and_other_tests_cost_power(
    test: PairedTest, n: int, flips: float, part: float
) -> None:
    loss = part * flips
    strict = test.power(n, flips=flips, loss=loss)
    for free in (
        replace(test, margin=0),
        replace(test, alpha=0.25),
        replace(test, clusters=None),
    ):
        assert strict <= free.power(n, flips=flips, loss=loss) + 1e-9
    independent = int(n / max(1, test.inflation) ** 2 + 1e-9)
    assert strict == replace(test, inflation=1).power(independent, flips=flips, loss=loss)


@given(test=TESTS, n=st.integers(1, 20_000), harmless=SHARES, asked=POWERS)
def test_the_detectable_loss_is_seen_and_a_smaller_one_is_not(
    test: PairedTest, n: int, harmless: float, asked: float
) -> None:
    def seen(loss: float) -> float:
        return test.power(n, flips=min(1, harmless + loss), loss=loss)

    found = test.detectable(n, harmless=harmless, power=asked)
    if found is None:
        assert seen(1 - harmless) < asked
    else:
        assert seen(found) >= asked
        assert seen(found * (1 - 2 * CLOSE)) < asked


@given(test=TESTS, n=st.integers(1, 20_000), flips=SHARES, asked=POWERS)
def test_so_is_the_one_within_given_flips(
    test: PairedTest, n: int, flips: float, asked: float
) -> None:
    found = test.detectable_within(n, flips=flips, power=asked)
    if found is None:
        assert test.power(n, flips=flips, loss=flips) < asked
    else:
        assert test.power(n, flips=flips, loss=found) >= asked
        assert test.power(n, flips=flips, loss=found * (1 - 2 * CLOSE)) < asked


@given(
    test=TESTS,
    loss=st.floats(0.05, 0.6),
    harmless=st.floats(0, 0.4) | st.just(0.0),
    asked=POWERS,
)
def test_from_the_questions_needed_on_the_loss_is_seen_and_not_before(
    test: PairedTest, loss: float, harmless: float, asked: float
) -> None:
    assume(loss + harmless <= 0.6)
    needed = test.questions_needed(loss, harmless=harmless, power=asked)
    if needed is None:
        assert loss <= test.margin
        return
    assume(needed <= 300)

    def seen(n: int) -> float:
        return test.power(n, flips=harmless + loss, loss=loss)

    assert seen(needed - 1) < asked
    assert min(seen(n) for n in range(needed, 2 * needed + 60)) >= asked


@pytest.mark.parametrize(("clusters", "alpha"), [(4, 0.05), (11, 0.05 / 200), (14, 0.05 / 1000)])
def test_too_few_clusters_see_nothing_whatever_is_lost(clusters: int, alpha: float) -> None:
    for count, sees in ((clusters, False), (clusters + 1, True)):
        test = PairedTest(alpha=alpha, clusters=count)
        assert (0.5**count <= alpha) == sees
        assert (test.power(10_000, flips=1, loss=1) == 1) == sees
        assert (test.detectable(10_000, harmless=0.02, power=0.8) is not None) == sees
        assert (test.questions_needed(0.5, harmless=0.02, power=0.8) is not None) == sees


def test_clusters_are_as_hard_to_convince_as_student_says() -> None:
    clusters, alpha = 33, 0.05 / 200
    found = PairedTest(alpha=alpha, clusters=clusters).power(5000, flips=0.1, loss=0.02)
    level = norm.sf(t.isf(alpha, clusters - 1))
    assert level < alpha / 4
    assert found == pytest.approx(PairedTest(alpha=level).power(5000, flips=0.1, loss=0.02))
    many = PairedTest(alpha=alpha, clusters=100_000).power(5000, flips=0.1, loss=0.02)
    assert many == pytest.approx(OF_200.power(5000, flips=0.1, loss=0.02), abs=1e-3)


def test_a_loss_as_large_as_the_margin_is_not_beyond_it() -> None:
    found = PairedTest(alpha=0.05, margin=0.29).power(100, flips=0.29, loss=0.29)
    assert found == pytest.approx(binom.sf(29, 100, 0.29), abs=1e-9)  # though 0.29 * 100 < 29


def test_a_step_of_the_margin_is_looked_through() -> None:
    test = PairedTest(alpha=0.05, margin=0.01)
    needed = test.questions_needed(0.015, harmless=0.002, power=0.8)
    assert needed is not None
    chances = [test.power(n, flips=0.017, loss=0.015) for n in range(1, needed + 300)]
    assert min(chances[needed - 1 :]) >= 0.8 > chances[needed - 2]
    assert max(chances[: needed - 2]) >= 0.8  # an earlier number would have done, but not later


@given(
    test=TESTS.map(lambda test: replace(test, margin=0.0)),
    n=st.integers(60, 20_000),
    harmless=st.floats(0, 0.2) | st.just(0.0),
    asked=POWERS,
)
def test_the_questions_needed_for_the_detectable_loss_are_those_there_are(
    test: PairedTest, n: int, harmless: float, asked: float
) -> None:
    loss = test.detectable(n, harmless=harmless, power=asked)
    assume(loss is not None and loss + harmless <= 0.6)
    assert loss is not None
    needed = test.questions_needed(loss, harmless=harmless, power=asked)
    assert needed is not None
    assert needed <= n
    assert n - needed <= max(1, test.inflation) ** 2 + 10 * CLOSE * n


def test_beyond_a_million_questions_an_estimate_continues_the_exact_number() -> None:
    for loss in (0.00072, 0.0006):
        expected = (0.08 + loss) * ((Z(0.95) + Z(0.8)) / loss) ** 2
        assert (expected > MANY) == (loss < 0.0007)
        found = ALONE.questions_needed(loss, harmless=0.08, power=0.8)
        assert found == pytest.approx(expected, rel=0.01)
        assert (found == ceil(expected)) == (expected > MANY)  # the exact number is a little larger
    close = replace(ALONE, margin=0.01)
    found = close.questions_needed(0.01001, harmless=0.08, power=0.8)
    assert found == pytest.approx(0.09001 * (Z(0.8) / 0.00001) ** 2, rel=0.01)


# Of n questions: (fails from, detectable) in points at 2, 4, 8 and 15 % flips, and unpaired.
PUBLISHED = {
    198: ("1.65 2.50", "2.34 3.53", "3.31 5.00", "4.53 6.84", "8.27 12.50"),
    1000: ("0.74 1.11", "1.04 1.57", "1.47 2.22", "2.01 3.05", "3.68 5.56"),
    1319: ("0.64 0.97", "0.91 1.37", "1.28 1.94", "1.75 2.65", "3.20 4.84"),
    4096: ("0.36 0.55", "0.51 0.78", "0.73 1.10", "1.00 1.50", "1.82 2.75"),
    7731: ("0.26 0.40", "0.37 0.57", "0.53 0.80", "0.72 1.10", "1.32 2.00"),
    14042: ("0.20 0.30", "0.28 0.42", "0.39 0.59", "0.54 0.81", "0.98 1.48"),
    27610: ("0.14 0.21", "0.20 0.30", "0.28 0.42", "0.38 0.58", "0.70 1.06"),
}


@pytest.mark.parametrize("n", PUBLISHED)
def test_the_table_of_the_normal_approximation(n: int) -> None:
    rows = table(n, flips=(0.02, 0.04, 0.08, 0.15), alpha=0.05, power=0.8)
    printed = [f"{100 * row.fails_from:.2f} {100 * row.approximate:.2f}" for row in rows]
    assert tuple(printed) == PUBLISHED[n][:4]
    fails_from = unpaired(n, alpha=0.05, power=0.5)
    assert f"{100 * fails_from:.2f} {100 * rows[0].unpaired:.2f}" == PUBLISHED[n][4]


@pytest.mark.parametrize(
    ("n", "alarms", "seen"), [(1319, 0.040, 0.77), (198, 0.032, 0.76)], ids=["gsm8k", "gpqa"]
)
def test_simulated_rates_of_the_exact_test(n: int, alarms: float, seen: float) -> None:
    loss = approximate(n, flips=0.08, alpha=0.05, power=0.8)
    assert ALONE.power(n, flips=0.08, loss=0) == pytest.approx(alarms, abs=0.002)
    assert ALONE.power(n, flips=0.08, loss=loss) == pytest.approx(seen, abs=0.01)


@pytest.mark.parametrize(
    ("n", "threshold", "theta"),
    [
        pytest.param(4096, 1.817, 2.747, id="mmlu"),
        pytest.param(1319, 3.203, 4.841, id="gsm8k"),
        pytest.param(900, 3.877, 5.861, id="mmmu"),
        pytest.param(215, 7.932, 11.991, id="longbench"),
        pytest.param(198, 8.266, 12.495, id="gpqa"),
        pytest.param(100, 11.631, 17.582, id="json"),
    ],
)
def test_figures_of_tensorrt_llm(n: int, threshold: float, theta: float) -> None:
    assert unpaired(n, alpha=0.05, power=0.5, sigma=50) == pytest.approx(threshold, abs=5e-4)
    assert unpaired(n, alpha=0.05, power=0.8, sigma=50) == pytest.approx(theta, abs=5e-4)


def test_figures_of_tensorrt_llm_for_summaries() -> None:
    rouge = [unpaired(512, alpha=0.002, power=seen, sigma=11.06) for seen in (0.5, 0.8)]
    assert rouge == pytest.approx([1.990, 2.571], abs=5e-4)


def test_pairs_of_1319_questions_at_8_percent_flips_halve_what_can_be_seen() -> None:
    on_top = ALONE.detectable(1319, harmless=0.08, power=0.8)
    within = ALONE.detectable_within(1319, flips=0.08, power=0.8)
    assert within is not None
    assert on_top is not None
    assert within < on_top <= unpaired(1319, alpha=0.05, power=0.8) / 2


def test_what_can_be_seen_at_1_to_20_percent_flips_is_always_less_than_unpaired() -> None:
    rows = table(1319, flips=[i / 100 for i in range(1, 21)], alpha=0.05, power=0.8)
    exact = [row.exact or inf for row in rows]
    assert exact == sorted(exact)
    assert all(row.approximate < seen < row.unpaired for row, seen in zip(rows, exact, strict=True))


def test_a_table_admits_what_cannot_be_seen() -> None:
    (row,) = table(50, flips=[0.01], alpha=0.05, power=0.8)
    assert isinstance(row, Row)
    assert row.exact is None


def test_without_harmless_flips_as_few_losses_are_seen_as_signs_allow() -> None:
    assert ALONE.power(5, flips=1, loss=1) == 1  # 2 ** -5 = 0.03
    assert ALONE.detectable(4, harmless=0, power=0.8) is None
    loss = ALONE.detectable(1000, harmless=0, power=0.8)
    assert loss is not None
    assert binom.sf(4, 1000, loss) == pytest.approx(0.8, abs=1e-3)
    assert ALONE.questions_needed(1, harmless=0, power=0.8) == 5


def test_one_of_200_tests_can_see_a_loss() -> None:
    alone = ALONE.detectable(1319, harmless=0.08, power=0.8)
    among = OF_200.detectable(1319, harmless=0.08, power=0.8)
    assert alone is not None
    assert among is not None
    assert 1.5 * alone < among < 2 * alone
    assert OF_200.detectable(11, harmless=0, power=0.8) is None
    assert OF_200.detectable(12, harmless=0, power=0.8) is not None


@given(
    kept=st.builds(Retention, value=st.floats(0.5, 1.1), standard_error=st.floats(1e-4, 0.2)),
    floor=st.floats(0.5, 1.1),
    n=st.integers(2, 10_000),
    alpha=LEVELS,
    asked=POWERS,
)
def test_with_the_questions_to_prove_the_lower_limit_reaches_the_floor_so_often(
    kept: Retention, floor: float, n: int, alpha: float, asked: float
) -> None:
    found = questions_to_prove(kept, n, floor=floor, alpha=alpha, power=asked)
    assert (found is None) == (kept.value <= floor)
    assume(kept.value - floor > 1e-3)
    assert found is not None

    def proven(questions: int) -> float:
        then = kept.standard_error * sqrt(n / questions)
        measured = NormalDist(kept.value, then)
        return 1 - measured.cdf(floor + Z(1 - alpha) * then)

    assert proven(found) >= asked - 1e-9
    assert found == 1 or proven(found - 1) <= asked + 1e-9


def test_nothing_is_promised_of_an_unknown_error_and_little_is_asked_without_one() -> None:
    unknown = Retention(
        value=1.0, standard_error=inf, low=-inf, high=inf, units=30, clustered=False
    )
    assert questions_to_prove(unknown, 1, floor=0.9, alpha=0.05, power=0.8) is None
    certain = replace(unknown, standard_error=0.0)
    assert questions_to_prove(certain, 30, floor=0.9, alpha=0.05, power=0.8) == 1


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a loss of 0\.2 is impossible with flips of 0\.1"):
        ALONE.power(100, flips=0.1, loss=0.2)
    with pytest.raises(ValueError, match=r"flips of 1\.1 are no share"):
        ALONE.power(100, flips=1.1, loss=0)
    with pytest.raises(ValueError, match=r"flips of -0\.1 are no share"):
        ALONE.detectable(100, harmless=-0.1, power=0.8)
    with pytest.raises(ValueError, match=r"flips of 1\.2 are no share"):
        ALONE.questions_needed(0.2, harmless=1.0, power=0.8)
    with pytest.raises(ValueError, match=r"a power of 0\.05 is not between the level of 0\.05"):
        ALONE.detectable_within(100, flips=0.1, power=0.05)
    with pytest.raises(ValueError, match=r"a power of 1 is not between"):
        ALONE.questions_needed(0.1, harmless=0, power=1)
    with pytest.raises(ValueError, match=r"a level of 0 is not in"):
        PairedTest(alpha=0)


def test_shares_that_sum_to_one_but_for_rounding_are_no_mistake() -> None:
    harmless, loss = 0.9, 0.1 + 2e-16
    assert harmless + loss > 1
    assert ALONE.power(100, flips=harmless + loss, loss=loss) < 1
    assert ALONE.questions_needed(loss, harmless=harmless, power=0.8) is not None


def test_a_thousand_trials_are_planned_in_seconds() -> None:
    test = PairedTest(alpha=0.05 / 1000, margin=0.01)
    start = process_time()
    for trial in range(200):
        test.detectable(15_000, harmless=trial / 1000, power=0.8)
    assert process_time() - start < 200 * 0.005
