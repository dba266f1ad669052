import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file
from saved import WEIGHTS, pickled, rewritten, saved, tensors_changed, write_gguf, written
from torch import Tensor
from torch.nn.utils import parametrize, prune

from pytest_compression.errors import ModelError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded, Pretrained

EMBEDDINGS = "model.embed_tokens.weight"


def load(path: Path | str, **options: Any) -> LanguageModel:
    found = Pretrained(path=str(path), **options).load()
    assert isinstance(found, LanguageModel)
    return found


def refused(path: Path | str, *words: str, **options: Any) -> str:
    """The one sentence a refusal says; it names the path and all of these words."""
    with pytest.raises(ModelError) as told:
        load(path, **options)
    message = str(told.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_every_architecture_is_read_back_as_it_was_saved(tmp_path: Path, architecture: str) -> None:
    original = tiny.model(architecture)
    loaded = load(saved(tmp_path, architecture))
    assert loaded.family == tiny.FAMILIES[architecture]
    assert loaded.fingerprint() == original.fingerprint()
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert len(loaded.tokenizer) == len(original.tokenizer)


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    saved(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    loaded = load(tmp_path)
    assert torch.equal(loaded.dense["lm_head.weight"], loaded.dense["model.embed_tokens.weight"])


def test_a_head_saved_under_another_name_is_missing_and_not_left_at_random(
    tmp_path: Path,
) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["decoder.weight"] = tensors.pop("lm_head.weight")

    saved(tmp_path, tie_word_embeddings=False)
    refused(tensors_changed(tmp_path, rename), "lacks 'lm_head.weight'", "left at random")


@pytest.mark.parametrize("architecture", ["llama", "bert", "t5"])
def test_a_model_saved_with_its_masks_is_refused_with_the_cure(
    tmp_path: Path, architecture: str
) -> None:
    model = tiny.model(architecture, tie_word_embeddings=architecture == "t5")
    weight = model.weights("feed-forward")[0]
    prune.random_unstructured(weight.layer, "weight", amount=0.5)
    refused(
        written(model, tmp_path),
        f"holds '{weight.name}.weight_orig' in place of '{weight.name}.weight'",
        "left at random",
        "torch.nn.utils.prune.remove(layer, 'weight')",
    )


def test_a_model_saved_with_parametrizations_is_refused_with_the_cure(tmp_path: Path) -> None:
    model = tiny.model("llama")
    layer = model.module.get_submodule("model.layers.0.mlp.up_proj")
    parametrize.register_parametrization(layer, "weight", torch.nn.Identity())
    refused(
        written(model, tmp_path),
        "in place of 'model.layers.0.mlp.up_proj.weight'",
        "remove_parametrizations(layer, 'weight')",
    )


def test_other_values_than_the_stored_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What loaders of several versions did: tie whatever the configuration calls tied.
    saved(tmp_path, tie_word_embeddings=False)
    rewritten(tmp_path, tie_word_embeddings=True)
    assert not torch.equal(*(load(tmp_path).dense[n] for n in ("lm_head.weight", EMBEDDINGS)))
    monkeypatch.setattr(transformers.modeling_utils, "_tied_params_are_equal", lambda *_: True)
    refused(tmp_path, "stores other values of 'lm_head.weight'", "tie_word_embeddings")


def test_many_missing_tensors_are_listed_briefly(tmp_path: Path) -> None:
    message = refused(rewritten(saved(tmp_path), num_hidden_layers=3), "lacks 'model.layers.2.")
    assert message.count("model.layers.2.") == 5
    assert "and 4 more" in message


def extra_head(tensors: dict[str, Tensor]) -> None:
    tensors["cls.seq_relationship.weight"] = torch.ones(2, 16)
    tensors["cls.seq_relationship.bias"] = torch.ones(2)


def test_unexpected_tensors_are_refused_by_name(tmp_path: Path) -> None:
    folder = tensors_changed(saved(tmp_path, "bert"), extra_head)
    refused(
        folder,
        "holds 'cls.seq_relationship.bias', 'cls.seq_relationship.weight'",
        "name them in ignore_unexpected",
    )


def test_unexpected_tensors_may_be_named(tmp_path: Path) -> None:
    folder = tensors_changed(saved(tmp_path, "bert"), extra_head)
    loaded = load(folder, ignore_unexpected=("cls.seq_relationship.*",))
    assert loaded.fingerprint() == tiny.model("bert").fingerprint()


def test_naming_one_unexpected_tensor_excuses_no_other(tmp_path: Path) -> None:
    folder = tensors_changed(saved(tmp_path, "bert"), extra_head)
    message = refused(
        folder, "seq_relationship.bias", ignore_unexpected=("cls.seq_relationship.weight",)
    )
    assert "seq_relationship.weight" not in message


def test_tensors_of_another_shape_are_refused_with_both_shapes(tmp_path: Path) -> None:
    refused(
        rewritten(saved(tmp_path), intermediate_size=48),
        "another shape",
        "model.layers.0.mlp.gate_proj.weight (stored [32, 16], needed [48, 16])",
    )


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan

    refused(tensors_changed(saved(tmp_path), spoil), "NaN", "'model.layers.1.mlp.up_proj.weight'")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    refused(pickled(saved(tmp_path)), "only pickled weights", "write allow_pickle: true")


def test_pickled_weights_are_read_if_the_suite_says_so(tmp_path: Path) -> None:
    loaded = load(pickled(saved(tmp_path)), allow_pickle=True)
    assert loaded.fingerprint() == tiny.model("llama").fingerprint()


def test_a_damaged_pickle_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    folder = pickled(saved(tmp_path))
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    message = refused(folder, "damaged", allow_pickle=True)
    assert "weights_only" not in message


@pytest.mark.parametrize("path", ["./nowhere", "~/nowhere/model", "/nowhere", "a/b/c"])
def test_a_missing_directory_is_refused_before_the_hub_is_asked(path: str) -> None:
    refused(path, "there is no directory", f"({Path.cwd()})")


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "could not be loaded as a language model", "model_type")


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (saved(tmp_path) / WEIGHTS).unlink()
    refused(tmp_path, "not a complete model directory", "model.safetensors")


@pytest.mark.parametrize("architecture", ["llama", "bert", "t5"])
def test_a_directory_without_tokenizer_is_refused(tmp_path: Path, architecture: str) -> None:
    # Of BERT's type transformers makes a tokenizer from nothing, which knows no word.
    for file in saved(tmp_path, architecture).glob("token*"):
        file.unlink()
    refused(tmp_path, "brings no tokenizer", "tokenizer.save_pretrained")


@pytest.mark.parametrize("content", [b"xx", b""], ids=["garbage", "empty"])
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    (saved(tmp_path) / WEIGHTS).write_bytes(content)
    refused(tmp_path, "could not be loaded as a language model")


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path) / WEIGHTS
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(tmp_path, "could not be loaded as a language model")


