from typing import Any

import msgspec
import pytest
import tiny
import torch

from pytest_compression.kernels.quantization import Quantized, quantize
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.registry import build
from pytest_compression.types import Part

FAMILIES = sorted(tiny.TYPICAL.values())
every_family = pytest.mark.parametrize("architecture", FAMILIES)
sets_of_layers = pytest.mark.parametrize("targets", ["all", "attention", "feed-forward"])
GRANULARITIES = {"tensor": None, "channel": None, "group": 5}
every_granularity = pytest.mark.parametrize("granularity", sorted(GRANULARITIES))


@every_family
@every_granularity
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_each_target_becomes_what_the_kernel_gives_back(
    architecture: str, granularity: Any, *, symmetric: bool
) -> None:
    options: dict[str, Any] = {
        "bits": 4,
        "granularity": granularity,
        "group_size": GRANULARITIES[granularity],
        "symmetric": symmetric,
    }
    model = tiny.model(architecture)
    claim = RoundToNearest(**options).apply(model)
    weights = model.weights("all")
    assert list(claim.targets) == [weight.name for weight in weights]
    assert claim.bits == 4
    for weight in weights:
        assert weight.dense is not None
        expected = quantize(weight.dense, **options)
        assert torch.equal(weight.values, expected.dequantize())
        assert isinstance(weight.stored, Quantized)
        assert torch.equal(weight.stored.packed, expected.packed)


@every_family
@sets_of_layers
@every_granularity
def test_nothing_but_the_targets_is_touched(
    architecture: str, targets: Any, granularity: Any
) -> None:
    model = tiny.model(architecture)
    size = GRANULARITIES[granularity]
    claim = RoundToNearest(bits=2, granularity=granularity, group_size=size, targets=targets).apply(
        model
    )
    mine = {f"{name}.weight" for name in claim.targets}
    for name, tensor in model.tensors():
        assert torch.equal(tensor, model.dense[name]) == (name not in mine), name


@every_family
@every_granularity
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_a_searched_range_brings_the_error_down(
    architecture: str, granularity: Any, *, symmetric: bool
) -> None:
    model = tiny.model(architecture)
    found = []
    for clip in ("none", "search"):
        assert model.restore()
        step = RoundToNearest(
            bits=3,
            granularity=granularity,
            group_size=GRANULARITIES[granularity],
            symmetric=symmetric,
            clip=clip,
        )
        found.append(model.compress([step]))
    assert found[1].weight_error < found[0].weight_error
    assert found[1].bytes == found[0].bytes


@every_family
def test_fewer_bits_and_coarser_grids_cost_more(architecture: str) -> None:
    model = tiny.model(architecture)

    def error(**options: Any) -> float:
        assert model.restore()
        return model.compress([RoundToNearest(**options)]).weight_error

    by_bits = [error(bits=bits) for bits in range(8, 1, -1)]
    assert by_bits == sorted(by_bits)
    assert by_bits[0] < 0.01 < by_bits[-1]
    by_blocks = [
        error(bits=4, granularity="group", group_size=4),
        error(bits=4, granularity="channel"),
        error(bits=4, granularity="tensor"),
    ]
    assert by_blocks == sorted(by_blocks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 1}, ">= 2"),
        ({"bits": 9}, "<= 8"),
        ({"bits": 4.5}, "int"),
        ({}, "bits"),
        ({"bits": 4, "granularity": "row"}, "'row'"),
        ({"bits": 4, "granularity": "group"}, "'group_size' is needed for granularity 'group'"),
        ({"bits": 4, "granularity": "channel", "group_size": 8}, "and for no other"),
        ({"bits": 4, "granularity": "tensor", "group_size": 8}, "and for no other"),
        ({"bits": 4, "granularity": "group", "group_size": 0}, ">= 1"),
        ({"bits": 4, "symmetric": "yes"}, "bool"),
        ({"bits": 4, "clip": "best"}, "'best'"),
        ({"bits": 4, "targets": "heads"}, "Did you mean 'head'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use="rtn", options=options))


def test_the_defaults_are_symmetric_channels_of_all_layers() -> None:
    made = build("modifiers", Part(use="rtn", options={"bits": 8}))
    assert made == RoundToNearest(
        bits=8,
        granularity="channel",
        group_size=None,
        symmetric=True,
        clip="none",
        targets="all",
        ignore=(),
    )
