"""Packed weights out of which rows and columns are cut, of every kind that we store."""

from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import Any, NamedTuple

import pytest
import torch
from grid_options import options
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import bits, weights
from torch import Tensor

from pytest_compression.kernels.codebooks import BlockCoded, quantize_blocks
from pytest_compression.kernels.float8 import Float8, quantize_float8
from pytest_compression.kernels.grids import encode, spread
from pytest_compression.kernels.hqq import quantize_hqq
from pytest_compression.kernels.quantization import Quantized, quantize
from pytest_compression.kernels.ragged import LENGTHS, block_of_each, left_of
from pytest_compression.kernels.straight_through import within
from pytest_compression.kernels.ternary import quantize_ternary

Packed = Quantized | BlockCoded | Float8
KINDS = ("grid", "hqq", "ternary", "codebook", "float8")
few = settings(max_examples=30)


books: Any = st.sampled_from(["nf4", "fp4"])
forms: Any = st.sampled_from(["e4m3", "e5m2"])
granularities: Any = st.sampled_from(["tensor", "channel"])


@st.composite
def packed(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> Any:
    """A weight in any form, with any options."""
    kind, weight = draw(st.sampled_from(kinds)), draw(weights())
    size = draw(st.integers(1, 8))
    if kind == "grid":
        return draw(options()).of(weight)
    if kind == "hqq":
        return quantize_hqq(weight, bits=draw(bits), group_size=size)
    if kind == "ternary":
        return quantize_ternary(weight)
    if kind == "codebook":
        double = draw(st.booleans())
        return quantize_blocks(weight, codebook=draw(books), block=size, double_quant=double)
    return quantize_float8(weight, form=draw(forms), granularity=draw(granularities))


class Cut(NamedTuple):
    """Which places of an axis stay."""

    axis: int
    places: Tensor

    def of(self, values: Tensor) -> Tensor:
        return values.index_select(self.axis, self.places)


@st.composite
def cuts(draw: st.DrawFn, shape: torch.Size) -> list[Cut]:
    """One after another, each of which leaves at least one row or column."""
    found, left = [], list(shape)
    for axis in draw(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=4)):
        stay = draw(st.sets(st.integers(0, left[axis] - 1), min_size=1))
        found.append(Cut(axis, torch.tensor(sorted(stay))))
        left[axis] = len(stay)
    return found


def tensors_of(stored: Any) -> list[Tensor]:
    """All that a packed form holds."""
    if isinstance(stored, Tensor):
        return [stored]
    if not is_dataclass(stored):
        return []
    return [one for field in fields(stored) for one in tensors_of(getattr(stored, field.name))]


