import json
from pathlib import Path

import pytest
import tiny
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from saved import WEIGHTS, pickled, saved, write_gguf

from pytest_compression.models.weight_files import (
    safetensors_header,
    stored_as_they_are,
    stored_sizes,
    weight_files,
)

DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.uint8, torch.int64, torch.bool)


@given(
    shapes=st.dictionaries(
        st.text("abc.", min_size=1, max_size=5),
        st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(DTYPES)),
        min_size=1,
        max_size=5,
    )
)
def test_sizes_are_those_of_the_tensors(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[list[int], torch.dtype]]
) -> None:
    tensors = {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in shapes.items()}
    file = tmp_path_factory.mktemp("x") / WEIGHTS
    save_file(tensors, file, metadata={"format": "pt"})
    assert stored_sizes([file]) == {name: tensor.nbytes for name, tensor in tensors.items()}
    assert safetensors_header(file).keys() == tensors.keys()
    read = dict(stored_as_they_are([file]))
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_shards_are_found_by_their_index_and_counted_once(tmp_path: Path) -> None:
    model = tiny.model("llama")
    model.module.save_pretrained(tmp_path, max_shard_size="20KB")  # type: ignore[operator]
    save_file({"lm_head.weight": torch.zeros(1000)}, tmp_path / "consolidated.safetensors")
    files = weight_files(str(tmp_path), None)
    assert len(files) > 2
    assert sum(stored_sizes(files).values()) == sum(t.nbytes for _, t in model.tensors())
    assert sum(stored_sizes([*files, *files]).values()) == sum(t.nbytes for _, t in model.tensors())


def test_safetensors_are_taken_before_pickles_and_pickles_only_if_allowed(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert weight_files(str(tmp_path), None, pickles=True) == [tmp_path / WEIGHTS]
    (tmp_path / WEIGHTS).unlink()
    assert weight_files(str(tmp_path), None, pickles=True) == [tmp_path / "pytorch_model.bin"]
    assert weight_files(str(tmp_path), None) == []


def test_a_storage_that_two_names_of_a_pickle_share_is_counted_once(tmp_path: Path) -> None:
    tensor = torch.ones(8, 4)
    torch.save({"a": tensor, "b": tensor.t(), "c": torch.ones(3)}, tmp_path / "x.bin")
    assert stored_sizes([tmp_path / "x.bin"]) == {"a": 128, "b": 0, "c": 12}


def test_pickle_and_safetensors_of_one_model_weigh_the_same(tmp_path: Path) -> None:
    before = stored_sizes(weight_files(str(saved(tmp_path)), None))
    after = stored_sizes(weight_files(str(pickled(tmp_path)), None, pickles=True))
    assert before == after


def test_blocks_of_a_gguf_file_count_with_their_scales(tmp_path: Path) -> None:
    model = tiny.model("llama", hidden_size=32, intermediate_size=64)
    write_gguf(model, tmp_path / "x.gguf", Kind.Q8_0)
    (file,) = weight_files(str(tmp_path), None, gguf="x.gguf")
    sizes = stored_sizes([file])
    assert sizes["output_norm.weight"] == 32 * 4
    assert sizes["output.weight"] == 320 * 34  # 32 codes and a scale of half precision
    assert "tokenizer" not in json.dumps(sizes)
