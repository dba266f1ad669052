import pytest
import strategies
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.kernels.structured import (
    block_influence,
    contributions,
    joint_norm,
    keep_units,
    members,
    second_moments,
    unit_norms,
)

counts = st.integers(1, 5)


@st.composite
def importances(draw: st.DrawFn) -> Tensor:
    """``[groups, units]``, where many are equal."""
    groups, units = draw(counts), draw(st.integers(1, 9))
    each = st.one_of(st.sampled_from([0.0, 1.0, 2.0, float("inf")]), st.floats(-1, 1e300))
    flat = draw(st.lists(each, min_size=groups * units, max_size=groups * units))
    return torch.tensor(flat, dtype=torch.float64).reshape(groups, units)


@st.composite
def activations(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Activations ``[tokens, units * size]``, a weight that takes them, and how many units."""
    units, size, tokens, out = draw(counts), draw(counts), draw(counts), draw(counts)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    states = torch.randn(tokens, units * size, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        states = states.round()  # zeros, and equal ones
    return states, torch.randn(out, units * size, generator=generator), units


@given(importances(), strategies.sparsities)
def test_each_group_loses_exactly_round_of_its_share(scores: Tensor, sparsity: float) -> None:
    groups, units = scores.shape
    kept = keep_units(scores, sparsity)
    mask = torch.zeros(groups * units, dtype=torch.bool).index_fill(0, kept, value=True)
    assert (mask.reshape(groups, units).sum(1) == units - round(sparsity * units)).all()
    assert kept.tolist() == sorted(kept.tolist())


@given(importances(), strategies.sparsities)
def test_nothing_removed_outranks_anything_kept_and_of_equals_the_first_go(
    scores: Tensor, sparsity: float
) -> None:
    kept = set(keep_units(scores, sparsity).tolist())
    units = scores.shape[1]
    for group, row in enumerate(scores.tolist()):
        ranked = sorted(range(units), key=lambda place: (row[place], place))
        gone = [place for place in range(units) if group * units + place not in kept]
        assert sorted(ranked[: len(gone)]) == gone


@given(importances(), strategies.sparsities, strategies.sparsities)
def test_who_stays_at_a_higher_sparsity_stays_at_a_lower_one(
    scores: Tensor, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert set(keep_units(scores, high).tolist()) <= set(keep_units(scores, low).tolist())


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        keep_units(torch.tensor([[1.0, float("nan")]]), 0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        keep_units(torch.ones(1, 2), 1.5)


@given(st.data())
def test_members_are_the_features_of_the_units_that_are_kept(data: st.DataObject) -> None:
    units, size, parts = data.draw(counts), data.draw(counts), data.draw(counts)
    kept = data.draw(st.lists(st.integers(0, units - 1), unique=True).map(sorted))
    places = members(torch.tensor(kept, dtype=torch.long), units, parts * units * size, parts)
    whose = [place // size % units for place in range(parts * units * size)]
    assert places.tolist() == [place for place, unit in enumerate(whose) if unit in kept]


def test_an_axis_that_is_not_made_of_the_units_is_refused() -> None:
    with pytest.raises(ValueError, match="10 features are not 3 times 2 units"):
        members(torch.tensor([0]), 2, 10, 3)


@given(strategies.weights())
def test_a_unit_s_norm_is_that_of_its_row(weight: Tensor) -> None:
    expected = weight.double().square().sum(1).sqrt()
    torch.testing.assert_close(unit_norms(weight), expected, rtol=1e-12, atol=0)


@given(strategies.weights(), st.integers(0, 8))
def test_norms_of_parts_join_to_the_norm_of_the_whole(weight: Tensor, cut: int) -> None:
    parts = [weight[:, :cut], weight[:, cut:]]
    torch.testing.assert_close(
        joint_norm(unit_norms(part) for part in parts), unit_norms(weight), rtol=1e-12, atol=0
    )


@given(activations())
def test_a_unit_contributes_the_norm_of_what_vanishes_without_it(
    drawn: tuple[Tensor, Tensor, int],
) -> None:
    states, weight, units = drawn
    found = contributions(second_moments(states, units), weight)
    size = states.shape[1] // units
    for unit in range(units):
        without = states.clone()
        without[:, unit * size : (unit + 1) * size] = 0
        gone = (states - without) @ weight.double().t()
        assert float(found[unit]) == pytest.approx(float(gone.norm()), rel=1e-9, abs=1e-6)


@given(activations())
def test_a_neuron_s_contribution_is_its_norm_times_its_column_s(
    drawn: tuple[Tensor, Tensor, int],
) -> None:
    states, weight, _ = drawn
    found = contributions(second_moments(states, states.shape[1]), weight)
    torch.testing.assert_close(found, states.norm(dim=0) * weight.double().norm(dim=0))


@given(activations(), st.integers(0, 5))
def test_moments_add_up_over_batches(drawn: tuple[Tensor, Tensor, int], cut: int) -> None:
    states, _, units = drawn
    parts = second_moments(states[:cut], units) + second_moments(states[cut:], units)
    torch.testing.assert_close(parts, second_moments(states, units))


@given(activations())
def test_influence_is_one_less_the_cosine(drawn: tuple[Tensor, Tensor, int]) -> None:
    before, _, _ = drawn
    after = before.flip(0) + 0.5
    expected = 1 - torch.cosine_similarity(before, after, dim=1)
    torch.testing.assert_close(block_influence(before, after), expected, rtol=0, atol=1e-9)


@given(activations(), st.floats(1e-3, 1e3))
def test_a_block_that_only_stretches_has_no_influence_and_one_that_turns_back_has_two(
    drawn: tuple[Tensor, Tensor, int], factor: float
) -> None:
    before, _, _ = drawn
    still = torch.zeros(len(before), dtype=torch.float64)
    torch.testing.assert_close(block_influence(before, factor * before), still)
    moved = before.abs().sum(1) > 0
    turned = still.masked_fill(moved, 2.0)
    torch.testing.assert_close(block_influence(before, -factor * before), turned)


def test_a_state_that_a_block_makes_from_nothing_or_loses_is_turned() -> None:
    nothing, some = torch.zeros(1, 3), torch.ones(1, 3)
    assert block_influence(nothing, some).tolist() == [1.0]
    assert block_influence(some, nothing).tolist() == [1.0]
    assert block_influence(nothing, nothing).tolist() == [0.0]


@given(strategies.weights(), st.integers(1, 3))
def test_no_kernel_changes_its_arguments(weight: Tensor, parts: int) -> None:
    before = weight.clone()
    unit_norms(weight)
    second_moments(weight, weight.shape[1])
    block_influence(weight, weight)
    keep_units(weight.double().abs(), 1 / (parts + 1))
    assert torch.equal(weight.view(torch.uint8), before.view(torch.uint8))