def lengths_of(stored: Any) -> int:
    """Bytes of what says how long blocks are."""
    parts = [stored, getattr(stored, "grid", None), getattr(stored, "absmax", None)]
    found = [getattr(part, "lengths", None) for part in parts]
    return sum(lengths.nbytes for lengths in found if lengths is not None)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal with the signs of zeros."""
    width = {2: torch.int16, 4: torch.int32}[one.element_size()]
    return one.dtype == other.dtype and torch.equal(one.view(width), other.view(width))


@given(packed(), st.data())
def test_what_stays_is_what_it_was_bit_for_bit(stored: Packed, data: st.DataObject) -> None:
    expected, now = stored.dequantize(), stored
    for cut in data.draw(cuts(expected.shape)):
        expected, now = cut.of(expected), now.kept(cut.axis, cut.places)
        assert same_bits(now.dequantize(), expected.contiguous())
        assert now.bits == stored.bits


@few
@given(packed(), st.data())
def test_bytes_are_those_of_all_that_is_held_and_no_more_than_before(
    stored: Packed, data: st.DataObject
) -> None:
    now = stored
    for cut in data.draw(cuts(stored.dequantize().shape)):
        before, now = now, now.kept(cut.axis, cut.places)
        held = tensors_of(now)
        assert now.nbytes == sum(one.nbytes for one in held)
        assert now.nbytes - lengths_of(now) <= before.nbytes - lengths_of(before)
        # and they are real: no views of what was larger
        assert now.nbytes == sum(one.untyped_storage().nbytes() for one in held)


@few
@given(packed(), st.data())
def test_nothing_is_changed_but_the_copy(stored: Packed, data: st.DataObject) -> None:
    before = [one.clone() for one in tensors_of(stored)]
    (cut, *_) = data.draw(cuts(stored.dequantize().shape))
    stored.kept(cut.axis, cut.places)
    now = tensors_of(stored)
    assert all(
        torch.equal(one.float(), other.float()) for one, other in zip(before, now, strict=True)
    )


@few
@given(packed(("grid", "ternary", "codebook", "float8")), st.data())
def test_zeros_can_be_put_into_what_was_cut(stored: Packed, data: st.DataObject) -> None:
    for cut in data.draw(cuts(stored.dequantize().shape)):
        stored = stored.kept(cut.axis, cut.places)
    values = stored.dequantize()
    drawn = data.draw(st.lists(st.booleans(), min_size=values.numel(), max_size=values.numel()))
    zero = torch.tensor(drawn).view(values.shape)
    pruned = stored.with_zeros(zero)
    assert pruned is not None
    assert torch.equal(pruned.dequantize(), values.where(~zero, 0))
    assert pruned.nbytes == stored.nbytes


@few
@given(packed(("hqq",)), st.data())
def test_a_zero_that_lies_between_two_codes_still_does(
    stored: Quantized, data: st.DataObject
) -> None:
    for cut in data.draw(cuts(stored.shape)):
        stored = stored.kept(cut.axis, cut.places)
    point = stored.grid.zero_point
    assert point is not None
    whole = (point == point.round()) & (point >= 0) & (point <= stored.grid.top)
    pruned = stored.with_zeros(torch.ones(stored.shape, dtype=torch.bool))
    assert (pruned is not None) == bool(whole.all())


@few
@given(packed(("grid", "hqq", "ternary")), st.data())
def test_other_weights_are_rounded_to_the_grid_that_is_left_as_to_the_whole_one(
    stored: Quantized, data: st.DataObject
) -> None:
    whole, cut_grid, shape = stored.grid, stored.grid, list(stored.shape)
    other = 1.7 * stored.dequantize().float() + 0.01
    expected = [encode(other, whole), within(other, whole), spread(whole.scale, whole, other.shape)]
    for cut in data.draw(cuts(stored.shape)):
        cut_grid = cut_grid.kept(cut.axis, cut.places, shape[1])
        shape[cut.axis] = len(cut.places)
        other, expected = cut.of(other), [cut.of(one) for one in expected]
    found = [
        encode(other, cut_grid),
        within(other, cut_grid),
        spread(cut_grid.scale, cut_grid, other.shape),
    ]
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_lengths_are_counted_as_by_hand(lengths: list[int], data: st.DataObject) -> None:
    given = block_of_each(sum(lengths), 0, torch.tensor(lengths), torch.device("cpu"))
    assert given.tolist() == [block for block, length in enumerate(lengths) for _ in range(length)]
    stay = data.draw(st.sets(st.integers(0, len(given) - 1), min_size=1))
    left = left_of(given[sorted(stay)], 9)
    runs = [(block, len(list(run))) for block, run in groupby(given[sorted(stay)].tolist())]
    assert left.blocks.tolist() == [block for block, _ in runs]
    assert left.block == (max(length for _, length in runs) if len(runs) > 1 else 9)
    regular = all(length == left.block for _, length in runs[:-1])
    assert (left.lengths is None) == regular
    if left.lengths is not None:
        assert left.lengths.tolist() == [length for _, length in runs]


@pytest.mark.parametrize(("longest", "dtype"), [(255, 0), (256, 1), (32_767, 1), (32_768, 2)])
def test_lengths_are_kept_in_the_smallest_dtype_that_holds_them(longest: int, dtype: int) -> None:
    given = torch.arange(3).repeat_interleave(torch.tensor([1, longest, 1]))
    lengths = left_of(given, 2 * longest).lengths
    assert lengths is not None
    assert lengths.dtype == LENGTHS[dtype]
    assert lengths.tolist() == [1, longest, 1]


WEIGHT = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("axis", "places", "block", "lengths"),
    [
        (0, [1, 4], 4, None),
        (1, range(4, 12), 4, None),  # whole groups
        (1, range(0, 16, 2), 2, None),  # each is halved
        (1, range(3, 7), 3, [1, 3]),
        (1, range(4, 15), 4, None),  # the last is shorter
        (1, [0, 5, 6, 7, 15], 3, [1, 3, 1]),
        (1, [9, 10], 4, None),  # one is left, and none can be of another length
    ],
)
def test_groups_have_lengths_of_their_own_only_where_they_must(
    axis: int, places: Any, block: int, lengths: list[int] | None
) -> None:
    chosen = torch.tensor(list(places))
    group = quantize(WEIGHT, bits=4, granularity="group", group_size=4, symmetric=False)
    grid = group.kept(axis, chosen).grid
    assert grid.block == block
    assert (None if grid.lengths is None else grid.lengths.tolist()) == lengths


def test_blocks_of_a_flattened_weight_are_whole_again_where_rows_end_with_them() -> None:
    stored = quantize_blocks(WEIGHT, codebook="nf4", block=8)
    assert stored.kept(0, torch.tensor([0, 3, 5])).lengths is None
    halves = stored.kept(1, torch.arange(0, 16, 2))
    assert (halves.block, halves.lengths) == (4, None)
    ragged = stored.kept(1, torch.arange(10))
    assert ragged.lengths is not None
    assert ragged.lengths.tolist() == [8, 2] * 6
    straddling = quantize_blocks(WEIGHT, codebook="nf4", block=24).kept(0, torch.tensor([0, 2]))
    assert (straddling.block, straddling.lengths) == (16, None)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_scales_of_whole_rows_say_nothing_of_columns(granularity: Any) -> None:
    stored = quantize(WEIGHT, bits=4, granularity=granularity, symmetric=True)
    assert stored.kept(1, torch.arange(5)).grid is stored.grid
    by_row = stored.kept(0, torch.tensor([2])).grid
    assert by_row.scale.item() == stored.grid.scale[2 if granularity == "channel" else 0, 0]


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_longer_than_a_slab_are_cut_alike(book: Any, dtype: torch.dtype) -> None:
    weight = torch.randn(300, 700, generator=torch.Generator().manual_seed(1)).to(dtype)
    stored = quantize_blocks(weight, codebook=book, block=64, double_quant=True)
    columns = torch.arange(700)[torch.arange(700) % 5 > 1]
    assert same_bits(stored.kept(1, columns).dequantize(), stored.dequantize()[:, columns])
