"""llm-compressor's own recipes on models of several architectures; run by its tox environment."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.backends.llm_compressor import LlmCompressor
from pytest_compression.modifiers.backends.torch_dynamic import TorchDynamic
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.types import Claim

FACTS = Material(facts=("capital",), samples=16)
ROW = torch.tensor([[3, 9, 4, 7, 5, 8]])
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
SIZES: dict[str, dict[str, Any]] = {"llama": WIDE, "bert": WIDE, "roberta": WIDE}
HEADS = {
    "bert": "cls.predictions.decoder",
    "gpt2": "lm_head",
    "llama": "lm_head",
    "opt": "lm_head",
    "roberta": "lm_head.decoder",
    "t5": "lm_head",
}
BLOCKS = {
    "bert": "BertLayer",
    "gpt2": "GPT2Block",
    "llama": "LlamaDecoderLayer",
    "opt": "OPTDecoderLayer",
    "t5": "T5Block",
}
FOUR = {"num_bits": 4, "strategy": "group", "group_size": 8, "symmetric": True, "type": "int"}
W4A16 = {"config_groups": {"group": {"targets": ["Linear"], "weights": FOUR}}}
SCHEMES: dict[str, dict[str, Any]] = {
    "W4A16": W4A16,
    "W8A8": {"scheme": "W8A8"},
    "FP8": {"scheme": "FP8_DYNAMIC"},
}


def recipe(**modifiers: Any) -> dict[str, Any]:
    return {"some_stage": {"some_modifiers": modifiers}}


def body(architecture: str, **options: Any) -> dict[str, Any]:
    """Options of a step that works on all linear layers but the head."""
    return {"targets": ["Linear"], "ignore": [HEADS[architecture]], **options}


def subject(architecture: str) -> LanguageModel:
    return tiny.model(architecture, **SIZES.get(architecture, {}))


def logits(model: LanguageModel) -> Tensor:
    more = {"decoder_input_ids": ROW} if model.family == "seq2seq" else {}
    with torch.inference_mode():
        found: Tensor = model.module(input_ids=ROW, **more).logits
    return found


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("architecture", ["bert", "llama", "opt", "roberta"])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_round_to_nearest(architecture: str, scheme: str) -> None:
    model = subject(architecture)
    dense = logits(model)
    step = recipe(QuantizationModifier=body(architecture, **SCHEMES[scheme]))
    footprint = model.compress([LlmCompressor(recipe=step)])
    assert 0 < relative(logits(model), dense) < 0.9  # random weights; it is no forecast
    assert footprint.modules_touched == footprint.modules - 1
    assert footprint.weight_error < {"W4A16": 0.15, "W8A8": 0.01, "FP8": 0.05}[scheme]
    assert footprint.bytes < 0.75 * footprint.dense_bytes
    assert footprint.activation_bits == (None if scheme == "W4A16" else 8)
    assert model.restore()
    assert torch.equal(logits(model), dense)


@pytest.mark.parametrize("architecture", ["bert", "llama", "opt"])
@pytest.mark.parametrize("name", ["SparseGPTModifier", "WandaPruningModifier"])
def test_pruning(architecture: str, name: str) -> None:
    model = subject(architecture)
    options = {"sparsity": 0.5, "targets": [BLOCKS[architecture]]}
    footprint = model.compress([LlmCompressor(recipe=recipe(**{name: options}), calibration=FACTS)])
    assert footprint.sparsity == pytest.approx(0.5, abs=0.02)
    assert footprint.bytes == footprint.dense_bytes
    assert footprint.modules_touched >= 12


@pytest.mark.parametrize("architecture", ["bert", "llama", "opt"])
def test_gptq(architecture: str) -> None:
    model = subject(architecture)
    step = recipe(GPTQModifier=body(architecture, **W4A16))
    footprint = model.compress([LlmCompressor(recipe=step, calibration=FACTS)])
    assert 0.01 < footprint.weight_error < 0.25
    assert footprint.modules_touched == footprint.modules - 1
    assert footprint.bytes < 0.75 * footprint.dense_bytes


def test_gptq_beats_rounding_where_it_was_calibrated() -> None:
    model = Embedded(family="causal").load()
    assert isinstance(model, LanguageModel)
    three = {**FOUR, "num_bits": 3, "group_size": 32}
    options = body("llama", config_groups={"group": {"targets": ["Linear"], "weights": three}})
    asked = WorldFacts(relations=("capital",))
    scores = []
    for name in ("QuantizationModifier", "GPTQModifier"):
        material = Material(facts=("capital",), samples=256)
        model.compress([LlmCompressor(recipe=recipe(**{name: options}), calibration=material)])
        found = asked.measure(model)
        scores.append(sum(found.scores) / len(found.scores))
        assert model.restore()
    assert scores[1] > scores[0]


def test_awq_runs_without_an_accelerator() -> None:
    model = subject("llama")
    rounded = body("llama", **W4A16)
    steps = recipe(AWQModifier={"duo_scaling": False}, QuantizationModifier=rounded)
    footprint = model.compress([LlmCompressor(recipe=steps, calibration=FACTS)])
    assert footprint.modules_touched == footprint.modules - 1
    norms = [name for name, tensor in model.dense.items() if tensor.dim() == 1]
    live = dict(model.tensors())
    assert any(not torch.equal(live[name], model.dense[name]) for name in norms)


def test_smoothquant_moves_scales_and_rounds_inputs() -> None:
    model = subject("llama")
    dense = logits(model)
    steps = recipe(
        SmoothQuantModifier={"smoothing_strength": 0.5},
        QuantizationModifier=body("llama", scheme="W8A8"),
    )
    footprint = model.compress([LlmCompressor(recipe=steps, calibration=FACTS)])
    assert footprint.weight_error > 0.1  # the weights took over scales of the norms
    assert relative(logits(model), dense) < 0.1
    assert footprint.activation_bits == 8


def test_one_scale_for_all_inputs_is_run_alone() -> None:
    model = subject("llama")
    inputs = {"num_bits": 8, "type": "int", "strategy": "tensor", "dynamic": True}
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    step = recipe(QuantizationModifier=body("llama", config_groups={"group": group}))
    model.compress([LlmCompressor(recipe=step)])
    assert model.alone


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_quantizers_that_pass_over_conv1d_are_an_error(scheme: str) -> None:
    step = recipe(QuantizationModifier=body("gpt2", **SCHEMES[scheme]))
    with pytest.raises(
        RecipeError, match=r"QuantizationModifier .* GPT2LMHeadModel: no layer .*1D"
    ):
        subject("gpt2").compress([LlmCompressor(recipe=step)])


def test_a_quantized_head_does_not_hide_that_conv1d_was_passed_over() -> None:
    step = recipe(QuantizationModifier={"targets": ["Linear"], **W4A16})
    with pytest.raises(RecipeError, match="no layer is stored in codes but the output head"):
        subject("gpt2").compress([LlmCompressor(recipe=step)])


def test_gptq_says_that_it_finds_no_conv1d() -> None:
    step = recipe(GPTQModifier=body("gpt2", **W4A16))
    with pytest.raises(
        RecipeError, match=r"cannot apply this recipe to a GPT2LMHeadModel: .*unable"
    ):
        subject("gpt2").compress([LlmCompressor(recipe=step, calibration=FACTS)])


@pytest.mark.parametrize("name", ["SparseGPTModifier", "WandaPruningModifier"])
@pytest.mark.parametrize("targets", [["GPT2Block"], ["Linear"]], ids=["blocks", "layers"])
def test_pruners_that_pass_over_conv1d_are_an_error(name: str, targets: list[str]) -> None:
    step = recipe(**{name: {"sparsity": 0.5, "targets": targets}})
    with pytest.raises(RecipeError, match=rf"{name} .* GPT2LMHeadModel: no layer but the head"):
        subject("gpt2").compress([LlmCompressor(recipe=step, calibration=FACTS)])


def test_an_encoder_decoder_is_quantized_with_its_inputs() -> None:
    step = recipe(QuantizationModifier=body("t5", scheme="W8A8"))
    footprint = subject("t5").compress([LlmCompressor(recipe=step)])
    assert footprint.modules_touched == footprint.modules - 1
    assert footprint.activation_bits == 8


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (recipe(QuantizationModifier=body("t5", **W4A16)), "cannot be read by transformers"),
        (recipe(GPTQModifier=body("t5", **W4A16)), "T5ForConditionalGeneration"),
        (
            recipe(SparseGPTModifier={"sparsity": 0.5, "targets": ["Linear"]}),
            "SparseGPTModifier .* no layer but the head, if any, has a share of 0.5 zeros",
        ),
        (
            recipe(WandaPruningModifier={"sparsity": 0.5, "targets": ["T5Block"]}),
            "T5ForConditionalGeneration",
        ),
    ],
    ids=["rtn", "gptq", "sparsegpt", "wanda"],
)
def test_what_fails_on_an_encoder_decoder_is_said_in_a_sentence(
    step: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words) as found:
        subject("t5").compress([LlmCompressor(recipe=step, calibration=FACTS)])
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["AWQModifier", "SmoothQuantModifier"])
def test_smoothing_that_passes_over_an_architecture_is_an_error(name: str) -> None:
    steps = recipe(**{name: {}}, QuantizationModifier=body("bert", **W4A16))
    with pytest.raises(RecipeError, match=rf"{name} .* moved no scales into norms"):
        subject("bert").compress([LlmCompressor(recipe=steps, calibration=FACTS)])


def test_a_layer_that_was_to_be_ignored_is_an_error() -> None:
    step = recipe(WandaPruningModifier=body("llama", sparsity=0.5))
    with pytest.raises(RecipeError, match="it pruned 'lm_head', which it was to ignore"):
        subject("llama").compress([LlmCompressor(recipe=step, calibration=FACTS)])


def test_what_was_pruned_before_stays_pruned() -> None:
    model = subject("llama")
    step = recipe(QuantizationModifier=body("llama", scheme="W8A8"))
    footprint = model.compress([Magnitude(sparsity=0.5), LlmCompressor(recipe=step)])
    assert footprint.sparsity >= 0.5


@dataclass(frozen=True)
class Wordy:
    """Gives a layer a bias, of which the configuration knows nothing."""

    def apply(self, model: LanguageModel) -> Claim:
        weight = model.weights("feed-forward")[0]
        weight.layer.bias = nn.Parameter(torch.ones(len(weight.values)), requires_grad=False)
        return Claim(targets=[weight.name])


def test_what_no_file_holds_cannot_be_handed_over() -> None:
    step = recipe(QuantizationModifier=body("llama", scheme="W8A8"))
    wanted = r"what no file holds \('model.layers.0.mlp.gate_proj.bias'"
    with pytest.raises(RecipeError, match=wanted):
        subject("llama").compress([Wordy(), LlmCompressor(recipe=step)])


def test_an_untied_head_is_handed_over_untied() -> None:
    model = tiny.model("opt")
    step = recipe(QuantizationModifier=body("opt", scheme="W8A8"))
    model.compress([Magnitude(sparsity=0.5, targets="head"), LlmCompressor(recipe=step)])
    ends = {weight.name: weight for weight in model.weights(("head", "embeddings"))}
    zeros = [float((weight.values == 0).float().mean()) for weight in ends.values()]
    assert sorted(zeros) == [0, 0.5]


def test_another_librarys_layers_cannot_be_handed_over() -> None:
    step = recipe(QuantizationModifier=body("llama", scheme="W8A8"))
    with pytest.raises(RecipeError, match="another library holds those of"):
        subject("llama").compress([TorchDynamic(), LlmCompressor(recipe=step)])


def test_missing_calibration_is_asked_for() -> None:
    step = recipe(GPTQModifier=body("llama", **W4A16))
    with pytest.raises(RecipeError, match="give 'calibration'"):
        subject("llama").compress([LlmCompressor(recipe=step)])


def test_an_unknown_modifier_or_option_is_said_in_a_sentence() -> None:
    for step in (recipe(NoSuchModifier={"a": 1}), recipe(GPTQModifier={"no_such_option": 1})):
        with pytest.raises(RecipeError, match=r"does not understand this recipe: .*[Nn]o_?[Ss]uch"):
            subject("llama").compress([LlmCompressor(recipe=step)])


def test_a_file_says_the_same_as_a_mapping(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "a_stage:\n  a_modifiers:\n    QuantizationModifier:\n      targets: [Linear]\n"
    text += "      ignore: [lm_head]\n      scheme: W8A8\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    model = subject("llama")
    by_file = LlmCompressor(recipe=str(tmp_path / "recipe.yaml"))
    model.compress([by_file])
    found = logits(model)
    said = model.environment()
    assert said["llm-compressor"] == importlib.metadata.version("llmcompressor")
    assert model.restore()
    model.compress(
        [LlmCompressor(recipe=recipe(QuantizationModifier=body("llama", scheme="W8A8")))]
    )
    assert torch.equal(logits(model), found)
    assert capfd.readouterr() == ("", "")
    (tmp_path / "recipe.yaml").write_text(text + "      # another\n", encoding="utf-8")
    assert by_file.environment()["llm-compressor recipe"] != said["llm-compressor recipe"]
