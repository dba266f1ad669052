"""Where a model's files are, and what went wrong when ``transformers`` could not read them."""

import contextlib
import io
import logging
import pickle
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from pytest_compression.errors import ModelError

if TYPE_CHECKING:
    from pytest_compression.models.sources import Pretrained

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


def place(source: "Pretrained") -> tuple[str, str | None]:
    """The directory or hub id, and the GGUF file in it.

    Raises:
        ModelError: there is no such directory or file.
    """
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
        message = (
            f"'{source.path}' needs a package that is missing ({first_line(error)}); install "
            f"{extra}."
        )
        raise ModelError(message) from error
    except OSError as error:
        raise ModelError(unavailable(source, where, error)) from error
    except FOREIGN as error:
        raise ModelError(unreadable(source, error)) from error


def first_line(error: Exception) -> str:
    """What an error says, briefly."""
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)


def unreadable(source: "Pretrained", error: Exception) -> str:
    """Why what is there could not be loaded."""
    reason = first_line(error)
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
        return f"'{source.path}' is not a complete model directory: {first_line(error)}"
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
    trees = logging.getLogger("torch.utils._pytree")  # torchao's import makes it speak
    before = trees.level
    trees.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        # GGUF's progress bar asks nobody whether it may appear.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        trees.setLevel(before)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
