import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_quant
from grid_options import Options, options
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import bits, shapes, weights
from torch import Tensor

from pytest_compression.kernels.quantization import (
    Grid,
    Quantized,
    blocks,
    decode,
    encode,
    fit_grid,
    quantize,
    spread,
)


def scales(found: Quantized) -> Tensor:
    """The scale of each weight, ``[out_features, in_features]``, in double precision."""
    return spread(found.grid.scale, found.grid, found.shape).double()


def allowance(found: Quantized) -> float:
    """What single precision may add to an error of half a step, in steps.

    Scale, quotient and product are each rounded once, by at most one part in 2^24 of a number
    of at most 2^bits steps: three such errors, and one to spare.
    """
    return float(4 * 2**found.grid.bits * 2.0**-24)


def wholly_decided(quotient: Tensor) -> Tensor:
    """Where rounding does not hang on the last digits of the quotient."""
    return ((quotient - quotient.floor()) - 0.5).abs() > 1e-4


@given(weights(dtype=torch.float32), options())
def test_no_weight_is_off_by_more_than_half_a_step(weight: Tensor, chosen: Options) -> None:
    # The range spans all of the weight, so this holds for its two ends as well.
    found = chosen.of(weight)
    error = (found.dequantize().double() - weight.double()).abs()
    assert (error <= scales(found) * (0.5 + allowance(found))).all()


@given(weights(), options())
def test_in_half_precision_one_more_rounding_is_added(weight: Tensor, chosen: Options) -> None:
    found = chosen.of(weight)
    given_back = found.dequantize()
    exact = decode(found.codes(), found.grid)
    assert given_back.dtype == weight.dtype
    assert torch.equal(given_back, exact.to(weight.dtype))
    error = (exact.double() - weight.double()).abs()
    assert (error <= scales(found) * (0.5 + allowance(found))).all()


@given(weights(), options())
def test_codes_stay_in_their_range(weight: Tensor, chosen: Options) -> None:
    found = chosen.of(weight)
    top = 2 * (2 ** (chosen.bits - 1) - 1) if chosen.symmetric else 2**chosen.bits - 1
    assert found.codes().dtype == torch.uint8
    assert found.grid.top == top
    assert int(found.codes().max()) <= top


@given(weights(dtype=torch.float32), options())
def test_what_lies_on_a_grid_stays_where_it_is(weight: Tensor, chosen: Options) -> None:
    found = chosen.of(weight)
    assert torch.equal(encode(found.dequantize(), found.grid), found.codes())


@given(weights(dtype=torch.float32), options(symmetric=True))
def test_symmetric_quantization_twice_is_once(weight: Tensor, chosen: Options) -> None:
    once = chosen.of(weight)
    twice = chosen.of(once.dequantize())
    assert torch.equal(once.codes(), twice.codes())
    # The scale is found again from a rounded product: one unit in its last place.
    torch.testing.assert_close(once.dequantize(), twice.dequantize(), rtol=2**-22, atol=0)


@given(weights(dtype=torch.float32), options(symmetric=False))
def test_affine_quantization_twice_is_once(weight: Tensor, chosen: Options) -> None:
    once = chosen.of(weight)
    # A zero point that is exactly half between two codes can leave the topmost code unused: then
    # the range of the rounded weight is truly a smaller one.
    lowest = (-weight.double().clamp(max=0) / scales(once)).frac()
    assume(((lowest - 0.5).abs() > 1e-4).all())
    twice = chosen.of(once.dequantize())
    assert torch.equal(once.codes(), twice.codes())
    torch.testing.assert_close(once.dequantize(), twice.dequantize(), rtol=2**-22, atol=0)


@given(weights(), options(symmetric=True))
def test_symmetric_quantization_is_odd(weight: Tensor, chosen: Options) -> None:
    assert torch.equal(chosen.of(-weight).dequantize(), -chosen.of(weight).dequantize())


@given(weights(), options())
def test_zero_stays_zero(weight: Tensor, chosen: Options) -> None:
    assert (chosen.of(weight).dequantize()[weight == 0] == 0).all()


@given(weights(), options())
def test_every_weight_stays_finite(weight: Tensor, chosen: Options) -> None:
    found = chosen.of(weight)
    assert found.dequantize().isfinite().all()
    assert found.grid.scale.isfinite().all()
    assert (found.grid.scale > 0).all()


@given(shapes(), options(), st.floats(-(2.0**100), 2.0**100, width=32))
def test_a_constant_matrix_is_kept(
    shape: tuple[int, int], chosen: Options, constant: float
) -> None:
    # The constant is one end of the range, and the ends lie on the grid.
    assume(constant == 0 or abs(constant) > 1e-30)
    weight = torch.full(shape, constant)
    torch.testing.assert_close(chosen.of(weight).dequantize(), weight, rtol=2**-22, atol=0)


