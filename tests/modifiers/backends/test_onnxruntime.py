import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
import onnx
import pytest
import tiny
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.activations import Activations
from pytest_compression.modifiers.backends import foreign
from pytest_compression.modifiers.backends.onnx_codes import Codes, inline
from pytest_compression.modifiers.backends.onnx_export import Graph, check, example, export
from pytest_compression.modifiers.backends.onnx_network import Session
from pytest_compression.modifiers.backends.onnxruntime import OnnxRuntime
from pytest_compression.modifiers.backends.torch_dynamic import TorchDynamic
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.registry import build
from pytest_compression.scoring.generation import generate
from pytest_compression.scoring.likelihood import Request, loglikelihoods
from pytest_compression.types import Footprint, Part

USE = "pytest_compression.modifiers.backends.onnxruntime:OnnxRuntime"
ROW = torch.tensor([[3, 9, 4, 7, 5, 8, 11]])
VNNI = torch.cpu._is_vnni_supported()
LITTLE = 0.2 if VNNI else 0.5
"""What is lost at most: processors without VNNI saturate sums of products of bytes."""
ARCHITECTURES = ["albert", "bert", "gpt2", "llama", "opt", "roberta", "t5"]


class Quantized(NamedTuple):
    model: LanguageModel
    dense: Tensor
    footprint: Footprint


def subject(architecture: str) -> LanguageModel:
    """A model of which T5's kind has smaller weights, for its attention does not scale them."""
    if architecture != "t5":
        return tiny.model(architecture)
    module = tiny.network("t5")
    for name, parameter in module.named_parameters():
        if "Attention" in name:
            parameter.data.mul_(0.3)
    return LanguageModel(module=module, tokenizer=tiny.tokenizer("seq2seq"), family="seq2seq")


def logits(model: LanguageModel, ids: Tensor) -> Tensor:
    more = {"decoder_input_ids": ids} if model.family == "seq2seq" else {}
    with torch.inference_mode():
        found: Tensor = model.module(input_ids=ids, **more).logits
    return found


