"""What is written for compressed-tensors, read back by its own functions."""

from importlib import import_module
from typing import Any

import pytest
import strategies
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.kernels.quantization import Quantized, quantize
from pytest_compression.models.pack_quantized import (
    configuration,
    described,
    packable,
    tensors_of,
    words,
)
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.types import Modifier


def read_back(stored: Quantized, kind: dict[str, Any]) -> Tensor:
    """The weight that compressed-tensors makes of what is written."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**kind))
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    state = {name.removeprefix("x."): one for name, one in tensors_of("x", stored).items()}
    found: Tensor = compressor.decompress(state, scheme)["weight"]
    return found.to(stored.dtype)


def layer_of(weight: Tensor, **options: Any) -> Any:
    """A linear layer with a quantized weight, as a step leaves it."""
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    return type("Layer", (), {"stored": quantize(weight, **options), "layer": layer, "name": "x"})


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
    layer = layer_of(
        weight, bits=bits, granularity=granularity, group_size=size, symmetric=symmetric
    )
    kind = described(layer)
    if kind is None:  # zero points of one word, which its reader cannot take
        assert not symmetric
        assert weight.shape[0] * bits <= 32
        return
    assert torch.equal(read_back(layer.stored, kind), layer.stored.dequantize())


@given(codes=strategies.shapes(), bits=strategies.bits, data=st.data())
def test_words_are_packed_as_compressed_tensors_packs_them(
    codes: tuple[int, int], bits: int, data: st.DataObject
) -> None:
    helpers = import_module("compressed_tensors.compressors.pack_quantized.helpers")
    seed = data.draw(st.integers(0, 1000))
    values = torch.randint(0, 2**bits, codes, generator=torch.Generator().manual_seed(seed))
    signed = (values - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(words(values.to(torch.uint8), bits), helpers.pack_to_int32(signed, bits))


def test_groups_that_do_not_divide_a_row_are_not_described() -> None:
    options = {"bits": 4, "granularity": "group", "symmetric": True}
    weight = torch.randn(4, 10)
    for size, strategy in ((4, None), (5, "group"), (16, "channel")):
        kind = described(layer_of(weight, group_size=size, **options))
        assert (kind and kind["strategy"]) == strategy


INT8, INT4 = RoundToNearest(bits=8), RoundToNearest(bits=4, targets="attention")


@pytest.mark.parametrize(
    ("architecture", "steps", "count"),
    [
        ("llama", [INT8], 14),
        ("llama", [INT4], 8),
        ("llama", [Magnitude(sparsity=0.5), INT8], 14),
        ("llama", [INT8, Magnitude(sparsity=0.5)], 14),
        ("llama", [INT8, INT4], 0),  # two kinds of grids
        ("llama", [RoundToNearest(bits=8, targets=("all", "embeddings"))], 0),
        ("llama", [Magnitude(sparsity=0.5)], 0),
        ("gpt2", [INT8], 0),  # Conv1D
    ],
)
def test_which_models_can_be_packed(architecture: str, steps: list[Modifier], count: int) -> None:
    model = tiny.model(architecture)
    model.compress(steps)
    packed = packable(model)
    assert len(packed) == count
    if packed:
        said = configuration(model, packed)
        assert {*packed, *said["ignore"]} == {weight.name for weight in model.linear()}
        assert not packed.keys() & set(said["ignore"])


def test_nothing_is_packed_where_nothing_could_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_compression.models.pack_quantized.PACKAGE", "no-such-package")
    model = tiny.model("llama")
    model.compress([INT8])
    assert packable(model) == {}
