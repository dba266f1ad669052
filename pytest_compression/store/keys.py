"""What a measurement depends on, by parts: model, benchmark, questions, files, code, versions.

If all parts are the same, so are the answers. Where that cannot be known, there is no key.
"""

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import msgspec

from pytest_compression.fingerprints import digest
from pytest_compression.types import Keyed

OURS = "pytest_compression"

SAYING = ("questions", "content", "sources")
"""Methods by which a benchmark says what it asks."""

Key = dict[str, str]
"""Parts by name."""


class UnknownError(Exception):
    """It cannot be known what a measurement depends on."""


def identity(model: Keyed) -> str:
    """The digest of all that a model's answers are determined by, computed anew.

    Raises:
        UnknownError: the model cannot say.
    """
    found = model.identity()
    if found.unknown:
        raise UnknownError(found.unknown)
    return found.digest


def require_known(benchmark: object) -> None:
    """Refuse a benchmark that does not say what it asks.

    Raises:
        UnknownError: that, or it does not want its answers to be kept (``cached = False``).
    """
    name = type(benchmark).__name__
    if not getattr(benchmark, "cached", True):
        message = f"{name} is always asked"
        raise UnknownError(message)
    if not any(callable(getattr(benchmark, one, None)) for one in SAYING):
        message = f"{name} has none of {', '.join(SAYING)}, so nobody knows what it asks"
        raise UnknownError(message)


def of_benchmark(benchmark: Any, model: object, since: float) -> Key:
    """What a benchmark's scores depend on besides the model.

    Args:
        benchmark: with ``questions()``, which gives all that is asked, ``content(model)``, which is
            a digest of all that is asked of a model, or ``sources()``, which names the files that
            are read; or with several.
        model: that is asked.
        since: when the run began, in seconds of the clock. Code that was edited later may not be
            what runs.

    Raises:
        UnknownError: that cannot be known.
    """
    name = type(benchmark).__name__
    known = callable(getattr(benchmark, "questions", None))  # an option may have that name
    questions = benchmark.questions() if known else ()
    sources = benchmark.sources() if hasattr(benchmark, "sources") else ()
    return {
        "benchmark": f"{type(benchmark).__module__}:{type(benchmark).__qualname__}",
        "options": digest([plain(benchmark, name)]),
        "questions": digest(plain(question, name) for question in questions),
        "content": benchmark.content(model) if hasattr(benchmark, "content") else "",
        "sources": digest(of_files(sources)),
        "code": digest(code(type(benchmark), since)),
        "versions": versions(tuple(sys.path)),
    }


def plain(value: object, name: str) -> bytes:
    """Options or a question as bytes, the same in each process.

    Raises:
        UnknownError: they hold what is no plain value.
    """
    try:
        return msgspec.msgpack.encode(value, enc_hook=path_only, order="sorted")
    except (TypeError, ValueError, OverflowError) as error:
        message = f"{name} has options that are no plain values ({error})"
        raise UnknownError(message) from error


def path_only(value: Any) -> str:
    """A path as text; nothing else is known to say all by its text.

    Raises:
        TypeError: it is no path.
    """
    if isinstance(value, Path):
        return str(value)
    message = f"a {type(value).__name__}"
    raise TypeError(message)


def of_files(paths: Iterable[Path]) -> Iterator[bytes]:
    """Names and digests of files.

    Raises:
        UnknownError: one cannot be read. The benchmark will say it better.
    """
    for path in paths:
        yield path.name.encode()
        try:
            with path.open("rb") as file:
                yield file_digest(file, blake2b).digest()
        except OSError as error:
            message = f"'{path}' cannot be read ({error.strerror})"
            raise UnknownError(message) from error


def code(kind: type, since: float) -> Iterator[bytes]:
    """The sources of our own package and of those that a class comes from.

    Raises:
        UnknownError: there is none, or it was edited while the run was on.
    """
    packages = {one.__module__.partition(".")[0] for one in kind.__mro__ if one is not object}
    for package in sorted(packages | {OURS}):
        module = None if package == "__main__" else sys.modules.get(package)
        files = list(modules(module)) if module is not None else []
        if not files:
            message = f"{kind.__name__} has no source that could be compared"
            raise UnknownError(message)
        for path in files:
            if path.stat().st_mtime > since:
                message = f"'{path}' was edited while the run was on"
                raise UnknownError(message)
            yield path.name.encode()
            yield path.read_bytes()


def modules(module: Any) -> Iterator[Path]:
    """The files of a package or a module."""
    for folder in getattr(module, "__path__", ()):
        yield from sorted(Path(folder).rglob("*.py"))
    if not hasattr(module, "__path__") and getattr(module, "__file__", None):
        yield Path(module.__file__)


@cache
def versions(path: tuple[str, ...]) -> str:
    """Of Python and of everything that is installed, for nobody knows what a benchmark uses."""
    found = [sys.version]
    for entry in path:
        for pattern in ("*.dist-info", "*.egg-info"):
            found += sorted(one.name for one in Path(entry).glob(pattern))
    return digest(one.encode() for one in found)
