from typing import Any

import pytest
import torch
from grid_options import Options, options
from hypothesis import given, settings
from strategies import weights
from torch import Tensor

from pytest_compression.kernels.clipping import FACTORS, errors, fit_clipped_grid
from pytest_compression.kernels.grids import decode, encode, fit_grid, spread
from pytest_compression.kernels.quantization import Quantized

few = settings(max_examples=30)


def clipped(weight: Tensor, chosen: Options) -> Quantized:
    return Quantized.on(fit_clipped_grid(weight, **chosen._asdict()), weight)


def squared_errors(weight: Tensor, found: Quantized) -> Tensor:
    """Of each block, added up one weight at a time: float64, of the scale's shape."""
    shape = found.grid.scale.shape
    block = spread(torch.arange(shape.numel()).reshape(shape), found.grid, weight.shape)
    sums = [0.0] * shape.numel()
    differences = (found.dequantize().double() - weight.double()).flatten().tolist()
    for place, difference in zip(block.flatten().tolist(), differences, strict=True):
        sums[place] += difference**2
    return torch.tensor(sums, dtype=torch.float64).reshape(shape)


@given(weights(), options())
def test_no_block_gets_worse_and_zero_stays_zero(weight: Tensor, chosen: Options) -> None:
    plain, found = chosen.of(weight), clipped(weight, chosen)
    assert (squared_errors(weight, found) <= squared_errors(weight, plain) * (1 + 1e-12)).all()
    assert (found.dequantize()[weight == 0] == 0).all()
    assert found.dequantize().isfinite().all()
    assert found.grid.scale.shape == plain.grid.scale.shape
    assert (found.grid.scale <= plain.grid.scale).all()


@few
@given(weights(), options())
def test_errors_are_those_of_what_is_written(weight: Tensor, chosen: Options) -> None:
    found = chosen.of(weight)
    by_hand = squared_errors(weight, found).sqrt()
    torch.testing.assert_close(errors(weight, found.grid), by_hand, rtol=1e-9, atol=0)


@few
@given(weights(), options(symmetric=True))
def test_clipping_is_odd(weight: Tensor, chosen: Options) -> None:
    assert torch.equal(clipped(-weight, chosen).dequantize(), -clipped(weight, chosen).dequantize())


@few
@given(weights(), options())
def test_a_group_is_clipped_as_it_would_be_alone(weight: Tensor, chosen: Options) -> None:
    weight, size = weight[:2], chosen.group_size or 3
    whole = clipped(weight, chosen._replace(granularity="group", group_size=size)).dequantize()
    alone = chosen._replace(granularity="tensor", group_size=None)
    for row in range(weight.shape[0]):
        for first in range(0, weight.shape[1], size):
            group = weight[row : row + 1, first : first + size]
            given_back = clipped(group, alone).dequantize()
            assert torch.equal(whole[row : row + 1, first : first + size], given_back)


def rounded_by_hand(values: list[float], low: float, high: float, count: int) -> list[float]:
    """Affine rounding to a range, in plain Python."""
    scale = (high - low) / (2**count - 1)
    zero = round(-low / scale)
    return [scale * (min(max(round(x / scale) + zero, 0), 2**count - 1) - zero) for x in values]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_factors_is_taken(seed: int, count: int) -> None:
    values = torch.randn(1, 200, generator=torch.Generator().manual_seed(seed))
    row = values[0].tolist()
    by_hand = []
    for factor in FACTORS:
        given_back = rounded_by_hand(row, factor * min(row), factor * max(row), count)
        by_hand.append(sum((x - y) ** 2 for x, y in zip(row, given_back, strict=True)))
    found = clipped(values, Options(count, "tensor", None, symmetric=False))
    assert float(squared_errors(values, found)) == pytest.approx(min(by_hand), rel=1e-4)
    assert min(by_hand) < by_hand[0]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_one_weight_far_off_is_cut_off_for_the_others_sake(
    granularity: Any, *, symmetric: bool
) -> None:
    weight = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    weight[:, 3] = 9.0
    size = 128 if granularity == "group" else None
    chosen = Options(3, granularity, size, symmetric)
    plain, found = chosen.of(weight), clipped(weight, chosen)
    assert squared_errors(weight, found).sum() < 0.9 * squared_errors(weight, plain).sum()
    assert (found.grid.scale[:, 0] < plain.grid.scale[:, 0]).all()
    assert (found.codes()[:, 3] == found.grid.top).all()  # the outermost code


def test_where_nothing_is_gained_the_range_stays() -> None:
    weight = torch.tensor([[-7.0, 3.0, 7.0, 0.0, 1.0]])
    grid = fit_clipped_grid(weight, bits=4, granularity="tensor", symmetric=True)
    plain = fit_grid(weight, bits=4, granularity="tensor", symmetric=True)
    assert torch.equal(grid.scale, plain.scale)
    assert torch.equal(decode(encode(weight, grid), grid), weight)
