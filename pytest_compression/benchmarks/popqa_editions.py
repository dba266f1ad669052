"""PopQA's rows, in the published table and in the JSON editions that others made of it.

The table has a column for each thing (``id``, ``subj``, ``prop``, ``obj``, ``s_pop``,
``question``, ``possible_answers`` and more). The editions keep the columns as keys, or put most of
them under ``metadata``, or keep a few: ``input``, ``output``, ``id``, ``s_pop``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pytest_compression.benchmarks import files
from pytest_compression.benchmarks.files import Row, parsed
from pytest_compression.errors import MeasurementError

WORDINGS = {
    "author": "Who is the author of {}?",
    "capital": "What is the capital of {}?",
    "capital of": "What is {} the capital of?",
    "color": "What color is {}?",
    "composer": "Who was the composer of {}?",
    "country": "In what country is {}?",
    "director": "Who was the director of {}?",
    "father": "Who is the father of {}?",
    "genre": "What genre is {}?",
    "mother": "Who is the mother of {}?",
    "occupation": "What is {}'s occupation?",
    "place of birth": "In what city was {} born?",
    "producer": "Who was the producer of {}?",
    "religion": "What is the religion of {}?",
    "screenwriter": "Who was the screenwriter for {}?",
    "sport": "What sport does {} play?",
}
"""How each relation is asked (the paper's table of templates): some files name no relations."""


class Fact(NamedTuple):
    """One row."""

    id: str
    relation: str
    subject: str
    question: str
    answers: tuple[str, ...]
    """The object's name first, then its aliases."""
    popularity: int
    """Monthly page views of the subject."""


def rows(path: Path) -> Iterator[Row]:
    """The rows of a file, by what its name ends in.

    Raises:
        MeasurementError: it is no file of these kinds.
    """
    kind = path.suffix.lower()
    if kind in (".tsv", ".csv"):
        return files.table(path, delimiter="\t" if kind == ".tsv" else ",")
    if kind in (".jsonl", ".ndjson"):
        return files.jsonl(path)
    if kind == ".json":
        return array(path)
    message = f"'{path}': the name must end in .tsv, .csv, .json or .jsonl, not '{kind}'."
    raise MeasurementError(message)


def array(path: Path) -> Iterator[Row]:
    """The rows of a JSON array.

    Raises:
        MeasurementError: it is none, or one of them is no object.
    """
    rows = files.whole_json(path)
    if not isinstance(rows, list):
        message = f"'{path}': an array of objects is expected. One object a line is '.jsonl'."
        raise MeasurementError(message)
    for number, values in enumerate(rows):
        if not isinstance(values, dict):
            message = f"{path}, item {number}: an object is expected, but this is {values!r:.60}"
            raise MeasurementError(message)
        yield Row(values, f"{path}, item {number}")


def read(row: Row) -> Fact:
    """One row of any edition: the columns, some of them under ``metadata``, or but a few.

    Raises:
        MeasurementError: something is missing or of another type.
    """
    more = row.values.get("metadata")
    row = Row({**(more if isinstance(more, dict) else {}), **row.values}, row.where)
    question = row.text("question" if "question" in row.values else "input")
    if "prop" in row.values:
        relation, subject = row.text("prop"), row.text("subj")
    else:
        relation, subject = recognised(question, row.where)
    answers = names(row)
    if "obj" in row.values:
        answers = (row.text("obj"), *answers)
    answers = tuple(dict.fromkeys(filter(None, answers)))
    if not (relation and subject and question and answers):
        message = f"{row.where}: a question, its relation, subject or answer is empty."
        raise MeasurementError(message)
    return Fact(
        id=identity(row),
        relation=relation,
        subject=subject,
        question=question,
        answers=answers,
        popularity=views(row),
    )


def identity(row: Row) -> str:
    """A row's own id, a text or a number.

    Raises:
        MeasurementError: it is neither, or empty.
    """
    return str(found) if isinstance(found := row.of("id", (str, int)), int) else row.filled("id")


def names(row: Row) -> tuple[str, ...]:
    """All that counts as right: a list, or a JSON list as text.

    Raises:
        MeasurementError: it is neither.
    """
    keys = ("possible_answers", "golden_answers", "output")
    key = next((key for key in keys if key in row.values), keys[0])
    found: Any = row.of(key, (str, list))
    if isinstance(found, str):
        try:
            found = parsed(found)
        except ValueError:
            found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        message = f"{row.where}: '{key}' is no list of texts: {row.values[key]!r:.60}"
        raise MeasurementError(message)
    return tuple(name.strip() for name in found)


def views(row: Row) -> int:
    """How often the subject's page is read in a month.

    Raises:
        MeasurementError: it is no number, or below zero.
    """
    try:
        found = int(row.of("s_pop", (str, int, float)))
    except (ValueError, OverflowError):
        found = -1
    if found < 0:
        message = f"{row.where}: 's_pop' is {row.values['s_pop']!r:.60}, but a count is expected."
        raise MeasurementError(message)
    return found


def recognised(question: str, where: str) -> tuple[str, str]:
    """Relation and subject of a question that follows one of the wordings.

    Raises:
        MeasurementError: it follows none, and the row does not name its relation.
    """
    for relation, wording in WORDINGS.items():
        before, after = map(re.escape, wording.removesuffix("?").split("{}"))
        if found := re.fullmatch(rf"{before}(.+?){after}\s*\?", question):
            return relation, found[1].strip()
    message = (
        f"{where}: the row has no key 'prop', and its question follows none of PopQA's wordings: "
        f"{question:.80}"
    )
    raise MeasurementError(message)
