from collections.abc import Sequence
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.blocks import (
    Given,
    calls_of,
    chains_of,
    given_to,
    passed,
    run,
    steps_of,
    units_of,
)

CHAINS = {
    "albert": ["embedding_hidden_mapping_in 0 0 | dense"],
    "bart": ["0 1", "0 1"],
    "bert": ["0 1 dense"],
    "distilbert": ["0 1 vocab_transform"],
    "electra": ["embeddings_project 0 1 dense"],
    "gpt2": ["0 1"],
    "gpt_neox": ["0 1"],
    "llama": ["0 1"],
    "marian": ["0 1", "0 1"],
    "opt": ["project_in", "0 1", "project_out"],
    "roberta": ["0 1 dense"],
    "t5": ["0 1", "0 1"],
}
"""The modules that are called, by the last part of their names; ``|`` ends a longer step."""


def batch_of(model: LanguageModel, rows: int = 2) -> dict[str, Any]:
    ids = torch.arange(3, 3 + rows * 6).reshape(rows, 6)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.family == "seq2seq":
        batch["labels"] = ids[:, :4].contiguous()
    return batch if model.family == "masked" else batch | {"use_cache": False}


def layers_of(model: LanguageModel) -> list[nn.Module]:
    return [weight.layer for weight in model.weights("all")]


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_chains_end_where_something_stands_between_blocks(architecture: str) -> None:
    model = tiny.model(architecture)
    names = {part: name.rpartition(".")[2] for name, part in model.module.named_modules()}
    calls = calls_of(model, batch_of(model), units_of(model.module, layers_of(model)))
    found = []
    for chain in chains_of(steps_of(calls)):
        words = [" ".join(names[c.module] for c in step) for step in chain]
        long = [f"{word} |" if " " in word else word for word in words]
        found.append(" ".join(long))
    assert found == CHAINS[architecture]


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_blocks_that_are_called_again_return_what_they_did(architecture: str) -> None:
    model = tiny.model(architecture)
    batch = batch_of(model)
    units = units_of(model.module, layers_of(model))
    returned: list[Tensor] = []
    run(model, batch, units, lambda _, __, output: returned.append(output))
    calls, at = calls_of(model, batch, units), 0
    for chain in chains_of(steps_of(calls)):
        span = range(at, at + sum(map(len, chain)))
        row, states = given_to(model, batch, units, span), [None]
        for step in chain:
            states = passed(step, [row[at - span.start : at - span.start + len(step)]], states)
            at += len(step)
            assert torch.equal(states[0], returned[at - 1])  # type: ignore[arg-type]
    assert at == len(returned)


def test_a_run_ends_with_the_last_call_that_is_wanted_and_leaves_no_hooks() -> None:
    model = tiny.model("llama", num_hidden_layers=4)
    batch = batch_of(model)
    units = units_of(model.module, layers_of(model))
    ran: list[int] = []
    for number, block in enumerate(units):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    found = given_to(model, batch, units, range(1, 3))
    assert ran == [0, 1, 2]
    assert found[0].states is not None
    assert found[1].states is None
    assert all(len(block._forward_hooks) == 1 for block in units)


def test_units_are_the_blocks_of_stacks_with_targets_and_layers_outside_of_all() -> None:
    model = tiny.model("t5")
    weights = model.weights(("decoder.*", "head"))
    units = units_of(model.module, [weight.layer for weight in weights])
    module: Any = model.module
    assert units == [*module.decoder.block, module.lm_head]


class Network(nn.Module):
    """Blocks that are called in any order, each on what the call before it returned."""

    def __init__(self, order: Sequence[int], *, between: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(max(order) + 1))
        self.order, self.between, self.skip = order, between, skip

    def forward(self, states: Tensor) -> Tensor:
        first = None
        for at in self.order:
            states = self.layers[at](hidden_states=states, besides=first if self.skip else None)
            first = states if first is None else first
            states = states * 2 if self.between else states
        return states


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, hidden_states: Tensor, besides: Tensor | None) -> Tensor:
        return self.linear(hidden_states) + (0 if besides is None else besides)  # type: ignore[no-any-return]


def shape(network: Network) -> list[list[list[int]]]:
    """The chains of a network's steps, each call by its block's number."""

    class Model:
        module = network

    units = list(network.layers)
    calls = calls_of(Model(), {"states": torch.ones(1, 3)}, units)  # type: ignore[arg-type]
    chains = chains_of(steps_of(calls))
    return [[[units.index(c.module) for c in step] for step in chain] for chain in chains]


def test_calls_of_the_same_blocks_are_one_step() -> None:
    assert shape(Network([0, 1, 2])) == [[[0], [1], [2]]]
    assert shape(Network([0, 0, 1, 1, 1])) == [[[0, 0], [1, 1, 1]]]
    assert shape(Network([0, 1, 2, 1, 3])) == [[[0], [1, 2, 1], [3]]]
    assert shape(Network([0, 1, 0, 1])) == [[[0, 1, 0, 1]]]


def test_what_stands_between_calls_ends_a_chain() -> None:
    assert shape(Network([0, 1, 2], between=True)) == [[[0]], [[1]], [[2]]]
    assert shape(Network([0, 1, 0, 2], between=True)) == [[[0, 1, 0]], [[2]]]


def test_a_block_that_needs_older_states_of_its_chain_ends_it() -> None:
    assert shape(Network([0, 1, 2], skip=True)) == [[[0]], [[1], [2]]]


def test_hidden_states_are_the_first_argument_or_the_one_of_that_name() -> None:
    one, other = torch.ones(1), torch.zeros(1)
    for given in (Given((one, other), {}), Given((), {"hidden_states": one, "mask": other})):
        assert given.states is one
        assert given.others == [other]
        assert given.on(other).states is other
        assert given.on(other).others == [other]
        assert given.states is one