@given(weights(), options())
def test_the_weight_is_not_changed(weight: Tensor, chosen: Options) -> None:
    before = weight.clone()
    found = chosen.of(weight)
    packed = found.packed.clone()
    found.with_zeros(weight == 0)
    found.dequantize().fill_(1)
    assert torch.equal(weight, before)
    assert torch.equal(found.packed, packed)


@given(weights(), bits, st.booleans(), st.integers(1, 8))
def test_a_group_is_quantized_as_it_would_be_alone(
    weight: Tensor,
    count: int,
    symmetric: bool,  # noqa: FBT001
    size: int,
) -> None:
    whole = quantize(
        weight, bits=count, granularity="group", group_size=size, symmetric=symmetric
    ).dequantize()
    for row in range(weight.shape[0]):
        for first in range(0, weight.shape[1], size):
            group = weight[row : row + 1, first : first + size]
            alone = quantize(group, bits=count, granularity="tensor", symmetric=symmetric)
            assert torch.equal(whole[row : row + 1, first : first + size], alone.dequantize())


@given(weights(), options())
def test_a_channel_is_a_group_as_long_as_a_row_and_a_row_is_a_tensor(
    weight: Tensor, chosen: Options
) -> None:
    by_channel = chosen._replace(granularity="channel", group_size=None).of(weight)
    by_group = chosen._replace(granularity="group", group_size=weight.shape[1]).of(weight)
    by_row = [
        chosen._replace(granularity="tensor", group_size=None).of(row).dequantize()
        for row in weight.split(1)
    ]
    assert torch.equal(by_channel.dequantize(), by_group.dequantize())
    assert torch.equal(by_channel.dequantize(), torch.cat(by_row))


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize(
    "row", [[0.5, 0.6, 0.7, 0.8], [0.3] * 4, [-0.5, -0.6, -0.7, -0.8]], ids=["rise", "same", "neg"]
)
def test_a_group_of_one_sign_is_not_cut_off(
    row: list[float], granularity: Any, *, symmetric: bool
) -> None:
    # A quantizer whose range leaves zero out returns .3 four times, and 1e-5 for the constant.
    size = 4 if granularity == "group" else None
    found = quantize(
        torch.tensor([row]),
        bits=4,
        granularity=granularity,
        group_size=size,
        symmetric=symmetric,
    )
    step = float(found.grid.scale[0, 0])
    assert step == pytest.approx(max(map(abs, row)) / (7 if symmetric else 15))
    assert (found.dequantize() - torch.tensor([row])).abs().max() <= step / 2 + 1e-7


def rounded_by_hand(block: list[float], count: int, *, symmetric: bool) -> list[float]:
    """The formulas in plain Python, which computes in double precision and rounds half to even."""
    low, high = min(0.0, *block), max(0.0, *block)
    steps = 2 ** (count - 1) - 1 if symmetric else 2**count - 1
    scale = (max(-low, high) if symmetric else high - low) / steps or 1.0
    zero = 0 if symmetric else round(-low / scale)
    bottom, top = (-steps, steps) if symmetric else (0, steps)
    return [scale * (min(max(round(x / scale) + zero, bottom), top) - zero) for x in block]


@given(st.integers(0, 2**16), options())
def test_a_quantizer_written_by_hand_gives_the_same(seed: int, chosen: Options) -> None:
    # Weights without structure: where a quotient is a half, precision decides, and rightly so.
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    found = chosen.of(weight)
    step = {"tensor": 35, "channel": 7}.get(chosen.granularity, chosen.group_size or 1)
    rows = weight.reshape(1, -1) if chosen.granularity == "tensor" else weight
    by_hand = [
        value
        for row in rows.tolist()
        for first in range(0, len(row), step)
        for value in rounded_by_hand(
            row[first : first + step], chosen.bits, symmetric=chosen.symmetric
        )
    ]
    expected = torch.tensor(by_hand, dtype=torch.float64).reshape(5, 7)
    plain = wholly_decided(weight.double() / scales(found))
    torch.testing.assert_close(
        found.dequantize().double()[plain], expected[plain], rtol=1e-5, atol=1e-6
    )


@given(st.integers(0, 2**16), bits)
def test_affine_rows_are_what_torch_fakes_on_the_same_grid(seed: int, count: int) -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))
    found = quantize(weight, bits=count, granularity="channel", symmetric=False)
    assert found.grid.zero_point is not None
    theirs = torch.fake_quantize_per_channel_affine(
        weight,
        found.grid.scale.flatten(),
        found.grid.zero_point.flatten().int(),
        0,
        0,
        2**count - 1,
    )
    plain = wholly_decided(weight.double() / scales(found))
    assert torch.equal(found.dequantize()[plain], theirs[plain])
    assert plain.float().mean() > 0.9


