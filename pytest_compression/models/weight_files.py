"""The files that hold a model's weights, and what of each tensor they store.

Sizes are those of the tensors as stored: packed codes, scales and zero points, each in the file's
own type. A tokenizer, a configuration or a header is no weight.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"


def found(where: str, name: str, revision: str | None) -> Path | None:
    """A file of a directory or of a hub id, fetched if it is not there; None if there is none."""
    path = cached_file(
        where,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Path(path)


def weight_files(
    where: str, revision: str | None, *, gguf: str | None = None, pickles: bool = False
) -> list[Path]:
    """The files that ``transformers`` loads, and no others that lie beside them.

    Args:
        where: directory or hub id.
        revision: of the hub id.
        gguf: name of the GGUF file, which then is the only one.
        pickles: whether pickled weights may be read where there are no safetensors.
    """
    if gguf is not None:
        path = found(where, gguf, revision)
        return [] if path is None else [path]
    for name in (SAFETENSORS, PICKLE)[: 1 + pickles]:
        path = found(where, name, revision)
        if path is not None:
            return [path]
        index = found(where, name + INDEX, revision)
        if index is not None:
            shards, _ = get_checkpoint_shard_files(where, str(index), revision=revision)
            return [Path(shard) for shard in shards]
    return []


def stored_sizes(files: Iterable[Path]) -> dict[str, int]:
    """Bytes of each tensor, by its name in the file.

    A tensor that several names share is counted under the first, and one that several files
    hold under the last.
    """
    sizes: dict[str, int] = {}
    for file in files:
        read = {".gguf": gguf_sizes, ".bin": pickle_sizes}.get(file.suffix, safetensors_sizes)
        sizes |= read(file)
    return sizes


def safetensors_header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: dtype, shape and place, by name.

    The file begins with the header's length in eight bytes, the lowest first:
    https://github.com/huggingface/safetensors#format (2022).
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return header


def safetensors_sizes(file: Path) -> dict[str, int]:
    """Bytes of each tensor in a safetensors file."""
    offsets = {name: entry["data_offsets"] for name, entry in safetensors_header(file).items()}
    return {name: end - begin for name, (begin, end) in offsets.items()}


def gguf_sizes(file: Path) -> dict[str, int]:
    """Bytes of each tensor in a GGUF file: blocks of codes with their scales and minima."""
    from gguf import GGUFReader

    return {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(file).tensors}


def pickle_sizes(file: Path) -> dict[str, int]:
    """Bytes of the storages in a pickled file of tensors, each under the first name it has."""
    tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    sizes = {name: 0 for name, value in tensors.items() if isinstance(value, Tensor)}
    met: set[int] = set()
    for name in sizes:
        for inner in plain_tensors(tensors[name]):
            storage = inner.untyped_storage()
            if storage.data_ptr() not in met:
                met.add(storage.data_ptr())
                sizes[name] += storage.nbytes()
    return sizes


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The ordinary tensors that a tensor consists of, by torch's protocol for subclasses."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from plain_tensors(getattr(tensor, name))


def stored_as_they_are(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of safetensors files, one by one; of other files none."""
    from safetensors import safe_open

    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  # it is no mapping
                    yield name, opened.get_tensor(name)
