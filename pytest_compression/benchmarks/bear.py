"""BEAR and BEAR-big: facts of Wikidata, each told with every answer of its relation.

Wiland, Ploner & Akbik 2024, https://arxiv.org/abs/2404.04113. The statement that a model finds
most probable is its answer. A directory holds ``metadata_relations.json`` and one file a relation,
such as ``P36.jsonl``. Where the metadata name no answers (BEAR-big), the relation's objects are
the options. Light to import; scoring comes with ``measure``.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, structs

from pytest_compression.benchmarks.files import Row, Seed, draw, jsonl, there, under, whole_json
from pytest_compression.errors import MeasurementError, nearest
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.scoring.spelling import Blank

METADATA = "metadata_relations.json"
REPEATED = "the same subject and object again"


@dataclass(frozen=True, kw_only=True)
class Bear:
    """Which facts are asked, and how they are scored."""

    path: str
    """Directory of the files: ``BEAR`` or ``BEAR-big`` of https://github.com/lm-pub-quiz/BEAR."""
    relations: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Such as ``P36``; all of them if not given."""
    template: Annotated[int, Meta(ge=0)] = 0
    """Which of a relation's templates is asked; BEAR has three."""
    pll: Literal["within_word_l2r", "original"] = "within_word_l2r"
    """How a masked model scores a statement: whether the later tokens of a word are hidden with
    the one that is asked for."""
    capitalize: bool = True
    """Begin every statement with a capital, as the authors do."""
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many questions a relation, drawn by ``seed``; the options stay as they are."""
    seed: Seed = 0

    def sources(self) -> Iterator[Path]:
        """The files that the answers depend on."""
        yield from under(self.path)

    def questions(self) -> tuple[Question, ...]:
        """What is asked, sorted by id."""
        return tuple(blank.question for blank in self.blanks()[0])

    def measure(self, model: "LanguageModel") -> Measurement:
        """Ask a model, compressed or not."""
        return self._measured(model, None)

    def measure_part(self, model: "LanguageModel", ids: Collection[str]) -> Measurement:
        """Ask only the questions with these ids.

        Raises:
            ValueError: there is no question with one of the ids.
        """
        return self._measured(model, ids)

    def _measured(self, model: "LanguageModel", ids: Collection[str] | None) -> Measurement:
        from pytest_compression.scoring.means import accuracy
        from pytest_compression.scoring.statements import measure

        if self not in model.memo:
            model.memo[self] = self.blanks()
        blanks, repeated = model.memo[self]
        measured = measure(model, blanks, pll=self.pll, ids=ids)
        return structs.replace(
            measured,
            left_out=measured.left_out | repeated,
            figures=accuracy(measured),
        )

    def blanks(self) -> tuple[tuple["Blank", ...], dict[str, int]]:
        """What is asked, sorted by id, and how many rows were left out, by reason.

        Raises:
            MeasurementError: a file is not there, or not what it must be.
        """
        folder = there(self.path, kind="directory")
        left_out: dict[str, int] = {}
        blanks = [
            blank
            for relation, about in self._relations(folder).items()
            for blank in self._of_relation(folder / f"{relation}.jsonl", about, left_out)
        ]
        return tuple(sorted(blanks, key=lambda blank: blank.question.id)), left_out

    def _relations(self, folder: Path) -> dict[str, Row]:
        """What the metadata say of each relation that is asked."""
        path = folder / METADATA
        if not path.exists():
            nested = [found.parent.name for found in sorted(folder.glob(f"*/{METADATA}"))]
            hint = f" There is one in {' and '.join(nested)}; name that directory." * bool(nested)
            message = f"'{folder}' is no directory of BEAR: it has no {METADATA}.{hint}"
            raise MeasurementError(message)
        metadata = whole_json(path)
        if not isinstance(metadata, dict):
            message = f"{path}: an object of relations is expected."
            raise MeasurementError(message)
        there_are = {r: Row({r: about}, str(path)) for r, about in metadata.items()}
        if strange := {found.stem for found in folder.glob("P*.jsonl")} - there_are.keys():
            message = f"{path}: nothing is said of the relations {', '.join(sorted(strange))}."
            raise MeasurementError(message)
        for relation in self.relations or ():
            if relation not in there_are or not (folder / f"{relation}.jsonl").exists():
                known = [name for name in there_are if (folder / f"{name}.jsonl").exists()]
                message = f"'{folder}' has no relation '{relation}'. {nearest(relation, known)}"
                raise MeasurementError(message)
        return {
            relation: Row(row.of(relation, dict), f"{path}, {relation}")
            for relation, row in there_are.items()
            if relation in (self.relations or there_are)
            and (folder / f"{relation}.jsonl").exists()  # BEAR-big has no facts of one of its own
        }

    def _of_relation(self, path: Path, about: Row, left_out: dict[str, int]) -> Iterator["Blank"]:
        """The questions of one relation."""
        from pytest_compression.scoring.spelling import Blank, around

        template = self._template(about)
        rows: dict[str, Row] = {}
        for row in jsonl(path):
            key = f"{path.stem}:{row.filled('sub_id')}:{row.filled('obj_id')}"
            if key in rows:
                left_out[REPEATED] = left_out.get(REPEATED, 0) + 1
            rows.setdefault(key, row)
        candidates = options(about, rows)
        for key in draw(list(rows), rows, self.limit, self.seed):
            subject, answer = rows[key].filled("sub_label"), rows[key].filled("obj_label")
            check(rows[key], answer, candidates)
            before, after = around(template, subject, about.where)
            capital = before[:1].upper() + before[1:] if self.capitalize else before
            question = Question(
                id=key,
                subject=subject,
                stem=capital.rstrip(),
                end=after,
                answer=answer,
                candidates=candidates,
                cluster=path.stem,
            )
            yield Blank(question=question, before=before, after=after, capitalized=self.capitalize)

    def _template(self, about: Row) -> str:
        """The template that is asked."""
        templates = about.of("templates", list)
        if self.template >= len(templates):
            message = (
                f"{about.where}: there is no template {self.template}; it has "
                f"{len(templates)}, counted from 0."
            )
            raise MeasurementError(message)
        return str(templates[self.template])


def options(about: Row, rows: Mapping[str, Row]) -> tuple[str, ...]:
    """The relation's answers: as the metadata name them, or all objects, sorted.

    The same label under two ids is one option, for no statement could tell them apart.
    """
    if "answer_space_labels" in about.values:
        labels = [str(label).strip() for label in about.of("answer_space_labels", list)]
        if "" in labels:
            message = f"{about.where}: an answer in 'answer_space_labels' is empty."
            raise MeasurementError(message)
        return tuple(dict.fromkeys(labels))
    return tuple(sorted({row.filled("obj_label") for row in rows.values()}))


def check(row: Row, answer: str, candidates: tuple[str, ...]) -> None:
    """Refuse a row whose object is no option of its relation."""
    if answer not in candidates:
        message = (
            f"{row.where}: the object '{answer}' is none of the relation's answers in {METADATA}."
        )
        raise MeasurementError(message)
