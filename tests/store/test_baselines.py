"""A baseline is read as it was written, is whole or absent, and is a small diff."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_strategies import baselines, measurements, texts

from pytest_compression.errors import BaselineError
from pytest_compression.store.baselines import (
    Baseline,
    Packed,
    by_cluster,
    differences,
    near_tie_scores,
    pack_bits,
    packed,
    previous,
    read,
    unpack_bits,
    unpacked,
    write,
)
from pytest_compression.types import Acceptance, Fingerprint, Footprint, Measurement

EXAMPLE = Baseline(
    trial="suites/x.yaml::m/int8::b",
    recipe=[{"use": "rtn", "bits": 8}],
    metric="ranked",
    scores={
        "capital": Packed(questions=6, right=5, bits="f4"),
        "area": Packed(questions=1, right=1, bits="8"),
    },
    near_ties={"capital:é": -0.001},
    near_tie=0.01,
    floor=0.95,
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
    environment={"torch": "2.13.0", "machine": "x86_64"},
    accepted=Acceptance(date="2026-08-01", reason="first", previous={"score": 0.5}),
)


@given(baselines)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, baseline: Baseline
) -> None:
    path = tmp_path_factory.getbasetemp() / "round trip" / "b.json"
    write(path, baseline)
    assert read(path, baseline.trial) == baseline
    before = path.read_bytes()
    write(path, baseline)
    assert path.read_bytes() == before


def test_a_file_reads_well_in_a_diff(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    write(path, EXAMPLE)
    data = path.read_bytes()
    assert data.endswith(b"\n}\n")
    assert b"\r" not in data
    text = data.decode()
    assert '"capital:é": -0.001' in text
    assert json.loads(text) == json.loads(json.dumps(json.loads(text), sort_keys=True))
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


# Bits


@given(st.lists(st.integers(0, 1), max_size=300))
def test_unpacking_is_the_inverse_of_packing(scores: list[int]) -> None:
    digits = pack_bits(scores)
    assert len(digits) == -(-len(scores) // 4)
    assert unpack_bits(digits, len(scores)) == scores


def test_the_first_question_is_the_most_significant_bit() -> None:
    assert pack_bits([1, 0, 0, 0, 1]) == "88"
    assert pack_bits([0, 1, 1]) == "6"
    assert pack_bits([]) == ""


@pytest.mark.parametrize(("digits", "count"), [("f", 5), ("ff", 4), ("", 1), ("x", 4), ("f", 0)])
def test_other_digits_are_refused(digits: str, count: int) -> None:
    with pytest.raises(ValueError, match=r"cannot hold|invalid literal"):
        unpack_bits(digits, count)


@given(measurements())
def test_scores_come_back_in_the_order_of_the_questions(measured: Measurement) -> None:
    ids = [question.id for question in measured.questions]
    ties = dict.fromkeys(ids[::2], 0.0)
    stored = msgspec.structs.replace(EXAMPLE, scores=packed(measured), near_ties=ties)
    assert unpacked(stored, measured) == list(measured.scores)
    assert near_tie_scores(stored, measured) == dict(list(enumerate(measured.scores))[::2])
    positions = [i for _, some in by_cluster(measured) for i in some]
    assert sorted(positions) == list(range(len(ids)))
    assert stored.questions == len(ids)
    assert stored.score == sum(measured.scores) / len(ids)


# Refusals


def keys(document: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where the keys that the format names stand."""
    for key, value in document.items():
        yield (*at, key)
        if key in {"fingerprint", "footprint", "accepted"}:
            yield from keys(value, (*at, key))


PLAIN = json.loads(msgspec.json.encode(EXAMPLE))
KEYS = list(keys(PLAIN))
OPTIONAL = {("schema",), ("accepted", "previous")}


def changed(at: tuple[str, ...], *, add: bool) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(msgspec.json.encode(EXAMPLE))
    inside = document
    for key in at[:-1]:
        inside = inside[key]
    if add:
        inside[f"{at[-1]}x"] = 1
    else:
        del inside[at[-1]]
    return document


@pytest.mark.parametrize("at", sorted(set(KEYS) - OPTIONAL), ids=".".join)
def test_each_deleted_key_is_refused_by_name(tmp_path: Path, at: tuple[str, ...]) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps(changed(at, add=False)))
    with pytest.raises(BaselineError, match=rf"is not a baseline: .*required field `{at[-1]}`"):
        read(path, EXAMPLE.trial)


@pytest.mark.parametrize("at", KEYS, ids=".".join)
def test_each_added_key_is_refused_by_name(tmp_path: Path, at: tuple[str, ...]) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps(changed(at, add=True)))
    with pytest.raises(BaselineError, match=rf"is not a baseline: .*unknown field `{at[-1]}x`"):
        read(path, EXAMPLE.trial)


@pytest.mark.parametrize("data", [b"", b"{", b"<<<<<<< ours", b"[]", b'{"trial": "\xff"}'])
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(data)
    with pytest.raises(BaselineError, match=r"b\.json is not a baseline: .*Restore it, or delete"):
        read(path, EXAMPLE.trial)


def test_another_trial_another_schema_and_none_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    with pytest.raises(FileNotFoundError):
        read(path, EXAMPLE.trial)
    write(path, EXAMPLE)
    with pytest.raises(
        BaselineError, match=r"is the baseline of suites/x\.yaml::m/int8::b, not of y"
    ):
        read(path, "y")
    write(path, msgspec.structs.replace(EXAMPLE, schema=3))
    with pytest.raises(BaselineError, match="has schema 3; this version reads 1"):
        read(path, EXAMPLE.trial)


# Whole or not at all


@pytest.mark.parametrize("broken", ["fsync", "fdopen"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "b.json"
    write(path, EXAMPLE)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        message = "disk full"
        raise OSError(message)

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, msgspec.structs.replace(EXAMPLE, floor=0.5))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_while_renaming_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b.json", EXAMPLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        write(tmp_path / "b.json", EXAMPLE)
        assert os.umask(mask) == mask
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "b.json").stat().st_mode) == 0o666 & ~mask


# Records


def test_an_acceptance_keeps_the_figures_it_replaces_and_not_their_history() -> None:
    assert previous(None) is None
    assert previous(EXAMPLE) == {
        "date": "2026-08-01",
        "reason": "first",
        "score": 6 / 7,
        "questions": 7,
        "floor": 0.95,
        "recipe": [{"use": "rtn", "bits": 8}],
    }


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
