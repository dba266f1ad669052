"""``use: checkpoint``: released files of every format that can be written here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from saved import WEIGHTS, pickled, rewritten, saved, tensors_changed, write_gguf, written
from torch import Tensor
from torch.nn.utils import prune

from pytest_compression.errors import ModelError, RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Pretrained
from pytest_compression.modifiers.checkpoint import Checkpoint
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.structured import Layers
from pytest_compression.types import Footprint, Modifier

WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
"""Wide enough for groups of 32 and blocks of 64."""
LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A dense model, read from its file; restored after each use."""
    folder = saved(tmp_path_factory.mktemp("dense"), **WIDE)
    return loaded(folder)


def loaded(folder: Path) -> LanguageModel:
    found = Pretrained(path=str(folder)).load()
    assert isinstance(found, LanguageModel)
    return found


def read(model: LanguageModel, folder: Path, **options: Any) -> Footprint:
    assert model.restore()
    return model.compress([Checkpoint(path=str(folder), **options)])


def refused(model: LanguageModel, folder: Path, *words: str, **options: Any) -> None:
    """One sentence that names the path and all of these words; the dense model is as it was."""
    with pytest.raises((ModelError, RecipeError)) as told:
        read(model, folder, **options)
    message = str(told.value)
    for word in (str(folder), *words):
        assert word in message
    assert "\n" not in message
    assert model.restore()


def logits(module: Any) -> Tensor:
    ids = torch.arange(3, 20)[None]
    seq2seq = {"decoder_input_ids": ids} if module.config.is_encoder_decoder else {}
    with torch.no_grad():
        found: Tensor = module(input_ids=ids, **seq2seq).logits
    return found.float()


def stored_bytes(folder: Path) -> int:
    return sum(tensor.nbytes for tensor in load_file(folder / WEIGHTS).values())


# Plain tensors


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5", "marian"])
def test_a_pruned_model_is_judged_as_it_was_pruned(tmp_path: Path, architecture: str) -> None:
    model = tiny.model(architecture)
    model.compress([Magnitude(sparsity=0.5)])
    expected, footprint = logits(model.module), model.compress([])
    written(model, tmp_path)
    fresh = tiny.model(architecture)
    found = read(fresh, tmp_path)
    assert torch.equal(logits(fresh.module), expected)
    assert (found.zeros, found.weight_error) == (footprint.zeros, footprint.weight_error)
    assert found.bytes == stored_bytes(tmp_path)  # Marian's positions are computed, not stored
    assert fresh.restore()
    assert torch.equal(logits(fresh.module), logits(tiny.model(architecture).module))


def test_a_smaller_model_is_a_compressed_one(tmp_path: Path) -> None:
    student = saved(tmp_path, num_hidden_layers=1, intermediate_size=8)
    model = tiny.model("llama")
    found = read(model, student)
    assert (found.bytes, found.modules) == (stored_bytes(student), 8)
    assert found.bytes < 0.8 * found.dense_bytes


def test_blocks_that_others_may_be_behind_are_compared_with_none(
    dense: LanguageModel, tmp_path: Path
) -> None:
    assert dense.restore()
    judged = dense.compress([Layers(count=1), RoundToNearest(bits=8)])
    dense.save(tmp_path)
    again = read(dense, tmp_path)
    assert (judged.reshaped, again.reshaped) == (0, 7)
    assert judged.weight_error > 0
    assert again.weight_error == 0  # of the head, which nobody rounded


def test_half_precision_is_counted_as_it_is_stored(dense: LanguageModel, tmp_path: Path) -> None:
    halved = tiny.model("llama", **WIDE)
    halved.module.bfloat16()
    found = read(dense, written(halved, tmp_path))
    assert 2 * found.bytes == found.dense_bytes
    assert dense.environment()["dtype"] == "float32"
    assert found.bits == 16


