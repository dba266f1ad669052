from typing import Any

import bodies
import pytest
import torch
from torch import nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.anatomy import STACKS
from pytest_compression.models.snapshot import stored_tensors
from pytest_compression.models.surgery import note_heads, note_neurons
from pytest_compression.models.units import SIZES, Units, heads_of, neurons_of

KINDS = sorted(STACKS)
GROUPED = [*sorted(bodies.LLAMAS), "gemma3_text"]
"""Types whose query heads share keys and values two by two."""
PARTS = [(kind, part) for kind in bodies.LAYOUTS for part in ("head", "neuron")]
PARTS += [("llama", "query")]
OTHERS = [(kind, "both") for kind in KINDS if kind not in bodies.LAYOUTS]


def found(network: nn.Module, part: Any) -> list[list[Units]]:
    if part == "both":
        return found(network, "head") + found(network, "neuron")
    return neurons_of(network) if part == "neuron" else heads_of(network, part)


def without_output(units: Units, kept: list[int]) -> None:
    """Let what is not kept add nothing to the output, by zeros."""
    matrix = units.edges[-1].matrix
    size = matrix.shape[1] // units.count
    for unit in set(range(units.count)) - set(kept):
        matrix[:, unit * size : (unit + 1) * size] = 0


def some(units: Units, place: int) -> list[int]:
    """A half of the units of each group, others at each place."""
    each = units.count // units.groups
    shift = place % (each // 2 + 1)
    chosen = range(shift, shift + each // 2)
    return [group * each + unit for group in range(units.groups) for unit in chosen]


@pytest.mark.parametrize(("kind", "part"), PARTS + OTHERS)
def test_a_cut_network_says_what_one_says_in_which_the_same_units_add_nothing(
    kind: str, part: str
) -> None:
    cut, zeroed = bodies.network(kind), bodies.network(kind)
    dense = bodies.logits(zeroed)
    before = sum(tensor.numel() for _, tensor in stored_tensors(cut))
    gone = 0
    for place, (mine, theirs) in enumerate(zip(found(cut, part), found(zeroed, part), strict=True)):
        for one, other in zip(mine, theirs, strict=True):
            kept = some(one, place)
            gone += (one.count - len(kept)) * one.parameters()
            one.cut(torch.tensor(kept))
            without_output(other, kept)
    note_heads(cut)
    note_neurons(cut)
    torch.testing.assert_close(bodies.logits(cut), bodies.logits(zeroed), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(bodies.logits(cut), dense, rtol=1e-3, atol=1e-3)
    assert sum(tensor.numel() for _, tensor in stored_tensors(cut)) == before - gone


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_units_are_as_many_as_the_network_has(kind: str, part: str) -> None:
    expected = {"head": 2 if kind in GROUPED else bodies.HEADS, "query": bodies.HEADS}
    count = expected.get(part, bodies.NEURONS)
    for bundle in found(bodies.network(kind), part):
        for units in bundle:
            assert units.count == count
            assert units.groups == (2 if part == "query" else 1)


@pytest.mark.parametrize("kind", bodies.LAYOUTS)
def test_the_layers_of_a_cut_network_know_their_sizes_and_own_their_memory(kind: str) -> None:
    network = bodies.network(kind)
    for bundle in found(network, "head") + found(network, "neuron"):
        for units in bundle:
            units.cut(torch.tensor([0]))
            for edge in units.edges:
                sizes = [getattr(edge.layer, name) for name in SIZES[type(edge.layer)]]
                assert sizes == list(edge.matrix.shape)
                for tensor in edge.layer.parameters():
                    assert tensor.is_contiguous()
                    assert tensor.untyped_storage().nbytes() == tensor.nbytes
                    assert not tensor.requires_grad


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_all_blocks_that_share_one_bias_by_head_keep_the_same_heads(kind: str) -> None:
    sizes = [len(bundle) for bundle in found(bodies.network(kind), "head")]
    assert sizes == [bodies.BLOCKS, bodies.BLOCKS] + [1] * bodies.BLOCKS  # cross-attention has none


def test_blocks_with_a_bias_each_may_keep_other_heads() -> None:
    assert [len(bundle) for bundle in found(bodies.network("umt5"), "head")] == [1] * 9


def test_a_model_of_two_stacks_says_whose_tokens_they_are() -> None:
    every = [units for bundle in found(bodies.network("bart"), "neuron") for units in bundle]
    assert [units.decodes for units in every] == [False] * bodies.BLOCKS + [True] * bodies.BLOCKS


def test_query_heads_with_keys_of_their_own_cannot_go_alone() -> None:
    with pytest.raises(RecipeError, match=r"have a key and value head each.*write unit: head"):
        heads_of(bodies.network("bert"), "query")


def test_the_only_key_head_cannot_go() -> None:
    with pytest.raises(RecipeError, match=r"share one key and value head.*write unit: query"):
        heads_of(bodies.causal("Llama", bodies.HIDDEN | {"num_key_value_heads": 1}), "head")


@pytest.mark.parametrize("part", ["head", "neuron"])
def test_a_block_with_a_layer_that_it_should_not_have_is_refused(part: str) -> None:
    network: Any = bodies.network("llama")
    network.model.layers[1].mlp.router = nn.Linear(16, 2)
    with pytest.raises(RecipeError, match=r"'model.layers.1.mlp.router' is a layer that blocks"):
        found(network, part)
