"""Templates of relations, given in a suite or in a file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pytest_compression.benchmarks.files import jsonl, there, whole_json
from pytest_compression.benchmarks.survey import OBJECT, SUBJECT
from pytest_compression.errors import MeasurementError

Templates = Mapping[str, Sequence[str]]


def several(text: str | Sequence[str]) -> tuple[str, ...]:
    """One or several texts, as several."""
    return (text,) if isinstance(text, str) else tuple(text)


def first_fault(templates: Sequence[str], *, has_subject: bool = True) -> str:
    """What is wrong with the first template that is not as it must be; nothing if all are."""
    for template in templates:
        if template.count(OBJECT) != 1:
            return f"template '{template}' needs {OBJECT} once, where the object is"
        if has_subject and SUBJECT not in template:
            return f"template '{template}' needs {SUBJECT}, where the subject is"
    return ""


def templates_of(given: Mapping[str, str | tuple[str, ...]] | str | None) -> Templates:
    """The relations' templates, also from a file.

    Raises:
        MeasurementError: the file is not there, or not as it must be.
    """
    if not isinstance(given, str):
        return {relation: several(text) for relation, text in (given or {}).items()}
    path = there(given, kind="file of templates")
    found: dict[str, tuple[str, ...]] = {}
    for relation, text, where in listed(path):
        found[relation] = (*found.get(relation, ()), text)
        if fault := first_fault([text]):
            message = f"{where}: {fault}."
            raise MeasurementError(message)
    return found


def listed(path: Path) -> Iterator[tuple[str, str, str]]:
    """Relation, template and place of each template in a file."""
    if path.suffix == ".jsonl":
        for row in jsonl(path):
            yield row.filled("relation"), row.filled("template"), row.where
        return
    whole = whole_json(path)
    if not isinstance(whole, dict):
        message = f"'{path}' is to hold an object: templates by relation."
        raise MeasurementError(message)
    for relation, text in whole.items():
        listing = [text] if isinstance(text, str) else text
        if not isinstance(listing, list) or not all(isinstance(one, str) for one in listing):
            message = f"'{path}': relation '{relation}' has {text!r:.60}, but no template."
            raise MeasurementError(message)
        for one in listing:
            yield relation, one, str(path)
