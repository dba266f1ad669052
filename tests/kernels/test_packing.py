import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import codes, shapes

from pytest_compression.kernels.packing import pack, unpack

few = settings(max_examples=30)


def bit_by_bit(flat: list[int], count: int) -> list[int]:
    """The same in plain Python: one long number, cut into bytes."""
    stream = sum(code << (count * place) for place, code in enumerate(flat))
    return list(stream.to_bytes(math.ceil(len(flat) * count / 8), "little"))


@given(st.data(), st.integers(1, 8))
def test_unpacking_gives_back_what_was_packed(data: st.DataObject, count: int) -> None:
    flat = data.draw(codes(count))
    packed = pack(flat, count)
    assert packed.dtype == torch.uint8
    assert packed.numel() == math.ceil(flat.numel() * count / 8)
    assert torch.equal(unpack(packed, count, flat.shape), flat)


@given(st.data(), st.integers(1, 8))
def test_the_bytes_are_those_of_one_long_number(data: st.DataObject, count: int) -> None:
    flat = data.draw(codes(count))
    assert pack(flat, count).tolist() == bit_by_bit(flat.tolist(), count)


@few
@given(st.integers(1, 8), shapes())
def test_packing_keeps_any_shape(count: int, shape: tuple[int, int]) -> None:
    matrix = torch.arange(math.prod(shape)).remainder(2**count).to(torch.uint8).reshape(shape)
    assert torch.equal(unpack(pack(matrix, count), count, matrix.shape), matrix)


@few
@given(st.integers(1, 8), shapes())
def test_neither_codes_nor_bytes_are_changed_or_shared(count: int, shape: tuple[int, int]) -> None:
    matrix = torch.arange(math.prod(shape)).remainder(2**count).to(torch.uint8).reshape(shape)
    before, packed = matrix.clone(), pack(matrix, count)
    stream = packed.clone()
    unpack(packed, count, matrix.shape).fill_(0)
    assert torch.equal(packed, stream)
    assert torch.equal(matrix, before)
    packed.fill_(0)
    assert torch.equal(matrix, before)


def test_codes_are_packed_least_significant_bit_first() -> None:
    # 001, 010, 111 from right to left: ..1 11|01 0|001
    packed = pack(torch.tensor([0b001, 0b010, 0b111], dtype=torch.uint8), 3)
    assert packed.tolist() == [0b11_010_001, 0b1]
