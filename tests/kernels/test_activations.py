import math
from typing import Any

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_quant
from hypothesis import given
from hypothesis import strategies as st
from strategies import bits, dtypes, weights
from torch import Tensor

from pytest_compression.kernels.activations import extent, round_inputs, widened
from pytest_compression.kernels.quantization import quantize

granularities = st.sampled_from(["token", "tensor"])
kinds = st.booleans()
every_kind = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
every_granularity = pytest.mark.parametrize("granularity", ["token", "tensor"])


def dynamic(inputs: Tensor, granularity: Any, count: int, *, symmetric: bool) -> Tensor:
    """Inputs ``[tokens, features]`` rounded within their own range."""
    low, high = extent(inputs, granularity)
    return round_inputs(inputs, low, high, bits=count, symmetric=symmetric)


def steps(inputs: Tensor, granularity: Any, count: int, *, symmetric: bool) -> Tensor:
    """The scale of each input, in double precision, from its definition."""
    flat = inputs.double()
    rows = flat if granularity == "token" else flat.reshape(1, -1)
    low, high = rows.amin(-1).clamp(max=0), rows.amax(-1).clamp(min=0)
    if symmetric:
        scale = torch.maximum(-low, high) / (2 ** (count - 1) - 1)
    else:
        scale = (high - low) / (2**count - 1)
    spread: Tensor = scale.unsqueeze(1).expand(rows.shape).reshape(inputs.shape)
    return spread


def wholly_decided(quotient: Tensor) -> Tensor:
    """Where rounding does not hang on the last digits of the quotient."""
    return ((quotient - quotient.floor()) - 0.5).abs() > 1e-4


