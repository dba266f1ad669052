"""A baseline is read as it was written, is whole or absent, and is a small diff."""

import json
import os
import random
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_strategies import (
    baselines,
    costs,
    graded_measurements,
    measurements,
    stored,
    texts,
    words,
)

from pytest_compression.errors import BaselineError, MeasurementError
from pytest_compression.store.baselines import (
    Baseline,
    Stored,
    chance,
    cost_kept,
    differences,
    hardware,
    history,
    near_tie_scores,
    packed,
    read,
    replace,
    restored,
    unpacked,
    write,
)
from pytest_compression.store.packing import Packed
from pytest_compression.suite import load
from pytest_compression.types import (
    Acceptance,
    Cost,
    Fingerprint,
    Footprint,
    Gate,
    Measurement,
    Noise,
    Past,
    Question,
)

TRIAL = "suites/x.yaml::m/int8::b"
HERE = "cpu x86_64 AVX512"
EXAMPLE = Baseline(
    recipe=[{"use": "rtn", "bits": 8}],
    metric="ranked",
    scores={
        "capital": Packed(questions=6, right=5, bits="f4"),
        "area": Packed(questions=2, values=[0.5, 1.0]),
    },
    chance={"capital": 0.25, "area": [0.5, 0.25]},
    near_ties={"capital:é": -0.001},
    near_tie=0.02,
    gate=Gate(min_retention=0.95),
    left_out={"too long": 2},
    fingerprint=Fingerprint(weights="w", questions="q", scoring="s"),
    footprint=Footprint(
        bytes=10,
        dense_bytes=40,
        parameters=10,
        zeros=0,
        modules_touched=1,
        modules=2,
        sparsity=0.0,
        bits=8.0,
        weight_error=0.1,
    ),
    cost=Cost(tokens=120, seconds=0.5),
    environment={"torch": "2.13.0", "machine": "x86_64"},
    accepted=Acceptance(
        date="2026-08-01",
        reason="faster",
        history=[
            Past(date="2026-07-01", reason="first", score=0.9, questions=8, floor=0.97, recipe=[])
        ],
    ),
    noise=Noise(
        near_tie=0.02,
        shifts={"threads 1": 0.01},
        flips={"threads 1": 0},
        false_red=0.0,
        date="2026-07-01",
    ),
)
FILE = Stored(trial=TRIAL, fallback=HERE, hardware={HERE: EXAMPLE})


@given(stored())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, file: Stored) -> None:
    path = tmp_path_factory.getbasetemp() / "round trip" / "b.json"
    replace(path, file)
    assert read(path, file.trial) == file
    before = path.read_bytes()
    replace(path, read(path, file.trial))
    assert path.read_bytes() == before


