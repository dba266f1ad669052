import logging
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import bitsandbytes
import msgspec
import pytest
import tiny
import torch
from adopted import SEVERAL, built, check_adopted, fewer, halves, layer_of, loaded, logits, relative
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.backends import foreign
from pytest_compression.modifiers.backends.bitsandbytes import BitsAndBytes
from pytest_compression.modifiers.backends.blockwise import Blockwise
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.registry import build
from pytest_compression.types import Part

functional: Any = bitsandbytes.functional
USE = "pytest_compression.modifiers.backends.bitsandbytes:BitsAndBytes"
every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))


def table(kind: str) -> Tensor:
    """The sixteen values by code, ascending codes."""
    found: Tensor = functional.get_4bit_type(kind, device="cpu")
    return found


@every_architecture
def test_four_bit_layers_compute_with_the_weight_they_store(architecture: str) -> None:
    """On GPT-2 its turned layers, too; on T5 ``wo``; none of it in bfloat16."""
    off, lost, footprint = check_adopted(loaded(architecture), BitsAndBytes(scheme="nf4"))
    assert off < 1e-6
    assert 0.01 < lost < 1
    assert 0.05 < footprint.weight_error < 0.2


@pytest.mark.parametrize("architecture", SEVERAL)
def test_eight_bit_layers_compute_with_the_weight_they_store_and_rounded_inputs(
    architecture: str,
) -> None:
    step = BitsAndBytes(scheme="int8", threshold=0)
    off, lost, footprint = check_adopted(loaded(architecture), step)
    assert 0 < off < 0.1
    assert lost < 0.1
    assert footprint.weight_error < 0.01
    assert footprint.activation_bits == 8


