from typing import Any

import msgspec
import pytest
import tiny
import torch

from pytest_compression.kernels.pruning import keep_top, keep_top_globally
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.registry import build
from pytest_compression.types import Part

FAMILIES = sorted(tiny.TYPICAL.values())
every_family = pytest.mark.parametrize("architecture", FAMILIES)
sets_of_layers = pytest.mark.parametrize("targets", ["all", "attention", "feed-forward"])


@every_family
@sets_of_layers
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 1.0])
def test_globally_one_ranking_over_the_targets_decides(
    architecture: str, targets: Any, sparsity: float
) -> None:
    model = tiny.model(architecture)
    scores = [weight.values.abs() for weight in model.weights(targets)]
    claim = Magnitude(sparsity=sparsity, targets=targets).apply(model)
    weights = model.weights(targets)
    assert list(claim.targets) == [weight.name for weight in weights]
    assert claim.sparsity == sparsity
    for weight, mask in zip(weights, keep_top_globally(scores, sparsity), strict=True):
        assert weight.dense is not None
        assert torch.equal(weight.values, weight.dense.where(mask, 0))
    zeros = sum(int((weight.values == 0).sum()) for weight in weights)
    assert zeros == round(sparsity * sum(weight.values.numel() for weight in weights))


@every_family
@sets_of_layers
def test_per_layer_each_layer_loses_its_own_share(architecture: str, targets: Any) -> None:
    model = tiny.model(architecture)
    Magnitude(sparsity=0.3, scope="layer", targets=targets).apply(model)
    for weight in model.weights(targets):
        assert weight.dense is not None
        mask = keep_top(weight.dense.abs(), 0.3)
        assert torch.equal(weight.values, weight.dense.where(mask, 0))
        assert int((weight.values == 0).sum()) == round(0.3 * weight.values.numel())


@every_family
def test_globally_layers_of_small_weights_lose_more(architecture: str) -> None:
    model = tiny.model(architecture)
    first, *others = model.weights("all")
    first.layer.weight.data.mul_(1e-3)  # type: ignore[operator]
    Magnitude(sparsity=0.2).apply(model)
    assert (first.values == 0).all()
    assert all((weight.values != 0).any() for weight in others)


@every_family
@sets_of_layers
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_nothing_but_the_targets_is_touched(architecture: str, targets: Any, scope: Any) -> None:
    model = tiny.model(architecture)
    claim = Magnitude(sparsity=0.5, scope=scope, targets=targets).apply(model)
    mine = {f"{name}.weight" for name in claim.targets}
    for name, tensor in model.tensors():
        assert torch.equal(tensor, model.dense[name]) == (name not in mine), name


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_every_architecture_measures_the_sparsity_it_was_asked_for(architecture: str) -> None:
    footprint = tiny.model(architecture).compress([Magnitude(sparsity=0.7)])
    assert footprint.sparsity == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 0}, "> 0"),
        ({"sparsity": -0.1}, "> 0"),
        ({"sparsity": 1.01}, "<= 1"),
        ({"sparsity": "half"}, "float"),
        ({}, "sparsity"),
        ({"sparsity": 0.5, "scope": "row"}, "'row'"),
        ({"sparsity": 0.5, "targets": "embeddings"}, "'embeddings'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use="magnitude", options=options))


def test_the_defaults_are_global_and_all() -> None:
    made = build("modifiers", Part(use="magnitude", options={"sparsity": 1}))
    assert made == Magnitude(sparsity=1.0, scope="global", targets="all")
