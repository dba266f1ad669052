"""Recovery: knowledge comes back, and what earlier steps did stays."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.kernels.quantization import Quantized
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.snapshot import same
from pytest_compression.models.sources import Embedded
from pytest_compression.models.weights import LinearWeight
from pytest_compression.modifiers.activations import Activations
from pytest_compression.modifiers.backends.bitsandbytes import BitsAndBytes
from pytest_compression.modifiers.backends.foreign import plain
from pytest_compression.modifiers.backends.onnxruntime import OnnxRuntime
from pytest_compression.modifiers.backends.quanto import Quanto
from pytest_compression.modifiers.backends.torch_dynamic import TorchDynamic
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import Float8, Fp4, Nf4, RoundToNearest, Ternary
from pytest_compression.modifiers.training.fine_tuning import FineTune
from pytest_compression.types import Modifier

ARCHITECTURES = ("albert", "bert", "gpt2", "t5")


def quick(material: Material, **options: Any) -> FineTune:
    return FineTune(material=material, epochs=3, batch=4, learning_rate=0.01, **options)


def restored_exactly(model: LanguageModel) -> None:
    """Put the dense model back; restoring compares it bit by bit."""
    assert model.restore()
    assert all(same(tensor, model.dense[name]) for name, tensor in model.tensors())


def stored_of(weight: LinearWeight) -> Any:
    """Its packed form, of whatever kind."""
    return weight.stored


def held_by_others(model: LanguageModel) -> dict[str, torch.Tensor]:
    """Every tensor in layers of other libraries, those inside their own kinds among them."""
    return {
        f"{name}.{key}.{place}": part.clone()
        for name in model.adopted
        for key, tensor in model.module.get_submodule(name).state_dict().items()
        for place, part in enumerate(plain(tensor))
    }


def zeros(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {weight.name: weight.values == 0 for weight in model.weights("all")}


def test_facts_that_pruning_lost_come_back() -> None:
    model: Any = Embedded(family="causal").load()
    benchmark = WorldFacts(relations=("language",))

    def right() -> float:
        return sum(benchmark.measure(model).scores)

    pruned = [Magnitude(sparsity=0.75)]
    model.compress(pruned)
    lost = right()
    assert model.restore()
    learns = FineTune(
        material=Material(facts=("language",), samples=134), epochs=2, learning_rate=2e-3
    )
    footprint = model.compress([*pruned, learns])
    assert footprint.sparsity == pytest.approx(0.75, abs=1e-5)
    assert right() > lost + 30


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_masks_stay_to_the_weight(architecture: str, material: Material) -> None:
    model = tiny.model(architecture)
    pruned = [Magnitude(sparsity=0.5)]
    model.compress(pruned)
    before, values = zeros(model), [weight.values.clone() for weight in model.weights("all")]
    assert model.restore()
    model.compress([*pruned, quick(material)])
    after = zeros(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = zip(values, model.weights("all"), strict=True)
    assert all(not torch.equal(old, weight.values) for old, weight in moved)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_quantized_weights_stay_packed_on_their_grids(
    architecture: str, material: Material
) -> None:
    model = tiny.model(architecture)
    recipe: list[Modifier] = [Magnitude(sparsity=0.3), RoundToNearest(bits=3, symmetric=False)]
    footprint = model.compress(recipe)
    before: dict[str, Any] = {weight.name: weight.stored for weight in model.weights("all")}
    where = zeros(model)
    assert model.restore()
    trained = model.compress([*recipe, quick(material)])
    assert (trained.bytes, trained.bits) == (footprint.bytes, footprint.bits)
    changed = 0
    for weight in model.weights("all"):
        old, new = before[weight.name], weight.stored
        assert isinstance(new, Quantized)
        assert torch.equal(new.grid.scale, old.grid.scale)
        assert torch.equal(new.dequantize(), weight.values)
        assert (weight.values[where[weight.name]] == 0).all()
        changed += int((new.codes() != old.codes()).sum())
    assert changed > 0


CODES: dict[str, Modifier] = {
    "nf4": Nf4(block_size=16),
    "fp4": Fp4(double_quant=True),
    "fp8": Float8(format="e5m2"),
    "ternary": Ternary(),
}


@pytest.mark.parametrize(
    ("kind", "architecture"), list(zip(CODES, ARCHITECTURES, strict=True)), ids=str
)
def test_codes_of_every_kind_learn_on_their_scales_behind_a_mask(
    kind: str, architecture: str, material: Material, nats: Callable[[LanguageModel], float]
) -> None:
    model = tiny.model(architecture)
    recipe: list[Modifier] = [Magnitude(sparsity=0.3), CODES[kind]]
    footprint = model.compress(recipe)
    before: dict[str, Any] = {weight.name: weight.stored for weight in model.weights("all")}
    lost, where = nats(model), zeros(model)
    assert model.restore()
    trained = model.compress([*recipe, quick(material)])
    assert (trained.bytes, trained.bits) == (footprint.bytes, footprint.bits)
    assert nats(model) < 0.98 * lost
    changed = 0
    for weight in model.weights("all"):
        old, new = before[weight.name], stored_of(weight)
        assert type(new) is type(old)
        assert torch.equal(new.dequantize(), weight.values)
        assert torch.equal(old.nearest(weight.values), weight.values)  # the scales are the same
        assert (weight.values[where[weight.name]] == 0).all()
        changed += int((old.dequantize() != weight.values).sum())
    assert changed > 0
    restored_exactly(model)


@pytest.mark.parametrize("options", [{}, {"granularity": "tensor", "bits": 4}], ids=str)
def test_what_rounds_its_inputs_learns_and_goes_on_rounding(
    options: dict[str, Any], material: Material, nats: Callable[[LanguageModel], float]
) -> None:
    model = tiny.model("bert")
    recipe: list[Modifier] = [RoundToNearest(bits=4), Activations(**options)]
    footprint = model.compress(recipe)
    lost = nats(model)
    assert model.restore()
    trained = model.compress([*recipe, quick(material)])
    assert (trained.bytes, trained.activation_bits) == (footprint.bytes, options.get("bits", 8))
    assert nats(model) < 0.95 * lost
    restored_exactly(model)


OTHERS: dict[str, Modifier] = {
    "int8": BitsAndBytes(scheme="int8", threshold=1.0),
    "nf4": BitsAndBytes(scheme="nf4", double_quant=True),
    "quanto int4": Quanto(weights="int4"),
    "quanto float8": Quanto(weights="float8"),
}


@pytest.mark.parametrize(
    ("kind", "architecture"), list(zip(OTHERS, ("gpt2", "llama", "bert", "bart"), strict=True))
)
def test_gradients_pass_through_other_libraries_layers_which_stay(
    kind: str, architecture: str, material: Material, nats: Callable[[LanguageModel], float]
) -> None:
    model = tiny.model(architecture)
    footprint = model.compress([OTHERS[kind]])
    before, lost = held_by_others(model), nats(model)
    assert model.restore()
    trained = model.compress([OTHERS[kind], quick(material)])
    assert trained.bytes == footprint.bytes
    after = held_by_others(model)
    assert after.keys() == before.keys() != set()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert nats(model) < 0.99 * lost
    restored_exactly(model)


def test_where_gradients_pass_as_without_rounding_the_parts_before_learn_as_much(
    material: Material,
) -> None:
    model = tiny.model("llama")
    (batch,) = material.batches(model, size=12)
    module: Any = model.module

    def gradient() -> torch.Tensor:
        norm: torch.Tensor = module.model.layers[0].input_layernorm.weight
        norm.requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(module(**batch).loss, norm)
        norm.requires_grad_(False)  # noqa: FBT003  # a tensor's takes no keyword
        return torch.as_tensor(found)

    model.compress([BitsAndBytes(scheme="nf4")])
    through = gradient()
    values = {weight.name: weight.values for weight in model.weights("all")}
    assert model.restore()
    for weight in model.weights("all"):
        weight.write(values[weight.name])
    torch.testing.assert_close(through, gradient(), rtol=1e-4, atol=1e-6)
    assert model.restore()


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (TorchDynamic(), "model.layers.0.self_attn.q_proj"),
        (TorchDynamic(targets="head", dtype="float16"), "lm_head"),
        (OnnxRuntime(), "model.embed_tokens"),
    ],
    ids=["torch", "torch head", "onnxruntime"],
)
def test_a_library_that_passes_no_gradient_is_refused(
    step: Modifier, name: str, material: Material
) -> None:
    with pytest.raises(RecipeError, match=f"no gradient passes through '{name}', another library"):
        tiny.model("llama").compress([step, quick(material)])


def test_a_ternary_model_recovers_on_other_facts_and_stays_ternary() -> None:
    model: Any = Embedded(family="causal").load()
    benchmark = WorldFacts(relations=("language",))
    recipe: list[Modifier] = [Ternary(), Activations()]
    footprint = model.compress(recipe)
    before = {weight.name: weight.stored.grid.scale for weight in model.weights("all")}
    lost = sum(benchmark.measure(model).scores)
    assert model.restore()
    learns = FineTune(
        material=Material(facts=("continent", "currency"), samples=256),
        epochs=1,
        learning_rate=2e-3,
    )
    trained = model.compress([*recipe, learns])
    assert (trained.bytes, trained.activation_bits) == (footprint.bytes, 8)
    for weight in model.weights("all"):
        assert torch.equal(weight.stored.grid.scale, before[weight.name])
        assert weight.values.unique().tolist() == [
            -float(before[weight.name]),
            0,
            float(before[weight.name]),
        ]
    assert sum(benchmark.measure(model).scores) > lost + 10
    restored_exactly(model)


def test_zeros_of_a_quantized_weight_can_be_set_free(material: Material) -> None:
    model = tiny.model("llama")

    def freed(**options: bool) -> int:
        model.compress([RoundToNearest(bits=2)])
        before = zeros(model)
        quick(material, **options).apply(model)
        after = zeros(model)
        assert model.restore()
        return sum(int((before[name] & ~after[name]).sum()) for name in before)

    assert freed() == 0
    assert freed(keep_zeros=False) > 0


def test_ends_learn_only_where_that_is_wanted(material: Material) -> None:
    model = tiny.model("llama")
    for embeddings in (False, True):
        quick(material, embeddings=embeddings).apply(model)
        for name in ("model.embed_tokens", "lm_head"):
            (weight,) = model.weights(("embeddings" if "embed" in name else "head",))
            assert torch.equal(weight.values, model.dense[f"{name}.weight"]) != embeddings
        assert model.restore()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_learns_in_single(
    dtype: torch.dtype, material: Material, nats: Callable[[LanguageModel], float]
) -> None:
    model = LanguageModel(
        module=tiny.network("llama").to(dtype),
        tokenizer=tiny.tokenizer("causal"),
        family="causal",
    )
    before = nats(model)
    model.compress([Magnitude(sparsity=0.5), RoundToNearest(bits=4)])
    quick(material).apply(model)
    assert {p.dtype for p in model.module.parameters()} == {dtype}
    assert all(weight.stored is not None for weight in model.weights("all"))
    assert nats(model) < before
