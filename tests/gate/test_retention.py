"""Retention against textbook values, exact fractions, Fieller's limits, and by simulation."""

from fractions import Fraction
from math import atan, inf, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from light_strategies import pairs
from scipy import stats
from simulations.coverage import POPULATIONS, Relations, clustered, independent, outside, uneven

from pytest_compression.gate.clusters import ENOUGH
from pytest_compression.gate.retention import Retention, better_than_chance, retention

Pairs = list[tuple[int, int, float]]


def scored(both: int, forgotten: int, learned: int, neither: int) -> tuple[list[int], list[int]]:
    """Dense and compressed scores with these counts."""
    dense = [1] * (both + forgotten) + [0] * (learned + neither)
    compressed = [1] * both + [0] * forgotten + [1] * learned + [0] * neither
    return dense, compressed


def of_pairs(pair: Pairs, clusters: list[str] | None = None, alpha: float = 0.05) -> Retention:
    dense, compressed, chance = zip(*pair, strict=True)
    assume(sum(dense) > sum(chance) + 1e-9)
    return retention(dense, compressed, chance, clusters, alpha)


@pytest.mark.parametrize(
    ("counts", "chance", "value", "error"),
    [
        pytest.param((60, 10, 5, 25), 0.0, 0.928571, 0.053584, id="open-vocabulary"),
        pytest.param((60, 10, 5, 25), 0.25, 0.888889, 0.082258, id="four-candidates"),
        pytest.param((761, 86, 64, 298), 0.0, 0.9740, 0.0143, id="llama-instruct"),
        pytest.param((603, 233, 97, 276), 0.0, 0.8373, 0.0199, id="llama-qwen"),
        pytest.param((552, 181, 148, 328), 0.0, 0.9550, 0.0242, id="qwen-qwen"),
    ],
)
def test_known_values(
    counts: tuple[int, int, int, int], chance: float, value: float, error: float
) -> None:
    dense, compressed = scored(*counts)
    found = retention(dense, compressed, [chance] * len(dense))
    digits = 6 if len(dense) == 100 else 4
    assert found.value == pytest.approx(value, abs=0.5 * 10**-digits)
    assert found.standard_error == pytest.approx(error, abs=0.5 * 10**-digits)
    assert (found.units, found.clustered) == (len(dense), False)


@given(st.integers(0, 2**32), st.integers(ENOUGH, 40))
def test_the_clustered_error_is_the_one_of_cluster_sums(seed: int, number: int) -> None:
    draw = np.random.default_rng(seed)
    dense, compressed = (draw.random((2, 100)) < 0.6).astype(int).tolist()
    clusters = [f"r{i % number}" for i in range(100)]
    found = retention(dense, compressed, [0.2] * 100, clusters)
    sums = dict.fromkeys(clusters, 0.0)
    for name, d, c in zip(clusters, dense, compressed, strict=True):
        sums[name] += (c - 0.2) - found.value * (d - 0.2)
    expected = sqrt(number / (number - 1) * sum(e * e for e in sums.values())) / (sum(dense) - 20)
    assert found.standard_error == pytest.approx(expected, rel=1e-9)
    assert (found.units, found.clustered) == (number, True)


@given(pairs())
def test_equal_scores_are_retained_wholly_but_that_does_not_prove_it(pair: Pairs) -> None:
    found = of_pairs([(d, d, h) for d, _, h in pair])
    assert found.value == 1.0
    assert found.low < 1.0 < found.high
    assert len(pair) == 1 or found.standard_error == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [(20, 0.8754, 1.1424), (100, 0.9734, 1.0273), (1000, 0.9973, 1.0027)],
)
def test_no_change_among_n_questions_leaves_room_for_about_three(
    n: int, low: float, high: float
) -> None:
    found = retention([1] * n, [1] * n, [0.0] * n)
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)
    rule_of_three = 1 - 0.05 ** (1 / n)
    assert 0.85 * rule_of_three < 1 - found.low < 1.05 * rule_of_three


@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_questions_is_irrelevant(pair: Pairs, random: object) -> None:
    named = [(*row, f"r{i % 13}") for i, row in enumerate(pair)]
    found = of_pairs(pair, [name for *_, name in named])
    random.shuffle(named)  # type: ignore[attr-defined]  # hypothesis types it so
    again = of_pairs([(d, c, h) for d, c, h, _ in named], [name for *_, name in named])
    assert again.value == found.value
    assert again.standard_error == pytest.approx(found.standard_error, rel=1e-9, abs=1e-12)
    assert again.low == pytest.approx(found.low, abs=1e-6)
    assert again.high == pytest.approx(found.high, abs=1e-6)