@given(st.integers(0, 2**16), bits, st.booleans())
def test_a_whole_tensor_is_what_torch_fakes_on_the_same_grid(
    seed: int,
    count: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))
    found = quantize(weight, bits=count, granularity="tensor", symmetric=symmetric)
    zero = 0 if found.grid.zero_point is None else int(found.grid.zero_point)
    offset = found.grid.offset
    theirs = torch.fake_quantize_per_tensor_affine(
        weight, float(found.grid.scale), zero, -offset, found.grid.top - offset
    )
    plain = wholly_decided(weight.double() / scales(found))
    assert torch.equal(found.dequantize()[plain], theirs[plain])


@given(st.integers(0, 2**16))
def test_symmetric_int8_rows_have_the_codes_of_bitsandbytes(seed: int) -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))
    found = quantize(weight, bits=8, granularity="channel", symmetric=True)
    theirs, absmax, _ = int8_vectorwise_quant(weight)
    plain = wholly_decided(weight.double() / scales(found))
    ours = found.codes().int() - found.grid.offset
    assert torch.equal(ours[plain], theirs.int()[plain])
    torch.testing.assert_close(found.grid.scale.flatten() * 127, absmax.flatten())


@given(weights(), options())
def test_blocks_hold_the_weight_in_its_order_and_fill_up_with_zeros(
    weight: Tensor, chosen: Options
) -> None:
    parts, block = blocks(weight, chosen.granularity, chosen.group_size)
    rows = 1 if chosen.granularity == "tensor" else weight.shape[0]
    assert parts.shape[0] == rows
    assert parts.shape[2] == block
    width = weight.numel() // rows
    flat = parts.flatten(1)
    assert torch.equal(flat[:, :width].reshape(weight.shape), weight)
    assert (flat[:, width:] == 0).all()
    assert flat.shape[1] - width < block


@given(weights(), options(), st.randoms())
def test_pruned_weights_are_stored_as_the_code_of_zero(
    weight: Tensor, chosen: Options, random: Any
) -> None:
    zero = torch.tensor([random.random() < 0.5 for _ in range(weight.numel())])
    zero = zero.reshape(weight.shape)
    found = chosen.of(weight)
    pruned = found.with_zeros(zero)
    assert pruned is not None
    assert torch.equal(pruned.dequantize(), found.dequantize().where(~zero, 0))
    assert pruned.nbytes == found.nbytes
    assert pruned.grid is found.grid


@given(weights(), options())
def test_bytes_are_those_of_codes_scales_and_zero_points(weight: Tensor, chosen: Options) -> None:
    out, into = weight.shape
    count = {"tensor": 1, "channel": out}.get(
        chosen.granularity, out * math.ceil(into / (chosen.group_size or 1))
    )
    found = chosen.of(weight)
    expected = math.ceil(weight.numel() * chosen.bits / 8) + 4 * count
    assert found.nbytes == expected + (0 if chosen.symmetric else count)
    # and they are real: no view of something larger
    assert found.packed.untyped_storage().nbytes() == math.ceil(weight.numel() * chosen.bits / 8)


def test_nothing_but_packed_codes_and_grid_is_needed_to_get_the_weight_back() -> None:
    weight = torch.linspace(-1, 1, 21).reshape(3, 7)
    found = quantize(weight, bits=3, granularity="group", group_size=4, symmetric=False)
    copy = Quantized(
        packed=found.packed.clone(),
        grid=Grid(
            scale=found.grid.scale.clone(),
            zero_point=None if found.grid.zero_point is None else found.grid.zero_point.clone(),
            bits=3,
            block=4,
        ),
        shape=torch.Size([3, 7]),
        dtype=torch.float32,
    )
    assert torch.equal(copy.dequantize(), found.dequantize())
    assert replace(copy, dtype=torch.bfloat16).dequantize().dtype == torch.bfloat16


@pytest.mark.parametrize("count", [-1, 0, 1, 9])
def test_bits_outside_their_range_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be 2 to 8, got {count}"):
        fit_grid(torch.ones(2, 2), bits=count, granularity="tensor", symmetric=True)


@pytest.mark.parametrize("size", [None, 0, -4])
def test_a_group_needs_a_positive_size(size: int | None) -> None:
    with pytest.raises(ValueError, match="needs a positive group_size"):
        fit_grid(torch.ones(2, 2), bits=4, granularity="group", group_size=size, symmetric=True)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 4), (4, 0)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a weight \[out_features, in_features\]"):
        fit_grid(torch.ones(shape), bits=4, granularity="tensor", symmetric=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_grid(torch.tensor([[1.0, bad]]), bits=4, granularity="tensor", symmetric=True)
