"""Whether a generated text is, or holds, an answer that counts."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import NamedTuple

QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def normal(text: str) -> str:
    """The text as it is compared: Unicode's NFKC, small letters, plain quotes, single spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(QUOTES).split())


def has_words(text: str, answers: Collection[str]) -> bool:
    """Whether one of the answers stands in the text as whole words, however capitalized.

    A short alias such as ``DJ`` or ``W`` is in many texts as a part of other words.
    """
    within = normal(text)
    wanted = filter(None, map(normal, answers))
    return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", within) for answer in wanted)


def has_substring(text: str, answers: Collection[str]) -> bool:
    """Whether one of the answers is anywhere in the text: as it is, in small letters, capitalized.

    The rule of PopQA (Mallen et al. 2023, https://arxiv.org/abs/2212.10511).
    """
    forms = (form for a in answers if a for form in (a, a.lower(), a.capitalize()))
    return any(form in text for form in forms)


class SetScore(NamedTuple):
    """How well a set of given answers covers a set of wanted ones."""

    hits: int
    """Pairs of a given answer and a wanted one that it names, each in one pair at most."""
    given: int
    wanted: int

    @property
    def precision(self) -> float:
        """Share of the given answers that are right; 0 if none was given."""
        return self.hits / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        """Share of the wanted answers that were given."""
        return self.hits / self.wanted if self.wanted else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, ``2 hits / (given + wanted)``."""
        return 2 * self.hits / (self.given + self.wanted) if self.given + self.wanted else 0.0


def set_score(given: Sequence[str], wanted: Sequence[Collection[str]]) -> SetScore:
    """Compare the answers that were given with those that are wanted.

    Two names of one wanted answer are one hit, and one name that two of them share is one, too: the
    most pairs there can be are counted (maximum matching by augmenting paths; Kuhn 1955,
    https://doi.org/10.1002/nav.3800020109).

    Args:
        given: repeated and empty ones count once and not at all.
        wanted: the names of each wanted answer.
    """
    answers = sorted({normal(text) for text in given} - {""})
    names = [{normal(name) for name in one} for one in wanted]
    owner: dict[int, str] = {}  # of each wanted answer, the given one it is paired with

    def pair(answer: str, tried: set[int]) -> bool:
        for number, one in enumerate(names):
            if answer in one and number not in tried:
                tried.add(number)
                if number not in owner or pair(owner[number], tried):
                    owner[number] = answer
                    return True
        return False

    hits = sum(pair(answer, set()) for answer in answers)
    return SetScore(hits=hits, given=len(answers), wanted=len(names))
