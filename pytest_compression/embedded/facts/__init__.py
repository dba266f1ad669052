"""The table of world facts that the embedded models were taught, and its phrasings.

``worldfacts.tsv`` holds relation, subject, object and source; ``phrasings.tsv`` several
sentences for each relation, with [X] for the subject and [Y], always last, for the object.
Origin and licences: ``SOURCES.md`` beside them.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

SUBJECT = "[X]"
OBJECT = "[Y]"


class Fact(NamedTuple):
    """One row of the table: ``object`` is what ``relation`` gives for ``subject``."""

    relation: str
    subject: str
    object: str
    source: str


def rows(name: str) -> Iterator[list[str]]:
    """The rows of a table of this folder, without its heading."""
    lines = files(__name__).joinpath(name).read_text(encoding="utf-8").splitlines()
    for line in lines[1:]:
        yield line.split("\t")


@cache
def worldfacts() -> tuple[Fact, ...]:
    """All facts, in the order of the table (cities: the largest first)."""
    return tuple(Fact(*row) for row in rows("worldfacts.tsv"))


@cache
def phrasings() -> Mapping[str, tuple[str, ...]]:
    """The sentences of each relation; [Y] stands before the final full stop."""
    table: dict[str, tuple[str, ...]] = {}
    for relation, phrasing in rows("phrasings.tsv"):
        table[relation] = (*table.get(relation, ()), phrasing)
    return MappingProxyType(table)
