import math
from fractions import Fraction
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import distinct_weights, shapes, sparsities, weights
from torch import Tensor, nn
from torch.nn.utils import prune

from pytest_compression.kernels.pruning import (
    apportioned,
    keep_all_but,
    keep_of_runs,
    keep_top,
    keep_top_by_row,
    keep_top_globally,
    pruned_count,
)

EDGES = [0.0, 0.001, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 0.999, 1.0]


def sorted_by_hand(scores: list[float], sparsity: float) -> list[bool]:
    """The rule in plain Python: a stable sort, and a count."""
    order = sorted(range(len(scores)), key=lambda position: scores[position])
    pruned = set(order[: round(sparsity * len(scores))])
    return [position not in pruned for position in range(len(scores))]


@given(weights(), sparsities)
def test_exactly_the_rounded_count_is_pruned_ties_or_not(weight: Tensor, sparsity: float) -> None:
    mask = keep_top(weight.abs(), sparsity)
    assert mask.dtype == torch.bool
    assert mask.shape == weight.shape
    assert int((~mask).sum()) == round(sparsity * weight.numel())


@pytest.mark.parametrize("sparsity", EDGES)
@pytest.mark.parametrize(
    "weight",
    [
        torch.full((64, 64), 0.3),
        torch.arange(4096).remainder(15).sub(7).reshape(64, 64).float(),
        torch.linspace(-1, 1, 4096).reshape(64, 64).to(torch.bfloat16),
        torch.zeros(64, 64, dtype=torch.float16),
    ],
    ids=["constant", "integer-grid", "bf16", "zeros"],
)
def test_weights_full_of_ties_lose_the_count_and_not_a_weight_more(
    weight: Tensor, sparsity: float
) -> None:
    assert int((~keep_top(weight.abs(), sparsity)).sum()) == round(sparsity * 4096)


@given(weights(), sparsities)
def test_nothing_pruned_outranks_anything_kept(weight: Tensor, sparsity: float) -> None:
    scores = weight.abs()
    mask = keep_top(scores, sparsity)
    if mask.any() and not mask.all():
        assert scores[~mask].max() <= scores[mask].min()


@given(weights(), sparsities)
def test_a_mask_is_what_a_stable_sort_by_hand_gives(weight: Tensor, sparsity: float) -> None:
    scores = weight.abs()
    by_hand = sorted_by_hand(scores.flatten().tolist(), sparsity)
    assert keep_top(scores, sparsity).flatten().tolist() == by_hand


@given(weights(), sparsities, sparsities)
def test_the_mask_of_a_higher_sparsity_lies_within_that_of_a_lower(
    weight: Tensor, one: float, other: float
) -> None:
    loose, tight = keep_top(weight.abs(), min(one, other)), keep_top(weight.abs(), max(one, other))
    assert not (tight & ~loose).any()


@given(weights(dtype=torch.float32), sparsities, st.integers(-3, 3))
def test_a_positive_factor_changes_no_mask(weight: Tensor, sparsity: float, power: int) -> None:
    # Of normal numbers a power of two moves the exponent alone, so that ties stay ties.
    weight = weight.where(weight.abs() > 1e-30, 0)
    scaled = (weight * 2.0**power).abs()
    assert torch.equal(keep_top(weight.abs(), sparsity), keep_top(scaled, sparsity))


@given(distinct_weights(), sparsities, st.randoms())
def test_permuting_rows_of_distinct_scores_permutes_the_mask(
    weight: Tensor, sparsity: float, random: Random
) -> None:
    rows = list(range(len(weight)))
    random.shuffle(rows)
    mask = keep_top(weight.abs(), sparsity)
    assert torch.equal(keep_top(weight[rows].abs(), sparsity), mask[rows])


@given(weights(), sparsities)
def test_pruning_twice_is_pruning_once(weight: Tensor, sparsity: float) -> None:
    once = weight.where(keep_top(weight.abs(), sparsity), 0)
    twice = once.where(keep_top(once.abs(), sparsity), 0)
    assert torch.equal(once, twice)


@given(weights())
def test_sparsity_zero_keeps_all_and_one_keeps_nothing(weight: Tensor) -> None:
    assert keep_top(weight.abs(), 0.0).all()
    assert not keep_top(weight.abs(), 1.0).any()


