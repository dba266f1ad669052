"""A model as it is now, written down and read again."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from saved import WEIGHTS
from torch import Tensor

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.checkpoint import Checkpoint
from pytest_compression.types import Modifier


def logits(model: LanguageModel) -> Tensor:
    ids = torch.arange(3, 20)[None]
    inputs = {"decoder_input_ids": ids} if model.family == "seq2seq" else {}
    found: Tensor = model.module(input_ids=ids, **inputs).logits
    return found


def checked(model: LanguageModel, steps: list[Modifier], folder: Path) -> dict[str, Tensor]:
    """Compress, save, and read again as a checkpoint: the same weights and logits, bit for bit."""
    footprint = model.compress(steps)
    weights = {weight.name: weight.values.clone() for weight in model.layers()}
    expected, settings = logits(model), model.module.config.to_dict()  # type: ignore[union-attr,operator]
    model.save(folder)
    assert model.module.config.to_dict() == settings  # type: ignore[union-attr,operator]
    assert torch.equal(logits(model), expected)
    assert model.restore()
    again = model.compress([Checkpoint(path=str(folder))])
    found = {weight.name: weight.values for weight in model.layers()}
    assert found.keys() == weights.keys()
    assert not [name for name, values in weights.items() if not torch.equal(found[name], values)]
    assert torch.equal(logits(model), expected)
    assert again.weight_error == footprint.weight_error
    return load_file(folder / WEIGHTS)
