"""Bets over all orders there are, against the paper's, and what is sure of them."""

from collections.abc import Iterator, Sequence
from itertools import permutations, product
from math import exp, log, prod

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_compression.gate.betting import FRACTIONS, Capital


def orders(blocks: Sequence[Sequence[float]]) -> Iterator[list[list[float]]]:
    """All ways to take one value of each block a round; equally likely."""
    for shuffled in product(*(list(permutations(block)) for block in blocks)):
        yield [list(part) for part in zip(*shuffled, strict=True)]


def capitals(parts: Sequence[Sequence[float]], total: float, least: float) -> list[float]:
    """Capital at the end of each round."""
    capital = Capital(sum(map(len, parts)), total, least)
    found = []
    for part in parts:
        capital.bet(np.array(part))
        found.append(exp(capital.log))
    return found


def of_size(blocks: int, size: int) -> st.SearchStrategy[list[list[float]]]:
    """Values between -1 and 1, ties among them."""
    value = st.sampled_from([-1.0, -1.0, 0.0, 0.0, 0.5, 1.0])
    return st.lists(st.lists(value, min_size=size, max_size=size), min_size=blocks, max_size=blocks)


@settings(max_examples=40)
@given(st.one_of(of_size(1, 4), of_size(2, 3), of_size(3, 2)), st.sampled_from([0.0, 0.3, 2.0]))
def test_over_all_orders_no_one_can_expect_to_win(blocks: list[list[float]], above: float) -> None:
    total = sum(map(sum, blocks)) + above
    paths = np.array([capitals(parts, total, -1.0) for parts in orders(blocks)])
    assert (paths.mean(axis=0) <= 1 + 1e-9).all()
    peaks = paths.max(axis=1)
    for bar in peaks:  # Ville's inequality: whatever the rule by which one stops
        assert (peaks >= bar).mean() <= 1 / bar + 1e-9


@settings(max_examples=40)
@given(st.one_of(of_size(1, 4), of_size(2, 3), of_size(3, 2)))
def test_nor_can_they_at_any_point_of_the_way(blocks: list[list[float]]) -> None:
    total = sum(map(sum, blocks))
    after = dict[tuple[object, ...], list[tuple[float, float]]]()
    for parts in orders(blocks):
        path = [1.0, *capitals(parts, total, -1.0)]
        for now in range(len(parts)):
            past = tuple(map(tuple, parts[:now]))
            after.setdefault(past, []).append((path[now], path[now + 1]))
    for ways in after.values():
        assert np.mean([to for _, to in ways]) <= ways[0][0] * (1 + 1e-9)


def test_bets_on_a_single_block_are_fair_and_do_win_and_lose() -> None:
    block = [-1.0, 0.0, 0.0, 1.0, 0.5]
    paths = np.array([capitals(parts, sum(block), -1.0) for parts in orders([block])])
    # A total that is refuted is betted on no more, so the last round is left out.
    assert paths[:, :-1].mean(axis=0) == pytest.approx(1.0)
    assert paths[:, 0].std() > 0.1


def test_unequal_shares_would_give_money_away() -> None:
    # Why blocks must be equally large: from a block of its own, a question comes first for sure.
    blocks = [[1.0], [-1.0, -1.0, 1.0]]
    first = [1.0, -1.0, -1.0, 1.0]
    gains = []
    for second in blocks[1]:
        capital = Capital(4, sum(first), -1.0)
        capital.bet(np.array([1.0, second]))
        gains.append(exp(capital.log))
    assert np.mean(gains) > 1


@given(
    st.lists(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 1.0]), min_size=3, max_size=3), max_size=5),
    st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=4),
    st.floats(-6, 6),
)
def test_the_capital_is_that_of_the_paper(
    parts: list[list[float]], rest: list[float], total: float
) -> None:
    n = len(rest) + sum(map(len, parts)) + 5  # of which some are never asked
    capital = Capital(n, total, -1.0)
    capital.see(np.array(rest))
    # prod (1 + lambda (x - m)), m = (N mu - sum of those before) / (N - t + 1), one stake a round.
    expected, seen = [1.0] * len(FRACTIONS), list(rest)
    peak = 1.0
    for part in parts:
        m = (total - sum(seen)) / (n - len(seen))
        assume(abs(m + 1) > 1e-6)
        if m > -1:
            stakes = [g / (m + 1) for g in FRACTIONS]
            expected = [
                before * prod(1 + stake * (x - m) for x in part)
                for before, stake in zip(expected, stakes, strict=True)
            ]
        seen += part
        capital.bet(np.array(part))
        peak = max(peak, sum(expected) / len(expected))
        assert exp(capital.log) == pytest.approx(sum(expected) / len(expected), rel=1e-9)
    assert exp(capital.peak) == pytest.approx(peak, rel=1e-9)


@given(of_size(3, 3), st.floats(-4, 4), st.floats(0, 3))
def test_the_more_is_doubted_the_less_is_won(
    parts: list[list[float]], total: float, more: float
) -> None:
    capital, doubtful = (Capital(20, t, -1.0) for t in (total, total + more))
    for part in parts:
        capital.bet(np.array(part))
        doubtful.bet(np.array(part))
        assume(capital.needed / capital.left > -1)
        assert doubtful.log <= capital.log + 1e-9


def test_the_stakes_leave_every_gambler_something() -> None:
    assert ((FRACTIONS > 0) & (FRACTIONS < 1)).all()
    capital = Capital(10, -0.5, -1.0)
    capital.bet(np.array([-1.0]))
    assert capital.log > log(0.3)