@pytest.mark.parametrize("options", [{"scheme": "fp4"}, {"scheme": "nf4", "double_quant": True}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_other_schemes_and_dtypes(options: dict[str, Any], dtype: torch.dtype) -> None:
    off, lost, _ = check_adopted(loaded("t5", dtype), BitsAndBytes(**options))
    assert off == 0
    assert lost > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_eight_bits_in_other_dtypes(dtype: torch.dtype) -> None:
    off, _, _ = check_adopted(loaded("llama", dtype), BitsAndBytes(scheme="int8"))
    assert off < 0.1


@pytest.mark.parametrize(
    "options",
    [{"scheme": "int8"}, {"scheme": "nf4"}, {"scheme": "fp4", "double_quant": True}],
    ids=lambda options: options["scheme"],
)
def test_odd_shapes(options: dict[str, Any]) -> None:
    model = tiny.model("llama", hidden_size=20, intermediate_size=33)
    off, _, _ = check_adopted(model, BitsAndBytes(**options))
    assert off < (0.1 if options["scheme"] == "int8" else 1e-6)


@fewer
@given(
    weight=halves(),
    kind=st.sampled_from(["nf4", "fp4"]),
    block=st.sampled_from([32, 64]),
    double=st.booleans(),
)
def test_each_weight_is_the_nearest_of_the_table_times_its_scale(
    weight: Tensor, kind: str, block: int, *, double: bool
) -> None:
    layer = Blockwise.of(layer_of(weight), kind=kind, block_size=block, double_quant=double)
    flat = layer.dequantized().double().reshape(-1)
    blocks = nn.functional.pad(weight.double().reshape(-1), (0, -weight.numel() % block))
    exact = blocks.reshape(-1, block).abs().amax(1)
    state: Any = layer.quant_state
    scales = state.absmax.double()
    if double:
        scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        scales = scales.double()
    else:
        assert torch.allclose(scales, exact, rtol=1e-6, atol=1e-37)
    scale = scales.repeat_interleave(block)[: weight.numel()]
    values = table(kind).double() * scale.unsqueeze(1)
    step = torch.finfo(weight.dtype).eps * scale.abs() + torch.finfo(weight.dtype).tiny
    assert ((flat.unsqueeze(1) - values).abs().amin(1) <= step).all()
    if not double:
        nearest = (weight.double().reshape(-1, 1) - values).abs().amin(1)
        assert ((flat - weight.double().reshape(-1)).abs() <= nearest + 2 * step).all()


@fewer
@given(weight=halves(), threshold=st.sampled_from([0.0, 6.0]))
def test_eight_bit_weights_are_rounded_by_row(weight: Tensor, threshold: float) -> None:
    assume(weight.shape[1] > 1)
    step = BitsAndBytes(scheme="int8", threshold=threshold)
    _, found, wrong = built(step.eight_bit, weight)
    assert wrong == ""
    largest = weight.double().abs().amax(1, keepdim=True)
    allowed = largest * (0.5 / 127 + torch.finfo(torch.bfloat16).eps) + 2.0**-24
    assert ((found.double() - weight.double()).abs() <= allowed).all()


def test_one_input_is_refused_in_eight_bits() -> None:
    """torch's product of 8-bit matrices is anything at all then (2.13)."""
    with pytest.raises(ValueError, match="one input"):
        BitsAndBytes(scheme="int8").eight_bit(layer_of(torch.ones(5, 1)))


def test_weights_beyond_half_precision_are_refused_in_eight_bits() -> None:
    _, _, wrong = built(BitsAndBytes(scheme="int8").eight_bit, torch.full((2, 4), 1e6))
    assert "became NaN or infinite" in wrong


@pytest.mark.parametrize("shape", [(24, 352), (8, 16), (10, 96), (3, 5), (1, 1), (1, 2), (7, 64)])
@pytest.mark.parametrize("block", [32, 64, 1024])
def test_codes_are_read_with_the_scales_of_their_own_blocks(
    shape: tuple[int, int], block: int
) -> None:
    """bitsandbytes' kernel is wrong where the inputs are 16 n but not whole blocks."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer = Blockwise.of(layer_of(weight), kind="nf4", block_size=block, double_quant=False)
    state: Any = layer.quant_state
    packed = layer.weight.data.view(torch.uint8).reshape(-1).int()
    codes = torch.stack([packed >> 4, packed & 15], 1).reshape(-1)[: weight.numel()]
    scales = state.absmax.repeat_interleave(block)[: weight.numel()]
    assert torch.equal(layer.dequantized(), (table("nf4")[codes] * scales).reshape(shape))


@pytest.mark.parametrize("double", [True, False])
def test_where_bitsandbytes_is_right_the_scores_are_its_own(*, double: bool) -> None:
    linear = layer_of(torch.randn(48, 128), bias=True)
    modules: Any = bitsandbytes.nn
    theirs = modules.Linear4bit(128, 48, compute_dtype=torch.float32, quant_type="nf4")
    theirs.support_avx512bf16_for_cpu = False
    theirs.weight = modules.Params4bit(
        linear.weight.data.clone(), quant_type="nf4", compress_statistics=double, module=theirs
    ).to("cpu")
    theirs.bias = linear.bias
    ours = Blockwise.of(linear, kind="nf4", block_size=64, double_quant=double)
    inputs = torch.randn(3, 5, 128)
    with torch.no_grad():
        assert torch.equal(ours(inputs), theirs.eval()(inputs))
    saved, expected = ours.state_dict(), theirs.state_dict()
    assert saved.keys() == expected.keys()
    assert torch.equal(saved["weight"].view(torch.uint8).reshape(-1, 1), expected["weight"])
    assert torch.equal(saved["weight.absmax"], expected["weight.absmax"])


def test_neither_running_nor_saving_changes_a_weight() -> None:
    model = loaded("llama")
    model.compress([BitsAndBytes(scheme="nf4")])
    said = logits(model)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    assert torch.equal(logits(model), said)
    after = model.module.state_dict()
    assert all(after[name].equal(before[name]) for name in before if "quant_state" not in name)
    assert torch.equal(logits(model), said)
    assert model.restore()


def test_bytes_are_those_of_codes_scales_and_tables() -> None:
    linear = layer_of(torch.randn(128, 512))
    codes, blocks = 128 * 512 // 2, 128 * 512 // 64

    def size(**options: Any) -> int:
        step = BitsAndBytes(**options)
        return (step.eight_bit if options["scheme"] == "int8" else step.four_bit)(linear)[1].nbytes

    plain = size(scheme="nf4") - codes - 4 * blocks
    assert 64 <= plain < 64 + 150  # the table, and a few words about the format
    double = size(scheme="nf4", double_quant=True) - codes - blocks - 4 * blocks // 256
    assert 64 + 1024 <= double < 64 + 1024 + 250
    assert size(scheme="int8") == 128 * 512 + 4 * 128 + 1


def test_a_head_that_is_tied_is_untied_knowingly() -> None:
    model = loaded("gpt2")
    tied = model.dense["lm_head.weight"]
    footprint = model.compress([BitsAndBytes(scheme="nf4", targets="head")])
    assert footprint.modules_touched == 1
    assert list(model.adopted) == ["lm_head"]
    module: Any = model.module
    assert torch.equal(module.get_input_embeddings().weight, tied)
    assert footprint.bytes == footprint.dense_bytes + model.stored["lm_head"].nbytes
    assert not torch.equal(model.stored["lm_head"].dequantize(), tied)
    assert model.restore()
    assert module.lm_head.weight is module.get_input_embeddings().weight


def test_the_head_is_left_alone_unless_it_is_named() -> None:
    model = loaded("gpt2")
    model.compress([BitsAndBytes(scheme="nf4", ignore=("*.h.0.*",))])
    assert model.adopted
    assert all(name.startswith("transformer.h.1.") for name in model.adopted)
    assert model.restore()


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
@pytest.mark.parametrize("options", [{"scheme": "nf4"}, {"scheme": "int8", "threshold": 0}])
def test_what_is_run_beside_a_row_does_not_matter(
    architecture: str, options: dict[str, Any]
) -> None:
    model = loaded(architecture)
    model.compress([BitsAndBytes(**options)])
    assert not model.alone
    together = logits(model)
    assert relative(logits(model, slice(1)), together[:1]) < 1e-3
    assert model.restore()


def test_outliers_of_other_rows_do_not_matter() -> None:
    """bitsandbytes would look for them among all tokens that are run at once."""
    model = loaded("llama")
    model.compress([BitsAndBytes(scheme="int8", threshold=0.5)])
    assert not model.alone
    together = logits(model)
    assert relative(logits(model, slice(1)), together[:1]) < 1e-3
    assert model.restore()
    model.compress([BitsAndBytes(scheme="int8", threshold=0)])
    assert relative(logits(model), together) > 1e-3
    assert model.restore()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.0, 1.0, 100.0])
def test_a_token_is_computed_as_bitsandbytes_computes_one(
    threshold: float, dtype: torch.dtype
) -> None:
    linear = layer_of(torch.randn(7, 30).to(dtype), bias=True)
    modules: Any = bitsandbytes.nn
    theirs = modules.Linear8bitLt(30, 7, has_fp16_weights=False, threshold=threshold)
    theirs.weight = modules.Int8Params(linear.weight.data.clone(), requires_grad=False).to("cpu")
    theirs.bias = linear.bias
    step = BitsAndBytes(scheme="int8", threshold=threshold)
    ours, _ = step.eight_bit(linear)
    inputs = torch.randn(2, 5, 30).to(dtype)
    with torch.no_grad():
        each = torch.stack([theirs.eval()(row[None])[0] for row in inputs.reshape(-1, 30)])
        found = ours.eval()(inputs).reshape(-1, 7)
    assert torch.allclose(
        found, each, rtol=4 * torch.finfo(dtype).eps, atol=20 * torch.finfo(dtype).eps
    )


def test_nothing_is_logged_for_each_layer(caplog: pytest.LogCaptureFixture) -> None:
    model = loaded("bert")
    with caplog.at_level(logging.WARNING):
        model.compress([BitsAndBytes(scheme="int8")])
        logits(model)
        logging.getLogger("bitsandbytes.autograd._functions").warning("other news")
    assert [record.message for record in caplog.records] == ["other news"]
    assert model.restore()


def test_zeros_survive() -> None:
    model = loaded("llama")
    for scheme in ("nf4", "fp4", "int8"):
        step: Any = BitsAndBytes(scheme=scheme)
        footprint = model.compress([Magnitude(sparsity=0.5), step])
        assert footprint.sparsity >= 0.5
        assert model.restore()


def test_the_version_is_part_of_the_environment_as_long_as_it_matters() -> None:
    model = loaded("bert")
    model.compress([BitsAndBytes(scheme="nf4")])
    assert model.environment()["bitsandbytes"] == version("bitsandbytes")
    assert model.restore()
    assert "bitsandbytes" not in model.environment()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(foreign, "version", missing)
    with pytest.raises(RecipeError, match=r"^bitsandbytes needs bitsandbytes: pip install bits"):
        loaded("bert").compress([BitsAndBytes(scheme="nf4")])
    assert loaded("bert").restore()


def test_a_dtype_that_it_cannot_store_is_told() -> None:
    with pytest.raises(RecipeError, match=r"cannot compress .* of torch.float64 on cpu: .*float"):
        loaded("bert", torch.float64).compress([BitsAndBytes(scheme="nf4")])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "scheme"),
        ({"scheme": "int4"}, "'int4'"),
        ({"scheme": "int8", "double_quant": True}, "'double_quant' means nothing to .*'int8'"),
        ({"scheme": "int8", "block_size": 64}, "'block_size' means nothing to scheme 'int8'"),
        ({"scheme": "nf4", "threshold": 6.0}, "'threshold' means nothing to scheme 'nf4'"),
        ({"scheme": "nf4", "block_size": 100}, "100"),
        ({"scheme": "int8", "threshold": -1}, ">= 0"),
        ({"scheme": "nf4", "targets": "heads"}, "'heads' is no set of weights"),
        ({"scheme": "nf4", "ignore": ["all"]}, "'all' is a set"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use=USE, options=options))