def test_a_file_reads_well_in_a_diff(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    replace(path, FILE)
    data = path.read_bytes()
    assert data.endswith(b"\n}\n")
    assert b"\r" not in data
    text = data.decode()
    assert '"capital:é": -0.001' in text
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_what_a_record_has_not_is_not_written(tmp_path: Path) -> None:
    write(tmp_path / "b.json", TRIAL, HERE, changed_record(noise=None), beside=False)
    record = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["hardware"][HERE]
    assert not {"noise", "expect", "figures"} & record.keys()
    assert record["scores"] == {
        "capital": {"questions": 6, "right": 5, "bits": "f4"},
        "area": {"questions": 2, "values": [0.5, 1.0]},
    }


def test_the_committed_files_are_as_they_would_be_written(tmp_path: Path) -> None:
    found = sorted((Path(__file__).parents[2] / "baselines").rglob("*.json"))
    assert found
    for path in found:
        trial = json.loads(path.read_bytes())["trial"]
        file = read(path, trial)
        replace(tmp_path / "b.json", file)
        assert (tmp_path / "b.json").read_bytes() == path.read_bytes(), path
        for record in file.hardware.values():
            assert sum(restored(record).scores) / record.questions == record.score


def test_of_a_control_it_is_written_that_it_must_fail(tmp_path: Path) -> None:
    control = changed_record(expect="fail")
    write(tmp_path / "b.json", TRIAL, HERE, control, beside=False)
    assert json.loads((tmp_path / "b.json").read_bytes())["hardware"][HERE]["expect"] == "fail"
    assert read(tmp_path / "b.json", TRIAL).hardware == {HERE: control}


def test_the_committed_files_of_controls_are_those_that_the_suites_name() -> None:
    root = Path(__file__).parents[2]
    expected = {
        f"suites/{suite.name}::{spec.model}/{spec.recipe}::{spec.benchmark}": spec.expect
        for suite in (root / "suites").glob("*.yaml")
        for spec in load(suite).trials
    }
    for path in (root / "baselines").rglob("*.json"):
        trial = json.loads(path.read_bytes())["trial"]
        records = read(path, trial).hardware.values()
        assert {record.expect for record in records} == {expected[trial]}, path


def changed_record(**changes: object) -> Baseline:
    return msgspec.structs.replace(EXAMPLE, **changes)


# Scores


@given(st.one_of(measurements(), graded_measurements()), st.randoms(use_true_random=False))
def test_scores_come_back_in_the_order_of_the_questions(
    measured: Measurement, lots: random.Random
) -> None:
    ids = [question.id for question in measured.questions]
    ties = dict.fromkeys(ids[::2], 0.0)
    record = changed_record(scores=packed(measured), chance=chance(measured), near_ties=ties)
    assert unpacked(record, measured.questions) == list(measured.scores)
    listed = slice(None) if measured.values else slice(None, None, 2)  # graded: all may move a bit
    assert near_tie_scores(record, measured.questions) == dict(
        list(enumerate(measured.scores))[listed]
    )
    assert record.questions == sum(record.counts.values()) == len(ids)
    assert record.score == pytest.approx(sum(measured.scores) / len(ids), abs=1e-6)
    shuffled = list(zip(measured.questions, measured.scores, strict=True))
    lots.shuffle(shuffled)
    assert unpacked(record, [q for q, _ in shuffled]) == [score for _, score in shuffled]


@given(st.one_of(measurements(), graded_measurements()))
def test_a_record_alone_restores_scores_chance_and_clusters(measured: Measurement) -> None:
    record = changed_record(scores=packed(measured), chance=chance(measured))
    rows = zip(measured.questions, measured.scores, measured.chance, strict=True)
    in_order = sorted(rows, key=lambda row: (row[0].cluster, row[0].id))
    scores, guessed, clusters = restored(record)
    assert scores == [score for _, score, _ in in_order]
    assert guessed == [h for _, _, h in in_order]
    assert clusters == [question.cluster for question, _, _ in in_order]


@given(baselines())
def test_restored_lists_are_parallel(record: Baseline) -> None:
    found = restored(record)
    assert {len(each) for each in found} == {record.questions}
    assert found.clusters == sorted(found.clusters)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_json_cannot_hold_is_refused(broken: float) -> None:
    with pytest.raises(MeasurementError, match=r"not finite numbers: q1, q3\."):
        packed(graded([0.5, broken, 0.25, broken]))


def graded(values: list[float]) -> Measurement:
    return Measurement(
        metric="graded",
        questions=tuple(
            Question(
                id=f"q{i}", subject="", stem="", end="", answer="a", candidates=("a",), cluster="r"
            )
            for i in range(len(values))
        ),
        margins=(),
        given=(),
        scoring="v1",
        left_out={},
        values=tuple(values),
    )


def test_other_questions_and_damage_are_refused() -> None:
    questions = graded([0.0] * 6).questions
    with pytest.raises(BaselineError, match=r"its scores are of \{'r': 5\}, .* now of \{'r': 6\}"):
        unpacked(changed_record(scores={"r": Packed(questions=5, right=0, bits="00")}), questions)
    damaged = changed_record(scores={"r": Packed(questions=6, right=1, bits="00")})
    for call in (lambda: unpacked(damaged, questions), lambda: restored(damaged)):
        with pytest.raises(BaselineError, match="'r' has 0 right answers in its bits but says 1"):
            call()
    with pytest.raises(BaselineError, match="does not say what guessing gets on 'area'"):
        restored(changed_record(chance={"capital": 0.25}))


# Hardware


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"processor": "AVX512", "torch": "2", "machine": "x86_64", "device": "cpu"}, HERE),
        ({"device": "cuda", "machine": "x86_64"}, "cuda x86_64"),
        ({"processor": "", "machine": "arm64"}, "arm64"),
        ({"torch": "2"}, "any"),
    ],
)
def test_hardware_is_named_by_what_is_known_of_it(environment: dict[str, str], name: str) -> None:
    assert hardware(environment) == name


NAMES = st.sampled_from(["cpu", "cpu AVX2", "cuda", "any"])
RECORDS = st.builds(changed_record, metric=words)


@st.composite
def files(draw: st.DrawFn) -> Stored:
    """Of records that hardly differ, under few names."""
    records = draw(st.dictionaries(NAMES, RECORDS, min_size=1, max_size=3))
    fallback = draw(st.sampled_from(sorted(records)))
    return Stored(trial=TRIAL, fallback=fallback, hardware=records)


