"""Facts to cloze questions: repeated ones asked once, relations sampled, all of it counted."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from msgspec.structs import replace

from pytest_compression.benchmarks.files import draw, lines, there
from pytest_compression.errors import MeasurementError, OptionError
from pytest_compression.fingerprints import digest
from pytest_compression.scoring.tokens import parted
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Metric = Literal["ranked", "P@1", "P@k", "MRR"]

IN_WORD = "a blank that is the end of a longer word"
REPEATED = "the same question again"
ALONE = "a relation without another answer to rank"

SEVERAL_ANSWERS = "prompts with several answers"

PLACES = 10
"""How many count as right in P@k, if it is not said."""

SUBJECT, OBJECT = "[X]", "[Y]"
"""Where they stand in a template."""


class Prompt(NamedTuple):
    """A sentence around its blank, and its neighbours."""

    stem: str
    end: str
    before: str = ""
    behind: str = ""


NOWHERE = Prompt("", "")
"""Of a fact without a sentence that can be asked."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What is asked, and the right answer."""

    relation: str
    key: str
    """The row's own id, or a hash of its content."""
    subject: str
    object: str
    prompt: Prompt
    candidates: tuple[str, ...] = ()
    """What the answer is ranked among; all objects of the relation if none."""
    accepted: tuple[str, ...] = ()
    """Other forms of the answer, which do not compete with it."""
    excluded: str = ""
    """Why it is not asked, if so; its object is a candidate all the same."""

    @property
    def content(self) -> str:
        """A digest of what tells it from others."""
        parts = (self.relation, self.subject, self.object, *self.prompt)
        return digest(part.encode() for part in parts)[:16]


class Competition(Protocol):
    """The options that say what answers compete with."""

    @property
    def metric(self) -> Metric:
        """Rank candidates, or find the answer's place in a vocabulary."""

    @property
    def k(self) -> int:
        """How many places count as right in P@k."""

    @property
    def vocabulary(self) -> str | None:
        """A file of words; None for all tokens of the model."""


class Survey(NamedTuple):
    """A benchmark's questions, and what was found on the way to them."""

    questions: tuple[Question, ...]
    """Sorted by id."""
    left_out: dict[str, int]
    """Rows that are no question, by reason."""
    figures: dict[str, float]


def lost(relation: str, answer: str, reason: str) -> Fact:
    """A fact that makes no question; its object is a candidate of the others."""
    return Fact(
        relation=relation, key="", subject="", object=answer, prompt=NOWHERE, excluded=reason
    )


def from_template(template: str, subject: str) -> Prompt | None:
    """A template with its subject; None if its blank is the end of a longer word."""
    before, _, behind = (part.replace(SUBJECT, subject) for part in template.partition(OBJECT))
    found = parted(f"{before}\0{behind}", "\0")
    return found and Prompt(*found)


def survey(facts: Iterable[Fact], metric: Metric, limit: int | None, seed: int) -> Survey:
    """The questions that facts make, whatever their order.

    Where answers are ranked, other right answers to the same prompt, in all their forms, do not
    compete.

    Args:
        facts: of one relation or more.
        metric: whether answers have candidates.
        limit: at most so many questions a relation; all if None.
        seed: decides which.
    """
    relations: dict[str, list[Fact]] = {}
    for fact in facts:
        relations.setdefault(fact.relation, []).append(fact)
    left_out: Counter[str] = Counter()
    questions: list[Question] = []
    ambiguous = 0
    for rows in relations.values():
        told = [fact for fact in rows if not fact.excluded]
        distinct = without_repeats(told)
        left_out.update(fact.excluded for fact in rows if fact.excluded)
        left_out[REPEATED] += len(told) - len(distinct)
        answers: dict[Prompt, set[str]] = {}
        right: dict[Prompt, set[str]] = {}
        for fact in rows:
            if fact.prompt != NOWHERE:
                answers.setdefault(fact.prompt, set()).add(fact.object)
                right.setdefault(fact.prompt, set()).update((fact.object, *fact.accepted))
        ambiguous += sum(len(found) > 1 for found in answers.values())
        objects = tuple(sorted({fact.object for fact in rows}))
        asked = asked_of(distinct, objects, right, metric, left_out)
        questions += draw(asked, [question.id for question in asked], limit, seed)
    return Survey(
        questions=tuple(sorted(questions, key=lambda question: question.id)),
        left_out={reason: count for reason, count in left_out.items() if count},
        figures={SEVERAL_ANSWERS: float(ambiguous)},
    )


