"""What all quantization steps have in common, on every architecture."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import pytest
import tiny
import torch

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.codebooks import quantize_blocks
from pytest_compression.kernels.float8 import quantize_float8
from pytest_compression.kernels.hqq import quantize_hqq
from pytest_compression.kernels.ternary import quantize_ternary
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import (
    Float8,
    Fp4,
    Hqq,
    Nf4,
    RoundToNearest,
    Ternary,
)
from pytest_compression.registry import build, option_names
from pytest_compression.types import Modifier, Part

PATH = "pytest_compression.modifiers.quantization"
WITH_ZERO: dict[str, Modifier] = {
    "rtn": RoundToNearest(bits=4),
    "rtn-affine": RoundToNearest(bits=3, granularity="group", group_size=7, symmetric=False),
    "rtn-clipped": RoundToNearest(bits=2, granularity="channel", clip="search"),
    "nf4": Nf4(),
    "nf4-double": Nf4(block_size=32, double_quant=True),
    "fp4": Fp4(block_size=50),
    "fp8-e4m3": Float8(),
    "fp8-e5m2": Float8(format="e5m2", granularity="tensor"),
    "ternary": Ternary(),
}
"""Steps whose grids hold zero."""
STEPS = WITH_ZERO | {"hqq": Hqq(group_size=12)}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
every_step_with_zero = pytest.mark.parametrize("step", WITH_ZERO.values(), ids=WITH_ZERO)
every_class = pytest.mark.parametrize(
    "made", [RoundToNearest, Nf4, Fp4, Float8, Ternary, Hqq], ids=lambda made: made.__name__
)
HALF = Magnitude(sparsity=0.5)


@cache
def shared(architecture: str) -> LanguageModel:
    """One model for all tests, which restore it."""
    return tiny.model(architecture)


@pytest.fixture(params=sorted(tiny.ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Of each architecture."""
    found = shared(request.param)
    assert found.restore()
    return found


def check_targets(model: LanguageModel, names: Sequence[str]) -> None:
    """These are on their grids, and nothing else has changed."""
    for weight in model.linear():
        assert (weight.stored is not None) == (weight.name in names), weight.name
    mine = {f"{name}.weight" for name in names}
    for name, tensor in model.tensors():
        assert torch.equal(tensor, model.dense[name]) == (name not in mine), name


@every_step
def test_every_layer_but_the_head_is_stored_in_fewer_bytes(
    model: LanguageModel, step: Modifier
) -> None:
    names = [weight.name for weight in model.weights("all")]
    footprint = model.compress([step])
    check_targets(model, names)
    assert footprint.modules_touched == len(names)
    assert footprint.bytes < footprint.dense_bytes
    assert 2 < footprint.bits < 16
    assert 0 < footprint.weight_error < 1
    assert model.restore()
    assert all(torch.equal(tensor, model.dense[name]) for name, tensor in model.tensors())


@pytest.mark.parametrize("model", ["gpt2", *sorted(tiny.TYPICAL.values())], indirect=True)
@every_step_with_zero
def test_a_mask_survives_and_a_quantized_weight_can_be_pruned(
    model: LanguageModel, step: Modifier
) -> None:
    for steps in ([HALF, step], [step, HALF]):
        assert model.restore()
        footprint = model.compress(steps)  # which checks both claims at the end
        assert footprint.sparsity >= 0.49
        assert footprint.bits < 16
        check_targets(model, [weight.name for weight in model.weights("all")])


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([HALF, Hqq(group_size=8)], "Magnitude was asked for sparsity 0.5"),
        ([Hqq(group_size=8), HALF], "Hqq was asked for 4 bits, but .* lies on no grid"),
    ],
)
def test_real_zero_points_and_masks_do_not_go_together(
    steps: Sequence[Modifier], words: str
) -> None:
    model = tiny.model("llama")
    with pytest.raises(RecipeError, match=words):
        model.compress(steps)


@every_class
@pytest.mark.parametrize("targets", ["attention", "feed-forward", ("*.0.*",)])
def test_targets_and_what_to_ignore_are_heeded(made: Any, targets: Any) -> None:
    model = tiny.model("bert")
    options = {"bits": 4} if made is RoundToNearest else {}
    step = made(targets=targets, ignore=("*.output.dense",), **options)
    expected = [weight.name for weight in model.weights(targets, ("*.output.dense",))]
    assert 0 < len(expected) < len(model.weights(targets))
    assert list(step.apply(model).targets) == expected
    check_targets(model, expected)


