import importlib.metadata
from collections.abc import Iterator
from typing import Any

import hypothesis
import msgspec
import pytest
import strategies
import tiny
import torch
from torch import Tensor, nn

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.backends.torch_dynamic import (
    TorchDynamic,
    dynamic,
    input_bits,
    stored,
)
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.registry import build
from pytest_compression.types import Part

USE = "pytest_compression.modifiers.backends.torch_dynamic:TorchDynamic"
SMALLEST = torch.finfo(torch.float32).eps
"""Of torch's scales."""


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def logits(model: LanguageModel, ids: Tensor) -> Tensor:
    more = {"decoder_input_ids": ids} if model.family == "seq2seq" else {}
    with torch.inference_mode():
        found: Tensor = model.module(input_ids=ids, **more).logits
    return found


def subject(architecture: str) -> LanguageModel:
    """A model of which T5's kind has smaller weights, for its attention does not scale them."""
    if architecture != "t5":
        return tiny.model(architecture)
    module = tiny.network("t5")
    for name, parameter in module.named_parameters():
        if "SelfAttention" in name or "EncDecAttention" in name:
            parameter.data.mul_(0.3)
    return LanguageModel(module=module, tokenizer=tiny.tokenizer("seq2seq"), family="seq2seq")


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@hypothesis.given(strategies.weights(dtype=torch.float32))
def test_one_symmetric_scale_a_matrix_as_torch_documents_it(weight: Tensor) -> None:
    before, layer = weight.clone(), linear(weight)
    found = stored(dynamic(layer, "qint8"), "qint8")
    scale = max(float(weight.abs().max()) / 127.5, SMALLEST)
    values = found.dequantize()
    codes = values.double() / scale
    assert torch.allclose(codes, codes.round(), rtol=0, atol=1e-3)
    assert codes.round().min() >= -128
    assert codes.round().max() <= 127
    assert float((values.double() - weight.double()).abs().max()) <= scale * 0.5001
    assert torch.equal(layer.weight, before)
    assert not hasattr(layer, "qconfig")
    assert (values[weight == 0] == 0).all()
    assert found.bits == 8
    assert found.nbytes == weight.numel() + 16


@hypothesis.given(strategies.weights(dtype=torch.float32))
def test_float16_stores_what_float16_holds(weight: Tensor) -> None:
    limit = torch.finfo(torch.float16).max
    found = stored(dynamic(linear(weight), "float16"), "float16")
    wanted = weight.clamp(-limit, limit).half().float()
    assert torch.equal(found.dequantize(), wanted)
    assert found.nbytes == 2 * weight.numel()


def test_a_layer_of_torch_computes_with_the_stored_weight_and_its_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(5, 8, generator=generator), torch.randn(5, generator=generator)
    layer = dynamic(linear(weight, bias), "qint8")
    inputs = torch.arange(8.0).expand(1, 8)  # multiples of the step 7/127 up to rounding
    wanted = inputs @ stored(layer, "qint8").dequantize().t() + bias
    assert relative(layer(inputs), wanted) < 0.01


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "opt", "roberta", "t5"])
def test_every_architecture_loses_a_little_and_is_restored(architecture: str) -> None:
    model = subject(architecture)
    ids = torch.tensor([[3, 9, 4, 7, 5, 8]])
    dense = logits(model, ids)
    footprint = model.compress([TorchDynamic()])
    assert 0 < relative(logits(model, ids), dense) < 0.2
    assert footprint.modules_touched == footprint.modules - 1
    assert 8 < footprint.bits < 9
    assert footprint.activation_bits == input_bits(torch.backends.quantized.engine)
    assert footprint.bytes < footprint.dense_bytes
    assert model.restore()
    assert torch.equal(logits(model, ids), dense)
    assert not model.alone


def test_gpt2s_conv1d_layers_are_quantized_too() -> None:
    model = tiny.model("gpt2")
    footprint = model.compress([TorchDynamic()])
    assert footprint.modules_touched == 8  # torch by itself finds the output head only
    kinds = {type(weight.layer).__module__ for weight in model.weights("all")}
    assert kinds == {"torch.ao.nn.quantized.dynamic.modules.linear"}
    for weight in model.weights("all"):
        assert weight.dense is not None
        assert relative(weight.values, weight.dense) < 0.02


