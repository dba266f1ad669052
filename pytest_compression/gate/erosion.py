"""Erosion: many small concessions, each of them sensible, that leave nothing of a gate.

A laxer gate, a worse result and fewer questions are found here, in words, so that none of them
is accepted silently; and how far the accepted figures have slid in all since the first.

Where it depends what laxer means: a change is laxer if *some* trial could pass by it that did not
pass before.

* A smaller ``alpha`` is laxer, for a regression must be surer to be called one. A larger one is
  laxer, too, where retention is and was to be proven, for the lower limit comes nearer.
* A wider ``near_tie`` is laxer: more answers that were right count as right still.
* ``power`` is in the words of a verdict only.
* To expect a trial to fail is laxer than any gate: whatever it loses then is as it should be.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, inf

from pytest_compression.types import Expectation, Gate, Past

STRICTEST_FIRST = ("fail", "warn", "pass")
"""What may become of a trial that cannot be decided."""

LAXER: dict[str, Callable[[Gate, Gate], bool]] = {
    "min_retention": lambda then, now: now.min_retention < then.min_retention,
    "max_forgotten": lambda then, now: limit(now.max_forgotten) > limit(then.max_forgotten),
    "assurance": lambda _, now: now.assurance == "point",
    "margin": lambda then, now: now.margin > then.margin,
    "alpha": lambda then, now: (
        now.alpha < then.alpha or then.assurance == now.assurance == "proven"
    ),
    "power": lambda _then, _now: False,
    "inconclusive": lambda then, now: (
        STRICTEST_FIRST.index(now.on_inconclusive) > STRICTEST_FIRST.index(then.on_inconclusive)
    ),
    "improvement": lambda _, now: now.improvement == "report",
    "near_tie": lambda then, now: now.near_tie > then.near_tie,
}
"""For each key but the floors of relations: whether a gate that differs in it is laxer."""


@dataclass(frozen=True)
class Terms:
    """On what terms a result is accepted."""

    gate: Gate
    """The rules, with a floor for each relation in the place of patterns."""
    expect: Expectation = "pass"
    """``fail`` for a control."""


def differences(accepted: Terms, current: Terms) -> Iterator[tuple[str, bool]]:
    """Each difference in words, and whether it is laxer."""
    if accepted.expect != current.expect:
        yield f"expect {accepted.expect} -> {current.expect}", current.expect == "fail"
    then, now = accepted.gate, current.gate
    for key, is_laxer in LAXER.items():
        name = "on_inconclusive" if key == "inconclusive" else key  # unsaid, it has a meaning too
        before, after = getattr(then, name), getattr(now, name)
        if before != after:
            yield f"{key} {said(before)} -> {said(after)}", is_laxer(then, now)
    for relation in sorted({*then.relation_floors, *now.relation_floors}):
        floor, floor_now = then.relation_floors.get(relation), now.relation_floors.get(relation)
        if floor != floor_now:
            words = f"relation floor {relation} {said(floor)} -> {said(floor_now)}"
            yield words, floor is not None and (floor_now is None or floor_now < floor)


def said(value: float | str | None) -> str:
    """A value in words; a number with every digit it has, for 0.9 -> 0.9 would say nothing."""
    return "none" if value is None else str(value).removesuffix(".0")


def limit(share: float | None) -> float:
    """A share that may be lost; all of it if nothing is said."""
    return inf if share is None else share


def changed(accepted: Terms, current: Terms) -> list[str]:
    """How terms differ from the accepted ones, such as ``margin 0.01 -> 0.02``.

    The floors of relations are compared by their keys. What patterns overlap, and which of them
    comes last, only those see who know the relations: put their names in the place of patterns
    before.
    """
    return [words for words, _ in differences(accepted, current)]


def loosened(accepted: Terms, current: Terms) -> list[str]:
    """Those of the differences by which a trial could pass that did not pass before."""
    return [words for words, is_laxer in differences(accepted, current) if is_laxer]


def worse(accepted: Sequence[float], now: Sequence[float]) -> float:
    """Net loss: the sum of the accepted scores less that of the scores now.

    Args:
        accepted: of each question, ``[n]``.
        now: the same, near ties settled.

    Raises:
        ValueError: not the same number of questions.
    """
    pairs = list(zip(accepted, now, strict=True))
    return fsum(score for then, score_now in pairs for score in (then, -score_now))


def shrunk(accepted: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Clusters that have fewer questions than were accepted, such as ``capital 203 -> 150``."""
    return [
        f"{cluster} {count} -> {now.get(cluster, 0)}"
        for cluster, count in sorted(accepted.items())
        if now.get(cluster, 0) < count
    ]


@dataclass(frozen=True, kw_only=True)
class Slide:
    """How far a trial's accepted figures are from the first ones; negative where they are less."""

    since: str
    """When the first were accepted."""
    times: int
    """How often others were accepted in their place."""
    score: float
    """Mean score."""
    questions: int
    floor: float


def slide(history: Sequence[Past], score: float, questions: int, floor: float) -> Slide | None:
    """Compare with the first of a history; None if the figures are the first themselves.

    Args:
        history: what was accepted before, the first first.
        score: the mean score that is accepted now.
        questions: how many there are now.
        floor: the one in force now.
    """
    if not history:
        return None
    first = history[0]
    return Slide(
        since=first.date,
        times=len(history),
        score=score - first.score,
        questions=questions - first.questions,
        floor=floor - first.floor,
    )


@dataclass(frozen=True, kw_only=True)
class Erosion:
    """What the slides of many trials come to."""

    trials: int
    """That had another result accepted before."""
    lower: int
    """Whose accepted score is below the first."""
    worst: str
    """The trial whose score has changed for the worst."""
    worst_score: float
    """By how much."""
    mean_score: float
    """Mean change of the scores of those trials."""
    floors: int
    """Trials whose floor is lower than the first."""
    questions: int
    """Questions dropped, over the trials that have fewer than at first."""


def slid(slides: Mapping[str, Slide | None]) -> Erosion | None:
    """Sum up the slides of trials, by their names; None if all figures are the first."""
    found = {trial: one for trial, one in slides.items() if one is not None}
    if not found:
        return None
    worst = min(found, key=lambda trial: (found[trial].score, trial))
    return Erosion(
        trials=len(found),
        lower=sum(one.score < 0 for one in found.values()),
        worst=worst,
        worst_score=found[worst].score,
        mean_score=fsum(one.score for one in found.values()) / len(found),
        floors=sum(one.floor < 0 for one in found.values()),
        questions=sum(max(0, -one.questions) for one in found.values()),
    )