@every_class
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(made: Any, bad: float) -> None:
    model = tiny.model("gpt2")
    name = "transformer.h.1.mlp.c_fc"
    weights = {weight.name: weight for weight in model.weights("all")}
    weights[name].values[3, 5] = bad
    step = made(bits=4) if made is RoundToNearest else made()
    with pytest.raises(RecipeError, match=f"'{name}' cannot be quantized: .* NaN or infinite") as e:
        model.compress([step])
    assert "name the layer in 'ignore'" in str(e.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_step
def test_half_precision_models_are_quantized(step: Modifier, dtype: torch.dtype) -> None:
    module = tiny.network("llama").to(dtype)
    model = LanguageModel(module=module, tokenizer=tiny.tokenizer("causal"), family="causal")
    names = [weight.name for weight in model.weights("all")]
    assert model.compress([step]).bits < 16
    check_targets(model, names)


def test_each_step_does_what_its_kernel_does() -> None:
    model = tiny.model("gpt2")
    cases: list[tuple[Modifier, Any]] = [
        (Nf4(), lambda dense: quantize_blocks(dense, codebook="nf4", block=64)),
        (
            Fp4(block_size=9, double_quant=True),
            lambda dense: quantize_blocks(dense, codebook="fp4", block=9, double_quant=True),
        ),
        (
            Float8(format="e5m2", granularity="tensor"),
            lambda dense: quantize_float8(dense, form="e5m2", granularity="tensor"),
        ),
        (Float8(), lambda dense: quantize_float8(dense, form="e4m3", granularity="channel")),
        (Ternary(), quantize_ternary),
        (Hqq(bits=3, group_size=5), lambda dense: quantize_hqq(dense, bits=3, group_size=5)),
    ]
    for step, kernel in cases:
        assert model.restore()
        footprint = model.compress([step])
        for weight in model.weights("all"):
            expected = kernel(weight.dense)
            assert torch.equal(weight.values, expected.dequantize())
            assert weight.stored is not None
            assert weight.stored.nbytes == expected.nbytes
            assert weight.stored.bits == expected.bits
        saved = sum(w.values.nbytes - kernel(w.dense).nbytes for w in model.weights("all"))
        assert footprint.bytes == footprint.dense_bytes - saved


def test_better_formats_lose_less() -> None:
    model = Embedded(family="causal").load()

    def error(step: Modifier) -> float:
        assert model.restore()
        return model.compress([step]).weight_error

    four_bits = error(RoundToNearest(bits=4, granularity="group", group_size=64, symmetric=False))
    assert error(Hqq()) < four_bits
    assert error(Nf4()) < error(Fp4())
    assert error(Float8()) < error(Float8(format="e5m2")) < error(Nf4()) < error(Ternary())
    assert error(Nf4()) == pytest.approx(error(Nf4(double_quant=True)), rel=0.01)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Nf4", {"block_size": 0}, ">= 1"),
        ("Fp4", {"double_quant": "yes"}, "bool"),
        ("Float8", {"format": "e3m4"}, "'e3m4'"),
        ("Float8", {"granularity": "group"}, "'group'"),
        ("Hqq", {"bits": 1}, ">= 2"),
        ("Hqq", {"bits": 9}, "<= 8"),
        ("Hqq", {"group_size": 0}, ">= 1"),
        ("Ternary", {"targets": "heads"}, "Did you mean 'head'"),
        ("Float8", {"ignore": ["head"]}, "'ignore' takes patterns"),
        ("Hqq", {"targets": []}, "'targets' is empty"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: Any, words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use=f"{PATH}:{name}", options=options))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Nf4", {}, Nf4(block_size=64, double_quant=False, targets="all", ignore=())),
        ("Fp4", {"block_size": 128}, Fp4(block_size=128)),
        ("Float8", {}, Float8(format="e4m3", granularity="channel")),
        ("Ternary", {"ignore": ["*.0.*"]}, Ternary(ignore=("*.0.*",))),
        ("Hqq", {}, Hqq(bits=4, group_size=64)),
    ],
)
def test_suites_build_them(name: str, options: Any, expected: Modifier) -> None:
    assert build("modifiers", Part(use=f"{PATH}:{name}", options=options)) == expected
    assert "codebook" not in option_names("modifiers", f"{PATH}:{name}")  # the name says it