def network(model: LanguageModel) -> Any:
    return model.module


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@cache
def quantized(architecture: str) -> Quantized:
    """Compressed once, for all tests that only look at it."""
    model = subject(architecture)
    dense = logits(model, ROW)
    return Quantized(model, dense, model.compress([OnnxRuntime()]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loses_a_little(architecture: str) -> None:
    model, dense, footprint = quantized(architecture)
    assert 0 < relative(logits(model, ROW), dense) < LITTLE
    assert footprint.modules_touched == footprint.modules == len(model.layers())
    assert footprint.activation_bits == 8
    assert 0.25 < footprint.bytes / footprint.dense_bytes < 0.5  # tiny: scales and norms count
    assert model.alone


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_matrix_is_held_in_codes_that_stand_for_it(architecture: str) -> None:
    model = quantized(architecture).model
    for weight in model.layers():
        assert isinstance(weight.layer, Codes)
        assert weight.dense is not None
        assert relative(weight.values, weight.dense) < 0.02, weight.name
    left = [p for p in network(model).tensors if p.is_floating_point() and p.dim() == 2]
    assert not left  # ALBERT's second layer is its first: it must not stay beside the codes


def test_codes_are_symmetric_for_each_output_as_documented() -> None:
    model = quantized("llama").model
    weight = next(one for one in model.layers() if one.name.endswith("q_proj"))
    assert weight.dense is not None
    scale = weight.dense.abs().amax(1, keepdim=True) / 127
    wanted = (weight.dense / scale).round() * scale
    assert torch.allclose(weight.values, wanted, rtol=1e-5, atol=1e-6)


def test_an_encoder_decoder_holds_its_shared_embeddings_once() -> None:
    model, _, footprint = quantized("t5")
    assert sorted(network(model).sessions) == ["decoder", "encoder"]
    bigger = [p for p in model.module.parameters() if p.dim() == 2 and len(p) == tiny.VOCABULARY]
    assert not bigger
    assert "shared" in {weight.name for weight in model.layers()}
    assert (
        footprint.parameters
        < 1.01 * sum(t.numel() for name, t in model.dense.items() if model.ties[name] == name)
        + tiny.VOCABULARY * 16
    )  # the head, which was tied


@pytest.mark.parametrize("architecture", ["gpt2", "roberta", "t5"])
def test_rows_of_any_length_are_run(architecture: str) -> None:
    model = quantized(architecture).model
    dense = subject(architecture)
    for rows, tokens in ((1, 1), (2, 3), (1, 40)):
        ids = torch.arange(3, 3 + rows * tokens).reshape(rows, tokens)
        assert relative(logits(model, ids), logits(dense, ids)) < LITTLE * 1.25


def test_segments_reach_the_graph() -> None:
    model, dense = quantized("bert").model, tiny.model("bert")
    kinds = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    with torch.inference_mode():
        found = model.module(input_ids=ROW, token_type_ids=kinds).logits
        wanted = dense.module(input_ids=ROW, token_type_ids=kinds).logits
    assert relative(found, wanted) < (0.1 if VNNI else LITTLE)
    assert relative(found, logits(model, ROW)) > 0.1


def test_inputs_are_rounded_for_all_rows_together_so_each_is_run_alone() -> None:
    model = quantized("llama").model
    rows = torch.tensor([[3, 9, 4, 7], [200, 150, 100, 50]])
    assert relative(logits(model, rows)[:1], logits(model, rows[:1])) > 1e-4
    assert model.alone


def test_padding_is_refused() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    with pytest.raises(ValueError, match="without padding"):
        quantized("llama").model.module(input_ids=ROW, attention_mask=mask)


def test_it_takes_as_many_threads_as_torch() -> None:
    session = network(quantized("llama").model).sessions["model"].session
    found = session.get_session_options().intra_op_num_threads
    assert found == torch.get_num_threads()


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_continuations_are_scored_as_their_whole_rows_are(architecture: str) -> None:
    model = quantized(architecture).model
    requests = [Request((5, 6, 7), (8, 9)), Request((5, 6, 7), (10,)), Request((5, 6), (4, 3))]
    together = loglikelihoods(model, requests)
    assert together == [loglikelihoods(model, [one])[0] for one in requests]
    if architecture == "gpt2":
        said = logits(model, torch.tensor([[5, 6, 7, 8]])).log_softmax(-1)[0]
        assert together[0].tokens == pytest.approx([float(said[2, 8]), float(said[3, 9])], abs=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_text_is_generated_without_a_cache(architecture: str) -> None:
    model = quantized(architecture).model
    prompts = [(5, 6, 7), (5, 6, 9)]
    found = generate(model, prompts, stop=["#"], max_new_tokens=4)
    assert found == [generate(model, [one], stop=["#"], max_new_tokens=4)[0] for one in prompts]


def test_only_the_targets_are_quantized() -> None:
    model = tiny.model("bert")
    footprint = model.compress([OnnxRuntime(targets="attention", ignore=("*.0.*.key",))])
    held = {weight.name: weight for weight in model.layers()}
    codes = {name for name, weight in held.items() if isinstance(weight.layer, Codes)}
    assert codes == {
        f"bert.encoder.layer.{number}.attention.{last}"
        for number in (0, 1)
        for last in ("self.query", "self.key", "self.value", "output.dense")
    } - {"bert.encoder.layer.0.attention.self.key"}
    assert footprint.modules_touched == 7
    for name, weight in held.items():
        assert weight.dense is not None
        assert torch.equal(weight.values, weight.dense) == (name not in codes)
    table = model.dense["bert.embeddings.position_embeddings.weight"]
    assert any(p.shape == table.shape and torch.equal(p, table) for p in model.module.parameters())


def test_one_scale_a_matrix_takes_less_and_a_mask_survives() -> None:
    model = tiny.model("llama")
    footprint = model.compress([Magnitude(sparsity=0.5), OnnxRuntime(per_channel=False)])
    assert footprint.bytes < quantized("llama").footprint.bytes
    pruned = model.weights("all")
    count = sum(one.values.numel() for one in pruned)
    assert sum(int((one.values == 0).sum()) for one in pruned) >= 0.5 * count
    assert footprint.modules_touched == len(pruned) + 2  # and head and embeddings


def test_affine_weights_of_seven_bits_and_all_bits_back() -> None:
    model = tiny.model("gpt2")
    dense, before = logits(model, ROW), network(model).config.to_dict()
    model.compress([OnnxRuntime(weight_type="uint8", reduce_range=True)])
    assert 0 < relative(logits(model, ROW), dense) < 0.2
    for weight in model.weights("all"):
        assert isinstance(weight.layer, Codes)
        assert weight.layer.codes.dtype == torch.uint8
        assert int(weight.layer.codes.max()) <= 127
    assert model.restore()
    assert torch.equal(logits(model, ROW), dense)
    assert network(model).config.to_dict() == before
    assert not model.alone


@pytest.fixture(scope="module")
def knowing() -> Iterator[LanguageModel]:
    model = Embedded(family="causal").load()
    assert isinstance(model, LanguageModel)
    footprint = model.compress([OnnxRuntime()])
    assert 0.25 < footprint.bytes / footprint.dense_bytes < 0.4
    yield model
    assert model.restore()


def test_a_question_scores_the_same_whatever_else_is_asked(knowing: LanguageModel) -> None:
    many = WorldFacts(relations=("capital",), limit=20).measure(knowing)
    few = WorldFacts(relations=("capital",), limit=5).measure(knowing)
    margins = {q.id: margin for q, margin in zip(many.questions, many.margins, strict=True)}
    assert [margins[question.id] for question in few.questions] == list(few.margins)
    assert sum(many.scores) >= 18


def test_the_version_is_part_of_the_environment() -> None:
    model = quantized("llama").model
    assert model.environment()["onnxruntime"] == importlib.metadata.version("onnxruntime")


class Fixed(nn.Module):
    """Reads a length as a number, so that a trace keeps the one that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(tiny.VOCABULARY, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        found: Tensor = self.table(input_ids) * int(input_ids.shape[1])
        return found


def test_a_trace_that_keeps_a_length_is_found_out(tmp_path: Any) -> None:
    dense = tiny.network("llama")
    graph = Graph(name="model", traced=Fixed().eval(), inputs=("input_ids",))
    export(graph, dense, tmp_path / "fixed.onnx")
    with pytest.raises(RecipeError, match=r"LlamaForCausalLM: on rows of 1 tokens .* 6\)"):
        check(graph, dense, Session(tmp_path / "fixed.onnx"))


def test_a_graph_that_fails_is_named() -> None:
    dense = tiny.network("llama")
    graph = Graph(name="model", traced=Fixed().eval(), inputs=("input_ids",))

    def broken(_: Any) -> Tensor:
        message = "no such operator\nand more"
        raise RuntimeError(message)

    with pytest.raises(RecipeError, match=r"fails on rows of 1 tokens: no such operator$"):
        check(graph, dense, broken)


class Unknown(nn.Module):
    def forward(self, input_ids: Tensor) -> Tensor:
        found: Tensor = torch.linalg.pinv(input_ids.float())
        return found


def test_what_cannot_be_exported_is_said_in_one_line(
    tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = Graph(name="model", traced=Unknown().eval(), inputs=("input_ids",))
    with pytest.raises(
        RecipeError, match=r"torch cannot export it as ONNX: .*linalg_pinv"
    ) as found:
        export(graph, tiny.network("llama"), tmp_path / "unknown.onnx")
    assert "\n" not in str(found.value)
    assert "Torch IR graph" not in capfd.readouterr().out


def test_copies_of_tensors_are_read_by_their_own_name() -> None:
    held = helper.make_tensor("held", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    nodes = [
        helper.make_node("Identity", ["held"], ["copy"]),
        helper.make_node("Identity", ["copy"], ["again"]),
        helper.make_node("MatMul", ["x", "again"], ["y"]),
        helper.make_node("Identity", ["y"], ["z"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "z")]
    graph = helper.make_graph(nodes, "copies", ends[:1], ends[1:], [held])
    inline(graph)
    assert [list(node.input) for node in graph.node] == [["x", "held"], ["y"]]
    onnx.checker.check_model(helper.make_model(graph))


def test_a_graph_is_tried_on_lengths_that_no_two_inputs_share() -> None:
    graph = Graph(name="decoder", traced=Fixed(), inputs=("states", "decoder_input_ids"))
    inputs = example(graph, tiny.network("t5"), 2, 7)
    assert inputs["states"].shape[:2] == (2, 9)
    assert inputs["decoder_input_ids"].shape == (2, 7)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_what_is_not_installed_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(foreign, "version", version)
    wanted = rf"^onnxruntime needs {missing}: pip install 'pytest-compression\[onnx\]'"
    with pytest.raises(RecipeError, match=wanted):
        OnnxRuntime().apply(tiny.model("llama"))


def refused_dtype(model: LanguageModel) -> None:
    model.module.to(torch.bfloat16)


def refused_layer(model: LanguageModel) -> None:
    TorchDynamic(targets="attention").apply(model)


def refused_inputs(model: LanguageModel) -> None:
    Activations(targets="attention").apply(model)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (refused_inputs, "those of 'model.layers.0.self_attn.q_proj' are rounded already"),
        (refused_dtype, "is bfloat16 on cpu: load it with 'dtype: float32'"),
        (refused_layer, "another library holds 'model.layers.0.self_attn.q_proj'"),
    ],
)
def test_what_cannot_be_taken_is_refused(
    spoil: Callable[[LanguageModel], None], words: str
) -> None:
    model = tiny.model("llama")
    spoil(model)
    with pytest.raises(RecipeError, match=words):
        OnnxRuntime().apply(model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight_type": "int4"}, "'int4'"),
        ({"targets": "embedding"}, "Did you mean 'embeddings'"),
        ({"per_channel": "yes"}, "bool"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use=USE, options=options))


def test_the_networks_say_what_they_take() -> None:
    for architecture, wanted in (("llama", False), ("bert", True), ("t5", False)):
        accepted = inspect.signature(quantized(architecture).model.module.forward).parameters
        assert ("token_type_ids" in accepted) == wanted
        assert "past_key_values" not in accepted
