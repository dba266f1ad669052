"""KAMEL: questions with any number of answers, written one after the other.

Kalo and Fichtel 2022, https://www.akbc.ws/2022/assets/pdfs/15_kamel_knowledge_analysis_with_.pdf;
data: ``JanKalo/KAMEL``. Light to import; scoring comes with ``measure``.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from msgspec import Meta

from pytest_compression.benchmarks.answers import SetScore, set_score
from pytest_compression.benchmarks.files import Row, Seed, draw, jsonl, lines, there, under
from pytest_compression.benchmarks.generated import REPEATED, Asked, Task, lot, measure
from pytest_compression.benchmarks.relations import told_apart
from pytest_compression.errors import MeasurementError, OptionError, nearest
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

SUBJECT = "[S]"
"""Where a question names the subject."""

BETWEEN, END = ";", "%"
"""What stands between answers and behind the last, so no answer may hold them."""

MISASKED = {"P36": "capital"}
"""Relations whose published question asks for something else, and a word of the right one."""

MARKED = f"an answer holds '{BETWEEN}' or '{END}', which stand between answers and end them"
LITERAL = "a date or a number, left out by 'literals'"
NO_QUESTION = "the templates have no question for the relation"
WRONG_QUESTION = "the published question asks for another relation; give 'wordings'"


class Fact(NamedTuple):
    """One row: a subject and its objects."""

    subject: str
    objects: tuple[tuple[str, ...], ...]
    """The names of each, its label first."""
    is_literal: bool
    """Whether one of them is no entity, but a date or a number."""

    @property
    def answer(self) -> str:
        """As it is written in examples."""
        return f"{BETWEEN} ".join(names[0] for names in self.objects)


@dataclass(frozen=True, kw_only=True)
class Kamel:
    """Which relations are asked, how, and after how many examples."""

    path: str
    """The directory with ``P*/test.jsonl`` and, for examples, ``P*/train.jsonl``."""
    templates: str
    """The file ``question-templates.csv``: a relation, a comma and its question a line."""
    wordings: dict[str, str] = field(default_factory=dict)
    """Questions instead of those of the templates, such as ``{P36: "What is the capital of
    [S]?"}``: the published one asks for something else, so P36 is left out without."""
    relations: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Such as ``P19``; all of them if not given."""
    shots: Annotated[int, Meta(ge=0)] = 5
    """Examples of the same relation before each question, drawn by ``seed``; the same for all."""
    literals: bool = True
    """Ask for dates and numbers, too."""
    max_new_tokens: Annotated[int, Meta(ge=1)] = 100
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many questions a relation, drawn by ``seed``."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check the questions that are given."""
        for relation, question in self.wordings.items():
            if SUBJECT not in question:
                message = f"the question of '{relation}' does not name the subject as {SUBJECT}"
                raise OptionError(message, option="wordings")

    def sources(self) -> Iterator[Path]:
        """The files that the answers depend on."""
        yield from under(self.path, self.templates)

    def measure(self, model: "LanguageModel") -> Measurement:
        """Ask a causal or seq2seq model, compressed or not.

        Raises:
            MeasurementError: the data are not what they must be, or the model cannot be asked.
        """
        return measure(model, repr(self), self._task)

    def measure_part(self, model: "LanguageModel", ids: Collection[str]) -> Measurement:
        """Ask only the questions with these ids, after the same examples.

        Raises:
            ValueError: there is no question with one of the ids.
        """
        return measure(model, repr(self), self._task, ids)

    def _task(self) -> Task:
        left_out: dict[str, int] = {}
        wordings = read_templates(there(self.templates)) | self.wordings
        folders = self._folders()
        asked: list[Asked] = []
        for relation in dict.fromkeys(self.relations or folders):
            asked += self._of_relation(folders[relation], wordings.get(relation), left_out)
        return Task(
            metric="F1",
            asked=asked,
            left_out=left_out,
            stop=(END, "\n"),
            max_new_tokens=self.max_new_tokens,
            score=lambda one, text: compare(one, text).f1,
            figures=macro,
        )

    def _folders(self) -> dict[str, Path]:
        """Of each relation."""
        folder = there(self.path, kind="directory")
        found = {path.parent.name: path.parent for path in sorted(folder.glob("P*/test.jsonl"))}
        if not found:
            message = f"'{folder}' holds no P*/test.jsonl, so it is not KAMEL's directory."
            raise MeasurementError(message)
        for relation in self.relations or ():
            if relation not in found:
                message = f"'{folder}' has no relation '{relation}'. {nearest(relation, found)}"
                raise MeasurementError(message)
        for relation in self.wordings:
            if relation not in found:
                message = (
                    f"'wordings': '{folder}' has no relation '{relation}'. "
                    f"{nearest(relation, found)}"
                )
                raise MeasurementError(message)
        return found

    def _of_relation(
        self, folder: Path, wording: str | None, left_out: dict[str, int]
    ) -> Iterator[Asked]:
        relation = folder.name
        facts: dict[Fact, None] = {}

        def leave_out(reason: str) -> None:
            left_out[reason] = left_out.get(reason, 0) + 1

        for row in jsonl(folder / "test.jsonl"):
            fact = Fact(row.filled("sub_label"), *objects(row))
            if reason := refused(relation, wording, fact):
                leave_out(reason)
            elif fact.is_literal and not self.literals:
                leave_out(LITERAL)
            elif fact in facts:
                leave_out(REPEATED)
            else:
                facts[fact] = None
        if not facts or wording is None:
            return
        header = self._header(folder, wording)
        keys = [f"{relation}:{fact.subject}:{fact.answer}" for fact in facts]
        ids = told_apart(keys, list(map(repr, facts)))
        for key, fact in draw(list(zip(ids, facts, strict=True)), ids, self.limit, self.seed):
            yield Asked(to_ask(key, relation, wording, fact), header, fact.objects)

    def _header(self, folder: Path, wording: str) -> str:
        """Examples of the relation, each on its line; drawn by content, not by place."""
        if not self.shots:
            return ""
        path = folder / "train.jsonl"
        examples = []
        for row in jsonl(there(str(path))):
            answers = row.of("obj_label", list)
            if not answers or not all(isinstance(a, str) and a.strip() for a in answers):
                message = f"{row.where}: 'obj_label' is no list of texts: {answers!r:.60}"
                raise MeasurementError(message)
            if any(mark in answer for answer in answers for mark in (BETWEEN, END)):
                continue
            question = wording.replace(SUBJECT, row.filled("sub_label"))
            examples.append(f"{question} {f'{BETWEEN} '.join(answers)}{END}\n")
        if len(examples) < self.shots:
            message = f"'{path}' has {len(examples)} usable examples, but 'shots' is {self.shots}."
            raise MeasurementError(message)
        return "".join(sorted(examples, key=lambda example: lot(example, self.seed))[: self.shots])


def read_templates(path: Path) -> dict[str, str]:
    """The question of each relation.

    Raises:
        MeasurementError: a line is none, or a relation has two that differ.
    """
    found: dict[str, str] = {}
    for number, line in lines(path):
        if not line.strip():
            continue
        relation, comma, question = (part.strip() for part in line.partition(","))
        if not (relation and comma and SUBJECT in question):
            message = (
                f"{path}:{number}: a relation, a comma and a question with {SUBJECT} are expected, "
                f"but this is {line.strip():.60}"
            )
            raise MeasurementError(message)
        if found.setdefault(relation, question) != question:
            message = f"{path}:{number}: there is another question for '{relation}' further up."
            raise MeasurementError(message)
    return found


def objects(row: Row) -> tuple[tuple[tuple[str, ...], ...], bool]:
    """The names of each object, its label first, and whether one is a literal.

    Raises:
        MeasurementError: there are none, or one is not what it must be.
    """
    found = []
    is_literal = False
    for number, values in enumerate(row.of("obj_label", list)):
        where = f"{row.where}, object {number}"
        if not isinstance(values, dict):
            message = f"{where}: {values!r:.60} is no object with 'chosen' and 'alternative'."
            raise MeasurementError(message)
        one = Row(values, where)
        label, name = one.filled("chosen"), one.of("rdf", (str, type(None)))
        others = [label, name or "", *one.of("alternative", list)]
        if not all(isinstance(other, str) for other in others):
            message = f"{where}: the names of an object are texts."
            raise MeasurementError(message)
        found.append(tuple(dict.fromkeys(filter(None, map(str.strip, others)))))
        is_literal = is_literal or name is None
    if not found:
        message = f"{row.where}: 'obj_label' is empty, so there is no right answer."
        raise MeasurementError(message)
    return tuple(found), is_literal


def refused(relation: str, wording: str | None, fact: Fact) -> str | None:
    """Why a question cannot be asked, whatever the model."""
    if wording is None:
        return NO_QUESTION
    if MISASKED.get(relation, "") not in wording.lower():
        return WRONG_QUESTION
    says = [
        any(BETWEEN not in name and END not in name for name in names) for names in fact.objects
    ]
    return None if all(says) else MARKED


def to_ask(key: str, relation: str, wording: str, fact: Fact) -> Question:
    """The question with its answers, as in examples."""
    others = (name for names in fact.objects for name in names)
    return Question(
        id=key,
        subject=fact.subject,
        stem=wording.replace(SUBJECT, fact.subject),
        end="",
        answer=fact.answer,
        candidates=(fact.answer,),
        cluster=relation,
        accepted=tuple(dict.fromkeys(others)),
    )


def compare(asked: Asked, text: str) -> SetScore:
    """The answers that are written, which stand between semicolons, with those that are right."""
    return set_score(text.split(BETWEEN), asked.wanted)


def macro(asked: Sequence[Asked], texts: Sequence[str]) -> dict[str, float]:
    """The paper's figures: means over facts, of these over relations, and the F1 of the two.

    Where nothing is written, precision is 0; of a part without questions there are no figures.
    """
    relations: dict[str, list[SetScore]] = {}
    for one, text in zip(asked, texts, strict=True):
        relations.setdefault(one.question.cluster, []).append(compare(one, text))

    if not relations:
        return {}

    def mean(values: Collection[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    precision = mean([mean([score.precision for score in some]) for some in relations.values()])
    recall = mean([mean([score.recall for score in some]) for some in relations.values()])
    both = precision + recall
    return {
        "macro precision": precision,
        "macro recall": recall,
        "macro F1": 2 * precision * recall / both if both else 0.0,
    }
