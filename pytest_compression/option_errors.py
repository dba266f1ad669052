"""What may stand where an option was refused, in words."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import inspect

from pytest_compression.errors import closest

LISTS = (
    *(inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.CollectionType),
    inspect.VarTupleType,
)
"""What YAML writes in brackets, all of one kind."""
LARGEST = 2**63 - 1
"""A limit that says nothing."""
KINDS: dict[type[inspect.Type], str] = {
    **dict.fromkeys(LISTS, "list"),
    inspect.StrType: "text",
    inspect.NoneType: "null",
    inspect.BoolType: "true, false",
    inspect.DataclassType: "keys with values",
    inspect.StructType: "keys with values",
    inspect.DictType: "keys with values",
}
"""What a user calls a type."""


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


def fields_of(of: Any, keys: Sequence[str | int | None]) -> list[str]:
    """The options of what stands at the keys."""
    return [
        field.encode_name
        for one in alternatives(of, keys)
        if isinstance(one, inspect.DataclassType | inspect.StructType)
        for field in one.fields
    ]


def described(allowed: Sequence[inspect.Type]) -> str:
    """What may be written where nothing is."""
    words = [str(v) for one in allowed if isinstance(one, inspect.LiteralType) for v in one.values]
    for one in allowed:
        if isinstance(one, inspect.LiteralType):
            continue
        bounds = {">=": "ge", ">": "gt", "<=": "le", "<": "lt"}
        limits = [
            f"{sign} {limit}"
            for sign, name in bounds.items()
            if (limit := getattr(one, name, None)) is not None and abs(limit) < LARGEST
        ]
        kind = KINDS.get(type(one), type(one).__name__.removesuffix("Type").lower())
        words.append(" ".join([kind, *limits[:1]]) + "".join(f" and {x}" for x in limits[1:]))
    listed = ", ".join(words)
    return f"one of {listed}" if ", " in listed else listed


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
