"""A network in training: its copies, its masks, its grids, and what cannot be trained."""

from typing import Any

import pytest
import tiny
import torch
from torch import nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.training.fine_tuning import FineTune
from pytest_compression.modifiers.training.trainee import (
    Trainee,
    learnable,
    taught_layers,
    trainee_of,
)

FAMILIES = sorted({*tiny.TYPICAL.values(), "gpt2", "albert"})


def inputs(model: LanguageModel) -> dict[str, torch.Tensor]:
    ids = torch.arange(10, 22).reshape(2, 6)
    return {"input_ids": ids} | ({"labels": ids} if model.family == "seq2seq" else {})


@torch.no_grad()  # with gradients, attention is computed in another order
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_untrained_it_computes_what_the_network_computes(architecture: str) -> None:
    model = tiny.model(architecture)
    module: Any = model.module
    for embeddings in (False, True):
        trainee = trainee_of(model, embeddings=embeddings)
        assert torch.equal(trainee.logits(inputs(model)), module(**inputs(model)).logits)


@torch.no_grad()
@pytest.mark.parametrize("architecture", FAMILIES)
def test_on_a_grid_it_computes_what_the_quantized_network_computes(architecture: str) -> None:
    model = tiny.model(architecture)
    model.compress([Magnitude(sparsity=0.3), RoundToNearest(bits=3, symmetric=False)])
    module: Any = model.module
    trainee = trainee_of(model, embeddings=False)
    assert len(trainee.roundings) == len(trainee.names)
    assert torch.equal(trainee.logits(inputs(model)), module(**inputs(model)).logits)


def test_the_ends_learn_only_where_that_is_wanted() -> None:
    model = tiny.model("llama")
    whole = set(learnable(model.module))
    ends = {"model.embed_tokens.weight", "lm_head.weight"}
    assert set(trainee_of(model, embeddings=True).copies) == whole
    assert set(trainee_of(model, embeddings=False).copies) == whole - ends
    named = trainee_of(model, embeddings=False, targets=["lm_head"])
    assert set(named.copies) == whole - {"model.embed_tokens.weight"}


def test_a_tied_matrix_is_copied_once() -> None:
    model = tiny.model("gpt2")
    trainee = trainee_of(model, embeddings=True)
    assert trainee.names["lm_head"] == trainee.names["transformer.wte"] == "transformer.wte.weight"
    assert "lm_head.weight" not in trainee.copies


def test_positions_that_are_computed_do_not_learn() -> None:
    module = tiny.network("marian")
    assert not any("embed_positions" in name for name in learnable(module))
    assert any("embed_positions" in name for name, _ in module.named_parameters())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_weights_are_seen_with_outputs_first(architecture: str) -> None:
    model = tiny.model(architecture)
    trainee = trainee_of(model, embeddings=True)
    for weight in model.layers():
        assert torch.equal(trainee.weight(weight.name), weight.values)


def test_masks_hold_weights_and_gradients() -> None:
    model = tiny.model("gpt2")
    model.compress([Magnitude(sparsity=0.5)])
    trainee = trainee_of(model, embeddings=False)
    zero = {name: trainee.weight(name).detach() == 0 for name in trainee.kept}
    assert len(zero) == len(model.weights("all"))
    for copy in trainee.copies.values():
        copy.data += 1
        copy.grad = torch.ones_like(copy)
    trainee.hold()
    trainee.hold_gradients()
    for name, where in zero.items():
        gradient = trainee.copies[trainee.names[name]].grad
        assert gradient is not None
        turned = gradient.t() if trainee.names[name] in trainee.turned else gradient
        assert torch.equal(trainee.weight(name) == 0, where)
        assert torch.equal(turned == 0, where)


def test_another_network_than_the_models_is_written_to() -> None:
    model, student = tiny.model("llama"), tiny.network("llama", seed=1)
    trainee = Trainee(model, student, taught_layers(student, embeddings=False))
    for copy in trainee.copies.values():
        copy.data.zero_()
    trainee.put()
    assert all(not p.any() for name, p in student.named_parameters() if name in trainee.copies)
    assert all(p.any() for p in model.module.parameters())


class Foreign(nn.Module):
    """Another library's layer."""


class Codes:
    """A packed form that nothing here knows."""

    bits, nbytes = 4, 1

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def dequantize(self) -> torch.Tensor:
        return self.values

    def with_zeros(self, _: torch.Tensor) -> None:
        return None


def test_what_passes_no_gradient_is_refused(material: Material) -> None:
    step = FineTune(material=material, steps=1)
    name = "model.layers.0.mlp.up_proj"
    rounds, foreign, coded = (tiny.model("llama") for _ in range(3))
    setattr(rounds.module.get_submodule(name), "activation_bits", 8)  # noqa: B010
    with pytest.raises(RecipeError, match=f"'{name}' rounds its inputs, and no gradient passes"):
        step.apply(rounds)
    (weight,) = foreign.weights((name,))
    foreign.adopt(name, Foreign(), Codes(weight.values.clone()))
    with pytest.raises(RecipeError, match=f"'{name}' is another library's Foreign"):
        step.apply(foreign)
    (weight,) = coded.weights((name,))
    weight.write(weight.values, Codes(weight.values.clone()))
    with pytest.raises(RecipeError, match=f"'{name}' is stored as Codes, whose codes cannot"):
        step.apply(coded)
