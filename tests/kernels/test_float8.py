import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import weights
from torch import Tensor

from pytest_compression.kernels import grids
from pytest_compression.kernels.float8 import DTYPES, Float8, quantize_float8

forms: Any = st.sampled_from(["e4m3", "e5m2"])
granularities: Any = st.sampled_from(["tensor", "channel"])
every_form = pytest.mark.parametrize("form", ["e4m3", "e5m2"])
few = settings(max_examples=30)
BITS = {"e4m3": (4, 3), "e5m2": (5, 2)}


def numbers(form: str) -> Tensor:
    """All finite numbers of a format by code, from its bits; NaN where there is none."""
    exponent_bits, fraction_bits = BITS[form]
    bias, found = 2 ** (exponent_bits - 1) - 1, []
    for code in range(256):
        exponent = (code >> fraction_bits) & (2**exponent_bits - 1)
        fraction = (code & (2**fraction_bits - 1)) / 2**fraction_bits
        size = math.ldexp(fraction, 1 - bias) if exponent == 0 else 0.0
        if exponent > 0:
            size = math.ldexp(1 + fraction, exponent - bias)
        if form == "e4m3" and code & 127 == 127:
            size = math.nan
        if form == "e5m2" and exponent == 31:
            size = math.nan
        found.append(-size if code & 128 else size)
    return torch.tensor(found, dtype=torch.float64)


@every_form
def test_each_of_the_256_codes_stands_for_the_number_of_its_bits(form: Any) -> None:
    by_hand = numbers(form)
    finite = by_hand.isfinite()
    assert int(finite.sum()) == {"e4m3": 254, "e5m2": 248}[form]
    stored = Float8(
        values=torch.arange(256, dtype=torch.uint8).view(DTYPES[form])[finite].view(1, -1),
        scale=torch.ones(1, 1),
        dtype=torch.float32,
    )
    assert torch.equal(stored.dequantize()[0].double(), by_hand[finite])


@given(weights(), forms, granularities, st.sampled_from([1, 10, 2**17]))
def test_no_number_of_the_format_is_nearer(
    weight: Tensor, form: Any, granularity: Any, slab: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "SLAB", slab)
        found = quantize_float8(weight, form=form, granularity=granularity)
        given_back = found.dequantize()
    scaled = (weight.float() / found.scale).double().unsqueeze(-1)
    levels = numbers(form)
    levels = levels[levels.isfinite()]
    nearest = (scaled - levels).abs().amin(-1)
    taken = (scaled.squeeze(-1) - found.values.double()).abs()
    # The largest weight over its own scale is the largest number, but for the last digit.
    assert torch.allclose(taken, nearest, rtol=0, atol=1e-2 if form == "e5m2" else 1e-4)
    assert torch.equal(given_back, (found.values.float() * found.scale).to(weight.dtype))


@few
@every_form
@given(weights(dtype=torch.float32))
def test_at_scale_one_it_is_torchs_own_cast(form: Any, weight: Tensor) -> None:
    largest = torch.finfo(DTYPES[form]).max
    inside = torch.cat([weight.flatten().clamp(-largest, largest), torch.tensor([largest])])
    found = quantize_float8(inside.view(1, -1), form=form, granularity="tensor")
    assert float(found.scale) == 1
    theirs = inside.to(DTYPES[form])
    assert torch.equal(found.values.view(torch.uint8)[0], theirs.view(torch.uint8))


@every_form
def test_halfway_the_even_number_is_taken(form: Any) -> None:
    levels = numbers(form)[:127]  # those above zero, in rising order
    levels = levels[levels.isfinite()]
    halves = ((levels[1:] + levels[:-1]) / 2).float()
    row = torch.cat([halves, levels[-1:].float()]).view(1, -1)
    codes = quantize_float8(row, form=form, granularity="tensor").values.view(torch.uint8)
    assert float(row.max()) == torch.finfo(DTYPES[form]).max
    even = torch.arange(len(halves)).add(1).bitwise_and(~1)
    assert codes[0, :-1].tolist() == even.tolist()


@given(weights(), forms, granularities)
def test_zero_stays_zero_nothing_becomes_nan_and_a_weight_takes_a_byte(
    weight: Tensor, form: Any, granularity: Any
) -> None:
    found = quantize_float8(weight, form=form, granularity=granularity)
    given_back = found.dequantize()
    assert given_back.dtype == weight.dtype
    assert given_back.isfinite().all()
    assert (given_back[weight == 0] == 0).all()
    turned = quantize_float8(-weight, form=form, granularity=granularity).dequantize()
    assert torch.equal(turned, -given_back)
    scales = 1 if granularity == "tensor" else weight.shape[0]
    assert found.bits == 8
    assert found.nbytes == weight.numel() + 4 * scales
    assert found.values.untyped_storage().nbytes() == weight.numel()


@few
@given(weights(dtype=torch.float32), forms, granularities)
def test_the_largest_weight_is_kept(weight: Tensor, form: Any, granularity: Any) -> None:
    found = quantize_float8(weight, form=form, granularity=granularity)
    flat = weight.view(1, -1) if granularity == "tensor" else weight
    top = (flat.abs() == flat.abs().amax(1, keepdim=True)) & (flat.abs() > 1e-30)
    given_back = found.dequantize().view(flat.shape)
    torch.testing.assert_close(given_back[top], flat[top], rtol=2**-22, atol=0)


@few
@given(weights(), forms)
def test_a_channel_is_rounded_as_it_would_be_alone(weight: Tensor, form: Any) -> None:
    whole = quantize_float8(weight, form=form, granularity="channel").dequantize()
    rows = [
        quantize_float8(row, form=form, granularity="tensor").dequantize()
        for row in weight.split(1)
    ]
    assert torch.equal(whole, torch.cat(rows))


@few
@given(weights(), forms, granularities, st.randoms())
def test_pruned_weights_are_stored_as_zero(
    weight: Tensor, form: Any, granularity: Any, random: Any
) -> None:
    zero = torch.tensor([random.random() < 0.5 for _ in range(weight.numel())])
    zero = zero.reshape(weight.shape)
    found = quantize_float8(weight, form=form, granularity=granularity)
    before = found.dequantize()
    assert torch.equal(found.with_zeros(zero).dequantize(), before.where(~zero, 0))
    assert torch.equal(found.dequantize(), before)


@every_form
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(form: Any, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_float8(torch.tensor([[1.0, bad]]), form=form, granularity="channel")


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 4), (4, 0)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a weight \[out_features, in_features\]"):
        quantize_float8(torch.ones(shape), form="e4m3", granularity="tensor")
