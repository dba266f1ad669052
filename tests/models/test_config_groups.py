"""Files of compressed-tensors with several kinds of layers, each read as its group says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from pytest_compression.errors import ModelError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.checkpoint import Checkpoint
from pytest_compression.modifiers.quantization import Float8, RoundToNearest
from pytest_compression.types import Modifier

STEPS: list[Modifier] = [
    Float8(targets="*.o_proj"),
    RoundToNearest(bits=8, targets="qkv"),
    RoundToNearest(
        bits=4, granularity="group", group_size=8, symmetric=False, targets="feed-forward"
    ),
]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny.model("llama")


@pytest.fixture
def written(model: LanguageModel, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file of three kinds, and the weights that it stands for."""
    assert model.restore()
    model.compress(STEPS)
    weights = {weight.name: weight.values.clone() for weight in model.layers()}
    model.save(tmp_path)
    assert model.restore()
    return tmp_path, weights


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The same file with other groups."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    change(config["quantization_config"]["config_groups"])
    file.write_text(json.dumps(config), encoding="utf-8")


def by_patterns(groups: dict[str, Any]) -> None:
    """As llm-compressor's recipes name layers; what is most special comes first."""
    first = {name: group["targets"][0] for name, group in groups.items()}
    for name, group in groups.items():
        if "o_proj" in first[name]:
            group["targets"] = [target for target in group["targets"] if "o_proj" in target]
        elif "attn" in first[name]:
            group["targets"] = [r"re:.*self_attn\.[qkv]_proj$"]
        else:
            group["targets"] = ["Linear"]


@pytest.mark.parametrize("change", [lambda _: None, by_patterns], ids=["names", "patterns"])
def test_each_layer_is_read_as_its_group_says(
    model: LanguageModel, written: tuple[Path, dict[str, Tensor]], change: Any
) -> None:
    folder, weights = written
    rewritten(folder, change)
    model.compress([Checkpoint(path=str(folder))])
    assert all(torch.equal(one.values, weights[one.name]) for one in model.layers())


def test_a_packed_layer_that_no_group_describes_is_refused(
    model: LanguageModel, written: tuple[Path, dict[str, Tensor]]
) -> None:
    folder, _ = written

    def change(groups: dict[str, Any]) -> None:
        for group in groups.values():
            group["targets"] = [name for name in group["targets"] if "0.mlp.up" not in name]

    rewritten(folder, change)
    with pytest.raises(ModelError, match=r"no group .* says how '.*\.0\.mlp\.up_proj' is packed"):
        model.compress([Checkpoint(path=str(folder))])
    assert model.restore()


def test_the_reader_of_transformers_is_put_back(
    model: LanguageModel, written: tuple[Path, dict[str, Tensor]]
) -> None:
    from transformers.quantizers.quantizer_compressed_tensors import CompressedTensorsHfQuantizer

    before = CompressedTensorsHfQuantizer.get_load_operations
    model.compress([Checkpoint(path=str(written[0]))])
    assert CompressedTensorsHfQuantizer.get_load_operations is before
