"""Our masks against llm-compressor's, on the same calibration; run by its tox environment."""

import pytest
import tiny
import torch

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.backends.llm_compressor import LlmCompressor
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Wanda
from pytest_compression.types import Modifier

FACTS = Material(facts=("capital", "currency"), samples=24)
BLOCKS = {
    "bert": "BertLayer",
    "llama": "LlamaDecoderLayer",
    "masked": "BertLayer",
    "causal": "LlamaDecoderLayer",
}
OUTSIDE = ("cls.predictions.transform.dense",)
"""Linear layers of no block."""


def subject(name: str) -> LanguageModel:
    if name in ("causal", "masked"):
        model = Embedded(family=name).load()  # type: ignore[arg-type]
        assert isinstance(model, LanguageModel)
        return model
    return tiny.model(name)


def zeros(model: LanguageModel, step: Modifier) -> dict[str, torch.Tensor]:
    """Where each linear layer in a block is pruned."""
    model.compress([step])
    found = {one.name: one.values == 0 for one in model.linear() if ".layer" in one.name}
    assert model.restore()
    return found


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"pattern": "2:4"}], ids=["half", "2:4"])
@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_wanda_prunes_the_same_weights(name: str, options: dict[str, object]) -> None:
    model = subject(name)
    theirs = {"targets": [BLOCKS[name]], "sparsity": 0.5}
    if "pattern" in options:
        theirs["mask_structure"] = "2:4"
    recipe = {"a_stage": {"a_modifiers": {"WandaPruningModifier": theirs}}}
    wanted = zeros(model, LlmCompressor(recipe=recipe, calibration=FACTS))
    ignore = OUTSIDE if model.family == "masked" else ()
    found = zeros(model, Wanda(calibration=FACTS, ignore=ignore, **options))  # type: ignore[arg-type]
    assert found.keys() == wanted.keys()
    for layer, mask in found.items():
        assert mask.float().mean() == pytest.approx(0.5, abs=0.01)
        assert torch.equal(mask, wanted[layer]), (layer, int((mask != wanted[layer]).sum()))
