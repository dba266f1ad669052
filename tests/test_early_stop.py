"""Asking in parts: no question twice, each part as of the whole, and the whole's decision."""

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_strategies import graded_measurements, measurements
from msgspec.structs import replace
from subjects import TRIAL, answered, subject

from pytest_compression.early_stop import ask_until_decided, joined
from pytest_compression.errors import MeasurementError
from pytest_compression.examination import examine
from pytest_compression.gate.verdict import Stopped
from pytest_compression.references import References
from pytest_compression.types import Gate, Measurement

SURE = 1e-9
"""An alpha at which no decision is wrong in all these tests."""


def part_of(whole: Measurement, where: list[int]) -> Measurement:
    """The questions at these positions."""
    names = ("questions", "margins", "given", "values", "expected")
    lists = {name: getattr(whole, name) for name in names}
    return replace(
        whole,
        **{name: tuple(found[i] for i in where) if found else () for name, found in lists.items()},
        tokens=3 * len(where),
    )


class Quiz:
    """A benchmark whose answers are given; ``asked`` are the ids, in rounds."""

    def __init__(self, whole: Measurement) -> None:
        self.whole = whole
        self.asked: list[list[str]] = []

    def measure(self, model: object) -> Measurement:  # noqa: ARG002
        return self.whole

    def measure_part(self, model: object, ids: Collection[str]) -> Measurement:  # noqa: ARG002
        self.asked.append(list(ids))
        found = [i for i, question in enumerate(self.whole.questions) if question.id in set(ids)]
        return part_of(self.whole, found)


def references(dense: Measurement, accepted: Measurement | None = None) -> References:
    """What is compared with: the dense model's scores, and the same as the accepted ones."""
    return References(
        dense=list(dense.scores),
        near_tie=0.01,
        accepted=list((accepted or dense).scores),
    )