@given(pairs(), st.data())
def test_it_grows_with_each_question_regained_and_forgotten_ones_cost(
    pair: Pairs, data: st.DataObject
) -> None:
    wrong = [i for i, (_, score, _) in enumerate(pair) if score == 0]
    assume(wrong)
    before = of_pairs(pair)
    at = data.draw(st.sampled_from(wrong))
    pair[at] = (pair[at][0], 1, pair[at][2])
    assert of_pairs(pair).value > before.value


@given(pairs(), st.booleans(), st.lists(st.floats(0.001, 0.4), min_size=2, max_size=2))
def test_limits_enclose_the_value_and_tighten_as_alpha_grows(
    pair: Pairs,
    clustered: bool,  # noqa: FBT001  # hypothesis passes it by position
    alphas: list[float],
) -> None:
    clusters = [f"r{i % 14}" for i in range(len(pair))] if clustered else None
    strict, loose = (of_pairs(pair, clusters, alpha) for alpha in sorted(alphas))
    for found in (strict, loose):
        assert found.low <= found.value <= found.high
    assert atan(strict.low) <= atan(loose.low) + 1e-9
    assert atan(strict.high) >= atan(loose.high) - 1e-9


@given(
    n=st.integers(2, 400),
    candidates=st.integers(2, 250),
    floor=st.sampled_from([Fraction(1, 2), Fraction(3, 4), Fraction(9, 10), Fraction(19, 20)]),
    data=st.data(),
)
def test_no_rounding_moves_a_trial_across_its_floor(
    n: int, candidates: int, floor: Fraction, data: st.DataObject
) -> None:
    guessed = Fraction(n, candidates)
    dense = data.draw(st.integers(int(guessed) + 1, n))
    edge = floor * (dense - guessed) + guessed
    compressed = int(edge) + data.draw(st.integers(0, 1))
    exact = (compressed - guessed) / (dense - guessed)
    found = retention(
        [1] * dense + [0] * (n - dense),
        [1] * compressed + [0] * (n - compressed) if compressed <= n else [1] * n,
        [1 / candidates] * n,
    )
    assume(compressed <= n)
    assert (found.value >= float(floor)) == (exact >= floor)


def test_27_of_30_is_exactly_90_percent_with_and_without_chance() -> None:
    assert retention([1] * 30, [1] * 27 + [0] * 3, [0.0] * 30).value == 0.9
    assert retention([1] * 30, [1] * 28 + [0] * 2, [1 / 3] * 30).value == 0.9
    assert retention([1] * 10_000, [1] * 9451 + [0] * 549, [0.0] * 10_000).value == 0.9451
    assert retention([1] * 10_000, [1] * 9499 + [0] * 501, [0.0] * 10_000).value < 0.95


def test_a_two_way_task_that_lost_everything_retains_nothing() -> None:
    dense = [1] * 60 + [0] * 40
    assert retention(dense, [1, 0] * 50, [0.5] * 100).value == 0.0


def test_nothing_right_of_ten_is_no_proof_of_nothing_retained() -> None:
    found = retention(*scored(0, 10, 0, 10), [0.0] * 20)
    assert found.value == 0.0
    assert found.low == pytest.approx(0.0, abs=1e-9)  # without chance it cannot be less
    assert 0.2 < found.high < 0.35


@pytest.mark.parametrize(
    ("dense", "chance"),
    [([], []), ([0, 0], [0.0, 0.0]), ([1, 0], [0.5, 0.5]), ([0, 1], [0.5, 0.6])],
    ids=["no-questions", "nothing-known", "as-guessed", "worse"],
)
def test_without_knowledge_there_is_no_ratio(dense: list[int], chance: list[float]) -> None:
    with pytest.raises(ValueError, match="knows nothing here that could be retained"):
        retention(dense, dense, chance)


def test_one_question_says_nothing_of_the_error() -> None:
    found = retention([1], [0], [0.0])
    assert (found.standard_error, found.low, found.high) == (inf, -inf, inf)


@pytest.mark.parametrize(("right", "limited"), [(30, False), (34, True)])
def test_limits_are_infinite_where_the_dense_model_may_be_guessing(
    right: int, *, limited: bool
) -> None:
    dense = [1] * right + [0] * (100 - right)
    found = retention(dense, [*dense[:-1], 1], [0.25] * 100)
    assert better_than_chance(dense, [0.25] * 100) == limited
    assert (found.low > -inf, found.high < inf) == (limited, limited)


