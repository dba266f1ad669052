"""Questions that the gate asks may not be learned from: neither the question nor its fact.

Texts are compared word by word, without case, accents, punctuation and possessives. A question
leaks if its prompt stands in the material: the whole of a short one; of a longer one, any 13
consecutive words that no other question of the benchmark has (13 as in Brown et al. 2020,
https://arxiv.org/abs/2005.14165). A window of a text leaks with any 13 that reach into it, also
from beside it. A fact leaks if a sentence, or two that follow each other, hold
both the subject and the answer in any accepted form; a paragraph ends a sentence, and in lists,
tables and poems, which have no full stops, a line does. Other facts of the same relation may be
learned. To calibrate on a text is not to learn it.
"""

import re
import unicodedata
from bisect import bisect_left
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
LONGEST = 60
"""Words of a sentence; where no full stop comes for longer, lines are sentences."""
SHOWN = 3
"""Leaks that an error shows."""
LETTERS = 80
"""Characters around a leak that an error shows."""

POSSESSIVE = re.compile(r"['\u2019]s\b")
# Thai, Lao, Tibetan, Burmese and Khmer, Chinese, Japanese and Korean write no spaces between words:
# there each letter counts as one.
SPACELESS = r"\u0e00-\u109f\u1780-\u17ff\u3040-\u9fff\uac00-\ud7a3"
WORD = re.compile(rf"(?=\w)[{SPACELESS}]|[^\W_{SPACELESS}]+")
UNSEEN = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
)
"""Soft hyphens, joiners, marks of direction and the like, which nobody reads."""
# A full stop behind a short word may be that of an abbreviation; a line may be wrapped anywhere.
SENTENCE = re.compile(r"(?<=[^\W_]{4}[.!?])\s+|(?<=[\u3002])\s*|\n\s*\n")
ENDS = (SENTENCE, re.compile(r"(?<=[.!?])\s+"), re.compile(r"\n"))
"""What ends a sentence; the next where it is too long by the one before."""

Words = tuple[str, ...]


@runtime_checkable
class Learner(Protocol):
    """A step that learns from texts."""

    def lessons(self) -> Iterable[str]:
        """Each passage that it may learn from."""


class Leak(NamedTuple):
    """A question that is in the material."""

    question: Question
    place: str
    """What stands around it, at most about ``LETTERS`` characters."""


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


def refuse_taught(model: object, asked: Mapping[str, Sequence[Question]]) -> None:
    """Refuse what a model learned that no material says, such as a teacher's answers.

    Args:
        model: after its recipe.
        asked: the questions of each benchmark, by its name.

    Raises:
        RecipeError: it is asked.
    """
    taught: Sequence[str] = getattr(model, "taught", ())
    found = {name: leaks(taught, questions) for name, questions in asked.items() if taught}
    if leaked := {name: each for name, each in found.items() if each}:
        raise RecipeError(refusal("By its teacher's answers the student", leaked, asked))


def refusal(
    step: str, leaked: Mapping[str, Sequence[Leak]], asked: Mapping[str, Sequence[Question]]
) -> str:
    """How many questions leak, the first few of them, and what to do."""
    counts = ", ".join(
        f"{len(each)} of {len(asked[name])} of '{name}'" for name, each in leaked.items()
    )
    first = [leak for each in leaked.values() for leak in each][:SHOWN]
    shown = "; ".join(f"{leak.question.id!r} in {leak.place!r}" for leak in first)
    return (
        f"{step} would learn from what is asked ({counts} questions): {shown}. What it is asked "
        "after that says nothing of what it retained. Take these out of its material, learn from "
        "other relations, or ask other questions."
    )


def excerpt(text: str, first: int, last: int) -> str:
    """The part of a text around some of its words, in about ``LETTERS`` characters.

    Args:
        text: of which whole pieces between spaces are shown.
        first: place of the first word that matters.
        last: place of the last one.
    """
    pieces = text.split()
    of_word = [i for i, piece in enumerate(pieces) for _ in words(piece)]
    start, stop = of_word[first], of_word[last] + 1
    core = " ".join(pieces[start:stop])
    if len(core) > LETTERS:
        return f"{core[: LETTERS // 2].rstrip()} ... {core[-LETTERS // 2 :].lstrip()}"
    grows = True
    while grows:
        grows = False
        for low, high in ((start - 1, stop), (start, stop + 1)):
            wider = " ".join(pieces[max(low, 0) : high])
            if len(core) < len(wider) <= LETTERS:
                start, stop, core, grows = max(low, 0), min(high, len(pieces)), wider, True
                break
    return f"{'... ' * (start > 0)}{core}{' ...' * (stop < len(pieces))}"


