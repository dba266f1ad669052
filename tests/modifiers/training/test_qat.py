"""Quantization-aware training: packed weights in the end, and less lost than by rounding."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import tiny
import torch

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.quantization import Quantized
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.activations import Activations
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.training.qat import Qat

GRIDS: list[dict[str, Any]] = [
    {"bits": 2},
    {"bits": 8, "granularity": "tensor"},
    {"bits": 4, "granularity": "group", "group_size": 8, "symmetric": False},
    {"bits": "ternary"},
]


def quick(material: Material, **options: Any) -> Qat:
    return Qat(material=material, epochs=3, batch=4, learning_rate=0.01, **options)


@pytest.mark.parametrize(
    ("architecture", "grid"), list(zip(("albert", "bert", "gpt2", "t5"), GRIDS, strict=True))
)
def test_every_target_is_stored_packed(
    architecture: str, grid: dict[str, Any], material: Material
) -> None:
    model = tiny.model(architecture)
    footprint = model.compress([quick(material, **grid)])
    for weight in model.weights("all"):
        assert isinstance(weight.stored, Quantized)
        assert weight.stored.bits == (2 if grid["bits"] == "ternary" else grid["bits"])
        assert not torch.equal(weight.values, weight.dense)  # type: ignore[arg-type]
    assert footprint.bytes < 0.8 * footprint.dense_bytes


def test_it_is_stored_as_rounding_would_store_it(material: Material) -> None:
    model, grid = tiny.model("llama"), GRIDS[2]
    rounded = model.compress([RoundToNearest(**grid)])
    assert model.restore()
    trained = model.compress([quick(material, **grid)])
    assert (trained.bytes, trained.bits) == (rounded.bytes, rounded.bits)


def test_ternary_weights_have_three_values(material: Material) -> None:
    model = tiny.model("bert")
    model.compress([quick(material, bits="ternary")])
    for weight in model.weights("all"):
        found = weight.values.unique()
        assert len(found) == 3
        assert found[1] == 0
        assert found[0] == -found[2]


@pytest.mark.parametrize("bits", [2, "ternary"])
def test_it_loses_less_than_rounding(
    bits: Any, material: Material, nats: Callable[[LanguageModel], float]
) -> None:
    model = tiny.model("llama")
    untrained = Qat(material=material, bits=bits, steps=1, learning_rate=1e-9)
    model.compress([untrained])
    rounded = nats(model)
    assert model.restore()
    model.compress([quick(material, bits=bits)])
    assert nats(model) < 0.9 * rounded


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid["bits"]))
def test_a_mask_survives(grid: dict[str, Any], material: Material) -> None:
    model = tiny.model("gpt2")
    pruned = Magnitude(sparsity=0.5)
    model.compress([pruned])
    masks = [weight.values == 0 for weight in model.weights("all")]
    assert model.restore()
    model.compress([pruned, quick(material, **grid)])
    for mask, weight in zip(masks, model.weights("all"), strict=True):
        assert (weight.values[mask] == 0).all()


def test_what_is_ignored_is_trained_and_not_packed(material: Material) -> None:
    model = tiny.model("llama")
    model.compress([quick(material, bits=4, targets="attention", ignore=("*.q_proj",))])
    for weight in model.weights("all"):
        packed = "self_attn" in weight.name and not weight.name.endswith("q_proj")
        assert (weight.stored is not None) == packed
        assert not torch.equal(weight.values, weight.dense)  # type: ignore[arg-type]


def test_a_model_in_half_precision(material: Material) -> None:
    network = tiny.network("llama").to(torch.bfloat16)
    model = LanguageModel(module=network, tokenizer=tiny.tokenizer("causal"), family="causal")
    model.compress([quick(material, bits=4)])
    assert {weight.values.dtype for weight in model.weights("all")} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 4, "granularity": "group"}, "'group_size' is needed for granularity 'group'"),
        ({"bits": 4, "group_size": 8}, "'group_size' is needed for granularity 'group'"),
        ({"bits": "ternary", "granularity": "channel"}, "are decided where bits are 'ternary'"),
        ({"bits": "ternary", "symmetric": False}, "are decided where bits are 'ternary'"),
        ({"bits": 4, "targets": "heads"}, "'heads' is no set of weights"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(
    options: dict[str, Any], message: str, material: Material
) -> None:
    with pytest.raises(ValueError, match=message):
        quick(material, **options)


def test_options_are_read_from_a_suite() -> None:
    given: dict[str, Any] = {"material": {"facts": ["period"]}, "steps": 3}
    assert msgspec.convert(given | {"bits": "ternary"}, Qat).bits == "ternary"
    assert msgspec.convert(given | {"bits": 3}, Qat).bits == 3
    for wrong in (1, 9, "binary"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(given | {"bits": wrong}, Qat)


def test_it_learns_with_rounded_inputs(
    material: Material, nats: Callable[[LanguageModel], float]
) -> None:
    model = tiny.model("bert")
    footprint = model.compress([Activations(), quick(material, bits=4)])
    assert footprint.activation_bits == 8
    assert all(weight.stored is not None for weight in model.weights("all"))
    learned = nats(model)
    assert model.restore()
    model.compress([RoundToNearest(bits=4), Activations()])
    assert learned < nats(model)


def test_fewer_bits_of_an_earlier_step_are_not_undone(material: Material) -> None:
    with pytest.raises(RecipeError, match="stored in 3 bits by now, and 4 would undo that"):
        tiny.model("llama").compress(
            [RoundToNearest(bits=3), Qat(bits=4, steps=1, material=material)]
        )