@given(weights(), sparsities)
def test_the_scores_are_not_changed(weight: Tensor, sparsity: float) -> None:
    scores, before = weight.abs(), weight.abs().clone()
    keep_top(scores, sparsity)
    keep_top_globally([scores], sparsity)
    assert torch.equal(scores, before)


@given(st.lists(weights(), min_size=1, max_size=4), sparsities)
def test_globally_there_is_one_ranking_over_all(parts: list[Tensor], sparsity: float) -> None:
    scores = [part.abs() for part in parts]
    masks = keep_top_globally(scores, sparsity)
    together = sorted_by_hand(
        [value for part in scores for value in part.flatten().tolist()], sparsity
    )
    assert [kept for mask in masks for kept in mask.flatten().tolist()] == together
    assert [mask.shape for mask in masks] == [part.shape for part in parts]


def test_globally_double_precision_is_ranked_as_it_is() -> None:
    # One double apart: in single precision these would tie, and the earlier would go.
    scores = [torch.tensor([1 + 2**-50, 2], dtype=torch.float64), torch.ones(1)]
    first, second = keep_top_globally(scores, 1 / 3)
    assert first.tolist() == [True, True]
    assert second.tolist() == [False]


def test_globally_nothing_gives_no_masks() -> None:
    assert keep_top_globally([], 0.5) == []


@given(distinct_weights(), sparsities)
def test_one_matrix_without_ties_is_pruned_as_torch_does(weight: Tensor, sparsity: float) -> None:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    prune.l1_unstructured(layer, "weight", amount=sparsity)
    theirs: Tensor = layer.weight_mask  # type: ignore[assignment]
    assert torch.equal(keep_top(weight.abs(), sparsity), theirs.bool())


@given(distinct_weights(), distinct_weights(), sparsities)
def test_several_matrices_without_ties_are_pruned_as_torch_does(
    one: Tensor, other: Tensor, sparsity: float
) -> None:
    other = other + other.sign() / 16  # between the values of the first
    layers = [nn.Linear(part.shape[1], part.shape[0], bias=False) for part in (one, other)]
    for layer, part in zip(layers, (one, other), strict=True):
        layer.weight.data.copy_(part)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=sparsity
    )
    for layer, mask in zip(
        layers, keep_top_globally([one.abs(), other.abs()], sparsity), strict=True
    ):
        theirs: Tensor = layer.weight_mask  # type: ignore[assignment]
        assert torch.equal(mask, theirs.bool())


@pytest.mark.parametrize(("numel", "sparsity", "count"), [(5, 0.5, 2), (7, 0.5, 4), (1, 0.5, 0)])
def test_half_a_weight_goes_to_the_even_count(numel: int, sparsity: float, count: int) -> None:
    assert pruned_count(numel, sparsity) == count


@given(st.integers(0, 10**9), sparsities)
def test_the_count_is_within_half_a_weight(numel: int, sparsity: float) -> None:
    count = pruned_count(numel, sparsity)
    assert 0 <= count <= numel
    assert abs(count - Fraction(sparsity) * numel) <= Fraction(1, 2) + Fraction(numel, 2**50)


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, math.nan, math.inf])
def test_a_sparsity_outside_its_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\]"):
        keep_top(torch.ones(2, 2), sparsity)


def test_nan_scores_are_refused() -> None:
    scores = torch.tensor([[1.0, math.nan]])
    with pytest.raises(ValueError, match="scores hold NaN"):
        keep_top(scores, 0.5)
    with pytest.raises(ValueError, match="scores hold NaN"):
        keep_top_globally([torch.ones(2), scores], 0.5)


def test_infinite_scores_are_kept_first() -> None:
    scores = torch.tensor([math.inf, 1.0, math.inf, 0.0])
    assert keep_top(scores, 0.5).tolist() == [True, False, True, False]
    assert keep_top(scores, 0.75).tolist() == [False, False, True, False]


