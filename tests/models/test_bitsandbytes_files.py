"""NF4 and FP4 as files of bitsandbytes hold them: what it writes itself, read by its functions."""

from typing import Any

import pytest
import strategies
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_compression.kernels.codebooks import BlockCoded, quantize_blocks
from pytest_compression.models.bitsandbytes_files import BLOCKS, FourBits
from pytest_compression.models.coded import Coded

FORMAT = FourBits()
books: Any = st.sampled_from(["nf4", "fp4"])


def coded(stored: BlockCoded, layer: nn.Module | None = None, name: str = "x") -> Coded:
    """A layer with a weight in 4 bits."""
    layer = layer or nn.Linear(stored.shape[1], stored.shape[0], device="meta")
    return Coded(name=name, layer=layer, stored=stored, dense_bytes=4 * stored.shape.numel())


def read_back(stored: BlockCoded) -> Tensor:
    """The weight that bitsandbytes makes of what is written; as one row, as codes come in pairs."""
    tensors = FORMAT.tensors(coded(stored))
    codes = tensors.pop("weight")
    state: Any = QuantState.from_dict(tensors, torch.device("cpu"))
    assert state.shape == stored.shape
    count = stored.shape.numel()
    state.shape = torch.Size([1, count + count % 2])
    return dequantize_4bit(codes, state).reshape(-1)[:count].view(stored.shape)


@given(
    weight=strategies.weights(),
    book=books,
    block=st.sampled_from(BLOCKS),
    times=st.integers(1, 9),
    double=st.booleans(),
)
def test_bitsandbytes_reads_the_same_weight_bit_for_bit(
    weight: Tensor, book: Any, block: int, times: int, *, double: bool
) -> None:
    stored = quantize_blocks(
        weight.repeat(times, times), codebook=book, block=block, double_quant=double
    )
    assert not FORMAT.unfit(nn.Module(), coded(stored))
    assert torch.equal(read_back(stored), stored.dequantize())


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_what_bitsandbytes_writes(
    book: Any, dtype: torch.dtype, *, double: bool
) -> None:
    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours = FORMAT.tensors(
        coded(quantize_blocks(weight, codebook=book, block=64, double_quant=double))
    )
    codes, state = quantize_4bit(weight, quant_type=book, compress_statistics=double)
    theirs = {f"weight.{name}": one for name, one in state.as_dict(packed=True).items()}
    theirs["weight"] = codes
    assert ours.keys() == theirs.keys()
    # With double quantization the mean of the scales differs in its last digit, and all after it.
    after = {"absmax", "nested_absmax", f"quant_state.bitsandbytes__{book}"} if double else set()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].dim()) == (tensor.dtype, tensor.dim())
        assert name.removeprefix("weight.") in after or torch.equal(ours[name], tensor)


def test_what_it_cannot_hold_is_said() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    def stored(block: int, *, double: bool = False) -> BlockCoded:
        return quantize_blocks(weight, codebook="nf4", block=block, double_quant=double)

    plain, places = nn.Module(), torch.tensor([0, 1, 2, 33])
    assert FORMAT.unfit(plain, coded(stored(48))) == "bitsandbytes has no blocks of 48"
    cut = coded(stored(32).kept(1, places))
    assert FORMAT.unfit(plain, cut) == "its blocks were cut to differing lengths"
    table = coded(stored(64), nn.Embedding(8, 64))
    assert FORMAT.unfit(plain, table) == "bitsandbytes packs no embeddings"
    whole: Any = nn.Module()
    whole._keep_in_fp32_modules = ["wo"]  # as in T5
    assert not FORMAT.unfit(whole, coded(stored(64), name="block.0.wi"))
    kept = FORMAT.unfit(whole, coded(stored(64), name="block.0.wo"))
    assert kept == "transformers keeps it in single precision"


def test_scales_of_which_some_were_cut_do_not_fit() -> None:
    weight = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    stored = quantize_blocks(weight, codebook="nf4", block=64, double_quant=True)
    rows = torch.tensor([0, *range(100, 300)])
    cut = stored.kept(0, rows)
    assert torch.equal(cut.dequantize(), stored.dequantize()[rows])
    assert FORMAT.unfit(nn.Module(), coded(cut)) == "its blocks were cut to differing lengths"


def test_the_configuration_says_the_most_frequent_kind() -> None:
    weight = torch.randn(8, 64)
    layers = [
        coded(quantize_blocks(weight, codebook=book, block=64, double_quant=True))
        for book in ("nf4", "fp4", "fp4")
    ]
    said = FORMAT.settings(layers, ["lm_head", "model.layers.1.up"]).to_dict()
    assert said["bnb_4bit_quant_type"] == "fp4"
    assert said["bnb_4bit_use_double_quant"] is True
    assert said["llm_int8_skip_modules"] == ["lm_head$", "model.layers.1.up$"]
