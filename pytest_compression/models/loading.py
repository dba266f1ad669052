"""Loading through ``transformers``, with every trap turned into one clear sentence."""

import contextlib
import io
import pickle
import struct
import warnings
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from pytest_compression.errors import ModelError
from pytest_compression.models.families import AUTO_CLASSES, family_of
from pytest_compression.models.language_model import LanguageModel

if TYPE_CHECKING:
    from pytest_compression.models.sources import Pretrained

LISTED = 5
"""Tensor names that an error shows."""

FOREIGN = (
    ValueError,
    KeyError,
    RuntimeError,
    AssertionError,  # a device that this torch was not built for
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    struct.error,  # a cut-off GGUF file
)
"""What loaders raise at files and options they cannot make sense of."""

NO_TOKENIZER = "brings no tokenizer: save it beside the weights, with tokenizer.save_pretrained."


def load(source: "Pretrained") -> LanguageModel:
    """Load model and tokenizer.

    Raises:
        ModelError: it is not there, is no language model, is stored in a way that the suite
            did not allow, or its tensors are not those that the model needs.
    """
    where, gguf = place(source)
    shared = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    if gguf is not None:
        shared["gguf_file"] = gguf
    with told(source, where), quiet():
        config = transformers.AutoConfig.from_pretrained(where, **shared)
        if gguf is None:
            refuse_quantized(source, config)
        family = family_of(config)
        options: dict[str, Any] = {"dtype": getattr(torch, source.dtype), **shared}
        if gguf is None and not source.allow_pickle:
            options["use_safetensors"] = True
        module, info = AUTO_CLASSES[family].from_pretrained(
            where,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
        )
        check_keys(source, info)
        check_finite(source, module)
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **shared)
        refuse_wordless(source, tokenizer)
        module = module.to(source.device)
    return LanguageModel(module=module.eval(), tokenizer=tokenizer, family=family)


def place(source: "Pretrained") -> tuple[str, str | None]:
    """The directory or hub id, and the GGUF file in it."""
    path = Path(source.path).expanduser()
    if source.gguf_file is None and path.suffix == ".gguf":
        message = (
            f"'{source.path}' is a GGUF file: write path: {path.parent} and gguf_file: {path.name}."
        )
        raise ModelError(message)
    if path.is_dir():
        if source.gguf_file is not None and not (path / source.gguf_file).is_file():
            message = f"there is no file '{source.gguf_file}' in '{source.path}'."
            raise ModelError(message)
        return str(path), source.gguf_file
    local = path.is_absolute() or source.path.startswith((".", "~")) or source.path.count("/") > 1
    if local:
        message = (
            f"there is no directory '{source.path}'. A relative path is taken from where pytest "
            f"was started ({Path.cwd()})."
        )
        raise ModelError(message)
    return source.path, source.gguf_file


@contextlib.contextmanager
def told(source: "Pretrained", where: str) -> Iterator[None]:
    """Say in one sentence what the loader says in many."""
    try:
        yield
    except ImportError as error:
        extra = "pytest-compression[gguf]" if source.gguf_file else "the package it names"
        message = f"'{source.path}' needs a package that is missing ({error}); install {extra}."
        raise ModelError(message) from error
    except OSError as error:
        raise ModelError(unavailable(source, where, error)) from error
    except FOREIGN as error:
        raise ModelError(unreadable(source, error)) from error


def unreadable(source: "Pretrained", error: Exception) -> str:
    """Why what is there could not be loaded."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    if "trust_remote_code" in str(error):
        return (
            f"'{source.path}' brings code of its own that would have to be run. Inspect it, and if "
            "you trust it, write trust_remote_code: true."
        )
    if isinstance(error, pickle.UnpicklingError):
        return f"the pickled weights of '{source.path}' are damaged, or hold more than tensors."
    if "backend tokenizer" in reason:
        return f"'{source.path}' {NO_TOKENIZER}"
    return f"'{source.path}' could not be loaded as a language model: {reason}"


def unavailable(source: "Pretrained", where: str, error: OSError) -> str:
    """Why nothing could be read."""
    if Path(where).is_dir():
        if not source.allow_pickle and any(Path(where).glob("*.bin")):
            return (
                f"'{source.path}' holds no safetensors, only pickled weights, and loading a pickle "
                "can run code. If you trust it, write allow_pickle: true."
            )
        reason = str(error).strip().splitlines()[0]
        return f"'{source.path}' is not a complete model directory: {reason}"
    revision = f" at revision '{source.revision}'" if source.revision else ""
    return (
        f"'{source.path}'{revision} is no directory here, and could not be fetched from the hub "
        "nor found in its cache: check the name, or the connection (offline?)."
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the loader's progress bars, reports and deprecations out of the test run."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        # GGUF's progress bar asks nobody whether it may appear.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def check_keys(source: "Pretrained", info: dict[str, Any]) -> None:
    """Refuse a model that was not wholly read from its file.

    A missing tensor is left at random; evaluating such a head is the classic silent mistake.
    """
    unexpected = [
        key
        for key in sorted(info["unexpected_keys"])
        if not any(fnmatchcase(key, pattern) for pattern in source.ignore_unexpected)
    ]
    missing = sorted(info["missing_keys"])
    other = [
        f"{name} (stored {list(stored)}, needed {list(needed)})"
        for name, stored, needed in sorted(info["mismatched_keys"])
    ]
    if other:
        message = (
            f"'{source.path}' has tensors of another shape than its configuration asks for: "
            f"{listed(other)}."
        )
        raise ModelError(message)
    if missing:
        message = (
            f"'{source.path}' lacks {listed(missing)}, which would be left at random. The file "
            "was saved from another architecture or under other names."
        )
        raise ModelError(message)
    if unexpected:
        message = (
            f"'{source.path}' holds {listed(unexpected)}, which the model does not use. If that is "
            "right, name them in ignore_unexpected (patterns such as 'cls.seq_relationship.*')."
        )
        raise ModelError(message)


def check_finite(source: "Pretrained", module: Any) -> None:
    """Refuse weights that no recipe could rank or round."""
    broken = [name for name, p in module.named_parameters() if not p.isfinite().all()]
    if broken:
        message = f"'{source.path}' holds NaN or infinite weights in {listed(broken)}."
        raise ModelError(message)


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:LISTED]) + more


def refuse_quantized(source: "Pretrained", config: Any) -> None:
    """A checkpoint that is compressed already is no dense model."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    if not isinstance(settings, dict):
        settings = settings.to_dict()
    message = (
        f"'{source.path}' is quantized already (quant_method: {settings.get('quant_method')}); "
        "name its dense original."
    )
    raise ModelError(message)


def refuse_wordless(source: "Pretrained", tokenizer: Any) -> None:
    """Refuse a tokenizer that drops every word.

    Without files, ``transformers`` makes some of special tokens alone; T5's also knows a space.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids) + 1:
        message = f"'{source.path}' {NO_TOKENIZER}"
        raise ModelError(message)
