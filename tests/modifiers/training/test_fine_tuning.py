"""Recovery: knowledge comes back, and what earlier steps did stays."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import tiny
import torch

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.kernels.quantization import Quantized
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.training.fine_tuning import FineTune

if TYPE_CHECKING:
    from pytest_compression.types import Modifier

ARCHITECTURES = ("albert", "bert", "gpt2", "t5")


def quick(material: Material, **options: Any) -> FineTune:
    return FineTune(material=material, epochs=3, batch=4, learning_rate=0.01, **options)


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
