"""The same facts in several wordings: whether a model answers them alike.

Elazar et al. 2021, https://arxiv.org/abs/2102.01017. Consistency is the share of a fact's ordered
pairs of wordings that get the same answer, right or wrong.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.scoring import cloze
from pytest_compression.scoring.means import majority, over_relations
from pytest_compression.scoring.tokens import Encoded
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Metric = Literal["consistency", "consistent-and-right"]

VERSION = 1
"""Raise it when the same answers would get other scores."""

FEW = "fewer than two wordings can be asked"
FURTHER = "a further wording"
"""Begins the figures that count, by reason, wordings that are not asked but the judged one."""


class Answers(NamedTuple):
    """What a model says of one fact."""

    question: Question
    """In the wording that is judged."""
    given: tuple[str, ...]
    """In each wording, the judged one first."""

    @property
    def right(self) -> int:
        """Wordings with the right answer."""
        return self.given.count(self.question.answer)

    @property
    def consistency(self) -> float:
        """Share of the ordered pairs of wordings that have the same answer."""
        return sum(map(pairs, Counter(self.given).values())) / pairs(len(self.given))

    @property
    def both_right(self) -> float:
        """Share of the ordered pairs of wordings that both have the right answer."""
        return pairs(self.right) / pairs(len(self.given))

    @property
    def is_constant(self) -> bool:
        """Whether all wordings have one answer."""
        return len(set(self.given)) == 1


def pairs(count: int) -> int:
    """Ordered pairs of different ones of so many."""
    return count * (count - 1)


def measure(
    model: "LanguageModel",
    facts: Sequence[Sequence[Question]],
    metric: Metric,
    ids: Collection[str] | None = None,
) -> Measurement:
    """Ask every fact in every wording, and compare the answers.

    Args:
        model: of any family.
        facts: wordings of each fact, the judged one first; all with ids of their own. A fact
            whose judged wording cannot be asked is left out.
        metric: what is the fact's score. By guessing alone among ``k`` candidates it would be
            ``1/k`` (the answers agree) or ``1/k**2`` (both are right).
        ids: of the judged questions to ask; all if not given.

    Raises:
        MeasurementError: no fact can be asked, or the model computes NaN or infinities.
        ValueError: there is no question with one of the ids.
    """
    judged = [first for first, *_ in facts]
    firsts, left_out, scoring = cloze.prepared(model, judged, "ranked")
    others, unasked, of_others = further(model, facts)
    lost = {f"{FURTHER}: {reason}": float(n) for reason, n in unasked.items()}
    askable = {item.question.id: item for item in (*firsts, *others)}
    asked = [
        [askable[question.id] for question in wordings if question.id in askable]
        for wordings in facts
        if wordings[0].id in askable
    ]
    several = [wordings for wordings in asked if len(wordings) > 1]
    if len(several) < len(asked):
        left_out = left_out | {FEW: len(asked) - len(several)}
    if not several:
        reasons = "; ".join(f"{reason} ({n:g})" for reason, n in (left_out | lost).items())
        message = f"no fact can be asked in two wordings: {reasons}."
        raise MeasurementError(message)
    if ids is not None:
        wanted = {item.question.id for item in cloze.part(firsts, judged, ids)}
        several = [wordings for wordings in several if wordings[0].question.id in wanted]
    ran = model.tokens_run
    answers = ask(model, several)
    power = 1 if metric == "consistency" else 2
    return Measurement(
        metric=metric,
        questions=tuple(one.question for one in answers),
        margins=(),
        values=tuple(one.consistency if power == 1 else one.both_right for one in answers),
        expected=tuple(len(one.question.candidates) ** -power for one in answers),
        given=tuple(one.given[0] for one in answers),
        scoring=digest(part.encode() for part in (str(VERSION), metric, scoring, of_others)),
        left_out=left_out,
        tokens=model.tokens_run - ran,
        figures=figures(answers) | lost,
    )


def further(
    model: "LanguageModel", facts: Sequence[Sequence[Question]]
) -> tuple[list[Encoded], dict[str, int], str]:
    """The wordings that are not judged as tokens, what is left out of them, and their digest.

    Raises:
        MeasurementError: none of them can be asked.
    """
    rest = list(chain.from_iterable(others for _, *others in facts))
    try:
        return cloze.prepared(model, rest, "ranked")
    except MeasurementError as error:
        message = f"no further wording can be asked, so there is nothing to compare: {error}"
        raise MeasurementError(message) from error


def ask(model: "LanguageModel", facts: Sequence[Sequence[Encoded]]) -> list[Answers]:
    """The model's answers to facts in several wordings, sorted by id."""
    flat = list(chain.from_iterable(facts))
    _, winners = cloze.ranked(model, flat)
    given = iter([item.question.candidates[w] for item, w in zip(flat, winners, strict=True)])
    found = [
        Answers(wordings[0].question, tuple(next(given) for _ in wordings)) for wordings in facts
    ]
    return sorted(found, key=lambda one: one.question.id)


def figures(answers: Sequence[Answers]) -> dict[str, float]:
    """What the study reports, each a mean over facts, and the first four over relations, too.

    Of a part without facts there are none.
    """
    if not answers:
        return {}
    main: dict[str, list[float]] = {
        "accuracy": [float(one.given[0] == one.question.answer) for one in answers],
        "consistency": [one.consistency for one in answers],
        "consistent-and-right": [one.both_right for one in answers],
        "right in every wording": [float(one.right == len(one.given)) for one in answers],
    }
    clusters = [one.question.cluster for one in answers]
    found = {name: fmean(values) for name, values in main.items()}
    found |= {
        f"{name}, mean over relations": over_relations(clusters, values)
        for name, values in main.items()
    }
    found |= majority([one.question for one in answers])
    found["wrong alike in every wording"] = fmean(
        float(one.is_constant and not one.right) for one in answers
    )
    parts = {
        "consistency where some wording is right": [a.consistency for a in answers if a.right],
        "consistency where none is right": [a.consistency for a in answers if not a.right],
    }
    return found | {name: fmean(values) for name, values in parts.items() if values}
