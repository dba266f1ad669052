import copy
from collections.abc import Callable
from typing import Any

import bodies
import pytest
import torch
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.anatomy import STACKS, blocks_of, stacks_of
from pytest_compression.models.exporting import check_shapes
from pytest_compression.models.snapshot import settings_of
from pytest_compression.models.surgery import (
    keep_blocks,
    note_blocks,
    note_heads,
    note_neurons,
)
from pytest_compression.models.units import heads_of, neurons_of

KINDS = sorted(STACKS)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_layout = pytest.mark.parametrize("kind", bodies.LAYOUTS)
UNSHARED = sorted(STACKS.keys() - {"albert"})
REMEMBERING = ["bart", "gemma2", "gpt2", "gpt_neox", "gptj", "llama", "marian", "opt", "t5"]
"""Types that keep keys and values for the next token, in some way or other."""
EXPRESSIBLE = {*bodies.LLAMAS, *bodies.T5S, "gemma3_text"}
"""Types whose settings have the size of a head beside their number."""


NUMBERS = (bool, int, float)


def check_described(network: Any) -> None:
    """The configuration gives a network of the same tensors, which knows the same numbers."""
    check_shapes(network, ())
    with torch.device("meta"):
        fresh = type(network)(copy.deepcopy(network.config)).eval()
    others = dict(fresh.named_modules())
    for name, part in network.named_modules():
        for key, value in vars(part).items():
            other = getattr(others[name], key, None)
            if type(value) in NUMBERS and type(other) in NUMBERS:
                assert (name, key, value) == (name, key, other)


def state(network: nn.Module) -> list[Any]:
    """All settings, and the plain attributes of all modules."""
    plain = (bool, int, float, str)
    return [one.to_dict() for one in settings_of(network)] + [
        {key: value for key, value in vars(part).items() if type(value) in plain}
        for part in network.modules()
    ]


@every_layout
def test_of_a_dense_network_nothing_new_is_noted(kind: str) -> None:
    network = bodies.network(kind)
    before = copy.deepcopy(state(network))
    note_heads(network)
    note_neurons(network)
    if kind != "albert":
        note_blocks(network)
    assert state(network) == before


@every_layout
def test_a_dense_network_can_be_made_from_its_configuration(kind: str) -> None:
    check_described(bodies.network(kind))


@every_kind
def test_fewer_neurons_can_be_said_and_fewer_heads_where_the_size_of_a_head_can(kind: str) -> None:
    network: Any = bodies.network(kind)
    for bundle in neurons_of(network):
        bundle[0].cut(torch.arange(5))
    note_neurons(network)
    check_described(network)
    before = network.config.to_dict()
    for units in (units for bundle in heads_of(network, "head") for units in bundle):
        units.cut(torch.tensor([1]))
    note_heads(network)
    if kind in EXPRESSIBLE:
        check_described(network)
    else:
        with pytest.raises(RecipeError, match="cannot describe this model"):
            check_described(network)
        assert network.config.to_dict() == before


@every_layout
def test_what_was_not_noted_is_not_said(kind: str) -> None:
    network = bodies.network(kind)
    for bundle in neurons_of(network):
        bundle[0].cut(torch.arange(5))
    with pytest.raises(RecipeError, match="cannot describe this model"):
        check_described(network)


def passing_on(part: nn.Module) -> None:
    """Make a block hand on the hidden states that it gets."""

    def hook(_: nn.Module, args: Any, named: Any, output: Any) -> Any:
        states = args[0] if args else named["hidden_states"]
        return states if isinstance(output, Tensor) else (states, *output[1:])

    part.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize(("kind", "kept"), [(kind, [0, 2]) for kind in UNSHARED] + [("t5", [1])])
def test_without_blocks_it_says_what_it_says_if_they_do_nothing(kind: str, kept: list[int]) -> None:
    network, other = bodies.network(kind), bodies.network(kind)
    for stack in stacks_of(network):
        names = list(blocks_of(network, stack))
        new = keep_blocks(network, stack, kept)
        assert new == {names[place]: names[number] for number, place in enumerate(kept)}
        assert list(blocks_of(network, stack)) == names[: len(kept)]
        for place, block in enumerate(blocks_of(other, stack).values()):
            if place not in kept:
                passing_on(block)
    torch.testing.assert_close(bodies.logits(network), bodies.logits(other), rtol=1e-9, atol=1e-9)
    check_described(network)


def test_a_first_block_that_is_unlike_all_others_cannot_go_and_be_saved() -> None:
    network = bodies.network("modernbert")
    keep_blocks(network, stacks_of(network)[0], [1, 2])
    with pytest.raises(RecipeError, match=r"'model.layers.0.attn_norm.weight \(\[16\], desc"):
        check_described(network)


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_cache_serves_the_blocks_that_are_left(kind: str) -> None:
    network: Any = bodies.network(kind)
    for stack in stacks_of(network):
        keep_blocks(network, stack, [1, 2])
    ids = torch.arange(5, 15).unsqueeze(0)
    whole, step = told(network, ids)
    first = step(ids[:, :6], None)
    second = step(ids[:, 6:], first.past_key_values)
    found = torch.cat([first.logits, second.logits], dim=1)
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-6)
    cache = second.past_key_values
    assert len(getattr(cache, "self_attention_cache", cache).layers) == 2


def told(network: Any, ids: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    """What a network says to a row at once, and how it is told a part of it."""
    name = "decoder_input_ids" if network.config.is_encoder_decoder else "input_ids"
    more = {"input_ids": ids.flip(1)} if network.config.is_encoder_decoder else {}

    def step(part: Tensor, past: Any) -> Any:
        with torch.inference_mode():
            return network(**{name: part}, **more, past_key_values=past, use_cache=True)

    return step(ids, None).logits, step


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "modernbert", "qwen2", "smollm3"])
def test_settings_by_block_follow_the_blocks(kind: str) -> None:
    network: Any = bodies.network(kind)
    config = network.config
    names = [name for name in ("layer_types", "no_rope_layers") if hasattr(config, name)]
    before = {name: list(getattr(config, name)) for name in names}
    assert names
    keep_blocks(network, stacks_of(network)[0], [0, 2])
    for name in names:
        assert getattr(config, name) == [before[name][0], before[name][2]]


def test_the_bias_that_all_blocks_share_is_handed_on() -> None:
    network: Any = bodies.network("t5")
    bias = network.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    keep_blocks(network, stacks_of(network)[0], [1, 2])
    attention = network.encoder.block[0].layer[0].SelfAttention
    assert attention.relative_attention_bias is bias
    assert attention.has_relative_attention_bias


def test_the_two_stacks_of_a_t5_are_counted_apart() -> None:
    network: Any = bodies.network("t5")
    encoder, decoder = stacks_of(network)
    keep_blocks(network, encoder, [1])
    keep_blocks(network, decoder, [0, 2])
    assert (network.config.num_layers, network.config.num_decoder_layers) == (1, 2)
    assert (network.encoder.config.num_layers, network.decoder.config.num_layers) == (1, 2)
    check_described(network)
