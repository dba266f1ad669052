"""Near ties are settled by what was accepted; verdicts compare exact figures and say why."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from light_strategies import measurements, pairs
from scipy.stats import binom, binomtest

from pytest_compression.gate.retention import retention
from pytest_compression.gate.verdict import (
    Scored,
    against_accepted,
    judge,
    near_ties,
    relation_floors,
    settled,
)
from pytest_compression.types import Gate, Measurement, Question

DISTANCE = 0.01
UNSURE = "inconclusive"


def measured(margins: list[float], candidates: int = 4) -> Measurement:
    return Measurement(
        metric="ranked",
        questions=tuple(
            Question(
                id=f"{i:04}",
                subject="",
                stem="",
                end="",
                answer="0",
                candidates=tuple(map(str, range(candidates))),
                cluster="r",
            )
            for i in range(len(margins))
        ),
        margins=tuple(margins),
        given=("0",) * len(margins),
        scoring="v1",
        left_out={},
    )


@given(measurements(), st.floats(-0.0099, 0.0099))
def test_no_shift_smaller_than_the_distance_changes_what_is_settled(
    then: Measurement, shift: float
) -> None:
    ties = near_ties(then.margins, DISTANCE)
    now = measured([margin + shift for margin in then.margins])
    scores, changed = settled(now, {i: then.scores[i] for i in ties}, DISTANCE)
    # A tie itself counts as no answer; one that is recorded stays so.
    assert scores == list(then.scores)
    assert set(changed) <= set(ties)
    assert all(now.scores[i] != then.scores[i] for i in changed)


@given(measurements(), st.data())
def test_nothing_is_settled_beyond_twice_the_distance_or_without_a_record(
    now: Measurement, data: st.DataObject
) -> None:
    record = data.draw(
        st.dictionaries(st.sampled_from(range(len(now.questions))), st.integers(0, 1))
    )
    scores, changed = settled(now, record, DISTANCE)
    for i, (score, raw) in enumerate(zip(scores, now.scores, strict=True)):
        if i not in record or abs(now.margins[i]) >= 2 * DISTANCE:
            assert score == raw
        else:
            assert score == record[i]
        assert (i in changed) == (score != raw)
    assert settled(now, {}, DISTANCE) == (list(now.scores), [])


def test_a_tie_is_not_an_answer_and_distances_are_open() -> None:
    assert measured([0.0, -0.0, 1e-300]).scores == (0, 0, 1)
    assert near_ties([0.0, 0.0099, -0.0099, 0.01, -0.01], 0.01) == [0, 1, 2]
    assert settled(measured([0.02, 0.0199]), {0: 0, 1: 0}, 0.01) == ([1, 0], [1])


def scored(
    scores: Sequence[float],
    dense: Sequence[float] = (),
    clusters: Sequence[str] = (),
    chance: float = 0.25,
) -> Scored:
    """Scores beside those of a dense model, which is right everywhere if not said."""
    n = len(scores)
    return Scored(
        scores=scores,
        dense=dense or [1] * n,
        chance=[chance] * n,
        clusters=clusters or ["r"] * n,
    )


def test_the_verdict_names_what_was_forgotten_and_learned_and_each_figure() -> None:
    dense = [1, 1, 1, 1, 0, 0, 0, 0]
    scores = [1, 1, 1, 0, 1, 0, 0, 0]
    verdict = judge(scored(scores, dense), Gate(min_retention=0.9, alpha=0.1), near=2)
    assert (verdict.forgotten, verdict.learned, verdict.near_ties) == ((3,), (4,), 2)
    assert (verdict.dense, verdict.compressed, verdict.chance) == (0.5, 0.5, 0.25)
    assert (verdict.questions, verdict.floor, verdict.outcome) == (8, 0.9, "kept")
    assert (verdict.broken, verdict.unclear, verdict.regression) == ((), (), None)
    found = retention(dense, scores, [0.25] * 8, alpha=0.1)
    assert verdict.retention == found.value == 1.0
    assert verdict.standard_error == found.standard_error > 0
    assert verdict.interval == (found.low, found.high)
    assert found.low < verdict.floor
    assert found.high > 1
    assert verdict.proven is False
    assert verdict.clustered is False


@pytest.mark.parametrize(
    ("right", "floor", "outcome"),
    [
        (27, 0.9, "kept"),
        (26, 0.9, "lost"),
        (27, 0.9000001, "lost"),
        (30, 1.0, "kept"),
        (0, 0.0, "kept"),
    ],
)
def test_reaching_the_floor_exactly_passes(right: int, floor: float, outcome: str) -> None:
    scores = [1] * right + [0] * (30 - right)
    verdict = judge(scored(scores, chance=0), Gate(min_retention=floor))
    assert verdict.outcome == outcome
    assert (verdict.outcome == "lost") == bool(verdict.broken)


def test_no_rounded_figure_passes() -> None:
    scores = [1] * 9506 + [0] * 494  # (9506 - 1000) / 9000 = 0.9451, which two digits make 0.95
    verdict = judge(scored(scores, chance=0.1), Gate(min_retention=0.95))
    assert verdict.retention == pytest.approx(0.945111, abs=1e-6)
    assert verdict.outcome == "lost"
    assert verdict.broken == ("retention 0.9451 is below the floor 0.95",)


# A proof of retention


@given(pairs(), st.floats(0, 1), st.floats(0.001, 0.4))
def test_a_proof_asks_for_the_lower_limit_and_nothing_else_changes(
    found: list[tuple[int, int, float]], floor: float, alpha: float
) -> None:
    dense, scores, chance = (list(each) for each in zip(*found, strict=True))
    assume(sum(dense) > sum(chance))
    told = Scored(scores=scores, dense=dense, chance=chance, clusters=["r"] * len(dense))
    point = judge(told, Gate(min_retention=floor, alpha=alpha))
    proof = judge(told, Gate(min_retention=floor, alpha=alpha, assurance="proven"))
    low = retention(dense, scores, chance, alpha=alpha).low
    assert point.proven is proof.proven is (low >= floor)
    assert point.outcome == ("lost" if point.retention < floor else "kept")
    assert proof.outcome == ("kept" if low >= floor else point.outcome if point.broken else UNSURE)
    assert (proof.outcome == UNSURE) == bool(proof.unclear)
    assert proof.broken == point.broken
    assert point.unclear == ()


def test_what_is_not_proven_says_how_many_questions_would() -> None:
    scores = [1] * 39 + [0]
    verdict = judge(scored(scores), Gate(min_retention=0.95, assurance="proven"))
    assert verdict.outcome == UNSURE
    low = verdict.interval[0]
    (said,) = verdict.unclear
    start = (
        "40 questions do not prove that retention reaches the floor 0.95: the estimate is 0.9667, "
        f"its lower limit {low:.4f}; about "
    )
    assert said.startswith(start)
    assert said.endswith(" questions would")
    more = int(said.removeprefix(start).split()[0].replace(",", ""))
    # As many more questions, answered alike, do prove it.
    enough = round(1.1 * more)
    many = judge(
        scored([1] * round(enough * 39 / 40) + [0] * (enough - round(enough * 39 / 40))),
        Gate(min_retention=0.95, assurance="proven"),
    )
    assert many.outcome == "kept"


def test_a_limit_without_bounds_is_unknown() -> None:
    verdict = judge(scored([1]), Gate(min_retention=0.95, assurance="proven"))
    assert verdict.interval[0] == -math.inf
    assert verdict.unclear == (
        (
            "1 questions do not prove that retention reaches the floor 0.95: the estimate is "
            "1.0000, its lower limit unknown"
        ),
    )


# Floors of relations and the share that may be forgotten

RELATIONS = ["capital"] * 20 + ["language"] * 20


def test_a_relation_below_its_own_floor_is_lost_though_the_whole_is_kept() -> None:
    scores = [0] * 4 + [1] * 36
    told = scored(scores, clusters=RELATIONS, chance=0)
    assert judge(told, Gate(min_retention=0.9)).outcome == "kept"
    verdict = judge(told, Gate(min_retention=0.9, relation_floors={"cap*": 0.85}))
    assert verdict.broken == ("retention of relation capital 0.8000 is below the floor 0.85",)
    assert verdict.outcome == "lost"
    assert judge(told, Gate(min_retention=0.9, relation_floors={"cap*": 0.8})).outcome == "kept"
    proof = Gate(min_retention=0.5, relation_floors={"capital": 0.8}, assurance="proven")
    (said,) = judge(told, proof).unclear
    assert said.startswith("20 questions do not prove that retention of relation capital reaches")
    both = judge(told, Gate(min_retention=0.95, relation_floors={"*": 0.9}))
    assert len(both.broken) == 2


def test_of_several_patterns_the_last_that_matches_sets_the_floor() -> None:
    floors = {"*": 0.9, "cap*": 0.5, "border": 0.1, "capital": 0.7}
    assert relation_floors(RELATIONS, floors) == [("capital", 0.7), ("language", 0.9)]
    assert relation_floors(RELATIONS, {"capital": 0.7, "*": 0.9}) == [
        ("capital", 0.9),
        ("language", 0.9),
    ]
    assert relation_floors(RELATIONS, {"Capital": 0.7}) == []


def test_what_is_forgotten_counts_whatever_was_learned_in_its_place() -> None:
    dense = [1] * 30 + [0] * 10
    scores = [0] * 3 + [1] * 27 + [1] * 3 + [0] * 7
    told = scored(scores, dense)
    assert judge(told, Gate(max_forgotten=0.1)).outcome == "kept"  # 3 of 30, exactly
    verdict = judge(told, Gate(max_forgotten=0.0999))
    assert verdict.retention == 1.0
    assert verdict.broken == (
        "0.1000 of the right answers were forgotten, more than max_forgotten 0.0999",
    )
    assert judge(scored(dense, dense), Gate(max_forgotten=0)).outcome == "kept"


# Against the last accepted result


@pytest.mark.parametrize(
    ("lost", "gained", "margin", "said"),
    [
        (10, 0, 0.01, "suspected"),  # 2 ** -10
        (5, 0, 0.01, "suspected"),  # 1/32
        (4, 0, 0.01, "unclear"),  # 1/16
        (4, 0, 0.02, ""),  # 2 % is the margin, not beyond it
        (10, 0, 0.05, ""),  # neither, however significant
        (10, 9, 0.001, "unclear"),
        (2, 2, 0, ""),
        (0, 4, 0.01, ""),
        (0, 5, 0.01, "improved"),
        (0, 5, 0.025, ""),
    ],
)
def test_a_loss_must_be_beyond_the_margin_and_significant(
    lost: int, gained: int, margin: float, said: str
) -> None:
    accepted = [1] * 100 + [0] * 100
    now = [0] * lost + [1] * (100 - lost) + [1] * gained + [0] * (100 - gained)
    found = against_accepted(accepted, now, ["r"] * 200, Gate(margin=margin))
    assert found.change.loss == (lost - gained) / 200
    assert found.suspected == (said == "suspected")
    assert found.improved == (said == "improved")
    assert bool(found.unclear) == (said == "unclear")
    assert found.change.p_loss == pytest.approx(
        binomtest(lost, lost + gained, alternative="greater").pvalue if lost + gained else 1
    )


def test_what_is_too_few_to_tell_is_told_in_figures() -> None:
    accepted = [1] * 200
    found = against_accepted(accepted, [0] * 4 + [1] * 196, ["r"] * 200, Gate())
    assert found.unclear == (
        "200 questions cannot tell whether more than 1.0% was lost since the result was "
        "accepted: 2.00% net, p = 0.062. They show a loss of 3.34% with power 80% at level 0.05; "
        "about 335 would settle one of this size"
    )
    # Without gains, five losses are significant, and four are not.
    assert binom.sf(4, 200, 0.0334) == pytest.approx(0.8, abs=0.003)
    assert binom.sf(4, 335, 0.02) >= 0.8 > binom.sf(4, 333, 0.02)


@given(measurements(), measurements())
def test_the_outcome_is_what_is_said(then: Measurement, now: Measurement) -> None:
    scores = [now.scores[i % len(now.scores)] for i in range(len(then.scores))]
    gate = Gate()
    found = against_accepted(then.scores, scores, then.clusters, gate)
    assert found.suspected + found.improved + bool(found.unclear) <= 1
    told = scored(scores, [1] * len(scores))
    verdict = judge(told, gate, regression=found)
    assert verdict.regression is found
    # A suspicion alone decides nothing: the run's other tests are not known yet.
    assert verdict.outcome == ("lost" if verdict.broken else UNSURE if found.unclear else "kept")
