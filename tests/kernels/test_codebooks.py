import math
from statistics import NormalDist
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import weights
from torch import Tensor

from pytest_compression.kernels import codebooks
from pytest_compression.kernels.codebooks import LEVELS, BlockCoded, midpoints_of, quantize_blocks

books: Any = st.sampled_from(["nf4", "fp4"])
every_book = pytest.mark.parametrize("book", ["nf4", "fp4"])
sizes = st.integers(1, 20)
few = settings(max_examples=30)


def their_codes(packed: Tensor, shape: torch.Size) -> Tensor:
    """Codes out of the bytes of bitsandbytes, which begin with the higher half."""
    flat = packed.view(-1)
    return torch.stack([flat >> 4, flat & 15], 1).view(-1)[: shape.numel()].view(shape)


def absmax_of_each(weight: Tensor, block: int) -> Tensor:
    """The absmax of its block, for each weight, in double precision."""
    parts = weight.double().flatten().split(block)
    return torch.cat([part.abs().max().expand(len(part)) for part in parts]).view(weight.shape)


@given(weights(), books, st.sampled_from([32, 64]), st.integers(1, 5), st.integers(1, 5))
def test_codes_and_scales_are_those_of_bitsandbytes(
    weight: Tensor, book: Any, block: int, down: int, across: int
) -> None:
    weight = weight.repeat(down, across)
    found = quantize_blocks(weight, codebook=book, block=block)
    packed, state = quantize_4bit(weight, blocksize=block, quant_type=book)
    assert torch.equal(found.codes(), their_codes(packed, weight.shape))
    # They keep no scale of a shorter last block below 1e-38, where we keep what it is.
    theirs: Any = state.absmax
    torch.testing.assert_close(found.absmax, theirs, rtol=0, atol=1e-38)


@every_book
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("block", [32, 64, 128])
def test_weights_come_back_as_from_bitsandbytes_bit_for_bit(
    book: Any, dtype: torch.dtype, block: int
) -> None:
    weight = torch.randn(96, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed, state = quantize_4bit(weight, blocksize=block, quant_type=book)
    found = quantize_blocks(weight, codebook=book, block=block)
    assert torch.equal(found.codes(), their_codes(packed, weight.shape))
    assert torch.equal(found.dequantize(), dequantize_4bit(packed, state))


@every_book
def test_with_double_quantization_as_from_bitsandbytes_but_for_a_few_blocks(book: Any) -> None:
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight, blocksize=64, quant_type=book, compress_statistics=True)
    found = quantize_blocks(weight, codebook=book, block=64, double_quant=True)
    assert torch.equal(found.codes(), their_codes(packed, weight.shape))
    ours, theirs = found.dequantize(), dequantize_4bit(packed, state)
    close = torch.isclose(ours, theirs, rtol=1e-6, atol=0).view(-1, 64).all(1)
    assert close.float().mean() > 0.99  # see test_absmax for the others
    assert found.nbytes == weight.numel() // 2 + 2048 + 4 * 8 + 4


@every_book
def test_levels_are_those_of_bitsandbytes(book: Any) -> None:
    theirs: Tensor = get_4bit_type(book, device="cpu")  # type: ignore[no-untyped-call]
    assert torch.equal(torch.tensor(LEVELS[book]), theirs)


def test_nf4_has_quantiles_of_a_normal_distribution() -> None:
    ppf, most = NormalDist().inv_cdf, 0.9677083
    above = [ppf(most + (0.5 - most) * step / 8) for step in range(8)]
    below = [-ppf(most + (0.5 - most) * step / 7) for step in range(7)]
    expected = sorted([*above, *below, 0.0])
    assert LEVELS["nf4"] == pytest.approx([level / max(expected) for level in expected], abs=2e-7)


@given(weights(dtype=torch.float32), books, sizes)
def test_no_level_is_nearer_than_the_one_taken(weight: Tensor, book: Any, block: int) -> None:
    found = quantize_blocks(weight, codebook=book, block=block)
    absmax = absmax_of_each(weight, block)
    scaled = (weight.double() / absmax.clamp(min=1e-38)).unsqueeze(-1)
    away = (scaled - torch.tensor(LEVELS[book], dtype=torch.float64)).abs()
    taken = away.gather(2, found.codes().long().unsqueeze(-1)).squeeze(-1)
    assert (taken <= away.amin(2) + 1e-6).all()