@given(files(), NAMES)
def test_the_record_of_the_hardware_counts_otherwise_the_fallback(file: Stored, here: str) -> None:
    name = here if here in file.hardware else file.fallback
    assert file.chosen(here) == (name, file.hardware[name])


@given(files(), NAMES, RECORDS, st.booleans())
def test_a_write_changes_one_record_and_keeps_the_others(
    tmp_path_factory: pytest.TempPathFactory,
    before: Stored,
    here: str,
    record: Baseline,
    beside: bool,  # noqa: FBT001  # hypothesis draws it
) -> None:
    path = tmp_path_factory.getbasetemp() / "one record" / "b.json"
    replace(path, before)
    write(path, TRIAL, here, record, beside=beside)
    after = read(path, TRIAL)
    gone = set[str]() if beside or here in before.hardware else {before.fallback}
    assert after.chosen(here) == (here, record)
    assert after.hardware.keys() == before.hardware.keys() - gone | {here}
    assert after.fallback == (here if gone else before.fallback)
    for name in after.hardware.keys() - {here}:
        assert after.hardware[name] == before.hardware[name]


@pytest.mark.parametrize("beside", [True, False])
def test_the_first_record_is_the_fallback(tmp_path: Path, *, beside: bool) -> None:
    path = tmp_path / "new" / "b.json"
    write(path, TRIAL, HERE, EXAMPLE, beside=beside)
    assert read(path, TRIAL) == FILE


@pytest.mark.parametrize("text", ["<<<<<<< ours", '{"schema": 1}', '{"schema": 2}'])
def test_what_cannot_be_read_is_not_written_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError, match="delete it and record anew"):
        write(path, TRIAL, HERE, EXAMPLE, beside=False)
    assert path.read_text(encoding="utf-8") == text


# Refusals

FREE = {"hardware", "scores"}
"""Their keys are names that are not the format's."""
NAMED = {"fingerprint", "footprint", "accepted", "gate", "cost", "noise"}
Place = tuple[str | int, ...]


def keys(document: Any, at: Place = ()) -> Iterator[Place]:
    """Where the keys that the format names stand."""
    for key, value in document.items():
        here = (*at, key)
        yield here
        if key in NAMED:
            yield from keys(value, here)
        elif key in FREE:
            for name in value:
                yield from keys(value[name], (*here, name))
        elif key == "history":
            yield from keys(value[0], (*here, 0))


def place_id(at: Place) -> str:
    return ".".join(map(str, at))


KEYS = list(keys(msgspec.to_builtins(FILE)))
SCORES = [at for at in KEYS if "scores" in at[:-1] and at[-1] != "questions"]
"""Those of which a cluster has some."""
OPTIONAL = [at for at in KEYS if at[-2:-1] == ("gate",) or at[-1] in {"noise", "history"}]
"""A gate that lacks a key was written before there was such a key, and has its default."""


def changed(at: Place, *, add: bool) -> str:
    document = json.loads(msgspec.json.encode(FILE))
    inside = document
    for key in at[:-1]:
        inside = inside[key]
    if add:
        inside[f"{at[-1]}x"] = 1
    else:
        del inside[at[-1]]
    return json.dumps(document)


@pytest.mark.parametrize("at", [at for at in KEYS if at not in [*SCORES, *OPTIONAL]], ids=place_id)
def test_each_deleted_key_is_refused_by_name(tmp_path: Path, at: Place) -> None:
    path = tmp_path / "b.json"
    path.write_text(changed(at, add=False), encoding="utf-8")
    with pytest.raises(BaselineError, match=rf"is not a baseline: .*required field `{at[-1]}`"):
        read(path, TRIAL)


@pytest.mark.parametrize("at", SCORES, ids=place_id)
def test_scores_without_one_of_their_keys_are_refused(tmp_path: Path, at: Place) -> None:
    path = tmp_path / "b.json"
    path.write_text(changed(at, add=False), encoding="utf-8")
    with pytest.raises(BaselineError, match=r"is not a baseline: scores are either `right` with"):
        read(path, TRIAL)


@pytest.mark.parametrize("at", KEYS, ids=place_id)
def test_each_added_key_is_refused_by_name(tmp_path: Path, at: Place) -> None:
    path = tmp_path / "b.json"
    path.write_text(changed(at, add=True), encoding="utf-8")
    with pytest.raises(BaselineError, match=rf"is not a baseline: .*unknown field `{at[-1]}x`"):
        read(path, TRIAL)


@pytest.mark.parametrize("data", [b"", b"{", b"<<<<<<< ours", b"[]", b'{"trial": "\xff"}'])
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(data)
    with pytest.raises(BaselineError, match=r"b\.json is not a baseline: .*Restore it, or delete"):
        read(path, TRIAL)


