"""Networks that somebody compressed elsewhere, read from their files as they are.

``transformers`` reads most formats through the library that wrote them. What it gets wrong on the
way is put right here: compressed-tensors weights that it cannot decompress at the first forward,
bitsandbytes' 4-bit kernel of other arithmetic, and optimum-quanto's files, which it does not know.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import constants
from torch import nn

from pytest_compression.errors import ModelError
from pytest_compression.fingerprints import digest
from pytest_compression.models.completeness import (
    check_as_stored,
    check_finite,
    check_keys,
)
from pytest_compression.models.families import AUTO_CLASSES
from pytest_compression.models.kinship import check_configuration, check_tokenizer, tokenizer_of
from pytest_compression.models.loading import (
    configuration,
    forget_quantization,
    quantization_of,
    shared_options,
    weight_options,
)
from pytest_compression.models.places import first_line, place, quiet, told
from pytest_compression.models.quanto_files import read_quanto
from pytest_compression.models.snapshot import stored_tensors
from pytest_compression.models.weight_files import stored_sizes, weight_files

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.sources import Pretrained

PACKAGES = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "compressed-tensors": ("compressed-tensors",),
    "gptq": ("gptqmodel", "optimum"),
    "quanto": ("optimum-quanto", "accelerate"),
    "torchao": ("torchao",),
}
"""What reads a format, as it is installed; for others ``transformers`` says it."""

UNREAD = {"hqq"}
"""Formats that ``transformers`` names, but cannot read (5.23)."""

MARKED_ONLY = ("safetensors", "gguf", "compressed-tensors")
"""Formats that may hold plain numbers: compressed-tensors notes pruned and rounded ones, too."""

DECODED = ("safetensors", "gguf", "compressed-tensors")
"""Formats of which plain floats are made in memory; the others compute with what is packed."""

WHICH = ("input", "output")
"""Activations that compressed-tensors may round."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A compressed network, and what its files store of it."""

    module: nn.Module
    method: str
    """Its format: that of its quantization, ``gguf``, or ``safetensors`` for plain tensors."""
    sizes: dict[str, int]
    """Bytes of each tensor as stored, by name."""

    def nbytes(self, ignored: Sequence[str]) -> int:
        """Of all tensors as stored, but for those whose names match a pattern."""
        return sum(
            size
            for name, size in self.sizes.items()
            if not any(fnmatchcase(name, pattern) for pattern in ignored)
        )

    def lies_as_stored(self, stored: int) -> bool:
        """Whether the network takes as many bytes in memory, so that later steps save some."""
        held = {tensor.data_ptr(): tensor.nbytes for _, tensor in stored_tensors(self.module)}
        return self.method == "safetensors" and sum(held.values()) == stored


