import math

import pytest
import torch
from bitsandbytes.functional import create_dynamic_map, dequantize_blockwise, quantize_blockwise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.kernels.absmax import BLOCK, DoubleQuantized, dynamic_levels

few = settings(max_examples=30)
LEVELS = dynamic_levels(torch.device("cpu"))


@st.composite
def scales(draw: st.DrawFn) -> Tensor:
    """As absmax are: none is negative, many are equal, some are zero."""
    value = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 2.0**100, width=32))
    few = draw(st.lists(value, min_size=1, max_size=20))
    return torch.tensor(few).repeat(draw(st.integers(1, 30)))


def test_the_levels_are_those_of_bitsandbytes_bit_for_bit() -> None:
    theirs: Tensor = create_dynamic_map()  # type: ignore[no-untyped-call]
    assert torch.equal(LEVELS, theirs)


@given(scales())
def test_no_level_is_nearer_than_the_one_taken(found: Tensor) -> None:
    kept = DoubleQuantized.of(found)
    for block, codes, absmax in zip(
        (found - kept.offset).split(BLOCK), kept.codes.split(BLOCK), kept.absmax, strict=True
    ):
        assert absmax == block.abs().max()
        if absmax > 0:
            away = (block.double().unsqueeze(1) / absmax.double() - LEVELS.double()).abs()
            taken = away.gather(1, codes.long().unsqueeze(1)).squeeze(1)
            assert (taken <= away.amin(1) + 1e-7).all()


@few
@given(scales())
def test_what_comes_back_is_finite_and_off_by_less_than_half_the_widest_gap(found: Tensor) -> None:
    kept = DoubleQuantized.of(found)
    error = (kept.dequantize() - found).abs()
    widest = (LEVELS[1:] - LEVELS[:-1]).max() / 2 + 1e-5
    assert (error <= kept.absmax.repeat_interleave(BLOCK)[: len(found)] * widest + 1e-38).all()


@few
@given(st.floats(0, 2.0**100, width=32), st.integers(1, 600))
def test_equal_scales_are_kept_exactly(value: float, count: int) -> None:
    same = torch.full((count,), value)
    assert torch.equal(DoubleQuantized.of(same).dequantize(), same)


@pytest.mark.parametrize("seed", range(5))
def test_bitsandbytes_comes_to_the_same_but_where_it_takes_a_farther_level(seed: int) -> None:
    found = torch.randn(5000, generator=torch.Generator().manual_seed(seed)).abs()
    kept = DoubleQuantized.of(found)
    codes, state = quantize_blockwise(found - kept.offset, blocksize=BLOCK)
    # Its compiled kernel looks a level up in a table: near a midpoint it may take the other one.
    same = codes == kept.codes
    assert same.float().mean() > 0.99
    theirs = dequantize_blockwise(codes, state) + kept.offset
    assert torch.equal(theirs[same], kept.dequantize()[same])
    assert ((theirs - found).abs() >= (kept.dequantize() - found).abs() - 1e-6).all()


@few
@given(scales())
def test_bytes_are_one_a_scale_four_a_block_and_four(found: Tensor) -> None:
    kept = DoubleQuantized.of(found)
    assert kept.nbytes == len(found) + 4 * math.ceil(len(found) / BLOCK) + 4
    assert kept.codes.untyped_storage().nbytes() == len(found)


@few
@given(scales(), st.data())
def test_scales_that_are_kept_come_back_as_they_did(found: Tensor, data: st.DataObject) -> None:
    kept = DoubleQuantized.of(found)
    expected = kept.dequantize()
    for _ in range(2):
        seed = data.draw(st.integers(0, 2**16))
        stay = torch.rand(len(expected), generator=torch.Generator().manual_seed(seed)) < 0.8
        stay[-1] = True
        kept, expected = kept.kept(stay.nonzero().view(-1)), expected[stay]
        assert torch.equal(kept.dequantize(), expected)
        lengths = 0 if kept.lengths is None else kept.lengths.nbytes
        assert kept.nbytes == len(expected) + 4 * len(kept.absmax) + 4 + lengths
        assert len(kept.absmax) <= math.ceil(len(found) / BLOCK)
