"""Questions that the gate asks may not be learned from: neither the question nor its fact.

Texts are compared word by word, without case, accents, punctuation and possessives. A question
leaks if its prompt stands in the material: the whole of a short one; of a longer one, any 13
consecutive words that no other question of the benchmark has (13 as in Brown et al. 2020,
https://arxiv.org/abs/2005.14165). A fact leaks if a sentence, or two that follow each other, hold
both the subject and the answer in any accepted form. Other facts of the same relation may be
learned. To calibrate on a text is not to learn it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from pytest_compression.errors import RecipeError
from pytest_compression.types import Modifier, Question

LONG = 13
"""Words of a prompt of which a part is enough."""
SHORT = 3
"""Words of a prompt; fewer stand in any text."""
LABELS = {"q", "a", "question", "answer"}
"""What is written before a question and behind it."""
LITERAL = 2
"""Letters of an answer; one so short must stand there with its case and punctuation."""
SHOWN = 3
"""Leaks that an error shows."""
LETTERS = 80
"""Characters of a passage that an error shows."""

POSSESSIVE = re.compile(r"['\u2019]s\b")
# Chinese, Japanese and Korean write no spaces between words: there each character counts as one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W_\u3040-\u9fff\uac00-\ud7a3]+")
# A full stop behind a short word may be that of an abbreviation; a line may be wrapped anywhere.
SENTENCE = re.compile(r"(?<=[^\W_]{4}[.!?])\s+|(?<=[\u3002])\s*")

Words = tuple[str, ...]


@runtime_checkable
class Learner(Protocol):
    """A step that learns from texts."""

    def lessons(self) -> Iterable[str]:
        """Each passage that it may learn from."""


class Leak(NamedTuple):
    """A question that is in the material."""

    question: Question
    passage: str
    """Where."""


def refuse_leaks(steps: Sequence[Modifier], asked: Mapping[str, Sequence[Question]]) -> None:
    """Refuse to learn from what is asked.

    Args:
        steps: of a recipe.
        asked: the questions of each benchmark, by its name.

    Raises:
        RecipeError: a step would; or its material cannot be read.
    """
    for step in steps:
        if not isinstance(step, Learner):
            continue
        passages = list(step.lessons())
        found = {name: leaks(passages, questions) for name, questions in asked.items()}
        if leaked := {name: each for name, each in found.items() if each}:
            raise RecipeError(refusal(type(step).__name__, leaked, asked))


def refusal(
    step: str, leaked: Mapping[str, Sequence[Leak]], asked: Mapping[str, Sequence[Question]]
) -> str:
    """How many questions leak, the first few of them, and what to do."""
    counts = ", ".join(
        f"{len(each)} of {len(asked[name])} of '{name}'" for name, each in leaked.items()
    )
    first = [leak for each in leaked.values() for leak in each][:SHOWN]
    shown = "; ".join(f"{leak.question.id!r} in {shortened(leak.passage)!r}" for leak in first)
    return (
        f"{step} would learn from what is asked ({counts} questions): {shown}. What it is asked "
        "after that says nothing of what it retained. Take these out of its material, learn from "
        "other relations, or ask other questions."
    )


def shortened(text: str) -> str:
    """The first characters of a text."""
    line = " ".join(text.split())
    return line if len(line) <= LETTERS else f"{line[: LETTERS - 3]}..."


def words(text: str) -> Words:
    """Of a text, without case, accents, punctuation and possessives."""
    plain = unicodedata.normalize("NFKD", POSSESSIVE.sub("", text))
    bare = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return tuple(WORD.findall(unicodedata.normalize("NFC", bare).casefold()))


def leaks(passages: Iterable[str], questions: Sequence[Question]) -> list[Leak]:
    """The questions that are in the passages, in their order, each with the first passage."""
    index = Index.of(questions)
    found: dict[int, str] = {}
    for passage in passages:
        for number in index.found_in(passage):
            found.setdefault(number, passage)
    return [Leak(questions[number], found[number]) for number in sorted(found)]


def prompt(question: Question) -> tuple[Words, Words]:
    """What stands before and behind the blank, without labels at the beginning and the end."""
    before, behind = words(question.stem), words(question.end)
    first = 1 if before[:1] and before[0] in LABELS else 0
    last = len(before) - (not behind and len(before) > first and before[-1] in LABELS)
    return before[first:last], behind


def runs(text: Words, length: int) -> Iterator[Words]:
    """All consecutive words of a length."""
    return (text[i : i + length] for i in range(len(text) - length + 1))


@dataclass
class Index:
    """Phrases to look for in texts, and the questions they are of."""

    lengths: dict[str, set[int]] = field(default_factory=dict)
    """Of the phrases that begin with a word."""
    prompts: dict[Words, list[tuple[int, Words]]] = field(default_factory=dict)
    """Questions by a phrase of their prompt, with what must follow it."""
    subjects: dict[Words, list[int]] = field(default_factory=dict)
    """Questions by subject."""
    answers: dict[int, dict[Words, str]] = field(default_factory=dict)
    """All forms of a question's answer; with what must stand there to the letter, for ``.is`` and
    ``W`` are no words."""

    @classmethod
    def of(cls, questions: Sequence[Question]) -> "Index":
        """Note the phrases of all questions."""
        index = cls()
        parts = [prompt(question) for question in questions]
        shared = Counter(run for pair in parts for side in pair for run in {*runs(side, LONG)})
        for number, (question, (before, behind)) in enumerate(zip(questions, parts, strict=True)):
            index.add_fact(number, question)
            if len(before) + len(behind) < SHORT:
                continue
            long = [run for side in (before, behind) for run in runs(side, LONG)]
            for run in long:
                if shared[run] == 1:
                    index.prompts.setdefault(index.phrase(run), []).append((number, ()))
            whole = (before, behind) if before else (behind, ())
            index.prompts.setdefault(index.phrase(whole[0]), []).append((number, whole[1]))
        return index

    def phrase(self, text: Words) -> Words:
        """Look for it."""
        self.lengths.setdefault(text[0], set()).add(len(text))
        return text

    def add_fact(self, number: int, question: Question) -> None:
        """Look for a question's subject and its answers."""
        subject = words(question.subject)
        forms = {words(form): form.strip() for form in (question.answer, *question.accepted)}
        forms.pop((), None)
        if subject and forms:
            self.subjects.setdefault(self.phrase(subject), []).append(number)
            self.answers[number] = {
                self.phrase(form): literal if sum(map(len, form)) <= LITERAL else ""
                for form, literal in forms.items()
            }

    def found_in(self, passage: str) -> Iterator[int]:
        """The questions whose prompt or fact a passage holds."""
        text = Text(passage, self.lengths)
        for phrase in text.places.keys() & self.prompts.keys():
            rest = text.words[text.places[phrase][0] + len(phrase) :]
            for number, behind in self.prompts[phrase]:
                if not behind or behind in runs(rest, len(behind)):
                    yield number
        for subject in text.places.keys() & self.subjects.keys():
            for number in self.subjects[subject]:
                answers = self.answers[number]
                if any(
                    answers[answer] in passage and text.joins(subject, answer)
                    for answer in answers.keys() & text.places.keys()
                ):
                    yield number


class Text:
    """A passage word by word, and where phrases stand in it."""

    def __init__(self, passage: str, lengths: Mapping[str, Iterable[int]]) -> None:
        """Find all phrases; ``lengths`` are those of the ones that begin with a word."""
        sentences = [words(sentence) for sentence in SENTENCE.split(passage)]
        self.words = tuple(word for sentence in sentences for word in sentence)
        self.sentences = [i for i, sentence in enumerate(sentences) for _ in sentence]
        """Of each word."""
        self.places: dict[Words, list[int]] = {}
        for start, word in enumerate(self.words):
            for length in lengths.get(word, ()):
                self.places.setdefault(self.words[start : start + length], []).append(start)

    def joins(self, subject: Words, answer: Words) -> bool:
        """Whether both stand beside each other, in one sentence or in two that follow."""
        return any(
            abs(self.sentences[a] - self.sentences[b]) <= 1
            and (a + len(subject) <= b or b + len(answer) <= a)
            for a in self.places[subject]
            for b in self.places[answer]
        )