def test_another_trial_another_schema_and_none_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    with pytest.raises(FileNotFoundError):
        read(path, TRIAL)
    replace(path, FILE)
    with pytest.raises(
        BaselineError, match=r"is the baseline of suites/x\.yaml::m/int8::b, not of y"
    ):
        read(path, "y")
    path.write_text('{"schema": 1, "trial": "y", "floor": 0.9}', encoding="utf-8")
    with pytest.raises(BaselineError, match="has schema 1; this version reads 2"):
        read(path, TRIAL)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({}, "falls back to the record of 'gone', and its records are: none. Restore it, let"),
        ({"b": EXAMPLE, "a": EXAMPLE}, "'gone', and its records are: 'a', 'b'. Restore it, let"),
    ],
)
def test_a_fallback_without_a_record_is_refused(
    tmp_path: Path, records: dict[str, Baseline], said: str
) -> None:
    replace(tmp_path / "b.json", Stored(trial=TRIAL, fallback="gone", hardware=records))
    with pytest.raises(BaselineError, match=re.escape(said)):
        read(tmp_path / "b.json", TRIAL)


# Whole or not at all


@pytest.mark.parametrize("broken", ["fsync", "fdopen"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "b.json"
    replace(path, FILE)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        message = "disk full"
        raise OSError(message)

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, TRIAL, HERE, changed_record(near_tie=0.5), beside=False)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_while_renaming_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b.json", TRIAL, HERE, EXAMPLE, beside=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        replace(tmp_path / "b.json", FILE)
        assert os.umask(mask) == mask
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "b.json").stat().st_mode) == 0o666 & ~mask


# Records


def test_a_history_begins_with_the_first_and_ends_with_what_is_replaced() -> None:
    assert history(None) == []
    first = changed_record(accepted=Acceptance(date="2026-06-01", reason="first"))
    second = changed_record(
        gate=Gate(min_retention=0.9),
        recipe=[],
        accepted=Acceptance(date="2026-07-01", reason="cheaper", history=history(first)),
    )
    assert history(second) == [
        Past(
            date="2026-06-01",
            reason="first",
            score=6.5 / 8,
            questions=8,
            floor=0.95,
            recipe=[{"use": "rtn", "bits": 8}],
        ),
        Past(
            date="2026-07-01",
            reason="cheaper",
            score=6.5 / 8,
            questions=8,
            floor=0.9,
            recipe=[],
        ),
    ]


@given(baselines())
def test_a_history_loses_nothing(record: Baseline) -> None:
    *before, last = history(record)
    assert before == record.accepted.history
    assert (last.score, last.questions) == (record.score, record.questions)


@given(costs, st.floats(0.51, 1.99))
def test_recording_again_changes_no_cost(cost: Cost, jitter: float) -> None:
    kept = cost_kept(None, cost)
    assert kept.seconds == pytest.approx(cost.seconds, rel=0.051)
    again = Cost(tokens=cost.tokens, seconds=kept.seconds * jitter)
    assert cost_kept(kept, again) == kept


@pytest.mark.parametrize(
    ("old", "now", "seconds"),
    [
        (Cost(tokens=5, seconds=1.0), Cost(tokens=5, seconds=1.999), 1.0),
        (Cost(tokens=5, seconds=1.0), Cost(tokens=5, seconds=2.0), 2.0),
        (Cost(tokens=5, seconds=1.0), Cost(tokens=5, seconds=0.501), 1.0),
        (Cost(tokens=5, seconds=1.0), Cost(tokens=5, seconds=0.5), 0.5),
        (Cost(tokens=5, seconds=1.0), Cost(tokens=6, seconds=1.234), 1.2),
        (Cost(tokens=5, seconds=0.0), Cost(tokens=5, seconds=1234.5), 1200.0),
    ],
)
def test_a_cost_is_replaced_where_more_than_the_clock_differs(
    old: Cost, now: Cost, seconds: float
) -> None:
    assert cost_kept(old, now) == Cost(tokens=now.tokens, seconds=seconds)


@given(texts, texts)
def test_differences_name_each_key_that_changed(then: dict[str, str], now: dict[str, str]) -> None:
    said = differences(then, now)
    assert len(said) == len([k for k in {*then, *now} if then.get(k) != now.get(k)])
    assert differences(then, then) == []


def test_differences_read_as_a_change() -> None:
    assert differences({"torch": "1", "a": "x"}, {"torch": "2", "b": "y"}) == [
        "a x -> none",
        "b none -> y",
        "torch 1 -> 2",
    ]
