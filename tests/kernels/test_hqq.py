import math
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import bits, shapes, weights
from torch import Tensor

from pytest_compression.kernels import grids
from pytest_compression.kernels.hqq import ROUNDS, quantize_hqq, shrink
from pytest_compression.kernels.quantization import Quantized, quantize

sizes = st.integers(1, 8)
few = settings(max_examples=30)


def squared_errors(weight: Tensor, found: Quantized, size: int) -> Tensor:
    """Of each group, one after the other, in double precision."""
    squares = (found.dequantize().double() - weight.double()).square()
    return torch.tensor([float(part.sum()) for row in squares for part in row.split(size)])


@given(weights(), bits, sizes, st.sampled_from([1, 10, 2**17]))
def test_no_group_has_a_larger_squared_error_than_rounding_to_nearest(
    weight: Tensor, count: int, size: int, slab: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "SLAB", slab)
        found = quantize_hqq(weight, bits=count, group_size=size)
    plain = quantize(weight, bits=count, granularity="group", group_size=size, symmetric=False)
    ours, theirs = squared_errors(weight, found, size), squared_errors(weight, plain, size)
    assert (ours <= theirs).all()
    assert found.dequantize().isfinite().all()
    assert found.dequantize().dtype == weight.dtype
    groups = weight.shape[0] * math.ceil(weight.shape[1] / size)
    assert found.bits == count
    assert found.nbytes == math.ceil(weight.numel() * count / 8) + 8 * groups


@pytest.mark.parametrize("count", range(2, 9))
def test_ordinary_weights_gain_by_it(count: int) -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(count)) * 0.02
    ours = squared_errors(weight, quantize_hqq(weight, bits=count, group_size=64), 64)
    plain = quantize(weight, bits=count, granularity="group", group_size=64, symmetric=False)
    assert ours.sum() < 0.95 * squared_errors(weight, plain, 64).sum()


def searched_by_hand(group: list[float], count: int) -> float:
    """The least squared error in plain Python, in double precision, of the published search."""
    top, low = 2**count - 1, min(group)
    scale = (max(group) - low) / top
    zero, least, last = -low / scale, math.inf, math.inf
    for _ in range(ROUNDS):
        codes = [min(max(round(x / scale + zero), 0), top) for x in group]
        rest = [x - (code - zero) * scale for x, code in zip(group, codes, strict=True)]
        error = sum(each * each for each in rest)
        if error >= last:
            break
        least, last = min(least, error), error
        sparse = [
            math.copysign(max(0.0, abs(x) - abs(x) ** -0.3 / 10), x) if x else 0.0 for x in rest
        ]
        fitted = [
            code - (x - part) / scale for code, x, part in zip(codes, group, sparse, strict=True)
        ]
        zero = sum(fitted) / len(fitted)
    return least


@pytest.mark.parametrize("spread", [0.02, 3.0])  # at the larger one errors have a sparse part
@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_search_written_by_hand_finds_as_much(spread: float, count: int) -> None:
    weight = torch.randn(40, 32, generator=torch.Generator().manual_seed(count)) * spread
    found = squared_errors(weight, quantize_hqq(weight, bits=count, group_size=32), 32)
    plain = quantize(weight, bits=count, granularity="group", group_size=32, symmetric=False)
    by_hand = torch.tensor([searched_by_hand(row, count) for row in weight.tolist()])
    expected = torch.minimum(by_hand, squared_errors(weight, plain, 32))
    # Where a quotient is nearly a half, single precision may send the search another way.
    assert torch.isclose(found, expected, rtol=1e-3).float().mean() >= 0.95


@few
@given(shapes(), bits, sizes, st.floats(-(2.0**100), 2.0**100, width=32))
def test_a_constant_matrix_is_kept(
    shape: tuple[int, int], count: int, size: int, constant: float
) -> None:
    weight = torch.full(shape, constant)
    given_back = quantize_hqq(weight, bits=count, group_size=size).dequantize()
    torch.testing.assert_close(given_back, weight, rtol=2**-22, atol=2.0**-126)


@few
@given(weights(), bits, sizes)
def test_a_group_is_quantized_as_it_would_be_alone(weight: Tensor, count: int, size: int) -> None:
    weight = weight[:2]
    whole = quantize_hqq(weight, bits=count, group_size=size).dequantize()
    for row in range(weight.shape[0]):
        for first in range(0, weight.shape[1], size):
            group = weight[row : row + 1, first : first + size]
            alone = quantize_hqq(group, bits=count, group_size=size).dequantize()
            assert torch.equal(whole[row : row + 1, first : first + size], alone)


@few
@given(weights(), bits, sizes, st.randoms())
def test_zeros_are_stored_only_where_a_code_stands_for_zero(
    weight: Tensor, count: int, size: int, random: Random
) -> None:
    zero = torch.tensor([random.random() < 0.2 for _ in range(weight.numel())])
    zero = zero.reshape(weight.shape)
    found = quantize_hqq(weight, bits=count, group_size=size)
    point = found.grid.zero_point
    assert point is not None
    off = (point != point.round()) | (point < 0) | (point > found.grid.top)
    off = off.repeat_interleave(size, 1)[:, : weight.shape[1]]
    pruned = found.with_zeros(zero)
    assert (pruned is None) == bool((zero & off).any())
    if pruned is not None:
        assert torch.equal(pruned.dequantize(), found.dequantize().where(~zero, 0))
        assert pruned.nbytes == found.nbytes


@few
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1))
def test_shrinking_takes_small_errors_away_and_leaves_most_of_large_ones(
    values: list[float],
) -> None:
    rest = torch.tensor(values)
    sparse = shrink(rest)
    assert (sparse.abs() <= rest.abs()).all()
    assert (sparse * rest >= 0).all()
    assert (sparse[rest.abs() < 0.17] == 0).all()
    large = rest.abs() > 10
    assert ((rest - sparse)[large].abs() < 0.1).all() or not large.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_hqq(torch.tensor([[1.0, bad]]), bits=4, group_size=64)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"bits": 9, "group_size": 8}, "bits must be 2 to 8"), ({"bits": 4, "group_size": 0}, "size")],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quantize_hqq(torch.ones(2, 2), **options)
