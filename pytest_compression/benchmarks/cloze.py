"""A company's own facts as cloze questions, from JSON Lines, CSV, or a data set.

A row has ``subject``, ``relation`` and ``object``, and may have ``id``, ``template`` or
``templates`` (with ``[X]`` for the subject and ``[Y]`` for the object), ``accepted`` or ``aliases``
(other forms of the object) and ``candidates``. In CSV, lists are JSON text.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from pytest_compression.benchmarks.cloze_templates import first_fault, several, templates_of
from pytest_compression.benchmarks.files import (
    Row,
    Seed,
    hub,
    jsonl,
    parsed,
    table,
    there,
    under,
)
from pytest_compression.benchmarks.survey import (
    IN_WORD,
    OBJECT,
    PLACES,
    SUBJECT,
    Fact,
    Metric,
    Survey,
    ask,
    from_template,
    lost,
    refuse_vocabulary,
    survey,
)
from pytest_compression.errors import MeasurementError, OptionError, nearest
from pytest_compression.fingerprints import digest
from pytest_compression.types import Measurement

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """Which facts are asked, and how they are scored."""

    path: str | None = None
    """A file that ends in ``.jsonl`` or ``.csv``."""
    dataset: str | None = None
    """Instead of a path: a data set of the hub with these columns."""
    name: str | None = None
    """Which configuration of the data set."""
    revision: str | None = None
    split: str = "test"
    templates: dict[str, str | tuple[str, ...]] | str | None = None
    """A relation's template, or several; or a file with these: ``.json`` holds the same mapping,
    ``.jsonl`` has a ``relation`` and a ``template`` a line. A row's own come first."""
    phrasing: Annotated[int, Meta(ge=0)] = 0
    """Which of several templates is asked."""
    relations: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """All of them if not given."""
    metric: Metric = "ranked"
    """Rank the row's candidates, or else the relation's objects; or a place in the vocabulary:
    first, among the first ``k``, or one over the rank. Then only answers of one token are asked."""
    k: Annotated[int, Meta(ge=1)] = PLACES
    vocabulary: str | None = None
    """A file of words, one a line, that answers compete with; the model's own if not given."""
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many questions a relation, drawn by ``seed``."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Refuse options that contradict each other, and templates without a blank."""
        if (self.path is None) == (self.dataset is None):
            message = "the facts are in a 'path' or in a 'dataset': exactly one is needed"
            raise ValueError(message)
        if self.path is not None and not self.path.endswith((".jsonl", ".csv")):
            message = f"'{self.path}' is to end in .jsonl or .csv"
            raise OptionError(message, option="path")
        if self.path and (self.name, self.revision, self.split) != (None, None, "test"):
            message = "'name', 'revision' and 'split' are of a 'dataset', not of a 'path'"
            raise ValueError(message)
        refuse_vocabulary(self)
        if isinstance(self.templates, dict):
            for relation, text in self.templates.items():
                if fault := first_fault(several(text)):
                    message = f"relation '{relation}': {fault}"
                    raise OptionError(message, option="templates")

    @property
    def cached(self) -> bool:
        """Whether answers may be kept: what a data set of the hub holds can change."""
        return self.path is not None

    def sources(self) -> Iterator[Path]:
        """The files that the answers depend on."""
        named = self.templates if isinstance(self.templates, str) else None
        yield from under(self.path, named, self.vocabulary)

    def survey(self) -> Survey:
        """What is asked, and what of the rows is not.

        Raises:
            MeasurementError: a row is no fact, or a relation is not there.
        """
        reader = Reader(self)
        facts = list(reader.facts())
        where = self.path or self.dataset
        if not reader.met:
            message = f"'{where}' has no fact."
            raise MeasurementError(message)
        for relation in (*(self.relations or ()), *self._own_templates()):
            if relation not in reader.met:
                message = f"'{where}' has no relation '{relation}'. {nearest(relation, reader.met)}"
                raise MeasurementError(message)
        made = survey(facts, self.metric, self.limit, self.seed)
        if not made.questions:
            reasons = "; ".join(f"{reason} ({n})" for reason, n in made.left_out.items())
            message = f"'{where}' has no fact that can be asked: {reasons}."
            raise MeasurementError(message)
        return made

    def measure(self, model: "LanguageModel") -> Measurement:
        """Ask a model, compressed or not.

        Raises:
            MeasurementError: a row is no fact, or nothing can be asked.
        """
        return self._asked(model, None)

    def measure_part(self, model: "LanguageModel", ids: Collection[str]) -> Measurement:
        """Ask only the questions with these ids.

        Raises:
            ValueError: there is no question with one of the ids.
        """
        return self._asked(model, ids)

    def _own_templates(self) -> Collection[str]:
        """Relations that a template is given for here; a file may serve other facts, too."""
        return self.templates if isinstance(self.templates, dict) else ()

    def _asked(self, model: "LanguageModel", ids: Collection[str] | None) -> Measurement:
        key = repr(self)  # a mapping of templates has no hash
        if key not in model.memo:
            model.memo[key] = self.survey()
        return ask(model, model.memo[key], self, ids)


