from typing import Any

import msgspec
import pytest
import tiny
import torch

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.pruning import Magnitude, RandomPruning
from pytest_compression.modifiers.unstructured import read_pattern
from pytest_compression.registry import build
from pytest_compression.types import Part

NAMES = [
    "pytest_compression.modifiers.pruning:Magnitude",
    "pytest_compression.modifiers.pruning:RandomPruning",
    "pytest_compression.modifiers.pruning:Wanda",
]
every_step = pytest.mark.parametrize("use", NAMES, ids=lambda name: name.partition(":")[2])
every_scope = pytest.mark.parametrize("scope", ["global", "layer", "row"])


def zeros_of(model: Any, targets: Any) -> list[int]:
    return [int((weight.values == 0).sum()) for weight in model.weights(targets)]


@every_step
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 0}, "> 0"),
        ({"sparsity": -0.1}, "> 0"),
        ({"sparsity": 1.01}, "<= 1"),
        ({"sparsity": "half"}, "float"),
        ({}, "exactly one of 'sparsity' and 'pattern' is needed"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "exactly one of 'sparsity' and 'pattern'"),
        ({"pattern": "2:4", "count_of": "attention"}, "'count_of' needs 'sparsity'"),
        ({"pattern": "4"}, "'4' is no pattern"),
        ({"pattern": "2:4:8"}, "'2:4:8' is no pattern"),
        ({"pattern": "0:4"}, "at least one must be kept"),
        ({"pattern": "4:4"}, "and one pruned"),
        ({"pattern": "5:4"}, "'5:4' is no pattern"),
        ({"pattern": "1:1"}, "'1:1' is no pattern"),
        ({"pattern": 124}, "str"),  # what YAML makes of 2:4 without quotes
        ({"sparsity": 0.5, "scope": "column"}, "'column'"),
        ({"sparsity": 0.5, "targets": "embedings"}, "Did you mean 'embeddings'?"),
        ({"sparsity": 0.5, "targets": []}, "'targets' is empty"),
        ({"sparsity": 0.5, "ignore": ["attention"]}, "'ignore' takes patterns"),
        ({"sparsity": 0.5, "count_of": "heads"}, "Did you mean 'head'?"),
    ],
)
def test_options_out_of_range_are_refused(use: str, options: dict[str, Any], words: str) -> None:
    given = options | ({"calibration": {"facts": ["capital"]}} if "Wanda" in use else {})
    with pytest.raises(msgspec.ValidationError, match=words.replace("?", r"\?")):
        build("modifiers", Part(use=use, options=given))


def test_a_pattern_says_how_many_are_kept() -> None:
    assert read_pattern("2:4") == (2, 4)
    assert read_pattern("1:16") == (1, 16)


@every_scope
@pytest.mark.parametrize("step", [Magnitude, RandomPruning])
@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5"])
def test_unequal_sets_can_lose_equally_many(architecture: str, step: Any, scope: Any) -> None:
    model = tiny.model(architecture)
    sizes = [weight.values.numel() for weight in model.weights("attention")]
    model.compress([step(sparsity=0.37, scope=scope, targets="attention")])
    in_attention = sum(zeros_of(model, "attention"))
    assert model.restore()
    options: dict[str, Any] = {"targets": "feed-forward", "count_of": "attention"}
    model.compress([step(sparsity=0.37, scope=scope, **options)])
    assert sum(zeros_of(model, "attention")) == 0
    assert sum(zeros_of(model, "feed-forward")) == round(0.37 * sum(sizes))
    # A share of each layer or row is rounded by itself, a count for all is kept exactly.
    assert in_attention == pytest.approx(round(0.37 * sum(sizes)), abs=0.5 * sum(sizes) / 8)


def test_a_count_is_shared_out_in_proportion() -> None:
    model = tiny.model("gpt2")
    step = Magnitude(sparsity=0.1, scope="row", targets="feed-forward", count_of="attention")
    model.compress([step])
    for weight in model.weights("feed-forward"):
        by_row = (weight.values == 0).sum(1)
        assert by_row.max() - by_row.min() <= 1
    shares = [
        zeros / weight.values.numel()
        for zeros, weight in zip(
            zeros_of(model, "feed-forward"), model.weights("feed-forward"), strict=True
        )
    ]
    assert max(shares) - min(shares) < 1e-3


def test_what_is_only_counted_stays_tied() -> None:
    model = tiny.model("gpt2")
    head = model.module.get_output_embeddings().weight.numel()  # type: ignore[operator]
    Magnitude(sparsity=0.1, count_of="head").apply(model)
    assert model.owners() == model.ties
    assert sum(zeros_of(model, "all")) == round(0.1 * head)


@every_scope
def test_more_than_there_is_cannot_be_pruned(scope: Any) -> None:
    model = tiny.model("llama")
    step = Magnitude(sparsity=0.9, scope=scope, targets="attention", count_of="feed-forward")
    with pytest.raises(
        RecipeError,
        match=r"sparsity 0\.9 of 'feed-forward' \(3072 weights\) are 2765 weights, but 'attention' "
        "has only 1536: lower 'sparsity'",
    ):
        model.compress([step])


def test_a_count_of_what_the_model_does_not_have_is_refused() -> None:
    step = Magnitude(sparsity=0.1, count_of="no.such.*")
    with pytest.raises(RecipeError, match=r"no layer of this model is 'no\.such\.\*'"):
        step.apply(tiny.model("llama"))


def test_a_pattern_that_does_not_fit_a_layer_is_refused_and_nothing_is_changed() -> None:
    model = tiny.model("llama", intermediate_size=30)
    with pytest.raises(
        RecipeError, match=r"'model\.layers\.0\.mlp\.down_proj' has 30 inputs, .* no multiple of 4"
    ):
        Magnitude(pattern="2:4").apply(model)
    assert not any(zeros_of(model, "all"))
    model.compress([Magnitude(pattern="2:4", ignore=("*.down_proj",))])


@pytest.mark.parametrize("step", [Magnitude(sparsity=0.5), Magnitude(pattern="2:4")])
def test_weights_without_an_order_are_refused(step: Magnitude) -> None:
    model = tiny.model("bert")
    broken = model.weights("all")[3]
    broken.values[0, 0] = torch.nan
    with pytest.raises(RecipeError, match=f"'{broken.name}' holds NaN"):
        model.compress([step])