def ask(
    dense: Measurement, now: Measurement, gate: Gate, seed: int = 0
) -> tuple[Quiz, Measurement, Stopped | None]:
    """Ask until it is decided."""
    quiz, model = Quiz(now), Any
    found = ask_until_decided(
        subject(dense, gate),
        references(dense),
        quiz,
        model,  # type: ignore[arg-type]  # the quiz does not look at it
        seed,
    )
    return quiz, *found


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Measurement, Measurement]:
    """A dense model that knows something, and one that forgot and learned."""
    n = draw(st.integers(1, 300))
    known = draw(st.integers(n // 2 + 1, n))
    forgotten = draw(st.sampled_from([0, 1, n // 50, n // 20, n // 8, n // 3, n]))
    learned = draw(st.sampled_from([0, 1, n // 50, n]))
    dense = [1.0 if i < known else -1.0 for i in range(n)]
    now = [
        -1.0 if i < min(forgotten, known) else 1.0 if i < min(known + learned, n) else -1.0
        for i in range(n)
    ]
    order = draw(st.permutations(range(n)))
    return answered([dense[i] for i in order]), answered([now[i] for i in order])


gates = st.builds(
    Gate,
    min_retention=st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]),
    max_forgotten=st.sampled_from([None, 0.0, 0.05, 0.5]),
    relation_floors=st.sampled_from([{}, {"even": 0.9}, {"*": 0.8}]),
    assurance=st.sampled_from(["point", "proven"]),
    margin=st.sampled_from([0.01, 0.2]),
    alpha=st.sampled_from([SURE, 0.05]),
)


def is_known(dense: Measurement, relation: str) -> bool:
    """Whether the dense model knows more of a relation than guessing would."""
    return sum(
        score - guess
        for score, guess, cluster in zip(dense.scores, dense.chance, dense.clusters, strict=True)
        if relation in ("*", cluster)
    ) > 0 and (relation == "*" or relation in dense.clusters)


def suits(gate: Gate, dense: Measurement) -> Gate:
    """The gate, without floors that such a dense model could not be held to."""
    if all(is_known(dense, relation) for relation in ("even", "odd", "*")):
        return gate
    return replace(gate, relation_floors={})


@given(pairs(), gates, st.integers(0, 2**32))
def test_no_question_is_asked_twice_and_parts_are_those_of_the_whole(
    pair: tuple[Measurement, Measurement], gate: Gate, seed: int
) -> None:
    dense, now = pair
    quiz, measured, stopped = ask(dense, now, suits(gate, dense), seed)
    asked = [name for part in quiz.asked for name in part]
    assert len(asked) == len(set(asked))
    where = [i for i, question in enumerate(now.questions) if question.id in set(asked)]
    assert measured == part_of(now, where)
    if stopped is None:
        assert measured == now
    else:
        assert len(asked) < len(now.questions)
        low, high = stopped.limits
        assert low <= high


@given(pairs(), gates, st.integers(0, 2**32))
def test_where_no_error_is_allowed_the_decision_is_the_whole_trials(
    pair: tuple[Measurement, Measurement], gate: Gate, seed: int
) -> None:
    dense, now = pair
    gate = replace(suits(gate, dense), alpha=SURE)
    _, measured, stopped = ask(dense, now, gate, seed)
    trial, compared = subject(dense, gate), references(dense)
    whole = examine(trial, now, compared).verdict
    part = examine(trial, measured, compared, stopped).verdict
    assert (part.outcome == "lost") == (whole.outcome == "lost")
    if stopped is None:
        assert part == whole
    else:
        low, high = stopped.limits
        assert part.interval == (low, high)
        assert low - 1e-9 <= whole.retention <= high + 1e-9
        assert part.outcome == stopped.decision
        assert gate.assurance == "point" or part.outcome == "lost"
        lost = sum(dense.scores) - sum(now.scores)
        assert part.outcome == "lost" or lost <= gate.margin * len(now.scores)


@given(pairs(), gates, st.integers(0, 2**32))
def test_the_same_seed_asks_the_same(
    pair: tuple[Measurement, Measurement], gate: Gate, seed: int
) -> None:
    dense, now = pair
    gate = suits(gate, dense)
    first, again = (ask(dense, now, gate, seed)[0].asked for _ in range(2))
    assert first == again


def test_seeds_ask_in_other_orders() -> None:
    whole = answered([1.0] * 200)
    assert ask(whole, whole, Gate(), 0)[0].asked != ask(whole, whole, Gate(), 1)[0].asked


@given(st.one_of(measurements(), graded_measurements()), st.data())
def test_parts_joined_are_the_whole(whole: Measurement, data: st.DataObject) -> None:
    n = len(whole.questions)
    lots = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    guessed = st.lists(st.floats(0, 1), min_size=n, max_size=n)
    whole = replace(
        whole,
        expected=tuple(data.draw(guessed | st.just([]))),
        questions=tuple(sorted(whole.questions, key=lambda question: question.id)),
        given=whole.given or ("good",) * n,
        tokens=3 * n,
    )
    parts = [
        part_of(whole, [i for i, lot in enumerate(lots) if lot == number])
        for number in sorted(set(lots))
    ]
    assert joined(parts) == whole


def test_only_a_benchmark_that_can_be_asked_in_part_is_asked() -> None:
    whole = answered([1.0] * 20)
    with pytest.raises(
        MeasurementError,
        match=r"^object cannot be asked in part: it has no measure_part\(model, ids\)\. Run it "
        r"without --compress-early-stop\.$",
    ):
        ask_until_decided(
            subject(whole, Gate()),
            references(whole),
            object(),
            Any,  # type: ignore[arg-type]
            0,
        )


@pytest.mark.parametrize("which", ["dense", "accepted", "now"])
@pytest.mark.parametrize("value", [1.5, -0.25, float("nan")])
def test_graded_scores_must_lie_between_0_and_1(which: str, value: float) -> None:
    whole = replace(answered([1.0] * 40), values=(0.5,) * 40, margins=())
    out = replace(whole, values=(*(0.5,) * 39, value))
    chosen = {"dense": whole, "accepted": whole, "now": whole} | {which: out}
    with pytest.raises(
        MeasurementError, match=rf"^{TRIAL} cannot stop early: a score is {value:g}, not in \[0, 1"
    ):
        ask_until_decided(
            subject(chosen["dense"], Gate(min_retention=0.99, margin=0.001)),
            references(chosen["dense"], chosen["accepted"]),
            Quiz(chosen["now"]),
            Any,  # type: ignore[arg-type]
            0,
        )
