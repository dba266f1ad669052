"""Where models come from. The options are light to import; loading is not."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pytest_compression.types import Family, Model


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A local directory, a hub id, or a GGUF file, as ``transformers`` loads them."""

    path: str
    """A directory (absolute, or relative to where pytest was started) or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    gguf_file: str | None = None
    """Name of a GGUF file in the directory or repository; it is dequantized to ``dtype``."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    device: str = "cpu"
    trust_remote_code: bool = False
    """Run code that the repository brings. Off unless the suite says so."""
    allow_pickle: bool = False
    """Read weights that are not safetensors; loading a pickle can run code."""
    ignore_unexpected: tuple[str, ...] = ()
    """Patterns of tensor names that the file may hold and the model does not use, such as
    ``cls.seq_relationship.*``; any other unexpected or missing tensor is an error."""

    def load(self) -> Model:
        """Load it, dense."""
        from pytest_compression.models.loading import load

        return load(self)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """One of the three small models that come with the package and know world facts."""

    family: Family
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def load(self) -> Model:
        """Load it, dense."""
        folder = Path(str(files("pytest_compression.embedded"))) / "weights" / self.family
        return Pretrained(path=str(folder), dtype=self.dtype).load()