def without_repeats(facts: Sequence[Fact]) -> list[Fact]:
    """Each prompt with each answer once, under the first of its keys, whatever the order.

    Other forms of the answer that any of the repeats names are accepted.
    """
    found: dict[tuple[Prompt, str], Fact] = {}
    for fact in sorted(facts, key=lambda fact: (fact.key, fact.candidates, fact.accepted)):
        first = found.setdefault((fact.prompt, fact.object), fact)
        if not set(fact.accepted) <= set(first.accepted):
            accepted = tuple(dict.fromkeys((*first.accepted, *fact.accepted)))
            found[fact.prompt, fact.object] = dataclasses.replace(first, accepted=accepted)
    return list(found.values())


def asked_of(
    facts: Sequence[Fact],
    objects: tuple[str, ...],
    right: dict[Prompt, set[str]],
    metric: Metric,
    left_out: Counter[str],
) -> list[Question]:
    """The questions of one relation; a key that several facts share is told apart by content."""
    keys = Counter(fact.key for fact in facts)
    asked = []
    for fact in facts:
        candidates: tuple[str, ...] = (fact.object,)
        if metric == "ranked":
            candidates = competing(fact, fact.candidates or objects, right[fact.prompt])
            if len(candidates) == 1:
                left_out[ALONE] += 1
                continue
        key = fact.key if keys[fact.key] == 1 else f"{fact.key}#{fact.content}"
        question = Question(
            id=f"{fact.relation}:{key}",
            subject=fact.subject,
            stem=fact.prompt.stem,
            end=fact.prompt.end,
            before=fact.prompt.before,
            behind=fact.prompt.behind,
            answer=fact.object,
            candidates=candidates,
            cluster=fact.relation,
            accepted=fact.accepted,
        )
        asked.append(question)
    return asked


def competing(fact: Fact, candidates: tuple[str, ...], right: set[str]) -> tuple[str, ...]:
    """The candidates without other right answers; one object for all who lose none."""
    others = right - {fact.object}
    if others.isdisjoint(candidates):
        return candidates
    return tuple(text for text in candidates if text not in others)


def ask(
    model: "LanguageModel", made: Survey, options: Competition, ids: Collection[str] | None
) -> Measurement:
    """Ask a model the questions, and say what was left out of the files, too.

    Raises:
        MeasurementError: nothing can be asked.
        ValueError: there is no question with one of the ids.
    """
    from pytest_compression.scoring.vocabulary import measure

    words = () if options.vocabulary is None else words_of(options.vocabulary)
    measured = measure(model, made.questions, options.metric, k=options.k, words=words, ids=ids)
    left_out = Counter(made.left_out) + Counter(measured.left_out)
    return replace(measured, left_out=dict(left_out), figures=measured.figures | made.figures)


def refuse_vocabulary(options: Competition) -> None:
    """Refuse a vocabulary, or places in it, where answers are ranked among candidates.

    Raises:
        ValueError: they would do nothing.
    """
    if options.metric == "ranked" and options.k != PLACES:
        message = "'k' is for P@1, P@k and MRR; 'ranked' has the relation's objects"
        raise ValueError(message)
    if options.metric == "ranked" and options.vocabulary is not None:
        message = "a vocabulary is for P@1, P@k and MRR; 'ranked' has the relation's objects"
        raise OptionError(message, option="vocabulary")


def words_of(path: str) -> tuple[str, ...]:
    """The words of a common vocabulary, one a line, without repeats.

    Raises:
        MeasurementError: there is no such file, or no word in it.
    """
    found = there(path, kind="vocabulary")
    words = tuple(dict.fromkeys(line.strip() for _, line in lines(found) if line.strip()))
    if not words:
        message = f"'{path}' holds no word; a common vocabulary has one a line."
        raise MeasurementError(message)
    return words
