from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.snapshot import refill, same, stored_tensors

Change = Callable[[Any], None]
"""Does something to a network."""


class Louder(nn.Linear):
    """A linear layer of another class."""

    def forward(self, *rows: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(*rows)


def first_linear(network: nn.Module) -> Any:
    return next(layer for layer in network.modules() if isinstance(layer, nn.Linear))


def change_class(network: Any) -> None:
    first_linear(network).__class__ = Louder


def hook(network: Any) -> None:
    first_linear(network).register_forward_hook(lambda _m, _i, output: output + 1)


def patch_forward(network: Any) -> None:
    first_linear(network).forward = lambda rows: rows.sum(-1, keepdim=True).expand(rows.shape)


def drop_a_block(network: Any) -> None:
    blocks = next(part for part in network.modules() if isinstance(part, nn.ModuleList))
    del blocks[-1]


def shrink(network: Any) -> None:
    layer = first_linear(network)
    layer.weight.data = layer.weight.data[:, :4].clone()
    layer.in_features = 4


def reconfigure(network: Any) -> None:
    network.config.num_hidden_layers = 7
    network.config.something_new = [1]
    if network.config.architectures is None:
        network.config.architectures = []
    network.config.architectures.append("Another")


def generate_otherwise(network: Any) -> None:
    network.config.eos_token_id = 7
    if getattr(network, "generation_config", None) is not None:
        network.generation_config.eos_token_id = 7


def untie(network: Any) -> None:
    head = network.get_output_embeddings()
    head.weight = nn.Parameter(head.weight + 1)


def turn_buffers(network: Any) -> None:
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.mul_(-1)
    network.register_buffer("smooth", torch.ones(3))


def train(network: Any) -> None:
    network.train().requires_grad_(requires_grad=True)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)


CHANGES: list[Change] = [
    *(change_class, hook, patch_forward, drop_a_block, shrink, reconfigure, untie),
    *(turn_buffers, train, generate_otherwise),
]


def logits(model: LanguageModel) -> torch.Tensor:
    ids = torch.arange(1, 9).unsqueeze(0)
    more = {"decoder_input_ids": ids} if model.family == "seq2seq" else {}
    with torch.inference_mode():
        found: torch.Tensor = model.module(input_ids=ids, **more).logits
    return found


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("architecture", ["llama", "bert", "t5"])
def test_whatever_is_done_to_a_network_is_undone(architecture: str, change: Change) -> None:
    model = tiny.model(architecture)
    network: Any = model.module
    before, settings = logits(model), network.config.to_dict()
    generating = repr(getattr(network, "generation_config", None))
    shown, identity = repr(model.module), model.identity()
    change(model.module)
    assert model.restore()
    assert torch.equal(logits(model), before)
    assert network.config.to_dict() == settings
    assert repr(getattr(network, "generation_config", None)) == generating
    assert repr(model.module) == shown
    assert model.identity() == identity
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())


def test_a_network_is_restored_as_often_as_one_likes() -> None:
    model = tiny.model("t5")
    before = logits(model)
    for _ in range(2):
        for change in CHANGES:
            change(model.module)
        assert model.restore()
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_what_is_stored_is_what_the_state_dict_holds(architecture: str) -> None:
    network = tiny.network(architecture)
    found, wanted = dict(stored_tensors(network)), network.state_dict()
    assert list(found) == list(wanted)
    assert all(found[name].data_ptr() == wanted[name].data_ptr() for name in wanted)


def test_zeros_of_two_signs_are_not_the_same() -> None:
    zero, minus = torch.zeros(2), torch.tensor([0.0, -0.0])
    assert torch.equal(zero, minus)
    assert not same(zero, minus)
    live = {"w": zero.clone()}
    assert refill(live, {"w": minus})
    assert same(live["w"], minus)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_tensors_of_any_dtype_are_refilled(dtype: torch.dtype) -> None:
    dense = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    live = {"w": torch.ones(2, 2, dtype=dtype), "b": torch.ones(5)}
    assert refill(live, {"w": dense, "b": dense})
    assert same(live["w"], dense)
    assert same(live["b"], dense)