def read(source: "Pretrained", model: "LanguageModel", *, as_stored: bool) -> Artifact:
    """Read a compressed network and hold it against its dense model.

    Args:
        source: where it is, and how it may be read.
        model: the dense one.
        as_stored: whether what stays packed computes in the dtype of its file, for which its
            scales were made, rather than in that of ``source``.

    Raises:
        ModelError: as for a dense model; or a package is missing that reads this format, or it is
            of another family, vocabulary or tokenizer than the dense model.
    """
    where, gguf = place(source)
    shared = shared_options(source, gguf)
    with told(source, where), quiet(), undisturbed():
        config = configuration(where, shared)
        settings = None if gguf else quantization_of(config, where, source.revision)
        method = "gguf" if gguf else method_of(settings)
        require_packages(source, method)
        check_configuration(source, config, model)
        files = weight_files(where, source.revision, gguf=gguf, pickles=source.allow_pickle)
        sizes = stored_sizes(files)
        if method not in MARKED_ONLY:
            refuse_plain(source, method, sizes, model)
        groups = groups_of(method, settings)
        options = weight_options(source, gguf) | route(groups)
        if as_stored and method not in DECODED:
            options["dtype"] = "auto"
        if method == "quanto":
            module, info = read_quanto(source, where, config, options["dtype"], files)
        else:
            with fitting(method, config.model_type), by_group(groups):
                loader = AUTO_CLASSES[model.family]
                module, info = loader.from_pretrained(where, **options, **shared)
        check_keys(source, info)
        tokenizer = tokenizer_of(source, where, shared)
        if tokenizer is not None:
            check_tokenizer(source, tokenizer, model, rebuilt=gguf is not None)
        check_finite(source, module)
        if method == "safetensors":
            check_as_stored(source, module, files)
        decompress(module)
        if gguf is not None:
            forget_quantization(module)
    return Artifact(module=module.to(source.device), method=method, sizes=sizes)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep gptqmodel's banner out of the test run, and the hub's cache where it is.

    Unless ``HF_HOME`` is set, its import sets it to a temporary directory, for all that is imported
    or started later.
    """
    before = set(os.environ)
    if os.access(constants.HF_HOME, os.W_OK):
        os.environ.setdefault("HF_HOME", constants.HF_HOME)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for name in os.environ.keys() - before:
            if name.startswith(("HF_", "TRANSFORMERS_")):
                del os.environ[name]


@contextlib.contextmanager
def fitting(method: str, architecture: str) -> Iterator[None]:
    """Say that ``transformers`` does not know how a format and an architecture go together.

    It looks for the weights of GPT-2's ``Conv1D`` layers, which GPTQ's have not.

    Raises:
        ValueError: it stumbled over a layer.
    """
    try:
        yield
    except AttributeError as error:
        message = (
            f"transformers cannot read {method} layers of a {architecture} ({first_line(error)}). "
            "Save it in another format, such as compressed-tensors."
        )
        raise ValueError(message) from error


def method_of(settings: dict[str, Any] | None) -> str:
    """The name of the format; ``safetensors`` if it is not quantized."""
    if settings is None:
        return "safetensors"
    return str(settings.get("quant_method") or "bitsandbytes")  # its oldest files name none


def require_packages(source: "Pretrained", method: str) -> None:
    """Say what reads a format, if it is not there.

    Raises:
        ModelError: it is not installed, or nothing does.
    """
    if method in UNREAD:
        message = (
            f"'{source.path}' is a checkpoint of {method}, which transformers cannot read. Save it "
            "dequantized, or in another format, such as compressed-tensors."
        )
        raise ModelError(message)
    missing = []
    for name in PACKAGES.get(method, ()):
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        message = (
            f"'{source.path}' is a checkpoint of {method}, which is read with {missing[0]}: pip "
            f"install {' '.join(missing)}."
        )
        raise ModelError(message)


def refuse_plain(
    source: "Pretrained", method: str, sizes: dict[str, int], model: "LanguageModel"
) -> None:
    """Refuse a file whose configuration says that it is quantized, while it is not.

    Raises:
        ModelError: it holds the dense model's tensors, none of them in fewer than 16 bits.
    """
    plain = all(
        name in model.dense and size >= 2 * model.dense[name].numel()
        for name, size in sizes.items()
    )
    if plain:
        message = (
            f"'{source.path}' says that it is quantized (quant_method: {method}), but holds plain "
            "numbers only. Take 'quantization_config' out of config.json, or save the codes."
        )
        raise ModelError(message)


def groups_of(method: str, settings: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Of weights of compressed-tensors, one for each kind; none where inputs are rounded, too."""
    groups = list(((settings or {}).get("config_groups") or {}).values())
    rounds = any(group.get(f"{which}_activations") for group in groups for which in WHICH)
    return [] if method != "compressed-tensors" or rounds else groups


def route(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Options by which ``transformers`` reads a format as it is meant.

    Compressed weights alone are decompressed while they are read, for packed zero points cannot be
    at the first forward. Where inputs are rounded, too, the layers have to stay what they are.
    """
    if not groups:
        return {}
    return {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)}


def by_group(groups: Sequence[dict[str, Any]]) -> contextlib.AbstractContextManager[None]:
    """Read each layer as its own group says, if there are several kinds."""
    if len({repr((group.get("weights"), group.get("format"))) for group in groups}) < 2:
        return contextlib.nullcontext()
    from pytest_compression.models.config_groups import each_by_its_group

    return each_by_its_group()


def decompress(module: nn.Module) -> None:
    """Do now what compressed-tensors would do at the first forward."""
    compressor = getattr(getattr(module, "hf_quantizer", None), "compressor", None)
    if compressor is not None and hasattr(module, "ct_decompress_hook"):
        compressor.decompress_model(module)


def try_out(model: "LanguageModel", path: str) -> None:
    """Run a few tokens through a network whose kernels may not be made for this processor.

    Raises:
        ModelError: it cannot compute, or not with numbers.
    """
    device = next(iter(model.dense.values())).device
    ids = torch.arange(1, 5, device=device)[None]
    inputs = {"input_ids": ids}
    if model.family == "seq2seq":
        inputs["decoder_input_ids"] = ids
    try:
        with quiet(), torch.no_grad():
            finite = bool(model.module(**inputs).logits.isfinite().all())
    except Exception as error:
        message = f"'{path}' was read, but cannot compute here: {first_line(error)}"
        raise ModelError(message) from error
    if not finite:
        message = f"'{path}' was read, but computes NaN or infinite logits."
        raise ModelError(message)


def origin(source: "Pretrained") -> dict[str, str]:
    """What figures of a checkpoint depend on: its files, and versions of what reads them."""
    where, gguf = place(source)
    with told(source, where), quiet():
        config = configuration(where, shared_options(source, gguf))
        method = "gguf" if gguf else method_of(quantization_of(config, where, source.revision))
        files = weight_files(where, source.revision, gguf=gguf, pickles=source.allow_pickle)
    hashed = []
    for file in files:
        with file.open("rb") as opened:
            hashed.append(hashlib.file_digest(opened, "blake2b").digest())
    packages = {name: version(name) for name in PACKAGES.get(method, ())}
    return {"checkpoint": digest(hashed), **packages}
