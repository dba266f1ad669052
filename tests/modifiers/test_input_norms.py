from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.saliency import added_squares
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.blocks import calls_of, units_of
from pytest_compression.modifiers.input_norms import at_once, by_blocks, rows_alike
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Wanda

CAPITALS = Material(facts=("capital",), samples=8)
every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))


def halved(weights: Any, squares: dict[str, Tensor]) -> None:
    """Something that depends on all that was seen: the next blocks notice."""
    for weight in weights:
        large = squares[weight.name] > squares[weight.name].median()
        weight.write(weight.values.where(large, weight.values / 2))


def squares_by_hand(model: LanguageModel, batches: Any, weights: Any) -> dict[str, Tensor]:
    """What whole runs of the model give the layers."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, given: Any) -> None:
            found[name] = added_squares(found.get(name), given[0])

        return hook

    hooks = [weight.layer.register_forward_pre_hook(note(weight.name)) for weight in weights]
    for batch in batches:
        model.module(**batch)
    for handle in hooks:
        handle.remove()
    return found


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [(name, "all") for name in sorted(tiny.ARCHITECTURES)]
    + [(name, ("feed-forward", "head")) for name in ("bart", "bert", "gpt2")],
)
def test_block_by_block_is_as_if_the_model_were_run_anew_for_each(
    architecture: str, targets: Any
) -> None:
    model, other = tiny.model(architecture), tiny.model(architecture)
    batches = rows_alike(model, CAPITALS)
    weights, same = model.weights(targets), {w.name: w for w in other.weights(targets)}
    done = []
    for some, squares in by_blocks(model, batches, weights):
        here = [same[weight.name] for weight in some]
        expected = squares_by_hand(other, batches, here)
        assert squares.keys() == expected.keys()
        for name, found in squares.items():
            assert torch.allclose(found, expected[name], rtol=1e-4), name
        halved(some, expected)
        halved(here, expected)
        done += [weight.name for weight in some]
    assert sorted(done) == sorted(weight.name for weight in weights)


@every_architecture
def test_blocks_come_in_the_order_in_which_they_are_called(architecture: str) -> None:
    model = tiny.model(architecture)
    weights = model.weights("all")
    batches = rows_alike(model, CAPITALS)
    units = units_of(model.module, [weight.layer for weight in weights])
    order = list(dict.fromkeys(call.module for call in calls_of(model, batches[0], units)))
    for unit, (some, _) in zip(order, by_blocks(model, batches, weights), strict=True):
        assert {weight.layer for weight in some} <= set(unit.modules())


def test_each_block_is_run_three_times_a_batch_however_deep_the_model_is() -> None:
    runs = []
    for depth in (2, 8):
        model = tiny.model("llama", num_hidden_layers=depth)
        batches = rows_alike(model, CAPITALS)
        count = [0]
        for block in model.module.model.layers:  # type: ignore[union-attr]
            block.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        for _ in by_blocks(model, batches, model.weights("all")):
            pass
        runs.append(count[0] / depth)
        assert runs[-1] <= 3 * len(batches) + 1  # and once to see what there is
    assert runs[0] == runs[1]


def sandwiched() -> LanguageModel:
    """The first block is called again behind the second one, which is given something else."""
    model = tiny.model("llama", num_hidden_layers=3)
    layers: Any = model.module.model.layers  # type: ignore[union-attr]
    layers[1].register_forward_pre_hook(lambda _, given: (given[0] * 1.5, *given[1:]))
    layers[2] = layers[0]
    return model


def test_a_step_that_is_broken_inside_is_seen_in_whole_runs() -> None:
    model, other = sandwiched(), sandwiched()
    batches = rows_alike(model, CAPITALS)
    ((some, squares),) = by_blocks(model, batches, model.weights("all"))
    assert len(some) == len(squares) == 2 * 7
    expected = squares_by_hand(other, batches, other.weights("all"))
    for name, found in squares.items():
        assert torch.allclose(found, expected[name], rtol=1e-4), name


@every_architecture
def test_nothing_is_padded_and_every_row_is_there(architecture: str) -> None:
    model = tiny.model(architecture)
    rows = CAPITALS.batches(model, size=1)
    batches = rows_alike(model, CAPITALS)
    assert all(batch["attention_mask"].all() for batch in batches)
    assert max(len(batch["input_ids"]) for batch in batches) <= 8
    if model.family == "seq2seq":
        assert all((batch["labels"] >= 0).all() for batch in batches)
    found = [row.tolist() for batch in batches for row in batch["input_ids"]]
    assert sorted(found) == sorted(row["input_ids"][0].tolist() for row in rows)


def test_rows_of_one_length_are_run_together() -> None:
    model, material = tiny.model("llama"), Material(facts=("capital",), samples=24)
    lengths = {row["input_ids"].shape[1] for row in material.batches(model, size=1)}
    assert len(lengths) <= len(rows_alike(model, material)) < 24


@pytest.mark.parametrize("steps", [by_blocks, at_once])
def test_a_layer_that_is_given_nothing_is_named(steps: Any) -> None:
    model = tiny.model("llama")
    model.module.spare = nn.Linear(4, 4).requires_grad_(requires_grad=False)
    with pytest.raises(RecipeError, match="'spare' was given no input by the calibration text"):
        list(steps(model, rows_alike(model, CAPITALS), model.weights("all")))


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_inputs_that_are_no_numbers_are_refused(value: float, *, sequential: bool) -> None:
    model = tiny.model("bert")
    model.module.bert.encoder.layer[0].output.LayerNorm.bias[3] = value  # type: ignore[union-attr,index]
    step = Wanda(sparsity=0.5, sequential=sequential, calibration=CAPITALS)
    with pytest.raises(RecipeError, match=r"layer\.1\.attention.* NaN or infinite inputs"):
        model.compress([step])
