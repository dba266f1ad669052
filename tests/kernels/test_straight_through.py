"""The straight-through estimator: what goes forward, and what comes back."""

import pytest
import strategies
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.kernels.grids import Granularity, Grid, decode, encode, fit_grid
from pytest_compression.kernels.straight_through import straight_through, within


def fake(weight: Tensor, grid: Grid) -> Tensor:
    rounded = decode(encode(weight, grid), grid)
    return straight_through(weight, rounded, within(weight, grid))


@given(strategies.weights(), strategies.bits, st.booleans())
def test_forward_is_the_rounded_weight_bit_by_bit(
    weight: Tensor,
    bits: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    grid = fit_grid(weight, bits=bits, granularity="channel", symmetric=symmetric)
    rounded = decode(encode(weight, grid), grid)
    found = straight_through(weight.clone().requires_grad_(), rounded)
    assert found.dtype == weight.dtype
    assert torch.equal(found, rounded.to(weight.dtype))


@given(strategies.weights(), strategies.bits, st.sampled_from(["tensor", "channel", "group"]))
def test_nothing_is_clipped_on_a_symmetric_grid_that_was_fitted(
    weight: Tensor, bits: int, granularity: Granularity
) -> None:
    size = 2 if granularity == "group" else None
    grid = fit_grid(weight, bits=bits, granularity=granularity, group_size=size, symmetric=True)
    assert within(weight, grid).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_passes_as_if_nothing_had_been_rounded(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.3, -0.0, 5.0], [2.0**100, 1e-42, -7.0]], dtype=dtype)
    incoming = torch.arange(6, dtype=dtype).reshape(2, 3) - 1.5
    learned = weight.requires_grad_()
    (straight_through(learned, torch.zeros(2, 3)) * incoming).sum().backward()
    assert learned.grad is not None
    assert torch.equal(learned.grad, incoming)


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_are_those_of_torch_where_weights_are_clipped(
    bits: int, *, symmetric: bool
) -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(bits))
    grid = fit_grid(weight, bits=bits, granularity="channel", symmetric=symmetric)
    scale = grid.scale.flatten()
    moved = 1.7 * weight  # beyond the grid
    ours, theirs = (moved.clone().requires_grad_() for _ in range(2))
    fake(ours, grid).square().sum().backward()
    zero = torch.zeros(6) if grid.zero_point is None else grid.zero_point.flatten().float()
    low, high = (-grid.offset, grid.offset) if symmetric else (0, grid.top)
    given = torch.fake_quantize_per_channel_affine(theirs, scale, zero.int(), 0, low, high)
    given.square().sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(fake(moved, grid), given, rtol=1e-6, atol=0)
    assert torch.equal(ours.grad == 0, theirs.grad == 0)
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-6, atol=0)
    assert (ours.grad == 0).any()


def test_a_product_by_hand() -> None:
    weight = torch.tensor([[0.9, -2.0, 0.2]], requires_grad=True)
    grid = Grid(scale=torch.tensor([[1.0]]), zero_point=None, bits=2, block=3)
    inputs = torch.tensor([2.0, 3.0, 5.0])
    (fake(weight, grid) @ inputs).square().sum().backward()
    # Rounded and clipped: [1, -1, 0]; the output is 2 - 3 = -1, its gradient 2 * -1.
    assert weight.grad is not None
    assert weight.grad.tolist() == [[-4.0, 0.0, -10.0]]


def test_a_zero_between_two_codes() -> None:
    zero = torch.tensor([[0.5]])
    grid = Grid(scale=torch.tensor([[1.0]]), zero_point=zero, bits=2, block=4)
    weight = torch.tensor([[-1.2, -0.4, 2.4, 3.2]])
    assert within(weight, grid).tolist() == [[False, True, True, False]]