@pytest.mark.parametrize("clustered", [False, True])
def test_of_many_graded_scores_limits_are_fiellers(*, clustered: bool) -> None:
    draw = np.random.default_rng(11)
    level = np.repeat(draw.normal(0, 0.3 * clustered, 100), 30)
    dense = 2 + draw.normal(size=3000)
    compressed = 0.9 * dense + level + draw.normal(size=3000)
    names = [f"r{i // 30}" for i in range(3000)]
    found = retention(dense.tolist(), compressed.tolist(), [0.0] * 3000, names if clustered else [])
    c, d = (
        scores.reshape(-1, 30 if clustered else 1).sum(axis=1) for scores in (compressed, dense)
    )
    t = stats.t.isf(0.05, len(d) - 1) ** 2 * len(d)
    (cc, cd), (_, dd) = np.cov(c, d)
    quadratic = (d.sum() ** 2 - t * dd, -2 * (c.sum() * d.sum() - t * cd), c.sum() ** 2 - t * cc)
    low, high = sorted(np.roots(quadratic))
    assert found.clustered == clustered
    assert found.low == pytest.approx(low, abs=0.02 * (high - low))
    assert found.high == pytest.approx(high, abs=0.02 * (high - low))


@given(pairs(), st.integers(1, ENOUGH - 1))
def test_too_few_clusters_change_nothing(pair: Pairs, number: int) -> None:
    assert of_pairs(pair, [f"r{i % number}" for i in range(len(pair))]) == of_pairs(pair)


def test_questions_that_stand_or_fall_together_count_once() -> None:
    dense, compressed = scored(60, 10, 5, 25)
    alone = retention(dense, compressed, [0.25] * 100)
    names = [f"r{i:03}" for i in range(100)]
    found = retention(dense * 7, compressed * 7, [0.25] * 700, names * 7)
    assert found.standard_error == pytest.approx(alone.standard_error)
    assert found.units == 100
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.05)
    apart = retention(dense * 7, compressed * 7, [0.25] * 700)
    assert apart.high - apart.low < 0.5 * (found.high - found.low)
    assert retention(dense, compressed, [0.25] * 100, names).low == pytest.approx(alone.low)


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=25), st.floats(0.01, 100))
def test_the_unit_of_graded_scores_is_irrelevant(
    pair: list[tuple[float, float]], scale: float
) -> None:
    dense, compressed = np.array(pair).T
    assume(dense.sum() > 1 and max(dense.max(), compressed.max()) * min(1.0, scale) > 1)
    found = retention(dense.tolist(), compressed.tolist(), [0.0] * len(pair))
    again = retention((scale * dense).tolist(), (scale * compressed).tolist(), [0.0] * len(pair))
    assert again.low == pytest.approx(found.low, rel=1e-5, abs=1e-6)
    assert again.high == pytest.approx(found.high, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("n", [50, 100])
def test_limits_miss_the_truth_as_seldom_as_they_say(n: int) -> None:
    for name, chance in (
        ("12 % flips, Llama and its Instruct", 0.0),
        ("27 % flips, two sizes of Qwen", 0.25),
        ("8 % flips of 0.9, 70 % harm", 0.0),
    ):
        found = independent(POPULATIONS[name], chance, n, runs=1000, seed=3)
        assert not outside(found, exact=n == 100 or chance > 0), found.line()


@pytest.mark.parametrize("chance", [0.0, 0.25])
def test_limits_of_relations_miss_the_truth_as_seldom_as_they_say(chance: float) -> None:
    population = POPULATIONS["12 % flips, Llama and its Instruct"]
    relations = Relations(sizes=uneven(33, 300), harm=0.7)
    found = clustered(population, chance, relations, runs=600, seed=3)
    assert not outside(found, exact=True), found.line()
    assert found.widened > 1.1


@pytest.mark.parametrize("candidates", [2, 4, 20])
def test_guessing_is_seldom_taken_for_knowledge(candidates: int) -> None:
    draw = np.random.default_rng(7)
    chance = [1 / candidates] * 300
    right = draw.random((4000, 300)) < 1 / candidates
    alarms = sum(better_than_chance(row.astype(int).tolist(), chance) for row in right)
    assert 0.03 <= alarms / 4000 <= 0.065


def test_without_chance_one_right_answer_is_knowledge() -> None:
    assert better_than_chance([0, 1, 0], [0.0] * 3)
    assert not better_than_chance([0, 0, 0], [0.0] * 3)
    assert not better_than_chance([1], [1.0])  # a single candidate cannot be missed
