"""The early stop: its order, and what it decides."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import permutations, product
from math import exp, log

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from pytest_compression.gate.betting import Capital
from pytest_compression.gate.sequential import (
    Condition,
    Decision,
    EarlyStop,
    retained,
    rounds,
    unforgotten,
    unregressed,
)

strata = st.lists(
    st.tuples(st.sampled_from(["capital", "currency", "river"]), st.sampled_from([0.0, 1.0])),
    max_size=300,
)
zero_one = st.sampled_from([0.0, 1.0])
grades = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def told(stop: EarlyStop, scores: Sequence[float]) -> Iterator[tuple[Decision | None, EarlyStop]]:
    """What is decided after each round."""
    while stop.upcoming:
        yield stop.tell([scores[i] for i in stop.upcoming]), stop


def one_by_one(n: int) -> list[list[int]]:
    """An order whose rounds have one question each."""
    return [[i] for i in range(n)]


# The order


@given(strata, st.integers(0, 2**32))
def test_each_question_is_asked_once_in_rounds_of_one_size(
    strata: list[tuple[str, float]], seed: int
) -> None:
    order = rounds(strata, seed)
    assert sorted(i for part in order for i in part) == list(range(len(strata)))
    assert len({len(part) for part in order[1:]}) <= 1
    assert min(len(strata), 32) <= len(order) <= 64
    if order:
        assert len(order[0]) - len(order[-1]) == len(strata) % len(order)
    assert rounds(strata, seed) == order


@given(strata, st.integers(0, 2**32))
def test_every_round_has_each_stratums_share(strata: list[tuple[str, float]], seed: int) -> None:
    order = rounds(strata, seed)
    assume(order)
    rest = len(order[0]) - len(order[-1])
    parts = [order[0][rest:], *order[1:]]
    for key in (lambda i: strata[i], lambda i: strata[i][0]):
        counts = [Counter(map(key, part)) for part in parts]
        for stratum in {key(i) for part in parts for i in part}:
            share = sum(count[stratum] for count in counts) / len(parts)
            # A run of questions cuts through no more than two blocks that others share.
            assert all(share - 2 < count[stratum] < share + 2 for count in counts)


def test_strata_that_fill_their_blocks_are_shared_out_evenly() -> None:
    strata = [("a", 1.0)] * 120 + [("b", 0.0)] * 60 + [("b", 1.0)] * 180
    for part in rounds(strata, 3):
        assert Counter(strata[i] for i in part) == {("a", 1.0): 2, ("b", 0.0): 1, ("b", 1.0): 3}


def test_every_question_may_come_in_every_round() -> None:
    n, draws = 67, 2000  # 33 rounds of two blocks, and one question that fills none
    strata = [("a", 1.0)] * 40 + [("b", 1.0)] * 27
    came = np.zeros((n, 33))
    left_over = np.zeros(n)
    for seed in range(draws):
        order = rounds(strata, seed)
        left_over[order[0][0]] += 1
        for number, part in enumerate([order[0][1:], *order[1:]]):
            came[part, number] += 1
    assert chisquare(left_over).pvalue > 1e-3
    assert min(chisquare(row).pvalue for row in came) > 1e-3 / n


def test_a_seed_gives_the_same_order_on_every_machine() -> None:
    assert rounds([("a", 1.0)] * 6, 7) == [[0], [3], [4], [2], [5], [1]]
    assert rounds([], 7) == []


# What is decided


@pytest.mark.parametrize("alpha", [0.3, 0.4, 0.5])
def test_over_all_orders_no_trial_is_misjudged_more_often_than_alpha(alpha: float) -> None:
    dense = [1.0, 1.0, 1.0, 1.0, 0.0]
    condition = retained(dense, [0.0] * 5, 0.75)  # loses with two forgotten and none learned
    orders = list(permutations(range(5)))
    early, worst = 0, {"kept": 0.0, "lost": 0.0}
    for forgotten, learned in product(range(5), range(2)):
        scores = [0.0] * forgotten + [1.0] * (4 - forgotten) + [float(learned)]
        truth = "kept" if forgotten - learned <= 1 else "lost"
        wrong = 0
        for order in orders:
            stop = EarlyStop([[i] for i in order], [condition], alpha)
            while stop.decision is None:
                stop.tell([scores[i] for i in stop.upcoming])
            wrong += stop.decision != truth
            early += stop.asked < 4
        assert wrong / len(orders) <= alpha
        worst[truth] = max(worst[truth], wrong / len(orders))
    assert early
    assert min(worst.values()) > 0  # otherwise alpha was not put to the test


@given(st.lists(st.tuples(zero_one, zero_one, zero_one), min_size=1, max_size=80), st.data())
def test_without_room_for_error_it_says_what_the_whole_trial_says(
    scores: list[tuple[float, float, float]], data: st.DataObject
) -> None:
    dense, compressed, accepted = (list(column) for column in zip(*scores, strict=True))
    candidates = data.draw(st.sampled_from([2, 4, 10]))
    floor = data.draw(st.sampled_from([0, 0.5, 0.75, 0.9, 0.95, 1]))
    limit, margin = (data.draw(st.sampled_from([0.0, 0.05, 0.1, 0.3])) for _ in range(2))
    n, chance = len(dense), 1 / candidates
    known = Fraction(sum(map(int, dense))) - Fraction(n, candidates)
    assume(known > 0)
    conditions = [
        retained(dense, [chance] * n, floor),
        unforgotten(dense, limit),
        unregressed(accepted, margin),
    ]
    both = list(zip(dense, compressed, strict=True))
    retention = (Fraction(sum(map(int, compressed))) - Fraction(n, candidates)) / known
    holds = [
        retention >= Fraction(str(floor)),
        sum(d > c for d, c in both) <= Fraction(str(limit)) * int(sum(dense)),
        sum(accepted) - sum(compressed) <= Fraction(str(margin)) * n,
    ]
    stop = EarlyStop(rounds([("r", d) for d in dense], 1), conditions, 1e-300)
    *_, (decision, _) = told(stop, compressed)
    expected = "kept" if all(holds) else None if holds[0] and holds[1] else "lost"
    assert decision == expected
    assert stop.asked == n
    low, high = stop.limits("retention")
    assert low == high == pytest.approx(float(retention))
    assert stop.limits("forgotten")[0] == pytest.approx(
        1 - sum(d > c for d, c in both) / sum(dense)
    )
    assert stop.limits("regression")[1] == pytest.approx((sum(compressed) - sum(accepted)) / n)


@given(st.lists(st.tuples(grades, grades), min_size=1, max_size=60), st.data())
def test_graded_scores_are_judged_likewise(
    scores: list[tuple[float, float]], data: st.DataObject
) -> None:
    dense, compressed = (list(column) for column in zip(*scores, strict=True))
    floor, limit = (data.draw(st.sampled_from([0.1, 0.5, 0.9])) for _ in range(2))
    assume(sum(dense) > 0)
    retention = sum(compressed) / sum(dense)
    lost = sum(max(d - c, 0) for d, c in scores) / sum(dense)
    assume(abs(retention - floor) > 1e-6 and abs(lost - limit) > 1e-6)
    stop = EarlyStop(
        rounds([("r", d) for d in dense], 1),
        [retained(dense, [0.0] * len(dense), floor), unforgotten(dense, limit)],
        1e-300,
        graded=True,
    )
    *_, (decision, _) = told(stop, compressed)
    assert decision == ("kept" if retention >= floor and lost <= limit else "lost")
    assert stop.limits("retention") == pytest.approx((retention, retention))
    assert stop.limits("forgotten") == pytest.approx((1 - lost, 1 - lost))


@settings(max_examples=20)
@given(
    n=st.integers(40, 160),
    flips=st.sampled_from([0.0, 0.02, 0.1, 0.4]),
    floor=st.sampled_from([0.5, 0.8, 0.9]),
    graded=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_limits_narrow_and_say_what_the_decision_says(
    n: int, flips: float, floor: float, seed: int, *, graded: bool
) -> None:
    draw = np.random.default_rng(seed)
    dense = (draw.random(n) < 0.7).astype(float)
    flipped = draw.random(n) < flips
    compressed = np.where(flipped, draw.random(n) if graded else 1 - dense, dense)
    stop = EarlyStop(
        rounds([("r", d) for d in dense], seed),
        [retained(dense.tolist(), [0.25] * n, floor)],
        0.05,
        graded=graded,
    )
    before, slack = (-np.inf, np.inf), 0.02 / (dense - 0.25).sum()
    for decision, now in told(stop, compressed.tolist()):
        if now.asked % 4 and decision is None:
            continue  # limits take longer than bets
        low, high = now.limits("retention")
        assert low <= high
        assert before[0] - slack <= low
        assert high <= before[1] + slack
        assert (low >= floor - 1e-9, high < floor) == (decision == "kept", decision == "lost")
        before = low, high
        if decision:
            break


def test_limits_hold_at_all_times_together_as_often_as_they_say() -> None:
    draw, runs, n = np.random.default_rng(11), 150, 100
    dense = np.array([1.0] * 70 + [0.0] * 30)
    missed = [0, 0]
    for run in range(runs):
        compressed = np.where(draw.random(n) < 0.3, 1 - dense, dense)
        truth = compressed.sum() / 70
        stop = EarlyStop(
            rounds([("r", d) for d in dense], run), [retained(dense.tolist(), [0.0] * n, 0.9)], 0.1
        )
        for _ in range(3 * len(stop.order) // 4):  # earlier ones are the same or wider
            stop.tell(compressed[stop.upcoming].tolist())
        low, high = stop.limits("retention")
        missed[0] += low > truth
        missed[1] += high < truth
    assert max(missed) / runs <= 0.1
    assert sum(missed) > 0  # they are not wide out of mere caution


@pytest.mark.parametrize(
    ("right", "answer"), [(0.0, "lost"), (0.4, "lost"), (0.6, "lost"), (0.7, "lost"), (1.0, "kept")]
)
def test_the_decision_is_that_of_the_bets_one_condition_at_a_time(
    right: float, answer: str
) -> None:
    n, draw = 397, np.random.default_rng(5)  # 44 rounds of 9 blocks, and one question beside
    compressed = (draw.random(n) < right).astype(float)
    conditions = [
        retained([1.0] * n, [0.0] * n, 0.9),
        unforgotten([1.0] * n, 0.2),
        unregressed([1.0] * n, 0.15),
    ]
    order = rounds([("r", 1.0)] * n, 0)
    assert (len(order), len(order[0]), len(order[1])) == (44, 10, 9)
    # To break: at most 357, 317 and 337 right, betted against; to meet: at least one more.
    met = [Capital(n, right - n, -1.0) for right in (357, 317, 337)]
    broken = [Capital(n, n - right, 0.0) for right in (358, 318)]
    stop = EarlyStop(order, conditions, 0.05)
    expected = None
    for i, part in enumerate(order):
        values = compressed[part] - 1
        for capital, sign in [(c, 1) for c in met] + [(c, -1) for c in broken]:
            if i == 0:
                capital.see(sign * values[:1])
            capital.bet(sign * values[0 if i else 1 :])
        if np.mean([exp(capital.log) for capital in broken]) >= 20:
            expected = "lost"
        elif all(capital.peak >= log(20) for capital in met):
            expected = "kept"
        assert stop.tell(compressed[part].tolist()) == expected
        assert [stop._met[c.name].log for c in conditions] == pytest.approx([c.log for c in met])
        if expected:
            break
    assert expected == answer
    assert stop.asked < 160  # so that nothing was certain yet


def test_the_mean_capital_loses_a_trial_not_the_sum() -> None:
    n, certain, doubtful = 100, [1.0] * 100, [1.0, 0.0] * 50
    conditions = [retained(certain, [0.0] * n, 0.5), unregressed(certain, 0.5)]
    twice = [conditions[0], retained(certain, [0.0] * n, 0.5, name="again"), conditions[1]]
    halves = [conditions[0], unforgotten(doubtful, 0.99), conditions[1]]
    takes = []
    for some in (conditions, twice, halves):
        stop = EarlyStop(one_by_one(n), some, 0.05)
        takes.append(next(now.asked for decision, now in told(stop, [0.0] * n) if decision))
    assert takes[0] == takes[1] < takes[2]


def test_what_was_proven_once_stays_proven() -> None:
    n = 300
    scores = [1.0] * 20 + [0.0] * 15 + [1.0] * 265
    floor = retained([1.0] * n, [0.0] * n, 0.6)  # proven first, and then in doubt again
    stop = EarlyStop(one_by_one(n), [floor, unregressed(scores, 0.1)], 0.05)
    while stop.decision is None:
        stop.tell([scores[i] for i in stop.upcoming])
    assert stop.decision == "kept"
    assert 35 < stop.asked < 60
    assert stop._met["retention"].log < log(20) <= stop._met["retention"].peak


def test_a_graded_limit_is_the_last_total_that_was_refuted() -> None:
    n, draw = 120, np.random.default_rng(3)
    dense, compressed = draw.random(n), draw.random(n)
    condition = retained(dense.tolist(), [0.0] * n, 0.7)
    stop = EarlyStop(one_by_one(n), [condition], 0.05, graded=True)
    for i in range(60):
        stop.tell([compressed[i]])
    low, high = ((limit - 1) * condition.scale for limit in stop.limits("retention"))
    values = compressed - dense
    for sign, limit, least in ((1, low, -dense.max()), (-1, -high, dense.min() - 1)):
        for more, refuted in ((0.0, True), (0.01, False)):
            capital = Capital(n, limit + more, least)
            for value in values[:60]:
                capital.bet(np.array([sign * value]))
            assert (capital.peak >= log(20)) == refuted


def test_a_clear_pass_and_a_clear_failure_take_few_questions() -> None:
    dense = [1.0] * 840 + [0.0] * 360
    condition = retained(dense, [0.0] * 1200, 0.95)
    for scores, answer, most in (
        (dense, "kept", 140),
        ([0.0, 1.0] * 420 + [0.0] * 360, "lost", 100),
    ):
        stop = EarlyStop(rounds([("r", d) for d in dense], 5), [condition], 0.05)
        while stop.decision is None:
            stop.tell([scores[i] for i in stop.upcoming])
        assert stop.decision == answer
        assert stop.asked <= most


def test_a_decision_stays_although_the_whole_trial_may_say_otherwise() -> None:
    scores = [0.0] * 60 + [1.0] * 140
    stop = EarlyStop(one_by_one(200), [retained([1.0] * 200, [0.0] * 200, 0.6)], 0.05)
    decisions = [decision for decision, _ in told(stop, scores)]
    assert "lost" in decisions[:60]
    assert decisions[-1] == "lost"
    assert stop.limits("retention") == (0.7, 0.7)


def test_rounds_may_be_told_beyond_the_decision() -> None:
    dense = [1.0] * 200
    stop = EarlyStop(rounds([("r", 1.0)] * 200, 0), [retained(dense, [0.0] * 200, 0.9)], 0.05)
    decisions = [
        decision
        for decision, _ in told(stop, [0.0 if i in stop.order[-1] else 1.0 for i in range(200)])
    ]
    first = decisions.index("kept")
    assert 0 < first < len(decisions) - 5
    assert set(decisions[first:]) == {"kept"}


def test_a_loss_against_the_accepted_result_alone_decides_nothing_early() -> None:
    dense = [1.0, 0.0] * 100
    accepted = [1.0] * 200
    conditions = [retained(dense, [0.0] * 200, 0.9), unregressed(accepted, 0.01)]
    order = rounds([("r", d) for d in dense], 0)
    assert {decision for decision, _ in told(EarlyStop(order, conditions, 0.05), dense)} == {None}
    decisions = [decision for decision, _ in told(EarlyStop(order, conditions[:1], 0.05), dense)]
    assert decisions[-1] == "kept"


def test_where_more_is_asked_for_only_a_loss_is_decided_early() -> None:
    dense = [1.0] * 200
    order = rounds([("r", 1.0)] * 200, 0)
    conditions = [retained(dense, [0.0] * 200, 0.9)]
    kept = EarlyStop(order, conditions, 0.05, keeps=False)
    assert {decision for decision, _ in told(kept, dense)} == {None}
    lost = EarlyStop(order, conditions, 0.05, keeps=False)
    assert [decision for decision, _ in told(lost, [0.0] * 200)][3] == "lost"


def test_a_floor_of_one_relation_looks_at_its_questions_only() -> None:
    dense = [1.0] * 400
    river = [i % 2 == 0 for i in range(400)]
    scores = [0.0 if i % 4 == 0 else 1.0 for i in range(400)]  # half of the rivers, no others
    condition = retained(dense, [0.0] * 400, 0.9, counted=river, name="river")
    whole = retained(dense, [0.0] * 400, 0.5)
    order = rounds([("river" if r else "sea", 1.0) for r in river], 2)
    stop = EarlyStop(order, [whole, condition], 0.05)
    *_, (decision, _) = told(stop, scores)
    assert decision == "lost"
    assert stop.limits("river") == (0.5, 0.5)
    assert stop.limits("retention") == (0.75, 0.75)
    alone = EarlyStop(order, [whole], 0.05)
    *_, (decision, _) = told(alone, scores)
    assert decision == "kept"


@pytest.mark.parametrize("value", [0.5, -0.1, 1.1, float("nan"), float("inf")])
def test_scores_out_of_range_are_refused(value: float) -> None:
    conditions = [retained([1.0] * 4, [0.0] * 4, 0.5)]
    with pytest.raises(ValueError, match=r"not 0 or 1"):
        EarlyStop(one_by_one(4), conditions, 0.05).tell([value])
    with pytest.raises(ValueError, match=r"not 0 or 1"):
        EarlyStop(one_by_one(4), [unregressed([1.0, 1.0, value, 1.0], 0.01)], 0.05)
    graded = EarlyStop(one_by_one(4), conditions, 0.05, graded=True)
    if value == 0.5:
        assert graded.tell([value]) is None
    else:
        with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
            graded.tell([value])


def test_what_does_not_fit_is_refused() -> None:
    condition = retained([1.0] * 4, [0.0] * 4, 0.9)
    with pytest.raises(ValueError, match="2 scores for 1 questions"):
        EarlyStop(one_by_one(4), [condition], 0.05).tell([1.0, 1.0])
    with pytest.raises(ValueError, match="4 scores for 3 questions"):
        EarlyStop(one_by_one(3), [condition], 0.05)
    for conditions in (list[Condition](), [condition, condition]):
        with pytest.raises(ValueError, match="conditions with"):
            EarlyStop(one_by_one(4), conditions, 0.05)
    stop = EarlyStop([[0, 1, 2, 3]], [condition], 0.05)
    stop.tell([1.0] * 4)
    with pytest.raises(ValueError, match="all questions were asked"):
        stop.tell([])
    with pytest.raises(ValueError, match="river: the dense model knows nothing"):
        retained([0.0, 1.0], [0.0] * 2, 0.9, counted=[True, False], name="river")
