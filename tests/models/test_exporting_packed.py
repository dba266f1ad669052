"""What was judged packed is written packed, and comes back bit for bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from exported import checked
from saved import saved

from pytest_compression.models.exporting import CARD
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Pretrained
from pytest_compression.modifiers.checkpoint import Checkpoint
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import Float8, Fp4, Hqq, Nf4, RoundToNearest
from pytest_compression.types import Footprint, Modifier

WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
TABLES = ("quant_map", "bitsandbytes__nf4", "bitsandbytes__fp4", "weight_shape")
"""What a file says of each layer besides its codes and scales."""

GROUPS = RoundToNearest(bits=4, granularity="group", group_size=8, targets="feed-forward")
ENDS = RoundToNearest(bits=6, targets=("all", "head", "embeddings"))
FP4 = Fp4(double_quant=True, targets="attention")
MIXED: list[Modifier] = [
    RoundToNearest(bits=8, targets="qkv"),
    replace(GROUPS, symmetric=False),
    replace(GROUPS, bits=3, group_size=16, targets="projection"),
]


def wide(architecture: str) -> dict[str, Any]:
    """Options for layers of which tables are a small part."""
    return WIDE if architecture in ("llama", "bert") else {}


@pytest.mark.parametrize(
    ("architecture", "dtype", "steps"),
    [
        pytest.param("llama", "bfloat16", MIXED, id="mixed-llama"),
        pytest.param("bert", "float32", MIXED, id="mixed-bert"),
        pytest.param("t5", "bfloat16", MIXED, id="mixed-t5"),
        pytest.param("llama", "float32", [Float8(targets="attention"), GROUPS], id="float8-mixed"),
        pytest.param("t5", "bfloat16", [Float8(granularity="tensor")], id="float8"),
        pytest.param("bart", "float32", [ENDS, GROUPS], id="head-and-embeddings"),
        pytest.param("llama", "float32", [Nf4()], id="nf4"),
        pytest.param("bert", "bfloat16", [Fp4(double_quant=True)], id="fp4-double"),
        pytest.param("gpt2", "float32", [Nf4(block_size=32, targets=("all", "head"))], id="conv1d"),
        pytest.param("llama", "bfloat16", [Nf4(), FP4, Magnitude(sparsity=0.5)], id="nf4-fp4-half"),
    ],
)
def test_codes_are_written_packed(
    tmp_path: Path, architecture: str, dtype: Any, steps: list[Modifier]
) -> None:
    source = saved(tmp_path / "source", architecture, **wide(architecture))
    model = Pretrained(path=str(source), dtype=dtype).load()
    assert isinstance(model, LanguageModel)
    folder = tmp_path / "out"
    folder.mkdir()
    tensors = checked(model, steps, folder)
    judged = model.restore() and model.compress(steps)
    shipped = sum(tensor.nbytes for tensor in tensors.values())
    assert isinstance(judged, Footprint)
    # Tables and descriptions of each layer weigh on layers as small as these.
    tables = sum(one.nbytes for name, one in tensors.items() if name.endswith(TABLES))
    assert shipped - tables < 1.05 * judged.bytes < judged.dense_bytes
    assert not (folder / CARD).exists()


@pytest.mark.parametrize(
    ("architecture", "step", "reason"),
    [
        ("llama", Hqq(group_size=8), "zero points that are no whole numbers"),
        ("gpt2", RoundToNearest(bits=8), "no Conv1D layers"),
        ("t5", Nf4(), "transformers keeps it in single precision"),
    ],
)
def test_what_no_file_holds_packed_is_written_as_plain_numbers_and_said(
    tmp_path: Path, architecture: str, step: Modifier, reason: str
) -> None:
    model = tiny.model(architecture)
    tensors = checked(model, [step], tmp_path)
    plain = json.loads((tmp_path / CARD).read_text(encoding="utf-8"))["plain"]
    assert plain
    for name, said in plain.items():
        assert reason in said
        assert tensors[f"{name}.weight"].dtype == torch.float32


def test_a_tied_matrix_is_packed_once(tmp_path: Path) -> None:
    model = tiny.model("llama", tie_word_embeddings=True)
    tensors = checked(model, [RoundToNearest(bits=8, targets=("embeddings", "head"))], tmp_path)
    assert "model.embed_tokens.weight_packed" in tensors
    assert not [name for name in tensors if name.startswith("lm_head")]


def test_a_head_that_no_step_touched_is_left_out(tmp_path: Path) -> None:
    for architecture in ("llama", "gpt2"):
        folder = tmp_path / architecture
        folder.mkdir()
        model = tiny.model(architecture, **wide(architecture))
        checked(model, [Nf4()], folder)
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        left = said["quantization_config"]["llm_int8_skip_modules"]
        names = {weight.layer: weight.name for weight in model.linear()}
        assert left == [f"{names[model.module.get_output_embeddings()]}$"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (MIXED, Magnitude(sparsity=0.5)),
        ([Nf4(targets="feed-forward")], RoundToNearest(bits=3, targets="attention")),
    ],
)
def test_what_was_read_packed_can_be_written_again(
    tmp_path: Path, first: list[Modifier], later: Modifier
) -> None:
    folders = [tmp_path / name for name in ("first", "again")]
    for folder in folders:
        folder.mkdir()
    model = tiny.model("llama", **WIDE)
    model.compress(first)
    model.save(folders[0])
    assert model.restore()
    checked(model, [Checkpoint(path=str(folders[0])), later], folders[1])
