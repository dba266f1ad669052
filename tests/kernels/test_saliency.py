import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import distinct_weights, weights
from torch import Tensor

from pytest_compression.kernels.pruning import keep_top_by_row
from pytest_compression.kernels.saliency import added_squares, by_inputs


def published_mask(weight: Tensor, inputs: Tensor, sparsity: float) -> Tensor:
    """Wanda as its paper's pseudocode has it: sort each row's metric, prune the first ones."""
    metric = weight.abs() * inputs.reshape(-1, inputs.shape[-1]).norm(p=2, dim=0)
    order = metric.sort(dim=1, stable=True).indices
    pruned = order[:, : int(sparsity * weight.shape[1])]
    return torch.ones_like(weight, dtype=torch.bool).scatter(1, pruned, 0)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_without_ties_masks_are_those_of_the_published_formula(sparsity: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, 40, generator=generator)
    inputs = torch.randn(3, 7, 40, generator=generator) * torch.rand(40, generator=generator)
    squares = added_squares(None, inputs)
    mask = keep_top_by_row(by_inputs(weight, squares), round(sparsity * 40) * 12)
    assert torch.equal(mask, published_mask(weight, inputs, sparsity))


@given(distinct_weights(), st.floats(1e-3, 1e3), st.data())
def test_equal_norms_rank_each_row_by_magnitude(
    weight: Tensor, norm: float, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, weight.shape[1])) * len(weight)
    squares = torch.full((weight.shape[1],), norm, dtype=torch.float64).square()
    mask = keep_top_by_row(by_inputs(weight, squares), count)
    assert torch.equal(mask, keep_top_by_row(weight.abs(), count))


@given(weights(), st.integers(-8, 8))
def test_a_factor_of_all_inputs_changes_no_mask(weight: Tensor, power: int) -> None:
    squares = torch.arange(weight.shape[1], dtype=torch.float64)
    count = weight.shape[1] // 2 * len(weight)
    mask = keep_top_by_row(by_inputs(weight, squares), count)
    scaled = keep_top_by_row(by_inputs(weight, squares * 4.0**power), count)
    assert torch.equal(mask, scaled)


@given(weights(), st.data())
def test_sums_of_squares_do_not_depend_on_how_inputs_come(
    inputs: Tensor, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(inputs)))
    whole = added_squares(None, inputs)
    parts = added_squares(added_squares(None, inputs[:cut]), inputs[cut:])
    by_hand = [sum(float(value) ** 2 for value in column) for column in inputs.t()]
    assert whole.dtype == torch.float64
    assert torch.allclose(whole, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(parts, whole, rtol=1e-12)


def test_an_input_that_overflows_in_its_own_dtype_does_not_here() -> None:
    inputs = torch.full((2, 1), 60_000, dtype=torch.float16)
    assert added_squares(None, inputs).tolist() == [2 * 60_000**2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_no_number_shows(value: float) -> None:
    assert not added_squares(None, torch.tensor([[1.0, value]])).isfinite().all()