def test_a_tied_head_is_untied_knowingly_and_tied_again() -> None:
    model = tiny.model("gpt2")
    table = model.module.get_input_embeddings().weight  # type: ignore[operator]
    before = table.clone()
    footprint = model.compress([TorchDynamic(targets="head")])
    assert footprint.modules_touched == 1
    assert footprint.bytes == footprint.dense_bytes + table.numel() + 16
    assert torch.equal(table, before)
    assert model.restore()
    assert model.owners() == model.ties


def test_a_mask_survives() -> None:
    model = tiny.model("bert")
    footprint = model.compress([Magnitude(sparsity=0.5), TorchDynamic()])
    assert footprint.sparsity >= 0.5
    assert footprint.activation_bits is not None


def test_inputs_are_rounded_for_all_rows_together_so_each_is_run_alone() -> None:
    model = tiny.model("llama")
    model.compress([TorchDynamic()])
    rows = torch.tensor([[3, 9, 4, 7], [200, 150, 100, 50]])
    together, alone = logits(model, rows)[:1], logits(model, rows[:1])
    assert relative(together, alone) > 1e-4
    assert model.alone


def test_weights_of_float16_do_not_depend_on_the_batch() -> None:
    model = tiny.model("llama")
    footprint = model.compress([TorchDynamic(dtype="float16")])
    rows = torch.tensor([[3, 9, 4, 7], [200, 150, 100, 50]])
    assert relative(logits(model, rows)[:1], logits(model, rows[:1])) < 1e-5
    assert not model.alone
    assert footprint.bits == 16
    assert footprint.activation_bits is None


@pytest.fixture(scope="module")
def knowing() -> Iterator[LanguageModel]:
    model = Embedded(family="causal").load()
    assert isinstance(model, LanguageModel)
    model.compress([TorchDynamic()])
    yield model
    assert model.restore()


def test_a_question_scores_the_same_whatever_else_is_asked(knowing: LanguageModel) -> None:
    many = WorldFacts(relations=("capital",), limit=20).measure(knowing)
    few = WorldFacts(relations=("capital",), limit=5).measure(knowing)
    margins = {q.id: margin for q, margin in zip(many.questions, many.margins, strict=True)}
    assert [margins[question.id] for question in few.questions] == list(few.margins)
    assert len(few.questions) == 5


@pytest.mark.parametrize(("engine", "bits"), [("x86", 7), ("qnnpack", 8)])
def test_engines_round_inputs_differently(engine: str, bits: int) -> None:
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(f"this torch has no {engine}")
    before = torch.backends.quantized.engine
    assert input_bits(engine) == bits
    assert torch.backends.quantized.engine == before


def test_the_engine_is_part_of_the_environment() -> None:
    model = tiny.model("bert")
    assert "torch quantized engine" not in model.environment()
    model.compress([TorchDynamic()])
    assert model.environment()["torch quantized engine"] == torch.backends.quantized.engine
    model.restore()
    assert "torch quantized engine" not in model.environment()


def test_a_torch_that_no_longer_has_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    input_bits.cache_clear()
    installed = importlib.metadata.version("torch")
    with pytest.raises(RecipeError, match=rf"torch {installed[:4]}.* no longer has .*'rtn'"):
        tiny.model("bert").compress([TorchDynamic()])


def test_a_torch_without_an_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_compression.modifiers.backends.torch_dynamic.NO_ENGINE", "x86")
    monkeypatch.setattr(torch.backends.quantized, "engine", "x86")
    with pytest.raises(RecipeError, match="without an engine for int8"):
        tiny.model("bert").compress([TorchDynamic()])


def test_other_dtypes_are_refused() -> None:
    model = tiny.model("llama")
    model.module.to(torch.bfloat16)
    with pytest.raises(RecipeError, match=r"q_proj' is bfloat16 on cpu: load"):
        TorchDynamic().apply(model)


def test_infinite_weights_are_refused() -> None:
    model = tiny.model("llama")
    model.weights("all")[3].values[0, 0] = float("inf")
    with pytest.raises(RecipeError, match=r"o_proj' holds NaN or infinite weights"):
        TorchDynamic().apply(model)


def test_embeddings_are_no_linear_layer() -> None:
    with pytest.raises(RecipeError, match="is a Embedding"):
        TorchDynamic(targets="embeddings").apply(tiny.model("llama"))


def test_a_layer_is_not_quantized_twice() -> None:
    with pytest.raises(RecipeError, match="earlier step"):
        tiny.model("llama").compress([TorchDynamic(), TorchDynamic()])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "int4"}, "'int4'"),
        ({"targets": "attentoin"}, "Did you mean 'attention'"),
        ({"ignore": ["head"]}, "'head' is a set"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use=USE, options=options))
