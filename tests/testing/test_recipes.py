"""The contract of a recipe: its effect on the model, and its steps on small ones like it."""

from typing import Any

import broken_steps as broken
import msgspec
import pytest
import tiny

from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.structured import Heads, Layers, Neurons
from pytest_compression.testing import recipes
from pytest_compression.testing.recipes import violation
from pytest_compression.testing.sizes import SIZES, sizes_like
from pytest_compression.testing.specimens import Size


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


@pytest.fixture(scope="module")
def decoder() -> Any:
    return Embedded(family="causal").load()


@pytest.mark.parametrize(
    "step",
    [
        Layers(count=2),
        Layers(sparsity=0.75),
        Heads(sparsity=0.5, unit="query"),
        Neurons(sparsity=0.003),
        Magnitude(sparsity=0.7, targets="feed-forward", count_of="all"),
        Magnitude(sparsity=0.08, targets="projection", count_of="model.layers.3.*"),
        Magnitude(pattern="64:128", targets="attention"),
    ],
    ids=str,
)
def test_steps_that_the_model_takes_are_tried_on_models_large_enough(
    step: Any, decoder: Any
) -> None:
    assert decoder.restore()
    assert broken_by([step], decoder) == ""


def test_layers_of_names_that_no_specimen_has_may_be_counted() -> None:
    step = Magnitude(sparsity=0.3, targets="attention", count_of="gpt_neox.layers.1.*")
    assert broken_by([step], tiny.model("gpt_neox")) == ""


def test_a_large_model_is_stood_for_by_small_ones_as_deep_and_as_broad() -> None:
    model: Any = tiny.model("llama", num_hidden_layers=6, intermediate_size=3000)
    model.compress([Layers(count=3), Neurons(sparsity=0.5)])
    deep = Size(inner=12000, heads=2, shared=2, layers=6)
    broad = Size(inner=3000, heads=2, shared=2)
    assert sizes_like(model) == (SIZES[0], deep, broad, *SIZES[1:])
    del model.snapshot.module.config
    assert sizes_like(model) == SIZES


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_the_dimensions_of_every_architecture_are_known(architecture: str) -> None:
    _, deep, broad, *_ = sizes_like(tiny.model(architecture))
    neurons = 64 if architecture == "gpt2" else 32
    assert (broad.hidden, broad.inner, broad.heads) == (64, neurons, 2)
    assert (deep.hidden, deep.inner, deep.layers) == (64, 4 * neurons, 2)


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
