"""What configurations of compressed-tensors say, and its floats, read by its own functions."""

from typing import Any

import pytest
import strategies
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.kernels.float8 import Float8, quantize_float8
from pytest_compression.models.coded import Coded, coded_layers
from pytest_compression.models.compressed_tensors import CompressedTensors, described
from pytest_compression.modifiers.quantization import Float8 as Float8Step
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.types import Modifier

FORMAT = CompressedTensors()


def coded(stored: Any, layer: nn.Module | None = None) -> Coded:
    """A layer with a weight in 8-bit floats."""
    rows, columns = stored.values.shape
    layer = layer or nn.Linear(columns, rows, device="meta")
    return Coded(name="x", layer=layer, stored=stored, dense_bytes=4 * rows * columns)


@given(weight=strategies.weights(), granularity=st.sampled_from(["tensor", "channel"]))
def test_floats_of_8_bits_are_read_bit_for_bit(weight: Tensor, granularity: Any) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    stored: Float8 = quantize_float8(weight, form="e4m3", granularity=granularity)
    layer = coded(stored)
    assert not FORMAT.unfit(nn.Module(), layer)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**described(layer)))
    assert scheme.weights is not None
    assert scheme.weights.pytorch_dtype() == stored.values.dtype
    reader = BaseCompressor.get_value_from_registry("naive-quantized")
    found = reader.decompress(FORMAT.tensors(layer), scheme)["weight"].to(weight.dtype)
    assert torch.equal(found, stored.dequantize())


def test_what_it_cannot_hold_is_said() -> None:
    def stored(form: Any) -> Float8:
        return quantize_float8(torch.randn(4, 6), form=form, granularity="channel")

    wide = coded(stored("e5m2"))
    assert FORMAT.unfit(nn.Module(), wide) == "the 8-bit floats of compressed-tensors are e4m3"
    turned = coded(stored("e4m3"), Conv1D(4, 6))
    assert FORMAT.unfit(nn.Module(), turned) == "compressed-tensors packs no Conv1D layers"


def said_of(*steps: Modifier) -> dict[str, Any]:
    """The configuration of a llama after some steps."""
    model = tiny.model("llama")
    model.compress(list(steps))
    layers = coded_layers(model)
    names = {layer.name for layer in layers}
    return FORMAT.settings(layers, [one.name for one in model.linear() if one.name not in names])


def test_one_kind_is_for_all_linear_layers_that_are_not_ignored() -> None:
    said = said_of(RoundToNearest(bits=3, targets="all"))
    (group,) = said["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert (group["weights"]["num_bits"], group["weights"]["strategy"]) == (3, "channel")
    assert said["ignore"] == ["lm_head"]
    assert said["format"] == group["format"] == "pack-quantized"


def test_several_kinds_are_groups_of_names() -> None:
    said = said_of(
        Float8Step(targets="*.q_proj"),
        RoundToNearest(bits=8, symmetric=False, targets="*.o_proj"),
        RoundToNearest(bits=4, granularity="group", group_size=8, targets="feed-forward"),
        RoundToNearest(bits=4, granularity="group", group_size=4, targets="*.0.mlp.up_proj"),
    )
    groups = list(said["config_groups"].values())
    assert [len(group["targets"]) for group in groups] == [2, 2, 5, 1]
    assert said["config_groups"]["group_3"]["targets"] == ["model.layers.0.mlp.up_proj"]
    assert [group["format"] for group in groups] == ["naive-quantized", *["pack-quantized"] * 3]
    assert said["format"] == "mixed-precision"
    assert len(said["ignore"]) == 5
    assert said["ignore"][-1] == "lm_head"


def test_embeddings_are_no_linear_layers() -> None:
    said = said_of(RoundToNearest(bits=8, targets=("all", "embeddings")))
    (group,) = said["config_groups"].values()
    assert "model.embed_tokens" in group["targets"]
    assert "Linear" not in group["targets"]


@pytest.mark.parametrize("kind", [RoundToNearest(bits=5), Float8Step(granularity="tensor")])
def test_compressed_tensors_understands_the_configuration(kind: Modifier) -> None:
    from compressed_tensors.quantization import QuantizationConfig

    said = said_of(RoundToNearest(bits=8), kind)
    found = QuantizationConfig.model_validate(said)
    assert found.config_groups.keys() == said["config_groups"].keys()
