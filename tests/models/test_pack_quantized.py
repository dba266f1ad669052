"""What is written for compressed-tensors, read back by its own functions."""

from importlib import import_module
from typing import Any

import strategies
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.kernels.hqq import quantize_hqq
from pytest_compression.kernels.quantization import Quantized, quantize
from pytest_compression.kernels.ternary import quantize_ternary
from pytest_compression.models.pack_quantized import described, tensors_of, unfit, words


def read_back(stored: Quantized) -> Tensor:
    """The weight that compressed-tensors makes of what is written."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    kind = QuantizationArgs(**described(stored))
    scheme = QuantizationScheme(targets=["Linear"], weights=kind)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    found: Tensor = compressor.decompress(tensors_of(stored), scheme)["weight"]
    return found.to(stored.dtype)


@given(
    weight=strategies.weights(),
    bits=strategies.bits,
    granularity=st.sampled_from(["tensor", "channel", "group"]),
    symmetric=st.booleans(),
    data=st.data(),
)
def test_compressed_tensors_reads_the_same_weight_bit_for_bit(
    weight: Tensor, bits: int, granularity: Any, *, symmetric: bool, data: st.DataObject
) -> None:
    divisors = [n for n in range(1, weight.shape[1] + 1) if weight.shape[1] % n == 0]
    size = data.draw(st.sampled_from(divisors)) if granularity == "group" else None
    stored = quantize(
        weight, bits=bits, granularity=granularity, group_size=size, symmetric=symmetric
    )
    if unfit(stored):  # zero points of one word, which its reader cannot take
        assert not symmetric
        assert weight.shape[0] * bits <= 32
        return
    assert torch.equal(read_back(stored), stored.dequantize())


@given(weight=strategies.weights())
def test_ternary_weights_are_read_as_grids_of_two_bits(weight: Tensor) -> None:
    stored = quantize_ternary(weight)
    assert described(stored)["num_bits"] == 2
    assert torch.equal(read_back(stored), stored.dequantize())


@given(codes=strategies.shapes(), bits=strategies.bits, data=st.data())
def test_words_are_packed_as_compressed_tensors_packs_them(
    codes: tuple[int, int], bits: int, data: st.DataObject
) -> None:
    helpers = import_module("compressed_tensors.compressors.pack_quantized.helpers")
    seed = data.draw(st.integers(0, 1000))
    values = torch.randint(0, 2**bits, codes, generator=torch.Generator().manual_seed(seed))
    signed = (values - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(words(values.to(torch.uint8), bits), helpers.pack_to_int32(signed, bits))


def test_only_groups_of_one_length_fit() -> None:
    weight = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))

    def grouped(size: int) -> Quantized:
        return quantize(weight, bits=4, granularity="group", group_size=size, symmetric=True)

    assert unfit(grouped(5)) == "its groups of 5 do not divide rows of 12"
    for size, strategy in ((4, "group"), (12, "channel"), (16, "channel")):
        assert not unfit(grouped(size))
        assert described(grouped(size))["strategy"] == strategy
    cut = grouped(4).kept(1, torch.tensor([0, 1, 4, 5, 6, 7, 8, 9]))
    assert unfit(cut) == "its groups were cut to differing lengths"
    even = grouped(4).kept(1, torch.tensor([0, 1, 4, 5, 8, 9]))
    assert described(even)["group_size"] == 2
    assert torch.equal(read_back(even), even.dequantize())


def test_zero_points_between_two_codes_do_not_fit() -> None:
    stored = quantize_hqq(torch.randn(8, 16), bits=4, group_size=8)
    assert unfit(stored) == "no common format holds zero points that are no whole numbers"
