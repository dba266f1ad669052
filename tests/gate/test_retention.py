"""Retention against textbook values, against exact fractions, and by simulation."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from light_strategies import pairs

from pytest_compression.gate.retention import better_than_chance, retention


def scored(both: int, forgotten: int, learned: int, neither: int) -> tuple[list[int], list[int]]:
    """Dense and compressed scores with these counts."""
    dense = [1] * (both + forgotten) + [0] * (learned + neither)
    compressed = [1] * both + [0] * forgotten + [1] * learned + [0] * neither
    return dense, compressed


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


def test_the_interval_lies_around_the_value_as_wide_as_its_level_says() -> None:
    found = retention(*scored(60, 10, 5, 25), [0.0] * 100)
    for level, z in {0.6827: 1.0, 0.90: 1.644854, 0.95: 1.959964, 0.99: 2.575829}.items():
        low, high = found.interval(level)
        assert (low + high) / 2 == pytest.approx(found.value)
        assert (high - low) / 2 == pytest.approx(z * found.standard_error, rel=1e-4)


@given(pairs())
def test_equal_scores_are_retained_wholly_and_without_doubt(
    pair: list[tuple[int, int, float]],
) -> None:
    dense, _, chance = zip(*pair, strict=True)
    assume(sum(dense) > sum(chance) + 1e-9 and len(dense) > 1)
    found = retention(dense, dense, chance)
    assert found.value == 1.0
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)


@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_questions_is_irrelevant(
    pair: list[tuple[int, int, float]], random: object
) -> None:
    dense, compressed, chance = zip(*pair, strict=True)
    assume(sum(dense) > sum(chance) + 1e-9 and len(dense) > 1)
    found = retention(dense, compressed, chance)
    random.shuffle(pair)  # type: ignore[attr-defined]  # hypothesis types it so
    again = retention(*zip(*pair, strict=True))
    assert again.value == found.value
    assert again.standard_error == pytest.approx(found.standard_error, rel=1e-9, abs=1e-12)


@given(pairs(), st.data())
def test_it_grows_with_each_question_regained_and_forgotten_ones_cost(
    pair: list[tuple[int, int, float]], data: st.DataObject
) -> None:
    dense, compressed, chance = (list(column) for column in zip(*pair, strict=True))
    assume(sum(dense) > sum(chance) + 1e-9)
    wrong = [i for i, score in enumerate(compressed) if score == 0]
    assume(wrong)
    before = retention(dense, compressed, chance).value
    compressed[data.draw(st.sampled_from(wrong))] = 1
    assert retention(dense, compressed, chance).value > before


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


@pytest.mark.parametrize(
    ("dense", "chance"),
    [([], []), ([0, 0], [0.0, 0.0]), ([1, 0], [0.5, 0.5]), ([0, 1], [0.5, 0.6])],
    ids=["no-questions", "nothing-known", "as-guessed", "worse"],
)
def test_without_knowledge_there_is_no_ratio(dense: list[int], chance: list[float]) -> None:
    with pytest.raises(ValueError, match="knows nothing here that could be retained"):
        retention(dense, dense, chance)


def test_one_question_says_nothing_of_the_error() -> None:
    assert retention([1], [0], [0.0]).interval(0.95) == (-float("inf"), float("inf"))


@pytest.mark.parametrize("n", [200, 1000])
@pytest.mark.parametrize("chance", [0.0, 0.25])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int, chance: float) -> None:
    draw = np.random.default_rng(20_260_801)
    shares = np.array([0.65, 0.10, 0.05, 0.20])  # both, forgotten, learned, neither
    truth = (shares[[0, 2]].sum() - chance) / (shares[[0, 1]].sum() - chance)
    runs = 2000
    covered = 0
    for counts in draw.multinomial(n, shares, size=runs):
        dense, compressed = scored(*map(int, counts))
        low, high = retention(dense, compressed, [chance] * n).interval(0.95)
        covered += low <= truth <= high
    assert 0.93 <= covered / runs <= 0.97


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
