"""What must hold of every backend's layers in a model, whichever library they come from."""

from functools import cache
from typing import Any

import tiny
import torch
from hypothesis import settings
from hypothesis import strategies as st
from strategies import weights
from torch import Tensor, nn

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.backends.foreign import Build, difference
from pytest_compression.types import Footprint, Modifier

fewer = settings(max_examples=settings.default.max_examples // 3)  # type: ignore[union-attr]
"""Where an example takes milliseconds."""
SEVERAL = ("gpt2", *sorted(tiny.TYPICAL.values()))
"""GPT-2's turned layers, and one architecture a family."""


@cache
def loaded(architecture: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model that tests share: each leaves it dense."""
    family = tiny.FAMILIES[architecture]
    module = tiny.network(architecture).to(dtype)
    return LanguageModel(module=module, tokenizer=tiny.tokenizer(family), family=family)


def logits(model: LanguageModel, rows: slice = slice(None)) -> Tensor:
    """What a model says to some of two rows of tokens."""
    ids = torch.arange(5, 25).reshape(2, 10)[rows]
    module: Any = model.module
    more = {"decoder_input_ids": ids[:, :4]} if model.family == "seq2seq" else {}
    with torch.inference_mode():
        found: Tensor = module(input_ids=ids, **more).logits
    return found.float()


def relative(one: Tensor, other: Tensor) -> float:
    """``||one - other|| / ||other||``."""
    return float((one - other).norm() / other.norm())


def check_adopted(model: LanguageModel, step: Modifier) -> tuple[float, float, Footprint]:
    """Compress all linear layers, hold the model against its own weights, and restore it.

    Returns:
        How far its logits are from those of the dense model with the weights that the layers say
        they compute with, how far from the dense model's, and the footprint.
    """
    assert model.restore()
    targets = {weight.name for weight in model.weights("all")}
    dense = logits(model)
    footprint = model.compress([step])
    assert set(model.adopted) == targets
    assert footprint.modules_touched == len(targets)
    said = logits(model)
    stored = {name: model.stored[name] for name in targets}
    unknown = model.identity()
    assert unknown.digest == ""
    assert "model." in unknown.unknown
    for name, one in stored.items():
        layer = model.module.get_submodule(name)
        assert torch.equal(one.dequantize(), one.dequantize())
        assert one.nbytes < model.dense[f"{name}.weight"].nbytes or layer.weight.numel() < 4096  # type: ignore[operator]
    packed = sum(one.nbytes for one in stored.values())
    whole = sum(model.dense[f"{name}.weight"].nbytes for name in targets)
    assert footprint.bytes == footprint.dense_bytes - whole + packed
    values = {name: one.dequantize() for name, one in stored.items()}
    assert model.restore()
    assert torch.equal(logits(model), dense)
    for weight in model.weights("all"):
        weight.write(values[weight.name])
    expected = logits(model)
    assert model.restore()
    return relative(said, expected), relative(said, dense), footprint


def layer_of(weight: Tensor, *, bias: bool = False) -> nn.Linear:
    """An ordinary layer with this weight."""
    out_features, in_features = weight.shape
    made = nn.Linear(in_features, out_features, bias=bias, dtype=weight.dtype)
    made.weight.data = weight.clone()
    if bias:
        made.bias.data = torch.arange(out_features).to(weight.dtype)
    return made.requires_grad_(requires_grad=False).eval()


def built(build: Build, weight: Tensor, *, bias: bool = False) -> tuple[nn.Module, Tensor, str]:
    """A backend's layer, the weight it says it computes with, and what is wrong with it."""
    linear = layer_of(weight, bias=bias)
    layer, stored = build(layer_of(weight, bias=bias))
    return layer, stored.dequantize(), difference(layer.eval(), stored, linear)


def halves() -> st.SearchStrategy[Tensor]:
    """Weights of any kind within the range of float16."""
    fits = weights().map(lambda weight: weight.float().clamp(-60000, 60000).to(weight.dtype))
    return fits.filter(lambda weight: bool(weight.isfinite().all()))
