"""Heads and neurons that are cut out of a model that an earlier step quantized."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bodies
import pytest
import tiny
import torch
from torch import Tensor

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.models.units import SIZES, heads_of, neurons_of
from pytest_compression.modifiers.activations import Activations
from pytest_compression.modifiers.backends.torch_dynamic import TorchDynamic
from pytest_compression.modifiers.checkpoint import Checkpoint
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import (
    Float8,
    Fp4,
    Hqq,
    Nf4,
    RoundToNearest,
    Ternary,
)
from pytest_compression.modifiers.structured import Heads, Layers, Neurons
from pytest_compression.modifiers.training.fine_tuning import FineTune
from pytest_compression.types import Modifier

MATERIAL = Material(facts=("capital",), samples=24)
QUANTIZERS: dict[str, Modifier] = {
    "tensor": RoundToNearest(bits=4, granularity="tensor", symmetric=False),
    "channel": RoundToNearest(bits=3),
    "group": RoundToNearest(bits=4, granularity="group", group_size=5, symmetric=False),
    "nf4": Nf4(block_size=12),
    "fp4": Fp4(block_size=7, double_quant=True),
    "float8": Float8(),
    "ternary": Ternary(),
    "hqq": Hqq(bits=3, group_size=5),
}
HEADS, NEURONS = Heads(sparsity=0.5), Neurons(sparsity=0.3)
BY_ACTIVATIONS: list[Modifier] = [
    Heads(sparsity=0.5, importance="activations", calibration=MATERIAL),
    Neurons(sparsity=0.3, importance="activations", calibration=MATERIAL),
]
CUTS: dict[str, list[Modifier]] = {
    "units": [HEADS, NEURONS],
    "query-heads": [Heads(sparsity=0.5, unit="query")],
}
CASES = [("gpt2", quantizer, "units") for quantizer in QUANTIZERS]
CASES += [(kind, "fp4", "units") for kind in bodies.LAYOUTS if kind not in ("gpt2", "umt5")]
CASES += [("llama", "hqq", "query-heads")]
turned_and_not = pytest.mark.parametrize("kind", ["gpt2", "llama"])


def body(kind: str) -> LanguageModel:
    """In single precision, in which it is quantized."""
    family = bodies.FAMILIES[kind]
    network = bodies.network(kind).float()
    return LanguageModel(module=network, tokenizer=tiny.tokenizer(family), family=family)


@pytest.fixture(scope="module")
def causal() -> LanguageModel:
    found = Embedded(family="causal").load()
    assert isinstance(found, LanguageModel)
    return found


def plain(model: LanguageModel) -> LanguageModel:
    """A model of the same weights that knows nothing of codes."""
    return LanguageModel(
        module=copy.deepcopy(model.module), tokenizer=model.tokenizer, family=model.family
    )


def state(model: LanguageModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.tensors()}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(("kind", "quantizer", "cut"), CASES)
def test_what_is_cut_out_of_codes_is_what_is_cut_out_of_their_values(
    kind: str, quantizer: str, cut: str
) -> None:
    model, step = body(kind), QUANTIZERS[quantizer]
    before = state(model)
    quantized = model.compress([step])
    bits = {one.stored.bits for one in model.weights("all") if one.stored}
    other = plain(model)
    whole = other.compress(CUTS[cut])
    footprint = model.compress(CUTS[cut])
    assert equal(state(model), state(other))
    assert torch.equal(bodies.logits(model.module), bodies.logits(other.module))
    weights = model.weights("all")
    packed = {one.name: one.stored for one in weights if one.stored is not None}
    assert len(packed) == len(weights)
    assert {stored.bits for stored in packed.values()} == bits
    stored_bytes = sum(stored.nbytes for stored in packed.values())
    saved = sum(one.values.nbytes for one in weights) - stored_bytes
    assert footprint.bytes == whole.bytes - saved < quantized.bytes
    assert footprint.parameters == whole.parameters < quantized.parameters
    count = sum(one.values.numel() for one in weights)
    assert footprint.bits == pytest.approx(8 * stored_bytes / count)
    assert footprint.reshaped == whole.reshaped > 0
    assert model.restore()
    assert equal(state(model), before)


@pytest.mark.parametrize("family", ["causal", "masked", "seq2seq"])
def test_what_activations_say_of_codes_they_say_of_their_values(family: Any) -> None:
    model: Any = Embedded(family=family).load()
    model.compress([QUANTIZERS["nf4"]])
    other = plain(model)
    for cut in BY_ACTIVATIONS:
        cut.apply(other)
        cut.apply(model)
    assert equal(state(model), state(other))
    assert all(one.stored is not None for one in model.weights("all"))


LONG: dict[str, list[Modifier]] = {
    "twice": [QUANTIZERS["group"], HEADS, NEURONS, NEURONS],
    "pruned": [QUANTIZERS["nf4"], NEURONS, Magnitude(sparsity=0.5)],
    "pruned first": [Magnitude(sparsity=0.5), QUANTIZERS["group"], NEURONS],
    "pruned between": [QUANTIZERS["group"], Magnitude(sparsity=0.5), NEURONS],
    "layers": [QUANTIZERS["fp4"], NEURONS, Layers(count=1), HEADS],
    "rounded": [QUANTIZERS["channel"], Activations(), HEADS, NEURONS],
    "quantized again": [Float8(), HEADS, QUANTIZERS["hqq"], NEURONS],
    "learned": [QUANTIZERS["group"], NEURONS, FineTune(material=MATERIAL, steps=2)],
    "codes learned": [QUANTIZERS["fp4"], HEADS, NEURONS, FineTune(material=MATERIAL, steps=2)],
}


@turned_and_not
@pytest.mark.parametrize("recipe", LONG)
def test_steps_follow_a_cut_of_codes(kind: str, recipe: str) -> None:
    model = body(kind)
    before, said = state(model), bodies.logits(model.module)
    footprint = model.compress(LONG[recipe])
    assert all(one.stored is not None for one in model.weights("all"))
    assert footprint.bytes < footprint.dense_bytes
    if "pruned" in recipe and not recipe.endswith("first"):
        assert footprint.sparsity > 0.45
    said_now = bodies.logits(model.module)
    assert said_now.isfinite().all()
    assert not torch.equal(said_now, said)
    assert model.restore()
    assert equal(state(model), before)


def test_a_mask_that_was_put_into_codes_is_cut_with_them() -> None:
    model = body("gpt2")
    steps: list[Modifier] = [QUANTIZERS["nf4"], Magnitude(sparsity=0.5, scope="row")]
    model.compress(steps)
    other = plain(model)
    NEURONS.apply(other)
    assert model.restore()
    model.compress([*steps, NEURONS])
    assert equal(state(model), state(other))
    assert all(one.stored is not None for one in model.weights("all"))


def test_what_lies_on_no_grid_any_more_is_stored_plainly_behind_the_cut() -> None:
    model = body("llama")
    QUANTIZERS["hqq"].apply(model)
    Magnitude(sparsity=0.5).apply(model)
    NEURONS.apply(model)
    behind = [one.name for one in model.weights("feed-forward")]
    assert not {*behind} & model.stored.keys()
    assert all(one.stored is None for one in model.weights("all"))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_layers_that_round_their_inputs_round_those_that_are_left(kind: str) -> None:
    model = body(kind)
    bundles = heads_of(model.module, "head") + neurons_of(model.module)
    edges = [edge for bundle in bundles for units in bundle for edge in units.edges]
    footprint = model.compress([HEADS, NEURONS, Activations()])
    said = bodies.logits(model.module)
    assert model.restore()
    assert model.compress([Activations(), HEADS, NEURONS]) == footprint
    assert torch.equal(bodies.logits(model.module), said)
    for edge in edges:
        sizes = [getattr(edge.layer, name) for name in SIZES[type(edge.layer)]]
        assert sizes == list(edge.matrix.shape)
    assert model.restore()
    assert not any(hasattr(one.layer, "activation_bits") for one in model.weights("all"))


@turned_and_not
def test_a_range_that_was_calibrated_stays(kind: str) -> None:
    model = body(kind)
    rounds = Activations(granularity="tensor", scheme="static", calibration=MATERIAL)
    rounds.apply(model)
    layers: dict[str, Any] = {one.name: one.layer for one in model.weights("all")}
    ranges = {name: layer.input_range.clone() for name, layer in layers.items()}
    footprint = model.compress([NEURONS])
    assert footprint.activation_bits == 8
    for name, layer in layers.items():
        assert torch.equal(layer.input_range, ranges[name])
    assert bodies.logits(model.module).isfinite().all()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("cut", [HEADS, NEURONS])
def test_what_another_library_holds_cannot_be_cut(kind: str, cut: Modifier) -> None:
    model = body(kind)
    said = (
        r"^'[a-z]\S+' is a \w+ of another library by now, out of which nothing can be cut: put "
        r"this step before that library's\.$"
    )
    with pytest.raises(RecipeError, match=said):
        model.compress([TorchDynamic(), cut])


class Whole:
    """A packed form of somebody's that can only be read as a whole."""

    nbytes, bits = 100, 8

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def dequantize(self) -> Tensor:
        return self.values

    def with_zeros(self, zero: Tensor) -> None:
        """Nowhere."""