@given(weights(dtype=torch.float32), granularities, bits, kinds)
def test_no_input_is_off_by_more_than_half_a_step(
    inputs: Tensor,
    granularity: str,
    count: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    step = steps(inputs, granularity, count, symmetric=symmetric)
    error = (dynamic(inputs, granularity, count, symmetric=symmetric).double() - inputs).abs()
    tiny = torch.finfo(torch.float32).tiny  # the smallest step that there is
    assert (error <= step.clamp(min=tiny) * (0.5 + 4 * 2**count * 2.0**-24)).all()


@given(weights(), granularities, bits, kinds)
def test_finite_stays_finite_zero_stays_zero_and_shape_and_dtype_stay(
    inputs: Tensor,
    granularity: str,
    count: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    before = inputs.clone()
    found = dynamic(inputs, granularity, count, symmetric=symmetric)
    assert (found.shape, found.dtype) == (inputs.shape, inputs.dtype)
    assert found.isfinite().all()
    assert (found[inputs == 0] == 0).all()
    assert torch.equal(inputs, before)


@every_kind
@every_granularity
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_largest_numbers_stay_finite(
    granularity: str, dtype: torch.dtype, *, symmetric: bool
) -> None:
    # Both ends may be rounded outwards by half a step, which float16 has no room for.
    largest = torch.finfo(dtype).max
    for share in (0.0, 0.001, 0.0019, 0.3, 1.0):
        inputs = torch.tensor([[largest, -share * largest, 1.0]], dtype=dtype)
        assert dynamic(inputs, granularity, 8, symmetric=symmetric).isfinite().all()
        assert dynamic(-inputs, granularity, 8, symmetric=symmetric).isfinite().all()


@given(weights(dtype=torch.float32), granularities, bits, kinds)
def test_a_range_has_no_more_values_than_its_bits_can_tell_apart(
    inputs: Tensor,
    granularity: str,
    count: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    found = dynamic(inputs, granularity, count, symmetric=symmetric)
    for row in found if granularity == "token" else [found.flatten()]:
        assert len((row + 0.0).unique()) <= 2**count - int(symmetric)  # zero has one sign


@given(weights(dtype=torch.float32), bits, kinds)
def test_tokens_are_rows_and_all_inputs_are_a_tensor_of_the_weight_kernel(
    inputs: Tensor,
    count: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    for mine, theirs in (("token", "channel"), ("tensor", "tensor")):
        expected = quantize(inputs, bits=count, granularity=theirs, symmetric=symmetric)  # type: ignore[arg-type]  # one of them
        found = dynamic(inputs, mine, count, symmetric=symmetric)
        assert torch.equal(found, expected.dequantize())


@given(weights(), bits, kinds)
def test_a_token_is_rounded_as_it_would_be_alone(
    inputs: Tensor,
    count: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    together = dynamic(inputs, "token", count, symmetric=symmetric)
    alone = [dynamic(token, "token", count, symmetric=symmetric) for token in inputs.split(1)]
    assert torch.equal(together, torch.cat(alone))
    deeper = dynamic(inputs.unsqueeze(0), "token", count, symmetric=symmetric)
    assert torch.equal(deeper[0], together)


def test_with_one_range_for_all_a_token_depends_on_its_neighbours() -> None:
    token, large = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.0, 0.0, 100.0]])
    alone = dynamic(token, "tensor", 8, symmetric=True)
    beside = dynamic(torch.cat((token, large)), "tensor", 8, symmetric=True)[:1]
    assert (alone - token).abs().max() < 0.002
    assert torch.equal(beside, torch.zeros(1, 3))


@given(weights(dtype=torch.float32), weights(dtype=torch.float32), bits, kinds)
def test_a_static_range_cuts_off_what_lies_outside_and_depends_on_nothing_else(
    seen: Tensor,
    inputs: Tensor,
    count: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    low, high = widened(None, seen)
    found = round_inputs(inputs, low, high, bits=count, symmetric=symmetric)
    alone = [
        round_inputs(column, low, high, bits=count, symmetric=symmetric)
        for column in inputs.split(1, 1)
    ]
    assert torch.equal(found, torch.cat(alone, 1))
    step = float(steps(seen, "tensor", count, symmetric=symmetric).flatten()[0])
    if step > torch.finfo(torch.float32).tiny:  # smaller ones there are not
        reach = max(-float(low), float(high))
        bottom, top = (-reach, reach) if symmetric else (float(low), float(high))
        inside = inputs.double().clamp(bottom, top)
        error = (found.double() - inside).abs()
        assert (error <= step * (0.5 + 4 * 2**count * 2.0**-24)).all()


@given(st.lists(weights(), min_size=1, max_size=4), st.randoms())
def test_a_range_holds_zero_and_all_that_was_seen_in_any_order(
    seen: list[Tensor], random: Any
) -> None:
    found: Tensor | None = None
    for inputs in seen:
        found = widened(found, inputs)
    shuffled: Tensor | None = None
    for inputs in random.sample(seen, len(seen)):
        shuffled = widened(shuffled, inputs)
    assert found is not None
    assert shuffled is not None
    assert torch.equal(found, shuffled)
    every = torch.cat([inputs.float().flatten() for inputs in seen])
    assert found.tolist() == [min(0.0, float(every.min())), max(0.0, float(every.max()))]


@every_kind
@every_granularity
@given(dtype=dtypes)
def test_nothing_but_zeros_stays_nothing_but_zeros(
    granularity: str,
    symmetric: bool,  # noqa: FBT001
    dtype: torch.dtype,
) -> None:
    inputs = torch.zeros(3, 5, dtype=dtype)
    assert torch.equal(dynamic(inputs, granularity, 8, symmetric=symmetric), inputs)


@every_kind
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_rounded_away(bad: float, *, symmetric: bool) -> None:
    inputs = torch.tensor([[1.0, bad, 2.0], [1.0, 0.5, 2.0]])
    by_token = dynamic(inputs, "token", 8, symmetric=symmetric)
    assert not by_token[0].isfinite().any()
    assert by_token[1].isfinite().all()
    assert not dynamic(inputs, "tensor", 8, symmetric=symmetric).isfinite().any()
    low, high = torch.tensor(-2.0), torch.tensor(2.0)
    static = round_inputs(inputs, low, high, bits=8, symmetric=symmetric)
    assert static.isfinite().tolist() == inputs.isfinite().tolist()
    assert not widened(widened(None, inputs), torch.ones(1)).isfinite().all()


@given(st.integers(0, 2**16))
def test_int8_tokens_have_the_codes_of_bitsandbytes(seed: int) -> None:
    inputs = torch.randn(6, 16, generator=torch.Generator().manual_seed(seed))
    codes, absmax, _ = int8_vectorwise_quant(inputs)
    theirs = codes.double() * absmax.double().unsqueeze(1) / 127
    found = dynamic(inputs, "token", 8, symmetric=True).double()
    plain = wholly_decided(inputs.double() / steps(inputs, "token", 8, symmetric=True))
    torch.testing.assert_close(found[plain], theirs[plain], rtol=1e-6, atol=1e-7)
    assert plain.float().mean() > 0.9


@every_kind
@given(seed=st.integers(0, 2**16), count=bits)
def test_a_static_range_is_what_torch_fakes_on_the_same_grid(
    symmetric: bool,  # noqa: FBT001
    seed: int,
    count: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    low, high = -1.7, 2.2
    inputs = torch.randn(6, 16, generator=generator)
    top = 2 ** (count - 1) - 1 if symmetric else 2**count - 1
    scale = (high if symmetric else high - low) / top
    zero = 0 if symmetric else round(-low / scale)
    bottom = -top if symmetric else 0
    theirs = torch.fake_quantize_per_tensor_affine(inputs, scale, zero, bottom, top)
    ends = torch.tensor(low), torch.tensor(high)
    found = round_inputs(inputs, *ends, bits=count, symmetric=symmetric)
    plain = wholly_decided(inputs.double() / scale)
    torch.testing.assert_close(found[plain], theirs[plain], rtol=1e-6, atol=0)
    assert plain.float().mean() > 0.9


@given(weights(), granularities, bits, kinds)
def test_with_gradients_values_are_the_same_and_nothing_of_their_own_range_is_cut_off(
    inputs: Tensor,
    granularity: str,
    count: int,
    symmetric: bool,  # noqa: FBT001
) -> None:
    learned = inputs.clone().requires_grad_()
    found = dynamic(learned, granularity, count, symmetric=symmetric)
    assert torch.equal(found, dynamic(inputs, granularity, count, symmetric=symmetric))
    incoming = torch.arange(inputs.numel(), dtype=inputs.dtype).view(inputs.shape) - 1.5
    (gradient,) = torch.autograd.grad(found, learned, incoming)
    assert torch.equal(gradient, incoming)


@every_kind
@pytest.mark.parametrize("count", [2, 5, 8])
def test_gradients_in_a_static_range_are_those_of_torch(count: int, *, symmetric: bool) -> None:
    low, high = -1.7, 2.2
    top = 2 ** (count - 1) - 1 if symmetric else 2**count - 1
    scale = (high if symmetric else high - low) / top
    zero, bottom = (0, -top) if symmetric else (round(-low / scale), 0)
    ours = (
        2 * torch.randn(40, 16, generator=torch.Generator().manual_seed(count))
    ).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    ends = torch.tensor(low), torch.tensor(high)
    round_inputs(ours, *ends, bits=count, symmetric=symmetric).square().sum().backward()
    given = torch.fake_quantize_per_tensor_affine(theirs, scale, zero, bottom, top)
    given.square().sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    plain = wholly_decided(ours.detach().double() / scale)
    torch.testing.assert_close(ours.grad[plain], theirs.grad[plain], rtol=1e-5, atol=0)
    assert 0 < int((ours.grad == 0).sum()) < ours.numel()


def test_zero_lies_in_the_range_of_inputs_of_one_sign() -> None:
    inputs = torch.tensor([[0.5, 0.6, 0.7, 0.8]])
    low, high = extent(inputs, "token")
    assert [float(low), float(high)] == pytest.approx([0, 0.8])
    found = dynamic(inputs, "token", 4, symmetric=False)
    assert (found - inputs).abs().max() <= 0.8 / 15 / 2 + 1e-7


@pytest.mark.parametrize("count", [-1, 0, 1, 9])
def test_bits_outside_their_range_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be 2 to 8, got {count}"):
        dynamic(torch.ones(1, 2), "token", count, symmetric=True)