def test_what_later_steps_change_is_counted_as_they_leave_it(
    dense: LanguageModel, tmp_path: Path
) -> None:
    halved = tiny.model("llama", **WIDE)
    halved.module.bfloat16()
    step = Checkpoint(path=str(written(halved, tmp_path)))
    file = stored_bytes(tmp_path)

    def after(later: Modifier) -> Footprint:
        assert dense.restore()
        return dense.compress([step, later])

    fewer = after(Layers(count=1))
    assert fewer.bytes == 2 * fewer.parameters < file
    sparse = after(Magnitude(sparsity=0.5))
    assert sparse.bytes == file + 2 * sum(one.values.numel() for one in dense.weights("all"))
    matrices = [weight.values for weight in dense.weights("all")]
    packed = sum(one.numel() // 2 + 4 * len(one) for one in matrices)
    coded = after(RoundToNearest(bits=4))
    assert coded.bytes == file - 2 * sum(one.numel() for one in matrices) + packed
    assert 4 < coded.bits < 16  # head and embeddings are still the file's
    assert dense.restore()


def test_later_steps_work_on_the_checkpoint_and_its_bytes_stay(tmp_path: Path) -> None:
    student = saved(tmp_path, num_hidden_layers=1)
    model = tiny.model("llama")
    checkpoint = Checkpoint(path=str(student))
    found = model.compress([checkpoint, Magnitude(sparsity=0.5)])
    assert found.bytes == stored_bytes(student)
    assert found.zeros == sum(weight.values.numel() for weight in model.weights("all")) // 2


def test_what_the_model_does_not_use_is_not_counted(dense: LanguageModel, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["extra.weight"] = torch.ones(1000)
        tensors[f"{LAYER}.weight"].mul_(2)

    folder = tensors_changed(saved(tmp_path, **WIDE), change)
    refused(dense, folder, "holds 'extra.weight'", "ignore_unexpected")
    found = read(dense, folder, ignore_unexpected=("extra.*",))
    assert found.bytes == found.dense_bytes == stored_bytes(folder) - 4000


def test_pickled_weights_are_counted_alike(tmp_path: Path) -> None:
    model = tiny.model("llama")
    folder = pickled(saved(tmp_path, num_hidden_layers=1))
    refused(model, folder, "only pickled weights", "write allow_pickle: true")
    found = read(model, folder, allow_pickle=True)
    assert found.bytes == sum(t.nbytes for _, t in model.tensors())


def test_the_content_of_its_files_is_part_of_the_environment(tmp_path: Path) -> None:
    step = Checkpoint(path=str(saved(tmp_path)))
    before = step.environment()
    assert step.environment() == before
    tensors_changed(tmp_path, lambda tensors: tensors["lm_head.weight"].mul_(2))
    assert step.environment() != before
    model = tiny.model("llama")
    read(model, tmp_path)
    assert model.environment()["checkpoint"] == step.environment()["checkpoint"]


# What is refused


def test_the_dense_model_itself_is_refused(dense: LanguageModel, tmp_path: Path) -> None:
    refused(dense, saved(tmp_path, **WIDE), "is the dense model itself")


def test_it_must_be_the_first_step(dense: LanguageModel, tmp_path: Path) -> None:
    checkpoint = Checkpoint(path=str(saved(tmp_path, **WIDE)))
    steps: list[Modifier] = [Magnitude(sparsity=0.5), checkpoint]
    with pytest.raises(RecipeError, match="make it the first step"):
        dense.compress(steps)


def test_a_model_saved_with_its_masks_is_refused(dense: LanguageModel, tmp_path: Path) -> None:
    # The head of such a model was once evaluated at random.
    model = tiny.model("llama", **WIDE)
    prune.random_unstructured(model.module.lm_head, "weight", amount=0.5)
    refused(dense, written(model, tmp_path), "'lm_head.weight_orig'", "prune.remove(layer")


def test_a_missing_tensor_is_refused(dense: LanguageModel, tmp_path: Path) -> None:
    folder = tensors_changed(saved(tmp_path, **WIDE), lambda t: t.pop("model.norm.weight"))
    refused(dense, folder, "lacks 'model.norm.weight'")


def test_another_family_is_refused(dense: LanguageModel, tmp_path: Path) -> None:
    refused(dense, saved(tmp_path, "bert"), "is a masked language model", "is a causal one")


def test_another_number_of_tokens_is_refused(dense: LanguageModel, tmp_path: Path) -> None:
    folder = saved(tmp_path, vocab_size=321, **WIDE)
    refused(dense, folder, "321 tokens", "320", str(dense.module.config.name_or_path))  # type: ignore[union-attr]


def tokenizer_changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The same model with weights of its own and another tokenizer."""
    tensors_changed(folder, lambda tensors: tensors["lm_head.weight"].mul_(2))
    file = folder / "tokenizer.json"
    spoken = json.loads(file.read_text(encoding="utf-8"))
    change(spoken)
    file.write_text(json.dumps(spoken), encoding="utf-8")
    return folder


def test_another_vocabulary_is_refused_by_a_token(dense: LanguageModel, tmp_path: Path) -> None:
    def exchange(spoken: dict[str, Any]) -> None:
        ids = spoken["model"]["vocab"]
        ids["a"], ids["b"] = ids["b"], ids["a"]

    folder = tokenizer_changed(saved(tmp_path, **WIDE), exchange)
    refused(dense, folder, "another tokenizer", "2 of", "tokens differ, such as 'a'")


def test_another_split_is_refused_by_a_text(dense: LanguageModel, tmp_path: Path) -> None:
    def merge_nothing(spoken: dict[str, Any]) -> None:
        spoken["model"]["merges"] = []

    folder = tokenizer_changed(saved(tmp_path, **WIDE), merge_nothing)
    refused(dense, folder, "the vocabularies are the same", "'The capital of France is Paris.'")


def test_without_a_tokenizer_the_dense_one_s_is_used(dense: LanguageModel, tmp_path: Path) -> None:
    def nothing(_: dict[str, Any]) -> None: ...

    for file in tokenizer_changed(saved(tmp_path, **WIDE), nothing).glob("token*"):
        file.unlink()
    assert read(dense, tmp_path).weight_error > 0


@pytest.mark.parametrize("content", ["{ half", "", None], ids=["cut off", "empty", "missing"])
def test_a_tokenizer_that_cannot_be_read_is_not_taken_for_none(
    dense: LanguageModel, tmp_path: Path, content: str | None
) -> None:
    file = saved(tmp_path, **WIDE) / "tokenizer.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content, encoding="utf-8")
    refused(dense, tmp_path, "holds a tokenizer that cannot be read", "remove these files")


@pytest.mark.parametrize(
    ("method", "package"),
    [("gptq", "gptqmodel"), ("awq", "gptqmodel")],
)
def test_a_format_whose_reader_is_missing_is_refused_with_its_name(
    dense: LanguageModel, tmp_path: Path, method: str, package: str
) -> None:
    settings = {"quant_method": method, "bits": 4, "group_size": 128}
    folder = rewritten(saved(tmp_path, **WIDE), quantization_config=settings)
    refused(dense, folder, f"checkpoint of {method}", f"pip install {package}")


def test_a_format_that_transformers_cannot_read_is_refused(
    dense: LanguageModel, tmp_path: Path
) -> None:
    settings = {"quant_method": "hqq"}
    refused(dense, rewritten(saved(tmp_path, **WIDE), quantization_config=settings), "hqq")


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "quanto", "nosuch"])
def test_plain_numbers_that_are_said_to_be_quantized_are_refused(
    dense: LanguageModel, tmp_path: Path, method: str
) -> None:
    settings = {"quant_method": method, "load_in_4bit": True}
    folder = rewritten(saved(tmp_path, **WIDE), quantization_config=settings)
    refused(dense, folder, f"quant_method: {method}", "holds plain numbers")


def test_the_dense_model_is_no_checkpoint_whatever_it_says(
    dense: LanguageModel, tmp_path: Path
) -> None:
    assert dense.restore()
    dense.save(tmp_path)
    settings = {"quant_method": "compressed-tensors"}
    refused(dense, rewritten(tmp_path, quantization_config=settings), "is the dense model itself")


def test_settings_of_a_wrong_type_are_refused(dense: LanguageModel, tmp_path: Path) -> None:
    folder = rewritten(saved(tmp_path, **WIDE), quantization_config="int8")
    refused(dense, folder, "config.json holds a value of a wrong type")


# GGUF


@pytest.mark.parametrize(("kind", "bits"), [(Kind.Q8_0, 8.5), (Kind.Q4_1, 5.0)])
def test_a_gguf_file_is_judged_by_what_it_stores(
    dense: LanguageModel, tmp_path: Path, kind: Kind, bits: float
) -> None:
    write_gguf(tiny.model("llama", **WIDE), tmp_path / "x.gguf", kind)
    found = read(dense, tmp_path, gguf_file="x.gguf")
    vectors = [t.numel() for _, t in dense.tensors() if t.dim() == 1]
    matrices = [t.numel() for _, t in dense.tensors() if t.dim() > 1]
    assert found.bytes == 4 * sum(vectors) + bits * sum(matrices) / 8
    assert 0 < found.weight_error < 0.12
    largest = next(w for w in dense.linear() if w.name == LAYER)
    assert largest.values.unique().numel() < largest.values.numel()


def test_another_vocabulary_in_a_gguf_file_is_refused(tmp_path: Path) -> None:
    other = tiny.model("llama")
    write_gguf(other, tmp_path / "x.gguf", Kind.F32)
    model = tiny.model("llama", seed=1)
    spoken = json.loads(model.tokenizer.backend_tokenizer.to_str())
    ids = spoken["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    backend = type(model.tokenizer.backend_tokenizer).from_str(json.dumps(spoken))
    model.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    refused(model, tmp_path, "tokens differ, such as 'b'", gguf_file="x.gguf")
