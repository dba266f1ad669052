"""LRE: relations of facts, words and common sense, as prompts that end where the answer begins.

Hernandez et al. 2023, https://arxiv.org/abs/2308.09124. A directory holds one of ``factual``,
``commonsense``, ``linguistic`` and ``bias`` for each category, and in it one JSON object a
relation. Light to import; scoring comes with ``measure``.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from msgspec import Meta, structs

from pytest_compression.benchmarks.files import Row, Seed, draw, there, under, whole_json
from pytest_compression.benchmarks.relations import (
    candidates,
    right_answers,
    told_apart,
)
from pytest_compression.benchmarks.survey import SEVERAL_ANSWERS
from pytest_compression.errors import MeasurementError, nearest
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Category = Literal["factual", "commonsense", "linguistic", "bias"]
KNOWLEDGE: tuple[Category, ...] = ("factual", "commonsense", "linguistic")
"""What is asked if nothing is said: stereotypes are no knowledge that should be kept."""

BLANK = "{}"
REPEATED = "the same subject and object again"
FEWER = "the relation has fewer templates"
ALONE = "there is no other option"


@dataclass(frozen=True, kw_only=True)
class Lre:
    """Which facts are asked, and how they are scored."""

    path: str
    """The directory of the categories: ``data`` of https://github.com/evandez/relations."""
    categories: Annotated[tuple[Category, ...], Meta(min_length=1)] | None = None
    """Directories in it; if not given those that are there of ``factual``, ``commonsense`` and
    ``linguistic``, but not ``bias``."""
    relations: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Names of files without ``.json``, such as ``country_capital_city``; all if not given."""
    template: Annotated[int, Meta(ge=0)] = 0
    """Which of a relation's prompts is asked."""
    zero_shot: bool = False
    """Choose among the prompts that need no examples to be understood."""
    metric: Literal["ranked", "P@1"] = "ranked"
    """Rank the relation's objects, or compete with the whole vocabulary (single tokens only)."""
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many questions a relation, drawn by ``seed``."""
    seed: Seed = 0

    def sources(self) -> Iterator[Path]:
        """The files that the answers depend on."""
        yield from under(self.path)

    def questions(self) -> tuple[Question, ...]:
        """What is asked, sorted by id."""
        return self._read().questions

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
        from pytest_compression.scoring.cloze import measure
        from pytest_compression.scoring.means import accuracy

        if self not in model.memo:
            model.memo[self] = self._read()
        read: Read = model.memo[self]
        if not read.questions:
            reasons = "; ".join(f"{reason} ({n})" for reason, n in read.left_out.items())
            message = f"'{self.path}' has no fact that can be asked: {reasons or 'it is empty'}."
            raise MeasurementError(message)
        measured = measure(model, read.questions, self.metric, ids)
        return structs.replace(
            measured,
            left_out=measured.left_out | read.left_out,
            figures=accuracy(measured) | {SEVERAL_ANSWERS: float(read.ambiguous)},
        )

    def _read(self) -> "Read":
        """What the files hold.

        Raises:
            MeasurementError: a file is not there, or not what it must be.
        """
        left_out: dict[str, int] = {}
        questions: list[Question] = []
        ambiguous = 0
        for path in self._files():
            about = read_relation(path)
            facts = read_facts(about, left_out)
            ambiguous += sum(len(right) > 1 for right in right_answers(facts).values())
            questions += self._of_relation(path.stem, about, facts, left_out)
        questions.sort(key=lambda question: question.id)
        return Read(tuple(questions), left_out, ambiguous)

    def _files(self) -> list[Path]:
        """The relations' files."""
        folder = there(self.path, kind="directory")
        categories = self.categories or [name for name in KNOWLEDGE if (folder / name).is_dir()]
        if not categories:
            message = f"'{self.path}' has no directory {', '.join(KNOWLEDGE)}."
            raise MeasurementError(message)
        for name in categories:
            there(str(folder / name), kind="directory")
        found: dict[str, Path] = {}
        for path in (p for name in categories for p in sorted((folder / name).glob("*.json"))):
            if path.stem in found:
                message = f"the relation '{path.stem}' is in {found[path.stem]} and in {path}."
                raise MeasurementError(message)
            found[path.stem] = path
        for relation in self.relations or ():
            if relation not in found:
                message = f"'{self.path}' has no relation '{relation}'. {nearest(relation, found)}"
                raise MeasurementError(message)
        return [found[relation] for relation in dict.fromkeys(self.relations or found)]

    def _of_relation(
        self,
        relation: str,
        about: Row,
        facts: list[tuple[str, str]],
        left_out: dict[str, int],
    ) -> Iterator[Question]:
        """The questions of one file."""
        key = "prompt_templates_zs" if self.zero_shot else "prompt_templates"
        templates = about.of(key, list)
        names = [f"{relation}\0{subject}\0{answer}" for subject, answer in facts]
        drawn = draw(facts, names, self.limit, self.seed)
        if self.template >= len(templates):
            left_out[FEWER] = left_out.get(FEWER, 0) + len(drawn)
            return
        template = str(templates[self.template])
        if BLANK not in template:
            message = f"{about.where}: '{template}' in '{key}' has no {BLANK} for the subject."
            raise MeasurementError(message)
        options = candidates(facts)
        keys = told_apart([f"{subject}|{answer}" for subject, answer in facts], names)
        ids = dict(zip(facts, keys, strict=True))
        for subject, answer in drawn:
            if self.metric == "ranked" and len(options[subject, answer]) == 1:
                left_out[ALONE] = left_out.get(ALONE, 0) + 1
                continue
            yield Question(
                id=f"{relation}:{ids[subject, answer]}",
                subject=subject,
                stem=template.replace(BLANK, subject).rstrip(),
                end=".",  # a causal model never reads it; the others would miss it
                answer=answer,
                candidates=options[subject, answer] if self.metric == "ranked" else (answer,),
                cluster=relation,
            )


class Read(NamedTuple):
    """A benchmark's questions, and what was found on the way to them."""

    questions: tuple[Question, ...]
    """Sorted by id."""
    left_out: dict[str, int]
    """How many samples are not asked, by reason."""
    ambiguous: int
    """Subjects with several right answers."""


def read_relation(path: Path) -> Row:
    """One file.

    Raises:
        MeasurementError: it is no object.
    """
    whole = whole_json(path)
    if not isinstance(whole, dict):
        message = f"{path}: a JSON object is expected."
        raise MeasurementError(message)
    return Row(whole, str(path))


def read_facts(about: Row, left_out: dict[str, int]) -> list[tuple[str, str]]:
    """Subject and object of each sample, once."""
    facts: dict[tuple[str, str], None] = {}
    for number, sample in enumerate(about.of("samples", list)):
        where = f"{about.where}, sample {number}"
        if not isinstance(sample, dict):
            message = f"{where}: an object with 'subject' and 'object' is expected."
            raise MeasurementError(message)
        row = Row(sample, where)
        fact = row.filled("subject"), row.filled("object")
        if fact in facts:
            left_out[REPEATED] = left_out.get(REPEATED, 0) + 1
        facts[fact] = None
    return list(facts)
