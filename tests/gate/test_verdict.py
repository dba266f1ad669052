"""Near ties are settled by what was accepted; verdicts compare exact figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_strategies import measurements

from pytest_compression.gate.retention import retention
from pytest_compression.gate.verdict import judge, near_ties, settled
from pytest_compression.types import Gate, Measurement, Question

DISTANCE = 0.01


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


def test_the_verdict_names_what_was_forgotten_and_learned_and_each_figure() -> None:
    dense = [1, 1, 1, 1, 0, 0, 0, 0]
    scores = [1, 1, 1, 0, 1, 0, 0, 0]
    gate = Gate(min_retention=0.9, confidence=0.9)
    verdict = judge(measured([1.0] * 8), scores, dense, gate, near=2)
    assert (verdict.forgotten, verdict.learned, verdict.near_ties) == ((3,), (4,), 2)
    assert (verdict.dense, verdict.compressed, verdict.chance) == (0.5, 0.5, 0.25)
    assert (verdict.questions, verdict.floor, verdict.passed) == (8, 0.9, True)
    found = retention(dense, scores, [0.25] * 8)
    assert verdict.retention == found.value == 1.0
    assert verdict.standard_error == found.standard_error > 0
    assert verdict.interval == found.interval(0.9)


@pytest.mark.parametrize(
    ("right", "floor", "passed"),
    [(27, 0.9, True), (26, 0.9, False), (27, 0.9000001, False), (30, 1.0, True), (0, 0.0, True)],
)
def test_reaching_the_floor_exactly_passes(right: int, floor: float, *, passed: bool) -> None:
    now = Measurement(
        metric="P@1",
        questions=measured([1.0] * 30).questions,
        margins=(1.0,) * 30,
        given=("0",) * 30,
        scoring="v1",
        left_out={},
        open_vocabulary=True,
    )
    verdict = judge(now, [1] * right + [0] * (30 - right), [1] * 30, Gate(min_retention=floor))
    assert verdict.passed is passed


def test_no_rounded_figure_passes() -> None:
    now = measured([1.0] * 10_000, candidates=10)
    scores = [1] * 9506 + [0] * 494  # (9506 - 1000) / 9000 = 0.9451, which two digits make 0.95
    verdict = judge(now, scores, [1] * 10_000, Gate(min_retention=0.95))
    assert verdict.retention == pytest.approx(0.945111, abs=1e-6)
    assert not verdict.passed
