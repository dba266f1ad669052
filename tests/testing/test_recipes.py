"""The contract of a recipe: its effect on the model, and its steps on small ones like it."""

from typing import Any

import broken_steps as broken
import msgspec
import pytest
import tiny

from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.testing import recipes
from pytest_compression.testing.recipes import violation


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "EXAMPLES", 2)


def broken_by(steps: list[Any], model: Any) -> str:
    return violation(steps, model, model.compress(steps))


def test_good_steps_pass_on_models_of_the_same_family() -> None:
    model: Any = Embedded(family="masked").load()
    assert broken_by([broken.Good(sparsity=0.3), RoundToNearest(bits=8)], model) == ""


@pytest.mark.parametrize(
    ("architecture", "tried"),
    [("gpt2", "a gpt2"), ("gpt_neox", "a llama"), ("roberta", "a bert"), ("bart", "a t5")],
)
def test_a_broken_step_is_found_though_it_does_well_on_the_model(
    architecture: str, tried: str
) -> None:
    model = tiny.model(architecture)
    said = broken_by([broken.Threshold()], model)
    assert said.startswith(f"Threshold breaks the contract of a modifier on {tried} of 64 x 128")
    assert "sparsity 0.5 and 1.0000 was measured" in said


def test_a_broken_quantizer_is_found_though_it_does_well_on_the_model() -> None:
    said = broken_by([broken.MinMax(zero_inside=False)], tiny.model("llama"))
    assert said.startswith("MinMax breaks the contract of a modifier on a llama of 64 x 128")
    assert "its range is wrong where all weights have one sign" in said


def test_patterns_of_the_models_own_names_are_tried_on_others() -> None:
    model = tiny.model("llama")
    step = RoundToNearest(bits=4, targets="model.layers.1.mlp.*", ignore=("*.down_proj",))
    assert broken_by([step], model) == ""


def test_what_suits_one_model_alone_is_tried_on_no_other() -> None:
    model = tiny.model("llama")
    assert broken_by([broken.Artifact()], model) == ""
    assert "not today" in broken_by([broken.Elsewhere()], model)


def test_a_recipe_without_effect_is_found() -> None:
    model = tiny.model("llama")
    footprint = model.compress([Magnitude(sparsity=0.5)])
    nothing = msgspec.structs.replace(footprint, modules_touched=0)
    assert violation([], model, nothing).startswith("the recipe took no effect on the model")
    model.weights("all")[0].values[0, 0] = float("nan")
    assert violation([], model, footprint).endswith("q_proj' holds NaN or infinities by now.")
