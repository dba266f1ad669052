"""PARAREL: facts in several wordings each, and whether a model answers them alike.

Elazar et al. 2021, https://arxiv.org/abs/2102.01017. The directory is ``data`` of
https://github.com/yanaiela/pararel: facts in ``trex_lms_vocab``, patterns in
``pattern_data/graphs_json``. Which pattern entails which is told in pickles only, and a pickle
runs code when it is opened; so all patterns of a relation are taken to say the same. Light to
import; scoring comes with ``measure``.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from msgspec import Meta, structs

from pytest_compression.benchmarks.files import Row, Seed, draw, jsonl, there, under
from pytest_compression.benchmarks.relations import candidates, told_apart
from pytest_compression.benchmarks.survey import ALONE, IN_WORD, Prompt, from_template
from pytest_compression.errors import MeasurementError, nearest
from pytest_compression.types import Family, Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

FACTS = "trex_lms_vocab"
PATTERNS = "pattern_data/graphs_json"

REPEATED = "the same subject and object again"
UNTOLD = "the relation has no patterns but pickled ones"
UNFIT = "too few patterns fit"
GLUED = f"a further wording: {IN_WORD}"
"""A figure, for no fact is left out for it."""

Candidates = Mapping[tuple[str, str], tuple[str, ...]]
"""Of each subject and object."""

ARTICLE = re.compile(r"\b(an?) \[Y\]", re.IGNORECASE)
BLANK_LAST = re.compile(r"\[Y\]\W*$")


@dataclass(frozen=True, kw_only=True)
class Pararel:
    """Which facts are asked, and how they are scored."""

    path: str
    """Directory that holds ``trex_lms_vocab`` and ``pattern_data``."""
    relations: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Such as ``P36``; all that have patterns if not given."""
    metric: Literal["accuracy", "consistency", "consistent-and-right"] = "accuracy"
    """Accuracy: right under one pattern, the only one that is asked. Consistency: the share of
    pairs of patterns with the same answer, right or wrong; a model that always says the same is
    consistent, too. Consistent-and-right: the share of pairs that both have the right one."""
    pattern: Annotated[int, Meta(ge=0)] = 0
    """Which pattern is the one that is judged and shown: in the order of the file, counted among
    those that fit a fact. Where the model cannot be asked it, the fact is left out."""
    blank_last: bool | None = None
    """Ask only patterns in which nothing but a full stop follows the answer. If not given, causal
    models are asked these only; with false they rank the endings of the others, at more cost."""
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many facts a relation, drawn by ``seed``; the candidates stay as they are."""
    seed: Seed = 0

    def sources(self) -> Iterator[Path]:
        """The files that the answers depend on."""
        yield from under(self.path)

    def questions(self, family: Family = "masked") -> tuple[Question, ...]:
        """What is judged, sorted by id; which patterns fit depends on the model's family."""
        return tuple(judged for judged, *_ in self._asked(family).facts)

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
        from pytest_compression.scoring import cloze, paraphrases
        from pytest_compression.scoring.means import accuracy

        if self not in model.memo:
            model.memo[self] = self._asked(model.family)
        asked: Asked = model.memo[self]
        if not asked.facts:
            reasons = "; ".join(f"{reason} ({n})" for reason, n in asked.left_out.items())
            message = f"'{self.path}' has no fact that can be asked: {reasons or 'it is empty'}."
            raise MeasurementError(message)
        if self.metric == "accuracy":
            measured = cloze.measure(model, [judged for judged, *_ in asked.facts], "ranked", ids)
            measured = structs.replace(measured, figures=accuracy(measured))
        else:
            measured = paraphrases.measure(model, asked.facts, self.metric, ids)
            if asked.glued:
                figures = measured.figures | {GLUED: float(asked.glued)}
                measured = structs.replace(measured, figures=figures)
        return structs.replace(measured, left_out=measured.left_out | asked.left_out)

    def _asked(self, family: Family) -> "Asked":
        """What is asked, and what is not."""
        left_out: dict[str, int] = {}
        last = family == "causal" if self.blank_last is None else self.blank_last
        fewest = max(self.pattern + 1, 1 if self.metric == "accuracy" else 2)
        found, glued = [], 0
        for fact in self._facts(left_out):
            fitting = [p for p in fact.patterns if BLANK_LAST.search(p) or not last]
            fitting = fitting[self.pattern :] + fitting[: self.pattern]
            prompts = [from_template(pattern, fact.subject) for pattern in fitting]
            if reason := unfit(fact, prompts, fewest):
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            further = prompts[1:] if self.metric != "accuracy" else []
            glued += further.count(None)
            told = [prompt for prompt in (prompts[0], *further) if prompt]
            found.append([fact.question(prompt, i) for i, prompt in enumerate(told)])
        return Asked(sorted(found, key=lambda wordings: wordings[0].id), left_out, glued)

    def _facts(self, left_out: dict[str, int]) -> Iterator["Fact"]:
        """The facts that are asked.

        Raises:
            MeasurementError: a file is not there, or not what it must be.
        """
        folder = there(self.path, kind="directory")
        facts = files(folder / FACTS)
        patterns = files(folder / PATTERNS)
        both = [name for name in facts if name in patterns]
        for relation in self.relations or ():
            if relation not in both:
                message = (
                    f"'{self.path}' has no facts with patterns of '{relation}'. "
                    f"{nearest(relation, both)}"
                )
                raise MeasurementError(message)
        if self.relations is None:
            untold = sum(1 for name in facts if name not in both for _ in jsonl(facts[name]))
            left_out |= {UNTOLD: untold} if untold else {}
        for relation in dict.fromkeys(self.relations or both):
            rows = once(jsonl(facts[relation]), left_out)
            wordings = read_patterns(patterns[relation])
            names = [f"{relation}\0{subject}\0{answer}" for subject, answer in rows]
            ids = dict(zip(rows, told_apart(list(rows.values()), names), strict=True))
            competing = self._competing(rows)
            for subject, answer in draw(list(rows), names, self.limit, self.seed):
                fitting = tuple(p for p in wordings if article_fits(p, answer))
                key, rivals = ids[subject, answer], competing[subject, answer]
                yield Fact(relation, key, subject, answer, rivals, fitting)

    def _competing(self, facts: Collection[tuple[str, str]]) -> Candidates:
        """For each fact the relation's objects; where being right counts, no other right one."""
        if self.metric != "consistency":
            return candidates(facts)
        return dict.fromkeys(facts, tuple(sorted({answer for _, answer in facts})))


