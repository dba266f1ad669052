"""Gradual pruning: exact counts in the end, masks that only grow, and what is left learns."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.schedule import gradual_sparsity
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.training.gradual import GradualMagnitude
from pytest_compression.modifiers.training.trainee import trainee_of


def gradual(material: Material, **options: Any) -> GradualMagnitude:
    given = {"sparsity": 0.6, "epochs": 3, "batch": 4, "learning_rate": 0.01, "frequency": 2}
    return GradualMagnitude(material=material, **given | options)


def zeros(model: LanguageModel, targets: str = "all") -> list[int]:
    return [int((weight.values == 0).sum()) for weight in model.weights(targets)]


@pytest.mark.parametrize(
    ("architecture", "scope"),
    [
        ("albert", "global"),
        ("bert", "layer"),
        ("gpt2", "global"),
        ("gpt2", "layer"),
        ("t5", "global"),
    ],
)
def test_exactly_so_many_weights_are_zero(
    architecture: str, scope: str, material: Material
) -> None:
    model = tiny.model(architecture)
    footprint = model.compress([gradual(material, sparsity=0.37, scope=scope)])
    sizes = [weight.values.numel() for weight in model.weights("all")]
    wanted = [round(0.37 * size) for size in sizes]
    if scope == "layer":
        assert zeros(model) == wanted
    assert sum(zeros(model)) == (round(0.37 * sum(sizes)) if scope == "global" else sum(wanted))
    assert footprint.sparsity == pytest.approx(0.37, abs=0.002)


@pytest.mark.parametrize("targets", ["embeddings", "head", "feed-forward"])
def test_targets_are_pruned_and_nothing_else(targets: str, material: Material) -> None:
    model = tiny.model("gpt2")
    model.compress([gradual(material, targets=targets)])
    count = sum(weight.values.numel() for weight in model.weights(targets))
    assert sum(zeros(model, targets)) == round(0.6 * count)
    pruned = {weight.name for weight in model.weights(targets)}
    assert not any((one.values == 0).any() for one in model.layers() if one.name not in pruned)


def test_what_is_ignored_stays_whole(material: Material) -> None:
    model = tiny.model("llama")
    model.compress([gradual(material, ignore=("*.q_proj",))])
    for weight in model.weights("all"):
        assert bool((weight.values == 0).any()) != weight.name.endswith("q_proj")


@settings(max_examples=10)
@given(st.integers(1, 7), st.integers(5, 30), st.sampled_from([0.2, 0.75, 1.0]))
def test_masks_grow_by_the_schedule_and_end_at_the_end(
    frequency: int, steps: int, until: float
) -> None:
    model = tiny.model("llama")
    step = gradual(
        Material(facts=("capital",)),
        epochs=None,
        steps=steps,
        frequency=frequency,
        prune_until=until,
        sparsity=0.9,
    )
    trainee = trainee_of(model, embeddings=False)
    prune, end = step._pruning(trainee, list(trainee.names)), max(1, round(until * steps))
    total = sum(trainee.weight(name).numel() for name in trainee.names)
    seen = list[dict[str, torch.Tensor]]()
    for done in range(1, steps + 1):
        for copy in trainee.copies.values():
            copy.data += 0.1 * torch.randn(
                copy.shape, generator=torch.Generator().manual_seed(done)
            )
        prune(done, steps)
        trainee.hold()
        seen.append(dict(trainee.kept))
        gone = sum(int((~mask).sum()) for mask in trainee.kept.values())
        due = gradual_sparsity(done, begin=0, end=end, final=0.9)
        if done >= end or done % frequency == 0:
            assert gone == round(due * total)
        assert gone <= round(due * total)
    for before, after in pairwise(seen):
        assert all((after[name] <= mask).all() for name, mask in before.items())
    assert gone == round(0.9 * total)


def test_constant_weights_are_pruned_by_the_same_count(material: Material) -> None:
    model = tiny.model("llama")
    for weight in model.weights("all"):
        weight.values.fill_(0.1)
    model.compress([gradual(material, steps=1, epochs=None, learning_rate=1e-9)])
    total = sum(weight.values.numel() for weight in model.weights("all"))
    assert sum(zeros(model)) == round(0.6 * total)


def test_what_was_pruned_before_stays_so_and_counts(material: Material) -> None:
    model = tiny.model("llama")
    first = Magnitude(sparsity=0.3)
    model.compress([first])
    before = [weight.values == 0 for weight in model.weights("all")]
    assert model.restore()
    model.compress([first, gradual(material)])
    after = [weight.values == 0 for weight in model.weights("all")]
    assert all((new | ~old).all() for old, new in zip(before, after, strict=True))
    assert sum(zeros(model)) == round(0.6 * sum(mask.numel() for mask in after))


def test_it_loses_less_than_pruning_at_once(
    material: Material, nats: Callable[[LanguageModel], float]
) -> None:
    model = tiny.model("llama")
    model.compress([Magnitude(sparsity=0.6)])
    at_once = nats(model)
    assert model.restore()
    model.compress([gradual(material)])
    assert nats(model) < at_once


def test_a_quantized_target_is_refused(material: Material) -> None:
    with pytest.raises(RecipeError, match="is quantized: prune first, then quantize"):
        tiny.model("llama").compress([RoundToNearest(bits=4), gradual(material)])


def test_targets_are_checked_before_a_model_is_there(material: Material) -> None:
    with pytest.raises(ValueError, match="'attn' is no set of weights"):
        gradual(material, targets="attn")