@pytest.mark.parametrize("lowest", [-1e-40, -1.0, -math.inf])
def test_negative_scores_are_refused(lowest: float) -> None:
    scores = torch.tensor([[1.0, lowest]])
    refused: list[Any] = [
        lambda: keep_top(scores, 0.5),
        lambda: keep_top_globally([torch.ones(2), scores], 0.5),
        lambda: keep_top_by_row(scores, 1),
        lambda: keep_of_runs(scores, 1, 2),
    ]
    for ask in refused:
        with pytest.raises(ValueError, match="must not be negative"):
            ask()


@given(shapes(), sparsities)
def test_any_number_of_dimensions_will_do(shape: tuple[int, int], sparsity: float) -> None:
    scores = torch.arange(math.prod(shape) * 2.0).reshape(2, *shape)
    assert torch.equal(keep_top(scores, sparsity).flatten(), keep_top(scores.flatten(), sparsity))


@given(weights(), st.data())
def test_each_row_is_pruned_as_a_matrix_of_its_own(weight: Tensor, data: st.DataObject) -> None:
    rows, columns = weight.shape
    each = data.draw(st.integers(0, columns))
    mask = keep_top_by_row(weight.abs(), each * rows)
    for row, kept in zip(weight.abs(), mask, strict=True):
        assert torch.equal(kept, keep_all_but(row, each))


@given(weights(), st.data())
def test_any_count_is_pruned_exactly_and_rows_differ_by_one(
    weight: Tensor, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, weight.numel()))
    pruned = (~keep_top_by_row(weight.abs(), count)).sum(1).tolist()
    assert sum(pruned) == count
    assert pruned == sorted(pruned, reverse=True)
    assert pruned[0] - pruned[-1] <= 1


@given(distinct_weights(), st.data())
def test_permuting_rows_of_equal_counts_permutes_the_mask(
    weight: Tensor, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, weight.shape[1])) * len(weight)
    rows = data.draw(st.permutations(range(len(weight))))
    mask = keep_top_by_row(weight.abs(), count)
    assert torch.equal(keep_top_by_row(weight[rows].abs(), count), mask[rows])


def nan_first() -> Tensor:
    return torch.tensor([[math.nan, 1.0]])


def test_nan_has_no_place_in_a_row() -> None:
    with pytest.raises(ValueError, match="scores hold NaN"):
        keep_top_by_row(nan_first(), 1)
    with pytest.raises(ValueError, match="scores hold NaN"):
        keep_of_runs(nan_first(), 1, 2)


@st.composite
def patterns(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    """Scores whose rows are whole runs, and N:M."""
    run = draw(st.integers(2, 8))
    part = draw(weights())
    keep = draw(st.integers(1, run - 1))
    return (
        part.abs().repeat_interleave(draw(st.sampled_from([1, run])), 1).repeat(1, run),
        keep,
        run,
    )


@given(patterns())
def test_each_run_keeps_the_best_of_its_own(drawn: tuple[Tensor, int, int]) -> None:
    scores, keep, run = drawn
    mask = keep_of_runs(scores, keep, run)
    assert mask.shape == scores.shape
    for row, kept in zip(scores.tolist(), mask.tolist(), strict=True):
        for start in range(0, len(row), run):
            expected = sorted_by_hand(row[start : start + run], (run - keep) / run)
            assert kept[start : start + run] == expected


def test_a_row_that_is_no_multiple_of_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="6 inputs are no multiple of 4"):
        keep_of_runs(torch.ones(2, 6), 2, 4)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.data())
def test_shares_add_up_and_none_is_one_off(sizes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, sum(sizes)))
    shares = apportioned(count, sizes)
    assert sum(shares) == count
    for share, size in zip(shares, sizes, strict=True):
        assert 0 <= share <= size
        assert abs(share * sum(sizes) - count * size) < max(1, sum(sizes))


def test_what_is_left_goes_to_the_largest_remainders_and_then_to_the_first() -> None:
    assert apportioned(5, [3, 3, 3]) == [2, 2, 1]
    assert apportioned(10, [6, 6, 2]) == [4, 4, 2]
    assert apportioned(0, [4]) == [0]


@pytest.mark.parametrize("count", [-1, 8])
def test_more_than_there_is_cannot_be_shared_out(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} of 7 cannot be shared out"):
        apportioned(count, [3, 4])