def test_a_configuration_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (saved(tmp_path) / "config.json").write_text("{", encoding="utf-8")
    refused(tmp_path, "not a complete model directory", "config.json")


def test_an_architecture_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    refused(rewritten(saved(tmp_path), model_type="strange"), "model type `strange`")


def test_a_model_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    folder = rewritten(saved(tmp_path), model_type="vit", architectures=["ViTModel"])
    with pytest.raises(ModelError, match="type 'vit' is none of causal, masked and seq2seq"):
        load(folder)


@pytest.mark.parametrize("revision", [None, "abc123"])
def test_a_hub_id_that_cannot_be_had_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, revision: str | None
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    message = refused("nobody/nothing", "no directory here", "offline", revision=revision)
    assert ("at revision 'abc123'" in message) == (revision is not None)


CODE = """
print("THIS RAN")
from transformers import LlamaConfig as Config, LlamaForCausalLM as Network
"""
AUTO_MAP = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Network"}


def test_code_that_a_repository_brings_is_refused_and_nobody_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any) -> str:
        pytest.fail("a question was put to the terminal")

    monkeypatch.setattr("builtins.input", ask)
    folder = rewritten(saved(tmp_path), model_type="strange", auto_map=AUTO_MAP)
    (folder / "code.py").write_text(CODE, encoding="utf-8")
    refused(folder, "code of its own", "write trust_remote_code: true")
    assert "THIS RAN" not in capsys.readouterr().out


