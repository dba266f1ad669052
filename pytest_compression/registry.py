"""Names to objects, through entry points that are imported on first use.

The built-ins are declared in ``pyproject.toml`` as anybody's would be, in the groups
``pytest_compression.models``, ``.modifiers`` and ``.benchmarks``. ``use: "module:attribute"``
serves a one-off. A class is imported at collection, for its fields are the options that a
suite is checked against; so its module must not import torch before its methods run.
"""

import dataclasses
import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import msgspec

from pytest_compression.errors import PluginError, nearest
from pytest_compression.types import Part

Kind = Literal["models", "modifiers", "benchmarks"]

VERBS: dict[Kind, str] = {"models": "load", "modifiers": "apply", "benchmarks": "measure"}
"""The method that each kind of class must have."""


@cache
def known(kind: Kind) -> dict[str, EntryPoint]:
    """The entry points of a kind, by name."""
    return {point.name: point for point in entry_points(group=f"pytest_compression.{kind}")}


@cache
def resolve(kind: Kind, use: str) -> type:
    """The class that ``use`` names.

    Raises:
        PluginError: no such name, the import failed, or it is not what the kind asks for.
    """
    points = known(kind)
    if use not in points and ":" not in use:
        message = f"'{use}' is none of the {kind}. {nearest(use, points)}"
        raise PluginError(message)
    try:
        found = points[use].load() if use in points else imported(use)
    except (ImportError, AttributeError) as error:
        message = (
            f"'{use}' could not be imported: {error}. Install the package that provides it, "
            "or correct the name."
        )
        raise PluginError(message) from error
    verb = VERBS[kind]
    if not dataclasses.is_dataclass(found) or not callable(getattr(found, verb, None)):
        message = f"'{use}' is not usable among the {kind}: a dataclass with {verb}() is expected."
        raise PluginError(message)
    return found  # type: ignore[return-value]  # is_dataclass also admits instances


def imported(path: str) -> Any:
    """The attribute that ``module:attribute`` names."""
    module, _, attribute = path.partition(":")
    if not module or not attribute or module.startswith("."):
        message = "it must read 'module:attribute'"
        raise ImportError(message)
    found: Any = importlib.import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    return found


def option_names(kind: Kind, use: str) -> list[str]:
    """The options of a part: the fields of its class."""
    return [f.name for f in dataclasses.fields(resolve(kind, use)) if f.init]


def build(kind: Kind, part: Part) -> Any:
    """The object that a part describes.

    Raises:
        PluginError: as :func:`resolve`.
        msgspec.ValidationError: an option has the wrong type or range.
    """
    return msgspec.convert(part.options, resolve(kind, part.use))


@cache
def checker() -> Any:
    """What checks the contracts of a recipe, of its steps, its model and its footprint.

    It says what is broken, or nothing. The entry point ``recipe`` of the group
    ``pytest_compression.contracts`` names it.

    Raises:
        PluginError: there is no such entry point, or its import failed.
    """
    for point in entry_points(group="pytest_compression.contracts", name="recipe"):
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            message = f"contracts cannot be checked: {error}. Install what is missing."
            raise PluginError(message) from error
    message = "nothing that checks contracts is installed: install pytest-compression again."
    raise PluginError(message)