class Asked(NamedTuple):
    """What is asked of a family of models, and what is not."""

    facts: list[list[Question]]
    """The wordings of each, the judged one first; sorted by its id."""
    left_out: dict[str, int]
    """Facts that are not asked, by reason."""
    glued: int
    """Further wordings whose blank is the end of a longer word."""


class Fact(NamedTuple):
    """One row of a relation, and the patterns that can tell it."""

    relation: str
    key: str
    """Its uuid, with a digest behind it if other facts have it, too."""
    subject: str
    answer: str
    candidates: tuple[str, ...]
    patterns: tuple[str, ...]

    def question(self, prompt: Prompt, number: int) -> Question:
        """The fact in one of its wordings, numbered from the judged one, which is 0."""
        return Question(
            id=f"{self.relation}:{self.key}" + f"\0{number}" * bool(number),
            subject=self.subject,
            stem=prompt.stem,
            end=prompt.end,
            answer=self.answer,
            candidates=self.candidates,
            cluster=self.relation,
        )


def unfit(fact: Fact, prompts: Sequence[Prompt | None], fewest: int) -> str:
    """Why a fact cannot be asked, whatever the model; empty if it can."""
    if len(prompts) < fewest:
        return UNFIT
    if prompts[0] is None:
        return IN_WORD
    return ALONE if len(fact.candidates) == 1 else ""


def files(folder: Path) -> dict[str, Path]:
    """JSON Lines files by relation; pickles beside them are never opened."""
    return {
        path.stem: path for path in sorted(there(str(folder), kind="directory").glob("P*.jsonl"))
    }


def once(rows: Iterator[Row], left_out: dict[str, int]) -> dict[tuple[str, str], str]:
    """The ids of subjects and objects, without repetition.

    Of rows that say the same, the lowest id is taken, so that their order does not matter.
    """
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        fact, uuid = (row.filled("sub_label"), row.filled("obj_label")), row.text("uuid")
        if fact in found:
            left_out[REPEATED] = left_out.get(REPEATED, 0) + 1
        found[fact] = min(uuid, found.get(fact, uuid))
    return found


def read_patterns(path: Path) -> tuple[str, ...]:
    """A relation's patterns, in the order of the file, each once.

    Raises:
        MeasurementError: one lacks [X], or has not one [Y].
    """
    found: dict[str, None] = {}
    for row in jsonl(path):
        pattern = row.text("pattern")
        if "[X]" not in pattern or pattern.count("[Y]") != 1:
            message = f"{row.where}: the pattern '{pattern}' must contain [X], and [Y] once."
            raise MeasurementError(message)
        found[pattern] = None
    return tuple(found)


def article_fits(pattern: str, answer: str) -> bool:
    """Whether "a" or "an" before the blank suits the answer, by its first letter."""
    article = ARTICLE.search(pattern)
    return article is None or (article[1].lower() == "an") == (answer[:1].lower() in "aeiou")
