from collections.abc import Iterator
from typing import Any

import bodies
import pytest
import torch
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.activations import contributions_of, influences_of
from pytest_compression.models.anatomy import blocks_of, stacks_of
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.units import Units, heads_of, neurons_of

LENGTHS = (7, 4, 2)
every_layout = pytest.mark.parametrize("kind", ["albert", "bart", "gpt2", "llama", "t5"])


def rows(model: LanguageModel) -> Iterator[dict[str, Tensor]]:
    """Batches of one row each, without padding."""
    for length in LENGTHS:
        ids = torch.arange(5, 5 + length).unsqueeze(0)
        row = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        more = {"labels": ids.flip(1)[:, : length - 1]} if model.family == "seq2seq" else {}
        yield row | more


def padded(model: LanguageModel) -> dict[str, Tensor]:
    """The same rows as one batch; -100 where there is no label."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    found = list(rows(model))
    return {
        name: nn.utils.rnn.pad_sequence(
            [row[name][0] for row in found], batch_first=True, padding_value=fill[name]
        )
        for name in found[0]
    }


def every(model: LanguageModel) -> list[Units]:
    bundles = heads_of(model.module, "head") + neurons_of(model.module)
    return [units for bundle in bundles for units in bundle]


def seen(model: LanguageModel, units: list[Units]) -> dict[str, Tensor]:
    """All that goes into layers when the rows are read one by one: ``[tokens, features]``."""
    found: dict[str, list[Tensor]] = {one.name: [] for one in units}
    for one in units:
        into = found[one.name]
        one.edges[-1].layer.register_forward_pre_hook(
            lambda _, args, into=into: into.append(args[0])
        )
    module: Any = model.module
    for row in rows(model):
        module(**row)
    return {
        name: torch.cat([states.reshape(-1, states.shape[-1]) for states in each])
        for name, each in found.items()
    }


@every_layout
def test_a_unit_s_contribution_is_what_its_columns_make_of_all_tokens(kind: str) -> None:
    model = bodies.model(kind)
    units = every(model)
    told = contributions_of(model, units, [padded(model)])
    states = seen(model, units)
    for one, found in zip(units, told, strict=True):
        columns = one.edges[-1].matrix.unflatten(1, (one.count, -1))
        inputs = states[one.name].unflatten(1, (one.count, -1))
        for unit in range(one.count):
            expected = float((inputs[:, unit] @ columns[:, unit].t()).norm())
            assert float(found[unit]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@every_layout
def test_padding_and_batches_make_no_difference(kind: str) -> None:
    model = bodies.model(kind)
    units = every(model)
    one_by_one = contributions_of(model, units, list(rows(model)))
    for one, other in zip(one_by_one, contributions_of(model, units, [padded(model)]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_influences_are_those_of_the_hidden_states_that_the_model_tells(kind: str) -> None:
    model = bodies.model(kind)
    module: Any = model.module
    blocks = {name: (b, False) for name, b in blocks_of(module, stacks_of(module)[0]).items()}
    found = influences_of(model, blocks, [padded(model)])
    told = [module(**row, output_hidden_states=True).hidden_states for row in rows(model)]
    for place, name in enumerate(list(blocks)[:-1]):  # the last ones are told behind a norm
        turned = [
            1 - torch.cosine_similarity(states[place][0], states[place + 1][0], dim=1)
            for states in told
        ]
        torch.testing.assert_close(found[name], torch.cat(turned).mean(), rtol=1e-6, atol=1e-9)


def test_a_block_that_does_nothing_has_no_influence() -> None:
    model = bodies.model("llama")
    blocks = blocks_of(model.module, stacks_of(model.module)[0])
    name, idle = list(blocks.items())[1]
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        idle.get_submodule(part).weight.data.zero_()  # type: ignore[operator]
    found = influences_of(model, {key: (b, False) for key, b in blocks.items()}, [padded(model)])
    assert float(found.pop(name)) == pytest.approx(0, abs=1e-12)
    assert min(found.values()) > 1e-3


def test_the_answer_s_tokens_are_counted_in_the_decoder() -> None:
    model = bodies.model("t5")
    batch = padded(model)
    longer = batch | {"labels": nn.functional.pad(batch["labels"], (0, 3), value=-100)}
    units = every(model)
    for one, other in zip(
        contributions_of(model, units, [batch]),
        contributions_of(model, units, [longer]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_nobody_watches_afterwards(kind: str) -> None:
    model = bodies.model(kind)
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    contributions_of(model, every(model), list(rows(model)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    beyond = torch.full((1, 2), 10**6)  # no such token
    with pytest.raises(IndexError):
        contributions_of(model, every(model), [padded(model) | {"input_ids": beyond}])
    assert not any(part._forward_hooks for part in model.module.modules())


def test_activations_that_are_not_finite_are_refused() -> None:
    model = bodies.model("llama")
    blocks = blocks_of(model.module, stacks_of(model.module)[0])
    first = next(iter(blocks.values()))
    first.get_submodule("mlp.up_proj").weight.data.fill_(float("inf"))  # type: ignore[operator]
    with pytest.raises(RecipeError, match=r"'model.layers.0.mlp.down_proj' are NaN or infinite"):
        contributions_of(model, every(model), [padded(model)])
    with pytest.raises(RecipeError, match=r"'model.layers.0' are NaN or infinite"):
        influences_of(model, {n: (b, False) for n, b in blocks.items()}, [padded(model)])
