"""Fine-tuning behind torchao's layers; run by its tox environment."""

from typing import Any

import pytest
import tiny
import torch
from adopted import loaded

from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.backends.foreign import plain
from pytest_compression.modifiers.backends.torchao import TorchAO
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.training.fine_tuning import FineTune


@pytest.fixture(scope="module")
def learns(tmp_path_factory: pytest.TempPathFactory) -> FineTune:
    path = tmp_path_factory.mktemp("material") / "text.txt"
    lines = [f"The capital of {country} is {city}." for country, city in tiny.CAPITALS.items()]
    path.write_text("\n".join(lines * 4), encoding="utf-8")
    material = Material(text=str(path), length=24, samples=12)
    return FineTune(material=material, epochs=3, batch=4, learning_rate=0.01)


def held(model: LanguageModel) -> list[torch.Tensor]:
    """The tensors that torchao's are made of."""
    layers = [model.module.get_submodule(name) for name in model.adopted]
    return [part.clone() for layer in layers for p in layer.parameters() for part in plain(p)]


def nats(model: LanguageModel, learns: FineTune) -> float:
    """Of what is learned, by transformers' own loss."""
    batches = learns.material.batches(model)
    module: Any = model.module
    with torch.no_grad():
        return sum(float(module(**batch).loss) for batch in batches) / len(batches)


@pytest.mark.parametrize("scheme", ["int8-weight-only", "float8-weight-only"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "bart"])
def test_gradients_pass_through_weights_that_stay(
    scheme: Any, architecture: str, learns: FineTune
) -> None:
    model, step = loaded(architecture), TorchAO(scheme=scheme)
    assert model.restore()
    footprint = model.compress([step])
    before, lost = held(model), nats(model, learns)
    assert model.restore()
    assert model.compress([step, learns]).bytes == footprint.bytes
    assert all(torch.equal(*pair) for pair in zip(before, held(model), strict=True))
    assert nats(model, learns) < 0.99 * lost
    assert model.restore()


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int4-weight-only"])
def test_where_no_gradient_passes_it_is_refused(scheme: Any, learns: FineTune) -> None:
    model = LanguageModel(
        module=tiny.network("llama", hidden_size=64, intermediate_size=64).bfloat16(),
        tokenizer=tiny.tokenizer("causal"),
        family="causal",
    )
    step = TorchAO(scheme=scheme, group_size=32 if "int4" in scheme else None)
    with pytest.raises(RecipeError, match=r"no gradient passes through 'model\.layers\.0\.self"):
        model.compress([step, learns])
