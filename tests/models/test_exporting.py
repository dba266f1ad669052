"""A model as it is now, written down and read again."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from exported import checked
from saved import saved, write_gguf
from torch import nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Pretrained
from pytest_compression.modifiers.backends.bitsandbytes import BitsAndBytes
from pytest_compression.modifiers.backends.quanto import Quanto
from pytest_compression.modifiers.backends.torch_dynamic import TorchDynamic
from pytest_compression.modifiers.checkpoint import Checkpoint
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.types import Claim

HEAD = RoundToNearest(bits=8, targets="head")
WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
TYPICAL = ("gpt2", "albert", "bart", "t5")


@pytest.mark.parametrize("architecture", TYPICAL)
def test_a_pruned_model_comes_back(tmp_path: Path, architecture: str) -> None:
    checked(tiny.model(architecture), [Magnitude(sparsity=0.5)], tmp_path)


@pytest.mark.parametrize("architecture", TYPICAL)
def test_an_untied_head_stays_untied(tmp_path: Path, architecture: str) -> None:
    tied: dict[str, Any] = {"tie_word_embeddings": True} if architecture != "t5" else {}
    model = tiny.model(architecture, **tied)
    checked(model, [HEAD], tmp_path)
    head, embeddings = model.module.get_output_embeddings(), model.module.get_input_embeddings()  # type: ignore[operator]
    assert not torch.equal(head.weight, embeddings.weight)


def test_the_configuration_says_that_a_head_is_untied_where_it_can(tmp_path: Path) -> None:
    for architecture, said in (("llama", False), ("bert", False), ("bart", True)):
        folder = tmp_path / architecture
        folder.mkdir()
        checked(tiny.model(architecture, tie_word_embeddings=True), [HEAD], folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["tie_word_embeddings"] is said  # in bart it would untie two stacks besides


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "roberta", "albert", "t5"])
def test_what_an_untied_head_takes_is_what_its_file_takes(
    tmp_path: Path, architecture: str
) -> None:
    step = Magnitude(sparsity=0.5, targets="head")
    judged = tiny.model(architecture, tie_word_embeddings=True).compress([step])
    checked(tiny.model(architecture, tie_word_embeddings=True), [step], tmp_path)
    again = tiny.model(architecture, tie_word_embeddings=True)
    shipped = again.compress([Checkpoint(path=str(tmp_path))])
    assert (shipped.bytes, shipped.zeros) == (judged.bytes, judged.zeros)
    assert again.restore()


def test_learned_positions_of_marian_are_written(tmp_path: Path) -> None:
    network: Any = tiny.network("marian")
    for stack in (network.model.encoder, network.model.decoder):
        stack.embed_positions.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    model = LanguageModel(module=network, tokenizer=tiny.tokenizer("seq2seq"), family="seq2seq")
    tensors = checked(model, [Magnitude(sparsity=0.5)], tmp_path)
    assert "model.encoder.embed_positions.weight" in tensors


def test_half_precision_stays_half_precision(tmp_path: Path) -> None:
    source = saved(tmp_path / "source")
    model = Pretrained(path=str(source), dtype="bfloat16").load()
    assert isinstance(model, LanguageModel)
    folder = tmp_path / "out"
    folder.mkdir()
    tensors = checked(model, [Magnitude(sparsity=0.5)], folder)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("architecture", "step"),
    [("llama", BitsAndBytes(scheme="int8")), ("bert", BitsAndBytes(scheme="nf4"))],
)
def test_layers_of_bitsandbytes_come_back(
    tmp_path: Path, architecture: str, step: BitsAndBytes
) -> None:
    model = tiny.model(architecture, **WIDE)
    tensors = checked(model, [step], tmp_path)
    assert model.restore()
    assert sum(tensor.nbytes for tensor in tensors.values()) == model.compress([step]).bytes


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_layers_of_optimum_quanto_come_back(tmp_path: Path, weights: Any) -> None:
    step = Quanto(weights=weights)
    model = tiny.model("llama", **WIDE)
    tensors = checked(model, [step], tmp_path)
    assert model.restore()
    assert sum(tensor.nbytes for tensor in tensors.values()) == model.compress([step]).bytes


def test_a_model_that_was_read_from_gguf_can_be_written(tmp_path: Path) -> None:
    write_gguf(tiny.model("llama"), tmp_path / "x.gguf")
    model = Pretrained(path=str(tmp_path), gguf_file="x.gguf").load()
    assert isinstance(model, LanguageModel)
    folder = tmp_path / "out"
    folder.mkdir()
    checked(model, [Magnitude(sparsity=0.5)], folder)


# What no file could hold


@dataclass(frozen=True, kw_only=True)
class Change:
    """Does something to one layer."""

    change: Callable[[Any], None]

    def apply(self, model: LanguageModel) -> Claim:
        weight = model.weights("feed-forward")[0]
        self.change(weight.layer)
        return Claim(targets=[weight.name])


def narrow(layer: Any) -> None:
    layer.weight = nn.Parameter(layer.weight[:8].clone(), requires_grad=False)


def round_inputs(layer: Any) -> None:
    layer.activation_bits = 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (narrow, "the configuration of a LlamaForCausalLM cannot describe .* described as"),
        (round_inputs, "round their inputs .* Export a recipe of weights alone"),
    ],
)
def test_what_would_come_back_as_another_model_is_refused(
    tmp_path: Path, change: Any, words: str
) -> None:
    model = tiny.model("llama")
    model.compress([Change(change=change)])
    with pytest.raises(RecipeError, match=words):
        model.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_layers_of_another_library_are_refused_by_kind(tmp_path: Path) -> None:
    model = tiny.model("llama", **WIDE)
    steps = [
        BitsAndBytes(scheme="int8", targets="attention"),
        BitsAndBytes(scheme="nf4", targets="feed-forward"),
    ]
    model.compress(steps)
    with pytest.raises(RecipeError, match=r"Blockwise .*, TokenWise .* together"):
        model.save(tmp_path)


@pytest.mark.parametrize("dtype", ["qint8", "float16"])
def test_layers_that_show_no_weight_are_refused_by_their_class(tmp_path: Path, dtype: Any) -> None:
    model = tiny.model("llama", **WIDE)
    model.compress([TorchDynamic(dtype=dtype)])
    said = r"^layers of the kind torch\.ao\.nn\.quantized\.dynamic\.\S*Linear cannot be exported: "
    with pytest.raises(RecipeError, match=said):
        model.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_layers_that_transformers_keeps_whole_are_refused(tmp_path: Path) -> None:
    model = tiny.model("t5")
    model.compress([BitsAndBytes(scheme="int8")])
    with pytest.raises(RecipeError, match=r"keeps 'encoder.block.0.*wo'.* leave them out"):
        model.save(tmp_path)


def test_what_is_no_network_of_transformers_is_refused(tmp_path: Path) -> None:
    model = tiny.model("llama")
    model.switch(nn.Sequential())
    with pytest.raises(RecipeError, match="a Sequential is no network of transformers"):
        model.save(tmp_path)
