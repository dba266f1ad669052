"""torchao's layers; run by its tox environment."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import pytest
import tiny
import torch
from adopted import SEVERAL, built, check_adopted, fewer, halves, layer_of, loaded, logits, relative
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.backends import foreign
from pytest_compression.modifiers.backends.torchao import TorchAO
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.registry import build
from pytest_compression.testing import check_modifier
from pytest_compression.types import Family, Part

USE = "pytest_compression.modifiers.backends.torchao:TorchAO"
every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
WEIGHT_ONLY: list[Any] = ["int8-weight-only", "float8-weight-only"]


@every_architecture
def test_layers_compute_with_the_weight_they_store(architecture: str) -> None:
    """On GPT-2 its turned layers, too; on T5 ``wo``."""
    off, lost, footprint = check_adopted(loaded(architecture), TorchAO(scheme="int8-weight-only"))
    assert off < 1e-5
    assert 0 < lost < 0.1
    assert footprint.weight_error < 0.01
    assert footprint.activation_bits is None


@pytest.mark.parametrize("architecture", SEVERAL)
def test_layers_compute_with_the_weight_they_store_and_rounded_inputs(architecture: str) -> None:
    off, lost, footprint = check_adopted(loaded(architecture), TorchAO(scheme="int8-dynamic"))
    assert 0 < off < 0.1
    assert 0 < lost < 0.1
    assert footprint.weight_error < 0.01
    assert footprint.activation_bits == 8


@pytest.mark.parametrize("scheme", [*WEIGHT_ONLY, "int8-dynamic"])
def test_other_dtypes(scheme: Any) -> None:
    off, lost, _ = check_adopted(loaded("gpt2", torch.bfloat16), TorchAO(scheme=scheme))
    assert off < 0.1
    assert lost > 0.001


@pytest.mark.parametrize("scheme", [*WEIGHT_ONLY, "int8-dynamic"])
def test_odd_shapes(scheme: Any) -> None:
    model = tiny.model("llama", hidden_size=20, intermediate_size=33)
    off, _, _ = check_adopted(model, TorchAO(scheme=scheme))
    assert off < (0.1 if scheme == "int8-dynamic" else 1e-5)


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_four_bits_where_the_shape_allows(group: Any, dtype: torch.dtype) -> None:
    module = tiny.network("llama", hidden_size=64, intermediate_size=128).to(dtype)
    model = LanguageModel(module=module, tokenizer=None, family="causal")
    step = TorchAO(scheme="int4-weight-only", group_size=group)
    off, lost, footprint = check_adopted(model, step)
    assert off < 0.1
    assert 0.01 < lost < 1
    assert 4 < footprint.bits < 6.1
    assert 0.03 < footprint.weight_error < 0.12


@pytest.mark.parametrize(
    ("architecture", "group", "words"),
    [
        ("bert", None, r"has 16 inputs, no multiple of the group size 128"),
        ("opt", 32, r"'model.decoder.project_out'.*has 8 outputs|has 16 inputs"),
    ],
)
def test_what_four_bits_would_pass_over_is_told(architecture: str, group: Any, words: str) -> None:
    model = loaded(architecture, torch.float16)
    with pytest.raises(RecipeError, match=words):
        model.compress([TorchAO(scheme="int4-weight-only", group_size=group)])
    assert not model.adopted
    assert model.restore()


def test_layers_that_four_bits_cannot_take_are_told() -> None:
    with pytest.raises(RecipeError, match=r"'x': it has 24 outputs, no multiple of 16.*quanto"):
        TorchAO(scheme="int4-weight-only").check_layer("x", torch.zeros(24, 128).half())
    with pytest.raises(RecipeError, match=r"'x': it lies on meta, where it needs .*mslk"):
        TorchAO(scheme="int4-weight-only").check_layer("x", torch.zeros(16, 128, device="meta"))
    with pytest.raises(RecipeError, match=r"'x': it is float32, which takes it a hundred times"):
        TorchAO(scheme="int4-weight-only").check_layer("x", torch.zeros(16, 128))


@fewer
@given(weight=halves(), scheme=st.sampled_from([*WEIGHT_ONLY, "int8-dynamic"]))
def test_each_weight_is_within_half_a_step(weight: Tensor, scheme: Any) -> None:
    assume(weight.shape[1] > 1)
    _, found, wrong = built(TorchAO(scheme=scheme).build, weight)
    largest = weight.double().abs().amax(1, keepdim=True)
    if scheme == "float8-weight-only" and not (largest / 448).float().all():
        assert "became NaN" in wrong
        return
    assert wrong == ""
    step = largest / (8 if scheme == "float8-weight-only" else 127)
    least = 127 * torch.finfo(torch.float32).eps  # of its scales
    allowed = 0.51 * step + 4 * torch.finfo(weight.dtype).eps * largest + least
    assert ((found.double() - weight.double()).abs() <= allowed).all()


def test_rows_of_zeros_are_refused_in_float8() -> None:
    model = loaded("llama")
    layer: Any = model.weights("all")[3].layer
    layer.weight[2] = 0
    with pytest.raises(RecipeError, match=r"16 of its weights became NaN.*rows of zeros"):
        model.compress([TorchAO(scheme="float8-weight-only")])
    assert model.restore()


def test_one_input_is_told() -> None:
    with pytest.raises((RuntimeError, ValueError)):
        built(TorchAO(scheme="int8-dynamic").build, torch.ones(5, 1))


def test_settings_of_torch_are_left_alone() -> None:
    import torch._inductor.config as compiler

    before = torch.get_float32_matmul_precision(), compiler.coordinate_descent_tuning
    for scheme in (*WEIGHT_ONLY, "int8-dynamic", "int4-weight-only"):
        step: Any = TorchAO(scheme=scheme)
        step.build(layer_of(torch.randn(32, 128)))
    after = torch.get_float32_matmul_precision(), compiler.coordinate_descent_tuning
    assert before == after


def test_bytes_are_those_of_codes_and_scales() -> None:
    def size(**options: Any) -> int:
        return TorchAO(**options).build(layer_of(torch.randn(32, 128)))[1].nbytes

    assert size(scheme="int8-weight-only") == 32 * 128 + 4 * 32 + 32
    assert size(scheme="float8-weight-only") == 32 * 128 + 4 * 32
    assert size(scheme="int4-weight-only", group_size=32) == 32 * 128 // 2 + 32 * 4 * 8


def test_a_head_that_is_tied_is_untied_knowingly() -> None:
    model = loaded("gpt2")
    footprint = model.compress([TorchAO(scheme="int8-weight-only", targets="head")])
    assert list(model.adopted) == ["lm_head"]
    assert footprint.bytes == footprint.dense_bytes + model.stored["lm_head"].nbytes
    module: Any = model.module
    assert torch.equal(module.get_input_embeddings().weight, model.dense["lm_head.weight"])
    assert model.restore()


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_what_is_run_beside_a_row_does_not_matter(architecture: str) -> None:
    """The inputs have a scale for each token."""
    model = loaded(architecture)
    model.compress([TorchAO(scheme="int8-dynamic")])
    assert not model.alone
    assert relative(logits(model, slice(1)), logits(model)[:1]) < 1e-3
    assert model.restore()


def test_zeros_survive() -> None:
    model = loaded("llama")
    for scheme in (*WEIGHT_ONLY, "int8-dynamic"):
        step: Any = TorchAO(scheme=scheme)
        assert model.compress([Magnitude(sparsity=0.25), step]).sparsity >= 0.25
        assert model.restore()


def test_the_version_is_part_of_the_environment_as_long_as_it_matters() -> None:
    model = loaded("bert")
    model.compress([TorchAO(scheme="int8-weight-only")])
    assert model.environment()["torchao"] == version("torchao")
    assert model.restore()
    assert "torchao" not in model.environment()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(foreign, "version", missing)
    with pytest.raises(RecipeError) as caught:
        loaded("bert").compress([TorchAO(scheme="int8-dynamic")])
    assert str(caught.value) == "torchao needs torchao: pip install 'pytest-compression[torchao]'"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "scheme"),
        ({"scheme": "int8"}, "'int8'"),
        ({"scheme": "float8-dynamic"}, "'float8-dynamic'"),
        (
            {"scheme": "int8-dynamic", "group_size": 32},
            "'group_size' means nothing to scheme 'int8-dynamic'",
        ),
        ({"scheme": "int4-weight-only", "group_size": 16}, "16"),
        ({"scheme": "int8-dynamic", "ignore": ["head"]}, "'head' is a set"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use=USE, options=options))


def test_it_keeps_the_contract_of_a_modifier() -> None:
    causal: tuple[Family, ...] = ("causal",)
    check_modifier(TorchAO(scheme="int8-weight-only"), families=causal, examples=1)