def test_a_packed_form_that_cannot_be_cut_is_refused_and_nothing_is() -> None:
    model = body("llama")
    weights = model.weights("feed-forward")
    weights[-1].write(weights[-1].values, Whole(weights[-1].values.clone()))
    before = state(model)
    said = f"'{weights[-1].name}' is stored as Whole by now, which has no method 'kept' to cut it"
    with pytest.raises(RecipeError, match=re.escape(said)):
        NEURONS.apply(model)
    assert equal(state(model), before)


SHIPPED: dict[str, Modifier] = {
    "channel": QUANTIZERS["channel"],
    "groups, of which some are cut": RoundToNearest(bits=4, granularity="group", group_size=8),
    "blocks, of which some are cut": Nf4(),
    "nothing that a format holds": QUANTIZERS["group"],
}


@pytest.mark.parametrize("quantizer", SHIPPED)
def test_what_is_exported_is_read_back_as_it_was(
    causal: LanguageModel, quantizer: str, tmp_path: Path
) -> None:
    facts = WorldFacts(relations=("capital",), limit=20)
    footprint = causal.compress([SHIPPED[quantizer], HEADS, NEURONS])
    said = facts.measure(causal).margins
    cut = {one.name: one.values.clone() for one in causal.layers()}
    causal.save(tmp_path)
    assert causal.restore()
    again = causal.compress([Checkpoint(path=str(tmp_path))])
    assert equal({one.name: one.values for one in causal.layers()}, cut)
    assert facts.measure(causal).margins == pytest.approx(said, abs=1e-5)
    assert again.parameters == footprint.parameters
    assert again.bytes < again.dense_bytes
    assert causal.restore()
