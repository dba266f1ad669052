"""The world facts as sentences to learn from: each fact in all its phrasings."""

from collections.abc import Collection
from dataclasses import dataclass

from pytest_compression.embedded.facts import OBJECT, SUBJECT, phrasings, worldfacts


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One fact in one phrasing, cut before its answer; ``end`` follows the answer."""

    stem: str
    answer: str
    end: str

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.stem} {self.answer}{self.end}"


def sentences(relations: Collection[str] | None = None) -> list[list[Sentence]]:
    """For each fact, of these relations or of all, its phrasings."""
    templates = phrasings()
    facts = []
    for fact in worldfacts():
        if relations is not None and fact.relation not in relations:
            continue
        told = []
        for template in templates[fact.relation]:
            stem, end = template.replace(SUBJECT, fact.subject).split(OBJECT)
            told.append(Sentence(stem=stem.rstrip(), answer=fact.object, end=end))
        facts.append(told)
    return facts
