from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.kernels.activations import extent, round_inputs
from pytest_compression.models.layers import KINDS, round_inputs_of


def layer_of(kind: type[nn.Module], weight: Tensor) -> nn.Module:
    """A layer of one of the two kinds with a weight ``[out_features, in_features]``."""
    out, into = weight.shape
    layer: Any = nn.Linear(into, out) if kind is nn.Linear else Conv1D(out, into)
    layer.weight.data = weight.clone() if kind is nn.Linear else weight.t().clone()
    layer.bias.data = torch.arange(out, dtype=weight.dtype)
    made: nn.Module = layer.requires_grad_(requires_grad=False).eval()
    return made


every_kind = pytest.mark.parametrize("kind", list(KINDS))
every_range = pytest.mark.parametrize("static", [None, (-0.5, 1.5)], ids=["dynamic", "static"])


@every_kind
@every_range
@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_layer_maps_its_rounded_inputs(
    kind: type[nn.Module], static: tuple[float, float] | None, count: int
) -> None:
    generator = torch.Generator().manual_seed(count)
    layer = layer_of(kind, torch.randn(7, 5, generator=generator))
    inputs = torch.randn(2, 3, 5, generator=generator)
    ends = extent(inputs, "token") if static is None else map(torch.tensor, static)
    expected = layer(round_inputs(inputs, *ends, bits=count, symmetric=False))
    round_inputs_of(layer, bits=count, granularity="token", symmetric=False, static=static)
    assert torch.equal(layer(inputs), expected)


@every_kind
@every_range
def test_weight_and_bias_stay_the_same_parameters(
    kind: type[nn.Module], static: tuple[float, float] | None
) -> None:
    layer = layer_of(kind, torch.eye(3))
    before = dict(layer.named_parameters())
    round_inputs_of(layer, bits=8, granularity="tensor", symmetric=True, static=static)
    after = dict(layer.named_parameters())
    assert after.keys() == before.keys() == {"weight", "bias"}
    assert all(after[name] is before[name] for name in before)
    assert isinstance(layer, kind)
    kept = {} if static is None else {"input_range": list(static)}
    assert {name: held.tolist() for name, held in layer.named_buffers()} == kept
    assert not layer._forward_pre_hooks
    assert not layer.training


def test_a_static_range_is_stored_with_the_weights() -> None:
    layer = layer_of(nn.Linear, torch.eye(3))
    round_inputs_of(layer, bits=8, granularity="tensor", symmetric=True, static=(-1.0, 1.0))
    assert layer.state_dict().keys() == {"weight", "bias", "input_range"}


def test_other_kinds_of_layers_are_not_known() -> None:
    attention = nn.MultiheadAttention(4, 2)  # lends the weight of its output layer, never calls it
    with pytest.raises(KeyError):
        round_inputs_of(attention.out_proj, bits=8, granularity="token", symmetric=True)
