"""McNemar and sign flips against exact counts, SciPy, statsmodels and every sign pattern."""

from collections import Counter
from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as two_sided

from pytest_compression.gate import regression
from pytest_compression.gate.regression import change, mcnemar, sign_flip

graded = st.one_of(st.sampled_from([0.0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3]), st.floats(-1, 1))
scores = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=60
)
"""Accepted, now, and the number of the relation."""


def counted(sizes: list[int], least: int) -> Fraction:
    """Share of the subsets that sum to at least so much, in whole numbers."""
    ways = Counter({0: 1})
    for size in sizes:
        ways = ways + Counter({total + size: count for total, count in ways.items()})
    return Fraction(sum(n for total, n in ways.items() if total >= least), 2 ** len(sizes))


def tried(differences: list[float]) -> Fraction:
    """The same of signed differences, by trying every pattern of signs in exact fractions."""
    exact = [Fraction(d).limit_denominator(1000) for d in differences]
    patterns = list(product([1, -1], repeat=len(exact)))
    large = sum(
        sum(sign * abs(d) for sign, d in zip(signs, exact, strict=True)) >= sum(exact)
        for signs in patterns
    )
    return Fraction(large, len(patterns))


@pytest.mark.parametrize(
    ("forgotten", "learned", "p"),
    [
        pytest.param(60, 40, 0.028444, id="60-40"),
        pytest.param(35, 15, 0.003300, id="35-15"),
        pytest.param(0, 0, 1.0, id="no-flips"),
        pytest.param(0, 7, 1.0, id="only-learned"),
        pytest.param(10, 0, 2**-10, id="only-forgotten"),
    ],
)
def test_known_values(forgotten: int, learned: int, p: float) -> None:
    assert mcnemar(forgotten, learned) == pytest.approx(p, abs=5e-7)


@given(forgotten=st.integers(0, 400), learned=st.integers(0, 400))
def test_mcnemar_is_the_exact_tail_of_a_fair_coin(forgotten: int, learned: int) -> None:
    flips = forgotten + learned
    exact = Fraction(sum(comb(flips, k) for k in range(forgotten, flips + 1)), 2**flips)
    assert mcnemar(forgotten, learned) == float(exact)
    if flips:
        scipy = stats.binomtest(forgotten, flips, alternative="greater").pvalue
        assert mcnemar(forgotten, learned) == pytest.approx(scipy, rel=1e-9)
        theirs = two_sided([[0, forgotten], [learned, 0]], exact=True).pvalue
        ours = min(1.0, 2 * mcnemar(max(forgotten, learned), min(forgotten, learned)))
        assert ours == pytest.approx(theirs, rel=1e-9)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=300))
def test_sign_flips_of_right_and_wrong_answers_are_mcnemar(differences: list[float]) -> None:
    assert sign_flip(differences) == mcnemar(differences.count(1), differences.count(-1))


@given(st.lists(st.integers(-40, 40), max_size=60))
def test_whole_differences_are_counted_exactly(differences: list[int]) -> None:
    sizes, lost = [abs(d) for d in differences], sum(d for d in differences if d > 0)
    assert sign_flip(differences) == pytest.approx(float(counted(sizes, lost)), rel=1e-13)


@given(st.integers(60, 80), st.integers(0, 3), st.integers(1, 9))
def test_the_far_tail_is_as_exact_as_the_middle(lost: int, gained: int, size: int) -> None:
    differences = [1, 2] * lost + [-size] * gained
    exact = float(counted([abs(d) for d in differences], 3 * lost))
    assert exact < 1e-12
    assert sign_flip(differences) == pytest.approx(exact, rel=1e-13)


@given(st.lists(graded.map(lambda d: round(d, 2)), max_size=7))
def test_few_graded_differences_try_every_pattern_ties_included(differences: list[float]) -> None:
    assert sign_flip(differences) == pytest.approx(float(tried(differences)), rel=1e-13)


def test_a_tie_up_to_rounding_is_a_tie() -> None:
    assert 0.1 + 0.2 > 0.3
    assert sign_flip([0.1, 0.2, -0.3]) == 5 / 8


@given(st.lists(st.floats(-1, 1).map(lambda d: round(d, 3)), min_size=2, max_size=8))
def test_it_is_scipys_permutation_test(differences: list[float]) -> None:
    def total(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(np.round(x.sum(axis), 9))

    scipy = stats.permutation_test(
        (np.array(differences),), total, permutation_type="samples", alternative="greater"
    )
    assert sign_flip(differences) == pytest.approx(scipy.pvalue, rel=1e-9)


@given(st.lists(graded, max_size=40), st.randoms(use_true_random=False))
def test_order_zeros_and_scale_are_irrelevant(differences: list[float], random: object) -> None:
    p = sign_flip(differences)
    random.shuffle(differences)  # type: ignore[attr-defined]  # hypothesis types it so
    assert sign_flip([*differences, 0.0, -0.0]) == p
    assert sign_flip([d / 4 for d in differences]) == p


@given(st.lists(st.one_of(st.integers(-5, 5), graded), max_size=16), st.data())
def test_one_sided_and_smaller_the_more_is_lost(
    differences: list[float], data: st.DataObject
) -> None:
    p = sign_flip(differences)
    assert 2.0 ** -np.count_nonzero(differences) <= p <= 1
    assert p + sign_flip([-d for d in differences]) >= 1
    if any(d < 0 for d in differences):
        i = data.draw(st.sampled_from([i for i, d in enumerate(differences) if d < 0]))
        assert sign_flip([abs(d) if j == i else d for j, d in enumerate(differences)]) <= p


@pytest.mark.parametrize("scale", [1.0, 1e9], ids=["graded", "whole-but-large"])
def test_many_differences_are_drawn_and_near_the_exact_share(scale: float) -> None:
    differences = np.random.default_rng(3).normal(0.3, 1, 20)
    if scale > 1:
        differences = np.rint(scale * differences)
    signs = np.array(list(product([1, -1], repeat=20)), dtype=np.int8)
    exact = float((signs @ np.abs(differences) >= differences.sum() * (1 - 1e-12)).mean())
    found = sign_flip(differences)
    assert found != exact
    assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / regression.DRAWS) ** 0.5)
    assert sign_flip(differences, seed=1) != found == sign_flip(differences)


