"""The training loop: what is learned, in which order, and that nothing else is touched."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import tiny
import torch
from torch import nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.training.course import Course
from pytest_compression.modifiers.training.fine_tuning import FineTune
from pytest_compression.modifiers.training.loop import inputs_of, learned, orders, training

Loss = Callable[[LanguageModel], float]
SPREAD: dict[str, Any] = {"attention_probs_dropout_prob": 0.3, "hidden_dropout_prob": 0.3}


def state(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.tensors()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("options", [{}, {"steps": 1, "epochs": 1}])
def test_the_length_is_said_once(material: Material, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="exactly one of 'steps' and 'epochs' is needed"):
        Course(material=material, **options)  # type: ignore[arg-type]


def test_options_are_read_and_checked() -> None:
    given: dict[str, Any] = {"material": {"facts": ["capital"]}, "epochs": 3}
    found = msgspec.convert(given, FineTune)
    assert found.material.facts == ("capital",)
    assert found.length(7) == 21
    assert msgspec.convert(given | {"epochs": None, "steps": 5}, FineTune).length(7) == 5
    wrongs: list[dict[str, Any]] = [
        {"epochs": 0},
        {"learning_rate": 0},
        {"material": {"facts": []}},
        {"batch": 0},
    ]
    for wrong in wrongs:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(given | wrong, FineTune)


@pytest.mark.parametrize("architecture", tiny.TYPICAL.values())
def test_the_loss_is_that_of_transformers(architecture: str, material: Material) -> None:
    model = tiny.model(architecture)
    for batch in material.batches(model, size=5):
        output: Any = model.module(**batch)
        logits = model.module(**inputs_of(batch, model.family)).logits
        ours = nn.functional.cross_entropy(*learned(logits, batch, model.family))
        assert float(ours) == pytest.approx(float(output.loss), rel=1e-5)


def test_each_batch_comes_once_before_any_comes_again() -> None:
    found = [place for place, _ in zip(orders(5, seed=1), range(20), strict=False)]
    passes = [found[first : first + 5] for first in range(0, 20, 5)]
    assert all(sorted(each) == list(range(5)) for each in passes)
    assert len({tuple(each) for each in passes}) > 1
    assert found != [place for place, _ in zip(orders(5, seed=2), range(20), strict=False)]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_learns(architecture: str, material: Material, nats: Loss) -> None:
    model = tiny.model(architecture)
    before = nats(model)
    FineTune(material=material, epochs=9, batch=4, learning_rate=0.01).apply(model)
    assert nats(model) < 0.95 * before
    assert model.restore()
    assert nats(model) == before


def test_the_same_seed_learns_the_same_and_nothing_else_is_touched(material: Material) -> None:
    model = tiny.model("bert", **SPREAD)
    torch.manual_seed(7)
    before, memo = torch.get_rng_state(), dict(model.memo)
    found = []
    for seed in (0, 0, 1):
        FineTune(material=material, steps=3, batch=4, learning_rate=0.01, seed=seed).apply(model)
        found.append(state(model))
        assert not model.module.training
        assert not any(part.training for part in model.module.modules())
        assert all(p.grad is None and not p.requires_grad for p in model.module.parameters())
        assert model.restore()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.memo == memo
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_dropout_is_on_while_it_learns() -> None:
    model = tiny.model("bert", **SPREAD)
    with torch.no_grad(), training(model.module, seed=0):
        assert model.module.training
        assert torch.is_grad_enabled()
    assert not model.module.training


def test_it_says_how_far_it_is(material: Material) -> None:
    model = tiny.model("llama")
    told = list[tuple[int, int]]()
    model.progress = lambda done, total: told.append((done, total))
    FineTune(material=material, epochs=2, batch=6).apply(model)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_loss_that_hangs_on_nothing_that_learns_is_refused(material: Material) -> None:
    model = tiny.model("llama")
    module: Any = model.module

    def cut(_: nn.Module, __: object, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.detach()
        return output

    module.model.register_forward_hook(cut)
    with pytest.raises(RecipeError, match="no gradient passes from what the model answers"):
        FineTune(material=material, steps=1).apply(model)


def test_a_loss_that_is_not_finite_is_refused_and_the_model_stays(material: Material) -> None:
    model = tiny.model("llama")
    layer: Any = model.module.get_submodule("model.layers.1.mlp.down_proj")
    layer.weight.data[0, 0] = torch.inf
    before = state(model)
    with pytest.raises(
        RecipeError, match=r"the loss is nan at step 1 of 2: .* Lower learning_rate"
    ):
        FineTune(material=material, steps=2).apply(model)
    assert same(state(model), before)
    assert not model.module.training


def test_it_learns_also_where_gradients_are_off(material: Material, nats: Loss) -> None:
    model = tiny.model("llama")
    before = nats(model)
    with torch.no_grad():
        FineTune(material=material, epochs=4, batch=4, learning_rate=0.01).apply(model)
    assert nats(model) < before