def test_where_transformers_has_the_architecture_the_repository_s_code_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rewritten(saved(tmp_path), auto_map=AUTO_MAP)
    (folder / "code.py").write_text(CODE, encoding="utf-8")
    assert load(folder).fingerprint() == tiny.model("llama").fingerprint()
    assert "THIS RAN" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
    ],
    ids=["gptq", "bitsandbytes"],
)
def test_a_quantized_checkpoint_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = rewritten(saved(tmp_path), quantization_config=settings)
    refused(folder, f"quantized already (quant_method: {settings['quant_method']})", "dense")


def test_a_checkpoint_of_optimum_quanto_is_refused(tmp_path: Path) -> None:
    (saved(tmp_path) / "quanto_qmap.json").write_text("{}", encoding="utf-8")
    refused(tmp_path, "quantized already (quant_method: quanto)", "use: checkpoint")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_dtype_is_the_one_that_was_asked_for(
    tmp_path: Path, architecture: str, dtype: Any
) -> None:
    loaded = load(saved(tmp_path, architecture), dtype=dtype)
    assert {tensor.dtype for _, tensor in loaded.tensors()} == {getattr(torch, dtype)}
    assert loaded.environment()["dtype"] == dtype


def test_a_half_precision_file_is_loaded_in_single_precision_by_default(tmp_path: Path) -> None:
    model = tiny.model("llama")
    model.module.half().save_pretrained(tmp_path)  # type: ignore[operator]
    model.tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert {tensor.dtype for _, tensor in loaded.tensors()} == {torch.float32}


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str) -> None:
    refused(saved(tmp_path), "could not be loaded as a language model", device=device)


def test_a_gguf_file_is_dequantized_to_what_it_was_made_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    original = tiny.model("llama", tie_word_embeddings=False)
    write_gguf(original, tmp_path / "tiny.gguf")
    loaded = load(tmp_path, gguf_file="tiny.gguf")
    assert loaded.family == "causal"
    assert loaded.dense.keys() == original.dense.keys()
    for name, tensor in original.dense.items():
        assert torch.equal(loaded.dense[name], tensor), name
    text = "The capital of Ghana is Accra"
    ids = original.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded.tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    assert capfd.readouterr() == ("", "")


def test_a_gguf_file_as_path_is_refused_with_the_right_spelling(tmp_path: Path) -> None:
    refused(tmp_path / "tiny.gguf", f"write path: {tmp_path} and gguf_file: tiny.gguf")


def test_a_gguf_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "no file 'x.gguf'", gguf_file="x.gguf")


def test_a_cut_off_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUFxxxx")
    refused(tmp_path, "could not be loaded as a language model", gguf_file="x.gguf")


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "t5"])
def test_loading_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], architecture: str
) -> None:
    saved(tmp_path, architecture)
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        load(tmp_path)
    assert not warned
    assert capfd.readouterr() == ("", "")


TOLD = """\
import torch
from pytest_compression.models.sources import Embedded, Pretrained

torch.set_num_threads({threads})
Pretrained(path={path!r}).load()
print(Embedded(family="causal").load().identity().digest)
"""


def test_loading_in_a_fresh_process_says_nothing_either_and_gives_the_same_model(
    tmp_path: Path,
) -> None:
    # Reports that transformers would log once, and what importing it says, show up here only.
    code = TOLD.format(threads=torch.get_num_threads(), path=str(saved(tmp_path)))
    done = subprocess.run(  # noqa: S603  # our own interpreter
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, re.sub(r"^\s+$", "", done.stderr)) == (0, "")
    model: Any = Embedded(family="causal").load()
    known = model.identity()
    assert known.unknown == ""
    assert done.stdout.strip() == known.digest


def test_the_loader_s_own_verbosity_is_put_back(tmp_path: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(saved(tmp_path))
    refused(rewritten(tmp_path, model_type="strange"))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
