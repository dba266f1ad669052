"""Bytes of a packed file, as long as its tensors are what was read."""

import pytest
import tiny

from pytest_compression.models.filed import Filed, of_layer
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.structured import Layers

LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture
def model() -> LanguageModel:
    return tiny.model("llama")


def halves(model: LanguageModel) -> dict[str, int]:
    """As a file of half the precision would have it."""
    return {name: tensor.nbytes // 2 for name, tensor in model.tensors()}


def test_an_untouched_network_takes_what_its_file_does(model: LanguageModel) -> None:
    filed = Filed(model, 1000, halves(model))
    assert filed.total == 1000
    assert filed.now(model) is None


def test_only_what_was_changed_is_no_longer_the_file_s(model: LanguageModel) -> None:
    sizes = halves(model)
    filed = Filed(model, 1000, sizes)
    Magnitude(sparsity=0.5, targets=LAYER).apply(model)
    assert filed.now(model) == {n: size for n, size in sizes.items() if n != f"{LAYER}.weight"}


def test_a_layer_that_moves_keeps_its_size(model: LanguageModel) -> None:
    for weight in model.weights("model.layers.0.*"):
        weight.write(weight.values / 100)  # so that the first block goes
    filed = Filed(model, 1000, halves(model) | {f"{LAYER}.weight": 7})
    Layers(count=1, importance="norm").apply(model)
    now = filed.now(model)
    assert now is not None
    assert now.keys() == dict(model.tensors()).keys()
    assert now["model.layers.0.mlp.up_proj.weight"] == 7


def test_tensors_whose_names_the_file_does_not_have_are_not_guessed(model: LanguageModel) -> None:
    filed = Filed(model, 1000, {"blk.0.attn_q.weight": 12})
    Magnitude(sparsity=0.5).apply(model)
    assert filed.now(model) == {}


def test_a_layer_takes_all_that_is_stored_of_it_but_its_bias() -> None:
    sizes = {"a.b.weight_packed": 8, "a.b.weight_scale": 2, "a.b.bias": 4, "a.bc.weight": 16}
    assert of_layer(sizes, "a.b") == 10