@every_book
def test_halfway_between_two_levels_the_lower_is_taken(book: Any) -> None:
    rising = sorted(LEVELS[book])
    midpoints = torch.tensor([[*midpoints_of(book), 1.0]])
    found = quantize_blocks(midpoints, codebook=book, block=16).dequantize()
    assert found[0, :-1].tolist() == torch.tensor(rising[:-1]).tolist()


def test_known_values() -> None:
    weight = torch.tensor([[-1, -0.85, -0.05, 0, 0.04, 0.9, 1]])
    found = quantize_blocks(weight, codebook="nf4", block=64).dequantize()
    expected = [-1, -1, -0.09105003625154495, 0, 0.07958029955625534, 1, 1]
    assert found[0].tolist() == torch.tensor(expected).tolist()


@given(weights(), books, sizes, st.booleans())
def test_zero_stays_zero_and_a_weight_takes_half_a_byte(
    weight: Tensor,
    book: Any,
    block: int,
    double: bool,  # noqa: FBT001
) -> None:
    found = quantize_blocks(weight, codebook=book, block=block, double_quant=double)
    given_back = found.dequantize()
    assert (given_back.dtype, given_back.shape) == (weight.dtype, weight.shape)
    assert given_back.isfinite().all()
    assert (given_back[weight == 0] == 0).all()
    blocks = math.ceil(weight.numel() / block)
    scales = blocks + 4 * math.ceil(blocks / 256) + 4 if double else 4 * blocks
    assert found.bits == 4
    assert found.nbytes == math.ceil(weight.numel() / 2) + scales
    assert found.packed.untyped_storage().nbytes() == math.ceil(weight.numel() / 2)


@given(weights(dtype=torch.float32), books, sizes)
def test_twice_is_once_and_the_largest_weight_of_a_block_is_kept(
    weight: Tensor, book: Any, block: int
) -> None:
    assume(((weight == 0) | (weight.abs() > 1e-30)).all())  # so small a scale is not divided by
    once = quantize_blocks(weight, codebook=book, block=block).dequantize()
    assert torch.equal(quantize_blocks(once, codebook=book, block=block).dequantize(), once)
    largest = weight.double().abs() == absmax_of_each(weight, block)
    assert torch.equal(once[largest], weight[largest])


@few
@given(weights(), books, sizes, st.sampled_from([1, 10, 2**17]))
def test_a_block_is_quantized_as_it_would_be_alone(
    weight: Tensor, book: Any, block: int, slab: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codebooks, "SLAB", slab)
        whole = quantize_blocks(weight, codebook=book, block=block).dequantize()
    alone = [
        quantize_blocks(part.view(1, -1), codebook=book, block=block).dequantize().view(-1)
        for part in weight.flatten().split(block)
    ]
    assert torch.equal(whole.flatten(), torch.cat(alone))


@few
@given(weights(), books, sizes, st.booleans(), st.randoms())
def test_pruned_weights_are_stored_as_the_code_of_zero(
    weight: Tensor,
    book: Any,
    block: int,
    double: bool,  # noqa: FBT001
    random: Any,
) -> None:
    zero = torch.tensor([random.random() < 0.5 for _ in range(weight.numel())])
    zero = zero.reshape(weight.shape)
    found = quantize_blocks(weight, codebook=book, block=block, double_quant=double)
    before = found.packed.clone()
    pruned = found.with_zeros(zero)
    assert torch.equal(pruned.dequantize(), found.dequantize().where(~zero, 0))
    assert pruned.nbytes == found.nbytes
    assert torch.equal(found.packed, before)


def test_nothing_but_what_is_counted_is_needed_to_get_the_weight_back() -> None:
    weight = torch.linspace(-1, 1, 21).reshape(3, 7)
    found = quantize_blocks(weight, codebook="nf4", block=8)
    assert isinstance(found.absmax, Tensor)
    copy = BlockCoded(
        packed=found.packed.clone(),
        absmax=found.absmax.clone(),
        codebook="nf4",
        block=8,
        shape=torch.Size([3, 7]),
        dtype=torch.float32,
    )
    assert torch.equal(copy.dequantize(), found.dequantize())


@every_book
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(book: Any, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_blocks(torch.tensor([[1.0, bad]]), codebook=book, block=64)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 4), (4, 0)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a weight \[out_features, in_features\]"):
        quantize_blocks(torch.ones(shape), codebook="nf4", block=64)
