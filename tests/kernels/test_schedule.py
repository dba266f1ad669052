"""Schedules: Zhu & Gupta's sparsity, the steps at which it is applied, and the learning rate."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.kernels.schedule import gradual_sparsity, updates, warm_cosine

shares = st.floats(0, 1)
spans = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(sorted)


@pytest.mark.parametrize(
    ("step", "sparsity"), [(0, 0), (250, 0.4625), (500, 0.7), (750, 0.7875), (1000, 0.8)]
)
def test_check_values(step: int, sparsity: float) -> None:
    assert gradual_sparsity(step, begin=0, end=1000, final=0.8) == pytest.approx(sparsity)


@given(spans, shares, shares)
def test_it_ends_exactly_at_the_final_sparsity_and_stays_there(
    span: list[int], initial: float, final: float
) -> None:
    begin, end = span
    for step in (end, end + 1, end + 1000):
        found = gradual_sparsity(step, begin=begin, end=end, initial=initial, final=final)
        assert found == final


@given(spans, shares, shares)
def test_it_begins_at_the_initial_sparsity(span: list[int], initial: float, final: float) -> None:
    begin, end = span
    found = gradual_sparsity(begin, begin=begin, end=end + 1, initial=initial, final=final)
    assert found == pytest.approx(initial)


@given(spans, shares, shares)
def test_it_never_falls_back_and_stays_between(
    span: list[int], initial: float, final: float
) -> None:
    initial, final = sorted((initial, final))
    begin, end = span
    found = [
        gradual_sparsity(step, begin=begin, end=end, initial=initial, final=final)
        for step in range(begin, end + 2, max(1, (end - begin) // 17))
    ]
    assert all(one <= other + 1e-12 for one, other in itertools.pairwise(found))
    assert all(initial - 1e-12 <= one <= final + 1e-12 for one in found)


@given(spans, st.integers(1, 50))
def test_the_last_update_is_at_the_end_also_where_the_frequency_does_not_divide(
    span: list[int], frequency: int
) -> None:
    begin, end = span
    found = updates(begin, end, frequency)
    assert found[-1] == end
    assert list(found) == sorted(set(found))
    assert all((step - begin) % frequency == 0 for step in found[:-1])
    assert all(later - earlier <= frequency for earlier, later in itertools.pairwise(found))
    assert begin in found


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="before it begins"):
        gradual_sparsity(0, begin=2, end=1, final=0.5)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1.5"):
        gradual_sparsity(0, begin=0, end=1, final=1.5)
    for begin, end, frequency in ((2, 1, 1), (0, 1, 0)):
        with pytest.raises(ValueError, match="no updates"):
            updates(begin, end, frequency)


@given(st.integers(1, 2000))
def test_the_learning_rate_rises_once_and_falls_to_almost_nothing(steps: int) -> None:
    found = [warm_cosine(step, steps) for step in range(steps)]
    top = found.index(max(found))
    assert max(found) <= 1
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert min(found) > 0
    if steps > 100:
        assert found[-1] < 0.01
        assert top in (steps // 20, steps // 20 + 1)
