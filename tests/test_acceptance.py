"""What is recorded without a reason is never less than before; what is refused is not written."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_strategies import margins
from msgspec.structs import replace
from subjects import HARDWARE, TRIAL, answered, subject

from pytest_compression.acceptance import record
from pytest_compression.errors import BaselineError
from pytest_compression.examination import examine
from pytest_compression.references import References
from pytest_compression.settings import Settings
from pytest_compression.store.baselines import Baseline, read
from pytest_compression.types import Expectation, Gate

N = 6
DENSE = answered([1.0] * N)

gates = st.builds(
    Gate,
    min_retention=st.sampled_from([0.9, 0.95]),
    margin=st.sampled_from([0.01, 0.02]),
    near_tie=st.sampled_from([0.01, 0.02]),
)
answers = st.lists(margins, min_size=N, max_size=N)


def settings(**asked: Any) -> Settings:
    """Of a run without options but those."""
    unasked: dict[str, Any] = {field.name: False for field in fields(Settings)}
    here = Path()
    paths = {"root": here, "suites": (), "baselines": here, "shard": None, "report": None}
    return Settings(**(unasked | paths | {"reason": "", "command": "pytest"} | asked))


def accept(path: Path, leads: list[float], gate: Gate, **options: Any) -> Baseline:
    """Record such a result, and read it."""
    references = References(dense=[1.0] * N, near_tie=options.pop("near_tie", gate.near_tie))
    one = subject(DENSE, gate, path)
    one = replace(one, spec=replace(one.spec, expect=options.pop("expect", "pass")))
    examined = examine(one, answered(leads), references)
    done = record(examined, settings(update=True, **options), seconds=0.25)
    assert done.recorded
    found = read(path, TRIAL).hardware[HARDWARE]
    assert done.current == found
    return found


def is_less(then: list[float], gate_then: Gate, now: list[float], gate_now: Gate) -> bool:
    """By the definitions, question by question."""
    laxer = (
        gate_now.min_retention < gate_then.min_retention
        or gate_now.margin > gate_then.margin
        or gate_now.near_tie > gate_then.near_tie
    )
    lost = 0
    for before, after in zip(then, now, strict=True):
        near = abs(before) < gate_then.near_tie and abs(after) < 2 * gate_then.near_tie
        lost += 0 if near else (before > 0) - (after > 0)
    return laxer or lost > 0


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("acceptance")


@given(answers, gates, answers, gates)
def test_less_than_before_is_refused_without_a_reason_and_nothing_else(
    place: Path, then: list[float], gate_then: Gate, now: list[float], gate_now: Gate
) -> None:
    path = place / "b.json"
    path.unlink(missing_ok=True)
    accept(path, then, gate_then)
    before = path.read_bytes()
    if is_less(then, gate_then, now, gate_now):
        with pytest.raises(BaselineError, match=f"^nothing was recorded of {TRIAL}, for it is l"):
            accept(path, now, gate_now)
        assert path.read_bytes() == before
        assert accept(path, now, gate_now, reason="why").accepted.reason == "why"
    else:
        assert accept(path, now, gate_now).gate == gate_now


@given(answers, st.lists(st.sampled_from(["pass", "fail"]), min_size=1, max_size=4))
def test_a_trial_is_made_a_control_with_a_reason_only_and_tested_again_without(
    place: Path, leads: list[float], expected: list[Expectation]
) -> None:
    path = place / "b.json"
    path.unlink(missing_ok=True)
    accepted = accept(path, leads, Gate(), expect="pass").expect
    assert '"expect"' not in path.read_text(encoding="utf-8")
    for expect in expected:
        if (accepted, expect) == ("pass", "fail"):
            before = path.read_bytes()
            with pytest.raises(BaselineError, match=r"the gate is laxer: expect pass -> fail\)"):
                accept(path, leads, Gate(), expect=expect)
            assert path.read_bytes() == before
            assert accept(path, leads, Gate(), expect=expect, reason="why").expect == "fail"
        else:
            assert accept(path, leads, Gate(), expect=expect).expect == expect
        accepted = expect


@given(st.lists(st.tuples(answers, gates), min_size=1, max_size=3))
def test_no_acceptance_is_forgotten(place: Path, results: list[tuple[list[float], Gate]]) -> None:
    path = place / "b.json"
    path.unlink(missing_ok=True)
    for i, (leads, gate) in enumerate(results):
        found = accept(path, leads, gate, reason=f"reason {i}")
        assert found.score == sum(lead > 0 for lead in leads) / N
    assert [past.reason for past in found.accepted.history] == [
        f"reason {i}" for i in range(len(results) - 1)
    ]
    for past, (leads, gate) in zip(found.accepted.history, results, strict=False):
        assert (past.floor, past.questions) == (gate.min_retention, N)
        assert past.score == sum(lead > 0 for lead in leads) / N


@given(answers, st.sampled_from([0.0, 0.01, 0.02, 0.5]))
def test_near_ties_are_recorded_as_wide_as_the_references_say(
    place: Path, leads: list[float], distance: float
) -> None:
    path = place / "b.json"
    path.unlink(missing_ok=True)
    found = accept(path, leads, Gate(), near_tie=distance)
    assert found.near_tie == distance
    ids = [question.id for question in DENSE.questions]
    assert found.near_ties == {
        name: round(lead, 6) for name, lead in zip(ids, leads, strict=True) if abs(lead) < distance
    }


@given(answers, answers)
def test_what_was_accepted_is_compared_and_not_recorded(
    place: Path, then: list[float], now: list[float]
) -> None:
    path = place / "b.json"
    path.unlink(missing_ok=True)
    own = accept(path, then, Gate())
    before = path.read_bytes()
    references = References(
        dense=[1.0] * N, near_tie=0.01, own=own, accepted=[float(lead > 0) for lead in then]
    )
    examined = examine(subject(DENSE, Gate(), path), answered(now), references)
    assert record(examined, settings(update_new=True), seconds=1.0) is examined
    assert path.read_bytes() == before
