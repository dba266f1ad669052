from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from grid_options import Options, options
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import shapes, weights
from torch import Tensor

from pytest_compression.kernels import grids
from pytest_compression.kernels.grids import Grid, decode, encode, fit_grid, nearest_codes, slabs

few = settings(max_examples=30)
slab_sizes = st.sampled_from([1, 3, 10, 2**17])


@contextmanager
def slabs_of(size: int) -> Iterator[None]:
    """Matrices are worked on in parts of so many values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "SLAB", size)
        yield


class Plain(NamedTuple):
    """What the plain arithmetic gives."""

    scale: Tensor
    zero_point: Tensor | None
    codes: Tensor
    weight: Tensor


def plainly(weight: Tensor, chosen: Options) -> Plain:
    """The whole matrix at once, all ranges in double precision, every scale written out.

    Figures that were accepted once hang on these very bits.
    """
    rows = weight.reshape(1, -1) if chosen.granularity == "tensor" else weight
    block = chosen.group_size or rows.shape[1]
    padded = torch.nn.functional.pad(rows.double(), (0, -rows.shape[1] % block))
    parts = padded.unflatten(1, (-1, block))
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    steps = 2 ** (chosen.bits - 1) - 1 if chosen.symmetric else 2**chosen.bits - 1
    span = torch.maximum(high, -low) if chosen.symmetric else high - low
    scale = (span / steps).float()
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny).where(span > 0, 1.0)
    zero_point = None
    offset, top = torch.full_like(scale, steps), 2 * steps
    if not chosen.symmetric:
        offset, top = (-low / scale).round().clamp(0, steps).float(), steps
        zero_point = offset.to(torch.uint8)

    def everywhere(values: Tensor) -> Tensor:
        width = rows.shape[1]
        return values.repeat_interleave(block, dim=1)[:, :width].reshape(weight.shape)

    codes = ((weight.float() / everywhere(scale)).round() + everywhere(offset)).clamp(0, top)
    given_back = (codes - everywhere(offset)) * everywhere(scale)
    return Plain(scale, zero_point, codes.to(torch.uint8), given_back.to(weight.dtype))


def check_bits(weight: Tensor, chosen: Options) -> None:
    """The same scales, codes and weights as plainly, bit for bit."""
    found, plain = chosen.of(weight), plainly(weight, chosen)
    assert torch.equal(found.grid.scale, plain.scale)
    assert (found.grid.zero_point is None) == (plain.zero_point is None)
    if plain.zero_point is not None and found.grid.zero_point is not None:
        assert torch.equal(found.grid.zero_point, plain.zero_point)
    assert torch.equal(found.codes(), plain.codes)
    assert torch.equal(found.dequantize(), plain.weight)


@given(weights(), options(), slab_sizes)
def test_every_bit_is_that_of_the_plain_arithmetic(
    weight: Tensor, chosen: Options, size: int
) -> None:
    with slabs_of(size):
        check_bits(weight, chosen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "chosen",
    [
        Options(4, "group", 32, symmetric=False),
        Options(3, "group", 100, symmetric=True),
        Options(8, "channel", None, symmetric=True),
        Options(2, "tensor", None, symmetric=False),
    ],
    ids=lambda chosen: f"{chosen.bits}-{chosen.granularity}",
)
def test_large_matrices_have_the_same_bits_too(dtype: torch.dtype, chosen: Options) -> None:
    weight = torch.randn(701, 384, generator=torch.Generator().manual_seed(0)).to(dtype)
    check_bits(weight, chosen)
    check_bits(weight.t(), chosen)  # as GPT-2 stores its weights


@few
@given(shapes(), slab_sizes)
def test_slabs_hold_each_row_once_in_order(shape: tuple[int, int], size: int) -> None:
    with slabs_of(size):
        parts = list(slabs(torch.Size(shape)))
    rows = list(range(shape[0]))
    assert [row for part in parts for row in rows[part]] == rows
    assert all((part.stop - part.start - 1) * shape[1] < size for part in parts)


@few
@given(weights(dtype=torch.float32), options(symmetric=False))
def test_whole_zero_points_give_the_same_codes_as_real_numbers(
    weight: Tensor, chosen: Options
) -> None:
    grid = fit_grid(weight, **chosen._asdict())
    assert grid.zero_point is not None
    real = Grid(
        scale=grid.scale, zero_point=grid.zero_point.float(), bits=grid.bits, block=grid.block
    )
    assert (grid.is_real, real.is_real) == (False, True)
    assert torch.equal(encode(weight, real), encode(weight, grid))
    assert torch.equal(decode(encode(weight, grid), real), decode(encode(weight, grid), grid))


@few
@given(st.lists(st.floats(-20, 20, width=32), min_size=1), st.floats(0, 15, width=32))
def test_a_real_zero_point_shifts_the_codes(values: list[float], zero: float) -> None:
    parts, one = torch.tensor([values]), torch.ones(1, 1)
    codes = nearest_codes(parts, one, torch.tensor([[zero]]), 15)
    exact = parts.double() + zero
    assert (codes == codes.round()).all()
    assert ((codes - exact.clamp(0, 15)).abs() <= 0.5 + 1e-5).all()


def test_between_two_codes_a_symmetric_grid_rounds_to_the_even_one() -> None:
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 7.0]])
    grid = fit_grid(weight, bits=4, granularity="tensor", symmetric=True)
    assert decode(encode(weight, grid), grid).tolist() == [[0.0, 2.0, 2.0, 0.0, -2.0, -2.0, 7.0]]
