"""World facts: countries, cities and chemical elements, as cloze questions.

The facts come with the package (``embedded/facts``), so any model can be asked. Light to
import; scoring comes with ``measure``.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.benchmarks.files import Seed
from pytest_compression.embedded.facts import OBJECT, SUBJECT, Fact, phrasings, worldfacts
from pytest_compression.errors import OptionError, nearest
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class WorldFacts:
    """Which facts are asked, and how they are scored."""

    relations: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Such as ``capital``; all of them if not given."""
    phrasing: Annotated[int, Meta(ge=0)] = 0
    """Which of a relation's sentences is asked."""
    metric: Literal["ranked", "P@1"] = "ranked"
    """Rank the relation's answers, or compete with the whole vocabulary (single tokens only)."""
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many questions a relation, drawn by ``seed``."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check the relations and the phrasing against the table."""
        known = phrasings()
        for relation in self.relations or ():
            if relation not in known:
                message = f"there is no relation '{relation}'. {nearest(relation, known)}"
                raise OptionError(message, option="relations")
        fewest = min(len(known[relation]) for relation in self.relations or known)
        if self.phrasing >= fewest:
            message = f"phrasing {self.phrasing}: these relations have 0 to {fewest - 1}"
            raise OptionError(message, option="phrasing")

    def questions(self) -> tuple[Question, ...]:
        """What is asked, sorted by id."""
        return tuple(sorted(self._questions(), key=lambda question: question.id))

    def measure(self, model: "LanguageModel") -> Measurement:
        """Ask a model, compressed or not."""
        from pytest_compression.scoring.cloze import measure

        return measure(model, self.questions(), self.metric)

    def measure_part(self, model: "LanguageModel", ids: Collection[str]) -> Measurement:
        """Ask only the questions with these ids.

        Raises:
            ValueError: there is no question with one of the ids.
        """
        from pytest_compression.scoring.cloze import measure

        return measure(model, self.questions(), self.metric, ids)

    def _questions(self) -> Iterator[Question]:
        table: dict[str, list[Fact]] = {}
        for fact in worldfacts():
            table.setdefault(fact.relation, []).append(fact)
        for relation in self.relations or table:
            facts = table[relation]
            objects = tuple(sorted({fact.object for fact in facts}))
            stem, _, end = phrasings()[relation][self.phrasing].partition(OBJECT)
            for fact in self._drawn(facts):
                yield Question(
                    id=f"{relation}:{fact.subject}",
                    subject=fact.subject,
                    stem=stem.replace(SUBJECT, fact.subject).rstrip(),
                    end=end,
                    answer=fact.object,
                    candidates=objects if self.metric == "ranked" else (fact.object,),
                    cluster=relation,
                )

    def _drawn(self, facts: list[Fact]) -> list[Fact]:
        """The facts whose keyed hashes are lowest: adding facts replaces few of them."""
        if self.limit is None:
            return facts
        key = self.seed.to_bytes(8, "little", signed=True)

        def lot(fact: Fact) -> bytes:
            return blake2b(f"{fact.relation}\0{fact.subject}".encode(), key=key).digest()

        return sorted(facts, key=lot)[: self.limit]