class Reader:
    """Reads rows to facts, and counts what it meets."""

    def __init__(self, options: Cloze) -> None:
        self.options = options
        self.templates = templates_of(options.templates)
        self.met: set[str] = set()
        """Relations, also those that were not asked for."""
        self.owners: dict[str, tuple[str, str]] = {}
        """The rows' own ids: whose content and place they are."""

    def rows(self) -> Iterator[Row]:
        """The rows of the file or data set."""
        if self.options.path is None:
            dataset = str(self.options.dataset)
            options = self.options
            return hub(dataset, name=options.name, split=options.split, revision=options.revision)
        found = there(self.options.path)
        return table(found) if found.suffix == ".csv" else jsonl(found)

    def facts(self) -> Iterator[Fact]:
        """The facts of the chosen relations, also those that make no question."""
        for row in self.rows():
            relation = row.filled("relation")
            self.met.add(relation)
            if self.options.relations is not None and relation not in self.options.relations:
                continue
            yield self.fact(relation, row)

    def fact(self, relation: str, row: Row) -> Fact:
        """One row's fact.

        Raises:
            MeasurementError: something is missing or wrong.
        """
        subject, answer = row.filled("subject"), row.filled("object")
        prompt = from_template(self.template(relation, row), subject)
        if prompt is None:
            return lost(relation, answer, IN_WORD)
        candidates = texts(row, "candidates")
        if candidates and answer not in candidates:
            message = f"{row.where}: the object '{answer}' is none of its candidates."
            raise MeasurementError(message)
        content = digest(part.encode() for part in (relation, subject, answer))[:16]
        return Fact(
            relation=relation,
            key=self.own(row, repr((relation, answer, prompt))) or content,
            subject=subject,
            object=answer,
            prompt=prompt,
            candidates=tuple(dict.fromkeys(candidates)),
            accepted=(*texts(row, "accepted"), *texts(row, "aliases")),
        )

    def own(self, row: Row, content: str) -> str:
        """The row's id, if it has one.

        Raises:
            MeasurementError: another row has it with other content.
        """
        key = str(row.of("id", (str, int))).strip() if row.values.get("id") is not None else ""
        if key:
            known, where = self.owners.setdefault(key, (content, row.where))
            if known != content:
                message = f"{row.where}: id '{key}' is that of another fact, at {where}."
                raise MeasurementError(message)
        return key

    def template(self, relation: str, row: Row) -> str:
        """The row's own template, or the relation's.

        Raises:
            MeasurementError: there is none, or not as many as the phrasing asks for.
        """
        own = texts(row, "templates")
        if not own and row.values.get("template"):
            own = (row.text("template"),)
        if fault := first_fault(own, has_subject=False):
            message = f"{row.where}: {fault}"
            raise MeasurementError(message)
        found = own or self.templates.get(relation, ())
        if len(found) <= self.options.phrasing:
            message = (
                f"{row.where}: phrasing {self.options.phrasing} is asked, but relation "
                f"'{relation}' has {len(found)} templates. Give it one in the option 'templates', "
                f"or in the row, such as '{SUBJECT} is made in {OBJECT}.'"
            )
            raise MeasurementError(message)
        return found[self.options.phrasing]


def texts(row: Row, key: str) -> tuple[str, ...]:
    """A list of texts, given as such or as JSON text; empty if there is none.

    Raises:
        MeasurementError: it is something else.
    """
    value: Any = row.values.get(key)
    if value in (None, ""):
        return ()
    if isinstance(value, str):
        try:
            value = parsed(value)
        except ValueError:
            value = None
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        message = (
            f"{row.where}: '{key}' is {row.values[key]!r:.60}, but a list of texts is expected, "
            'in CSV as JSON text such as ["one", "two"].'
        )
        raise MeasurementError(message)
    found = tuple(one.strip() for one in value)
    if not all(found):
        message = f"{row.where}: '{key}' holds an empty text."
        raise MeasurementError(message)
    return found
