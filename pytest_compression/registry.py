"""Names to objects, through entry points that are imported on first use.

The built-ins are declared in ``pyproject.toml`` as anybody's would be, in the groups
``pytest_compression.models``, ``.modifiers`` and ``.benchmarks``. ``use: "module:attribute"``
serves a one-off. A class is imported at collection, for its fields are the options that a
suite is checked against; so its module must not import torch before its methods run.
"""

import dataclasses
import importlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import msgspec
from msgspec import inspect

from pytest_compression.errors import PluginError, closest, nearest
from pytest_compression.types import Part

Kind = Literal["models", "modifiers", "benchmarks"]

VERBS: dict[Kind, str] = {"models": "load", "modifiers": "apply", "benchmarks": "measure"}
"""The method that each kind of class must have."""
LISTS = (
    *(inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.CollectionType),
    inspect.VarTupleType,
)
"""What YAML writes in brackets, all of one kind."""


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


def alternatives(of: Any, keys: Sequence[str | int | None]) -> list[inspect.Type]:
    """The types that a value may have, of which one or more are meant by a union.

    Args:
        of: an options' class, or the type of any value.
        keys: where the value stands inside it; None for any key of a mapping.
    """
    found = list(apart(inspect.type_info(of)))
    for key in keys:
        found = [one for outer in found for inner in inside(outer, key) for one in apart(inner)]
    return found


def apart(kind: inspect.Type) -> Iterator[inspect.Type]:
    """The members of a union, or the type itself."""
    for one in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        yield one.type if isinstance(one, inspect.Metadata) else one


def inside(outer: inspect.Type, key: str | int | None) -> list[inspect.Type]:
    """The type of what stands at a key, if anything may."""
    if isinstance(outer, inspect.DataclassType | inspect.StructType):
        return [field.type for field in outer.fields if field.encode_name == key]
    if isinstance(outer, inspect.DictType):
        return [outer.value_type]
    return [outer.item_type] if isinstance(outer, LISTS) else []


def said(text: str, written: str, allowed: Sequence[inspect.Type]) -> str:
    """What msgspec says of a value, and what may stand there in its place.

    Args:
        text: msgspec's, without the path.
        written: the value as it was written; empty if it is no scalar, or one of several.
        allowed: the types that it may have.
    """
    words = [str(v) for one in allowed if isinstance(one, inspect.LiteralType) for v in one.values]
    if refused := re.fullmatch(r"Invalid enum value '?(.*?)'?", text):
        others = [one for one in allowed if not isinstance(one, inspect.LiteralType)]
        names = [type(one).__name__.removesuffix("Type").lower() for one in others]
        known = [*words, *("null" if name == "none" else name for name in names)]
        close = closest(refused[1], words)
        meant = f" Did you mean '{close}'?" if close else ""
        return f"'{refused[1]}' is none of {', '.join(known)}.{meant}"
    stop = "" if text.endswith(("?", ".")) else "."
    got = text.partition(", got ")[2].strip("`")
    hint = instead(written, got, allowed, words) if got in {"str", "int", "float", "bool"} else ""
    return f"{text}{stop}{hint}"


def instead(written: str, got: str, allowed: Sequence[inspect.Type], words: Sequence[str]) -> str:
    """How to write a scalar that has the wrong type; empty if nobody knows."""
    if any(isinstance(one, inspect.StrType) for one in allowed):
        quoted = f'it: "{written}"' if written else "it"
        return f" Quote {quoted}." if got in {"int", "float"} else ""
    if words:
        return f" Write one of {', '.join(words)}."
    items = [item for one in allowed if isinstance(one, LISTS) for item in apart(one.item_type)]
    is_text = any(isinstance(item, inspect.StrType | inspect.LiteralType) for item in items)
    if items and not written:
        return " Write a list, in brackets."
    if is_text:
        is_plain = got == "str" and re.fullmatch(r"\w[\w., /-]*", written)
        return f" Write [{written if is_plain else json.dumps(written, ensure_ascii=False)}]."
    is_number = any(isinstance(item, inspect.IntType | inspect.FloatType) for item in items)
    return f" Write [{written}]." if is_number and got in {"int", "float"} else ""


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