def test_drawn_p_values_are_never_zero() -> None:
    assert sign_flip(np.linspace(0.1, 0.9, 60)) == 1 / (regression.DRAWS + 1) == 1e-5


@pytest.mark.parametrize("n", [12, 30], ids=["every-pattern", "drawn"])
def test_without_loss_p_is_as_seldom_small_as_it_says(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regression, "DRAWS", 199)
    draw = np.random.default_rng(5)
    runs = 2000
    p = np.array([sign_flip(draw.standard_t(3, n), seed) for seed in range(runs)])
    for level in (0.01, 0.05, 0.2, 0.5):
        assert abs((p <= level).mean() - level) <= 4 * (level / runs) ** 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_only_finite_differences(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        sign_flip([1.0, value])


@given(scores)
def test_a_change_counts_what_was_forgotten_and_learned(rows: list[tuple[int, int, int]]) -> None:
    accepted, now, relations = (list(column) for column in zip(*rows, strict=True))
    found = change(accepted, now, [f"r{name}" for name in relations])
    n = len(rows)
    assert found.forgotten == tuple(i for i in range(n) if accepted[i] > now[i])
    assert found.learned == tuple(i for i in range(n) if accepted[i] < now[i])
    assert found.loss == (sum(accepted) - sum(now)) / n
    assert found.clustered == (len(set(relations)) >= 12)
    if not found.clustered:
        assert (found.units, found.flipped) == (n, len(found.forgotten) + len(found.learned))
        assert found.p_loss == mcnemar(len(found.forgotten), len(found.learned))
        assert found.p_gain == mcnemar(len(found.learned), len(found.forgotten))


@given(
    st.lists(
        st.tuples(st.integers(0, 14), st.sampled_from([-1, 0, 0, 1])), min_size=15, max_size=80
    )
)
def test_whole_relations_change_their_signs(rows: list[tuple[int, int]]) -> None:
    rows += [(name, 0) for name in range(15)]
    sums = [sum(d for relation, d in rows if relation == name) for name in range(15)]
    found = change(
        [max(0, d) for _, d in rows], [max(0, -d) for _, d in rows], [str(name) for name, _ in rows]
    )
    assert (found.clustered, found.units, found.flipped) == (True, 15, 15 - sums.count(0))
    sizes = [abs(d) for d in sums]
    exact = counted(sizes, sum(d for d in sums if d > 0))
    assert found.p_loss == pytest.approx(float(exact), rel=1e-13)
    exact = counted(sizes, -sum(d for d in sums if d < 0))
    assert found.p_gain == pytest.approx(float(exact), rel=1e-13)


@given(scores)
def test_the_other_way_round_a_loss_is_a_gain(rows: list[tuple[int, int, int]]) -> None:
    accepted, now, relations = zip(*rows, strict=True)
    names = [str(name) for name in relations]
    there, back = change(accepted, now, names), change(now, accepted, names)
    assert (there.loss, there.p_loss, there.p_gain) == (-back.loss, back.p_gain, back.p_loss)
    assert (there.forgotten, there.learned) == (back.learned, back.forgotten)
    same = change(now, now, names)
    assert (same.loss, same.p_loss, same.p_gain, same.flipped) == (0, 1, 1, 0)
    assert same.forgotten == same.learned == ()


def test_what_one_relation_forgot_is_one_event_among_many_relations() -> None:
    names = [f"r{i // 20}" for i in range(400)]
    accepted, now = [1.0] * 400, [0.0] * 20 + [1.0] * 380
    clustered = change(accepted, now, names)
    assert (clustered.p_loss, clustered.p_gain, clustered.flipped) == (0.5, 1.0, 1)
    assert clustered.loss == 0.05
    assert change(accepted, now, ["r"] * 400).p_loss == 2.0**-20


def test_the_loss_is_not_rounded_across_a_margin() -> None:
    for n in range(100, 1400, 100):
        accepted, now = [1] * n, [0] * (n // 100) + [1] * (n - n // 100)
        assert change(accepted, now, ["r"] * n).loss == 0.01


def test_graded_scores_are_compared_by_how_much_they_changed() -> None:
    found = change([0.5, 0.75, 1.0], [0.25, 1.0, 0.5], ["r"] * 3)
    assert (found.forgotten, found.learned) == ((0, 2), (1,))
    assert found.loss == pytest.approx(1 / 6)
    assert found.p_loss == float(tried([0.25, -0.25, 0.5])) == 3 / 8


@pytest.mark.parametrize(
    ("accepted", "now", "clusters"),
    [([], [], []), ([1], [1, 0], ["r"]), ([1], [1], ["r", "r"])],
    ids=["none", "scores", "clusters"],
)
def test_changes_need_the_same_questions(
    accepted: list[int], now: list[int], clusters: list[str]
) -> None:
    with pytest.raises(ValueError, match=f"{len(accepted)} accepted scores, {len(now)} now"):
        change(accepted, now, clusters)