def words(text: str) -> Words:
    """Of a text, without case, accents, punctuation and possessives."""
    bare = POSSESSIVE.sub("", UNSEEN.sub("", text))
    if not bare.isascii():
        plain = unicodedata.normalize("NFKD", bare)
        letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
        bare = unicodedata.normalize("NFC", letters)
    return tuple(WORD.findall(bare.casefold()))


def leaks(passages: Iterable[str], questions: Sequence[Question]) -> list[Leak]:
    """The questions that are in the passages, in their order, each where it is first."""
    index = Index.of(questions)
    found: dict[int, str] = {}
    for passage in passages:
        text = Text(passage, index.lengths)
        for number, first, last in index.found_in(text):
            if number not in found:
                found[number] = text.around(first, last)
    return [Leak(questions[number], found[number]) for number in sorted(found)]


def prompt(question: Question) -> tuple[Words, Words]:
    """What stands before and behind the blank, without labels at the beginning and the end.

    Of a window, it and as much beside it as can reach into it.
    """
    if question.beside is not None:
        return touching(question.stem, *question.beside), ()
    before, behind = words(question.stem), words(question.end)
    first = 1 if before[:1] and before[0] in LABELS else 0
    last = len(before) - (not behind and len(before) > first and before[-1] in LABELS)
    return before[first:last], behind


def touching(window: str, before: str, behind: str) -> Words:
    """The words of a window and so many beside it that each run of ``LONG`` reaches into it."""
    whole = words(before + window + behind)
    first, beyond = (max(0, len(words(part)) - LONG + 1) for part in (before, behind))
    return whole[first : len(whole) - beyond]


def sentences(text: str, ends: Sequence[re.Pattern[str]] = ENDS) -> Iterator[str]:
    """The sentences of a text; one without any end is cut into pieces."""
    for sentence in ends[0].split(text) if ends else pieces_of(text):
        if ends and len(words(sentence)) > LONGEST:
            yield from sentences(sentence, ends[1:])
        else:
            yield sentence


def pieces_of(text: str) -> Iterator[str]:
    """A text in pieces of so many words as a sentence may have."""
    parts = text.split()
    return (" ".join(parts[i : i + LONGEST]) for i in range(0, len(parts), LONGEST))


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
            is_window = question.beside is not None  # neighbours share what lies between them
            for run in (run for side in (before, behind) for run in runs(side, LONG)):
                if shared[run] == 1 or is_window:
                    index.prompts.setdefault(index.phrase(run), []).append((number, ()))
            if is_window and len(before) >= LONG:
                continue
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

    def found_in(self, text: "Text") -> Iterator[tuple[int, int, int]]:
        """The questions whose prompt or fact a text holds, with the first and last word of it."""
        for phrase in text.places.keys() & self.prompts.keys():
            first = text.places[phrase][0]
            rest = text.words[first + len(phrase) :]
            for number, behind in self.prompts[phrase]:
                if not behind or behind in runs(rest, len(behind)):
                    yield number, first, first + len(phrase) - 1
        for subject in text.places.keys() & self.subjects.keys():
            for number in self.subjects[subject]:
                answers = self.answers[number]
                for answer in answers.keys() & text.places.keys():
                    if answers[answer] in text.passage and (hit := text.joined(subject, answer)):
                        yield number, *hit


class Text:
    """A passage word by word, and where phrases stand in it."""

    def __init__(self, passage: str, lengths: Mapping[str, Iterable[int]]) -> None:
        """Find all phrases; ``lengths`` are those of the ones that begin with a word."""
        self.passage = passage
        self.sentences = list(sentences(passage))
        told = [words(sentence) for sentence in self.sentences]
        self.words = tuple(word for sentence in told for word in sentence)
        self.sentence_of = [i for i, sentence in enumerate(told) for _ in sentence]
        """Of each word."""
        self.places: dict[Words, list[int]] = {}
        for start, word in enumerate(self.words):
            for length in lengths.get(word, ()):
                self.places.setdefault(self.words[start : start + length], []).append(start)

    def joined(self, subject: Words, answer: Words) -> tuple[int, int] | None:
        """The first and last word where both stand in one sentence or in two that follow."""
        hits = (
            (min(a, b), max(a + len(subject), b + len(answer)) - 1)
            for a in self.places[subject]
            for b in self.places[answer]
            if abs(self.sentence_of[a] - self.sentence_of[b]) <= 1
            and (a + len(subject) <= b or b + len(answer) <= a)
        )
        return next(hits, None)

    def around(self, first: int, last: int) -> str:
        """What stands at and around some consecutive words."""
        start, stop = self.sentence_of[first], self.sentence_of[last] + 1
        before = bisect_left(self.sentence_of, start)
        return excerpt(" ".join(self.sentences[start:stop]), first - before, last - before)
