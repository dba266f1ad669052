"""PopQA: questions about entities from the widely read to the obscure, answered in free text.

Mallen et al. 2023, https://arxiv.org/abs/2212.10511; data: ``AlexTMallen/adaptive-retrieval``,
``data/popQA.tsv``. Light to import; scoring comes with ``measure``.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.benchmarks.answers import has_substring, has_words
from pytest_compression.benchmarks.files import Row, Seed, draw, hub, there, under
from pytest_compression.benchmarks.generated import REPEATED, Asked, Task, lot, measure
from pytest_compression.benchmarks.popqa_editions import Fact, read, rows
from pytest_compression.errors import MeasurementError, nearest
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

RULES = {"words": has_words, "substring": has_substring}


@dataclass(frozen=True, kw_only=True)
class PopQA:
    """Which questions are asked, after how many examples, and what counts as right."""

    path: str | None = None
    """The TSV or CSV file, or one of the JSON editions (an array, or a row a line)."""
    dataset: str | None = None
    """Instead: a data set of the hub with the same columns, such as ``akariasai/PopQA``."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""
    split: str | None = None
    """Which part of the data set; ``test`` if not given."""
    relations: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Such as ``capital``; all of them if not given. Examples are of any."""
    shots: Annotated[int, Meta(ge=0)] = 15
    """Examples before each question, one each of other relations, drawn by ``seed``; a relation's
    questions all have the same."""
    match: Literal["words", "substring"] = "words"
    """A right text holds an answer as whole words; or, as in the paper, anywhere, so that ``W``
    and ``DJ`` are found in most."""
    max_new_tokens: Annotated[int, Meta(ge=1)] = 15
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many questions a relation, drawn by ``seed``."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check where the data come from."""
        if (self.path is None) == (self.dataset is None):
            message = "give either 'path', a file, or 'dataset', a data set of the hub"
            raise ValueError(message)
        for option in ("revision", "split"):
            if self.dataset is None and getattr(self, option) is not None:
                message = f"'{option}' is for 'dataset', a data set of the hub; a file has none"
                raise ValueError(message)

    @property
    def cached(self) -> bool:
        """Whether answers may be kept: what a data set of the hub holds can change."""
        return self.path is not None

    def sources(self) -> Iterator[Path]:
        """The files that the answers depend on."""
        yield from under(self.path)

    def questions(self) -> tuple[Question, ...]:
        """What is asked, sorted by id."""
        asked = (one.question for one in self._task().asked)
        return tuple(sorted(asked, key=lambda question: question.id))

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
        relations, left_out = self._facts()
        chosen = tuple(dict.fromkeys(self.relations or relations))
        for relation in chosen:
            if relation not in relations:
                message = (
                    f"{self._source}: no relation '{relation}'. {nearest(relation, relations)}"
                )
                raise MeasurementError(message)
        facts: dict[str, Fact] = {}
        asked: list[Asked] = []
        for relation in chosen:
            header = self._header(relation, relations)
            known = relations[relation]
            for fact in draw(known, (fact.id for fact in known), self.limit, self.seed):
                facts[fact.id] = fact
                asked.append(Asked(to_ask(fact), header))
        rule = RULES[self.match]

        def score(one: Asked, text: str) -> float:
            return float(rule(text, one.names))

        def figures(some: Sequence[Asked], texts: Sequence[str]) -> dict[str, float]:
            found = [facts[one.question.id].popularity for one in some]
            return strata(found, [score(*pair) for pair in zip(some, texts, strict=True)])

        return Task(
            metric=f"answered ({self.match})",
            asked=asked,
            left_out=left_out,
            stop=("\n",),
            max_new_tokens=self.max_new_tokens,
            score=score,
            figures=figures,
        )

    @property
    def _source(self) -> str:
        return f"'{self.path or self.dataset}'"

    def _facts(self) -> tuple[dict[str, list[Fact]], dict[str, int]]:
        """By relation, in the order of the file; a row that stands there twice is counted."""
        found: dict[str, Fact] = {}
        relations: dict[str, list[Fact]] = {}
        left_out: dict[str, int] = {}
        for row in self._rows():
            fact = read(row)
            known = found.setdefault(fact.id, fact)
            if known is fact:
                relations.setdefault(fact.relation, []).append(fact)
            elif known == fact:
                left_out[REPEATED] = left_out.get(REPEATED, 0) + 1
            else:
                message = f"{row.where}: another row has the id '{fact.id}', too."
                raise MeasurementError(message)
        if not relations:
            message = f"{self._source} has no rows."
            raise MeasurementError(message)
        return relations, left_out

    def _rows(self) -> Iterator[Row]:
        if self.path is not None:
            return rows(there(self.path))
        split = self.split or "test"
        return hub(str(self.dataset), name=None, split=split, revision=self.revision)

    def _header(self, relation: str, relations: dict[str, list[Fact]]) -> str:
        """Examples of other relations; adding rows to one replaces its own at most."""
        others = [name for name in relations if name != relation]
        if len(others) < self.shots:
            message = (
                f"{self._source}: {self.shots} examples are asked for, one each of the relations "
                f"other than '{relation}', but there are {len(others)} of them. Give "
                f"'shots: {len(others)}'."
            )
            raise MeasurementError(message)
        examples = []
        for name in sorted(others, key=lambda name: lot(name, self.seed))[: self.shots]:
            fact = min(relations[name], key=lambda fact: lot(f"{fact.id} example", self.seed))
            examples.append(f"{to_ask(fact).stem} {fact.answers[0]}\n\n")
        return "".join(examples)


def to_ask(fact: Fact) -> Question:
    """The question, in the paper's form."""
    return Question(
        id=fact.id,
        subject=fact.subject,
        stem=f"Q: {fact.question} A:",
        end="",
        answer=fact.answers[0],
        candidates=fact.answers[:1],
        cluster=fact.relation,
        accepted=fact.answers[1:],
    )


def strata(popularity: Sequence[int], scores: Sequence[float]) -> dict[str, float]:
    """Mean score by power of ten of the popularity, and how many questions that is."""
    bins: dict[int, list[float]] = {}
    for views, score in zip(popularity, scores, strict=True):
        bins.setdefault(len(str(views)) - 1 if views else -1, []).append(score)
    found: dict[str, float] = {}
    for power, some in sorted(bins.items()):
        name = f"s_pop 1e{power}-1e{power + 1}" if power >= 0 else "s_pop 0"
        found[name] = math.fsum(some) / len(some)
        found[f"{name}, questions"] = float(len(some))
    return found
