"""A YAML file as plain data that remembers the line of every key.

YAML 1.1 has traps that a suite must not fall into silently: of two equal keys the last wins,
``2:4`` is the number 124, ``1e-3`` is a string, ``no`` is false, ``2026-01-01`` a date. Each is
refused with the spelling that says what was meant.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pytest_compression.errors import SuiteError

Keys = tuple[str | int, ...]
"""Where something stands: keys of mappings and positions in lists, from the root."""

NUMBER_LIKE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
SEXAGESIMAL = re.compile(r"[-+]?\d+(:[0-5]?\d)+(\.\d*)?")


@dataclass(frozen=True, kw_only=True)
class Document:
    """Parsed data, with the node of everything in it."""

    path: Path
    data: Any
    nodes: dict[Keys, yaml.Node]

    def at(self, keys: Keys, message: str) -> str:
        """The message behind ``file:line: where``, at the deepest key that exists."""
        known = keys
        while known not in self.nodes:
            known = known[:-1]
        line = self.nodes[known].start_mark.line + 1
        where = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).lstrip(".")
        return f"{self.path}:{line}: {where + ': ' if where else ''}{message}"

    def get(self, keys: Keys) -> Any:
        """What stands at these keys."""
        data = self.data
        for key in keys:
            data = data[key]
        return data

    def has(self, keys: Keys) -> bool:
        """Whether anything stands at these keys."""
        return keys in self.nodes

    def source(self, keys: Keys) -> str:
        """A scalar as it was written."""
        node = self.nodes.get(keys)
        return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def read(path: Path) -> Document:
    """Parse a YAML file.

    Raises:
        SuiteError: the file cannot be read, is not YAML, or says something that YAML 1.1
            understands otherwise than a reader would.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: cannot be read: {error}"
        raise SuiteError(message) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        message = f"{path}{line}: not YAML: {getattr(error, 'problem', error)}"
        raise SuiteError(message) from error
    if not isinstance(root, yaml.MappingNode):
        message = f"{path}:1: a suite file has the keys version, models, recipes, benchmarks."
        raise SuiteError(message)
    nodes: dict[Keys, yaml.Node] = {}
    data = _Builder(path, nodes).value((), root)
    return Document(path=path, data=data, nodes=nodes)


def dotted(number: str) -> str:
    """A number such as ``1e-3`` in the form that YAML 1.1 reads as one: ``1.0e-3``."""
    mantissa, _, exponent = number.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    signed = exponent if exponent[0] in "+-" else f"+{exponent}"
    whole += "" if whole[-1:].isdigit() else "0"
    return f"{whole}.{fraction or '0'}e{signed}"


class _Builder:
    """Builds plain values from nodes and files the nodes by their keys."""

    def __init__(self, path: Path, nodes: dict[Keys, yaml.Node]) -> None:
        self.path = path
        self.nodes = nodes
        self.open: list[int] = []

    def refuse(self, node: yaml.Node, message: str) -> SuiteError:
        return SuiteError(f"{self.path}:{node.start_mark.line + 1}: {message}")

    def value(self, keys: Keys, node: yaml.Node) -> Any:
        self.nodes[keys] = node
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise self.refuse(node, "an anchor that contains itself.")
        self.open.append(id(node))
        built = (
            self.mapping(keys, node)
            if isinstance(node, yaml.MappingNode)
            else [self.value((*keys, position), child) for position, child in enumerate(node.value)]
        )
        self.open.pop()
        return built

    def mapping(self, keys: Keys, node: yaml.MappingNode) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                text = f'quote it: "{key_node.value}"' if key is not None else "use a plain word"
                raise self.refuse(key_node, f"a key must be text; {text}.")
            if key in built:
                raise self.refuse(key_node, f"the key '{key}' stands here twice; remove one.")
            built[key] = self.value((*keys, key), value_node)
            if isinstance(value_node, yaml.CollectionNode):
                self.nodes[(*keys, key)] = key_node  # a block begins below its key
        return built

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        kind = node.tag.rpartition(":")[2]
        if node.style is None:
            self.check_plain(node, text, kind)
        if kind in {"str", "int", "float", "bool", "null"}:
            try:
                return yaml.SafeLoader("").construct_object(node, deep=True)
            except (yaml.YAMLError, ValueError, KeyError) as error:
                raise self.refuse(node, f"{text or 'nothing'} is no {kind}.") from error
        raise self.refuse(node, f'YAML reads {text} as a {kind}; quote it: "{text}".')

    def check_plain(self, node: yaml.ScalarNode, text: str, kind: str) -> None:
        """Refuse an unquoted word that YAML 1.1 does not read as it looks."""
        if SEXAGESIMAL.fullmatch(text):
            raise self.refuse(
                node, f'YAML reads {text} as a number to base 60; quote it: "{text}".'
            )
        if kind == "str" and NUMBER_LIKE.fullmatch(text):
            raise self.refuse(
                node, f'YAML reads {text} as text; write {dotted(text)} or, for text, "{text}".'
            )
        if kind == "bool" and text.lower() not in {"true", "false"}:
            raise self.refuse(
                node, f"YAML reads {text} as a truth value; write true or false, or quote it."
            )
        if kind == "int" and re.fullmatch(r"[-+]?0[0-9_]+", text):
            raise self.refuse(
                node, f"YAML reads {text} as an octal number; quote it or drop the 0."
            )
        if kind == "merge":
            raise self.refuse(node, "merge keys (<<) are not supported; repeat the options.")
