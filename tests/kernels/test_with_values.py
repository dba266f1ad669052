"""Packed forms of every kind, given other values on the scales that they have."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import values, weights
from torch import Tensor

from pytest_compression.kernels.clipping import fit_clipped_grid
from pytest_compression.kernels.codebooks import BlockCoded, quantize_blocks
from pytest_compression.kernels.float8 import Float8, quantize_float8
from pytest_compression.kernels.hqq import quantize_hqq
from pytest_compression.kernels.packing import pack
from pytest_compression.kernels.quantization import Quantized, quantize
from pytest_compression.kernels.ternary import quantize_ternary

Quantizer = Callable[[Tensor], Any]


def rounded(weight: Tensor, **options: Any) -> Quantized:
    defaults: dict[str, Any] = {"granularity": "channel", "symmetric": True}
    return quantize(weight, **defaults | options)


def clipped(weight: Tensor) -> Quantized:
    return Quantized.on(
        fit_clipped_grid(weight, bits=3, granularity="tensor", symmetric=True), weight
    )


QUANTIZERS: Final[dict[str, Quantizer]] = {
    "symmetric": lambda weight: rounded(weight, bits=2),
    "affine": lambda weight: rounded(
        weight, bits=4, granularity="group", group_size=3, symmetric=False
    ),
    "clipped": clipped,
    "ternary": quantize_ternary,
    "hqq": lambda weight: quantize_hqq(weight, bits=3, group_size=4),
    "nf4": lambda weight: quantize_blocks(weight, codebook="nf4", block=4),
    "fp4": lambda weight: quantize_blocks(weight, codebook="fp4", block=5, double_quant=True),
    "e4m3": lambda weight: quantize_float8(weight, form="e4m3", granularity="channel"),
    "e5m2": lambda weight: quantize_float8(weight, form="e5m2", granularity="tensor"),
}
every_kind = pytest.mark.parametrize("kind", QUANTIZERS)
kinds = st.sampled_from(sorted(QUANTIZERS))


@st.composite
def pairs(draw: st.DrawFn, *, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """A weight to quantize, and float32 values of its shape to put in its place."""
    weight = draw(weights(dtype=dtype))
    count = weight.numel()
    near = draw(st.lists(values(2.0**100), min_size=count, max_size=count))
    other = torch.tensor(near, dtype=torch.float32).view(weight.shape)
    scales = [0.7, 1.0, 1.1, 3.0]
    moved = weight.float() * draw(st.sampled_from(scales)) + draw(st.sampled_from([0, 0.01]))
    return weight, draw(st.sampled_from([other, moved]))


def choices(stored: Any) -> Tensor:
    """What each weight could be, ``[codes, out_features, in_features]``."""
    found = []
    for code in range(2**stored.bits):
        codes = torch.full(stored.dequantize().shape, code, dtype=torch.uint8)
        if isinstance(stored, Float8):
            given = replace(stored, values=codes.view(stored.values.dtype))
        elif isinstance(stored, BlockCoded) or code <= stored.grid.top:
            given = replace(stored, packed=pack(codes, stored.bits))
        found.append(given.dequantize())
    every = torch.stack(found)
    return every.where(every.isfinite(), every[0])  # 8-bit floats have some that are no numbers


@every_kind
@given(weight=weights())
def test_its_own_values_give_it_back(kind: str, weight: Tensor) -> None:
    stored = QUANTIZERS[kind](weight)
    again = stored.with_values(stored.dequantize())
    assert torch.equal(again.dequantize(), stored.dequantize())
    assert (again.bits, again.nbytes) == (stored.bits, stored.nbytes)
    assert torch.equal(stored.nearest(stored.dequantize()), stored.dequantize())


@given(kind=kinds, pair=pairs())
def test_what_is_given_back_is_what_is_packed(kind: str, pair: tuple[Tensor, Tensor]) -> None:
    weight, other = pair
    stored = QUANTIZERS[kind](weight)
    packed = stored.with_values(other)
    assert torch.equal(packed.dequantize(), stored.nearest(other))
    assert packed.dequantize().dtype == weight.dtype
    assert (packed.bits, packed.nbytes) == (stored.bits, stored.nbytes)


@given(kind=kinds, pair=pairs(dtype=torch.float32))
def test_no_value_on_these_scales_is_nearer(kind: str, pair: tuple[Tensor, Tensor]) -> None:
    weight, other = pair
    stored = QUANTIZERS[kind](weight)
    every, exact = choices(stored).double(), other.double()
    best = (every - exact).abs().amin(0)
    taken = (stored.nearest(other).double() - exact).abs()
    # Of two that are all but equally near either may be taken; differences lose digits.
    slack = 1e-5 * (exact.abs() + every.abs().amax(0)).clamp(min=1e-37)
    assert (taken <= best + slack).all()


@given(kind=kinds, pair=pairs(dtype=torch.float32))
def test_what_is_cut_off_lies_half_a_step_beyond_the_ends(
    kind: str, pair: tuple[Tensor, Tensor]
) -> None:
    weight, other = pair
    stored = QUANTIZERS[kind](weight)
    every = choices(stored)
    low, high = every.amin(0), every.amax(0)
    reached = stored.reaches(other)
    margin = 1e-5 * every.abs().amax(0)
    inside = (other >= low - margin) & (other <= high + margin)
    flat = high - low < 1e-37  # next to nothing, where digits are lost
    assert (reached | ~inside | flat).all()
    found = stored.nearest(other)
    at_an_end = (found <= low + margin) | (found >= high - margin)
    assert (reached | at_an_end | flat).all()
    far = (other > high + (high - low)) | (other < low - (high - low))
    assert not (reached & far & ~flat).any()


@pytest.mark.parametrize(
    ("kind", "ends"),
    [("nf4", (-1.1519, 1.1385)), ("fp4", (-7 / 6, 7 / 6)), ("e4m3", (-464 / 448, 464 / 448))],
)
def test_half_a_step_by_hand(kind: str, ends: tuple[float, float]) -> None:
    weight = torch.tensor([[-1.0, 1.0, 0.25]])
    stored = QUANTIZERS[kind](weight)
    for end in ends:
        for factor, reached in ((0.999, True), (1.001, False)):
            assert stored.reaches(torch.full((1, 3), end * factor)).all() == reached


@given(kind=kinds, data=st.data(), pair=pairs())
def test_what_is_left_of_a_cut_takes_values_as_before(
    kind: str, data: st.DataObject, pair: tuple[Tensor, Tensor]
) -> None:
    weight, other = pair
    stored = QUANTIZERS[kind](weight)
    axis = data.draw(st.integers(0, 1))
    places = data.draw(st.sets(st.integers(0, weight.shape[axis] - 1), min_size=1))
    kept = torch.tensor(sorted(places))
    cut = stored.kept(axis, kept)
    rest = other.index_select(axis, kept)
    assert torch.equal(cut.nearest(rest), stored.nearest(other).index_select(axis, kept))
    assert torch.equal(cut.reaches(rest), stored.reaches(other).index_select(axis, kept))
