"""The gate at work on the shipped suite, its models and its baselines, in processes of its own."""

import json
import re

import pytest
from shipped import Gate


def test_int8_edited_to_two_bits_turns_exactly_its_trials_red(gate: Gate) -> None:
    gate.edit("int8: {use: rtn, bits: 8}", "int8: {use: rtn, bits: 2}")
    status, outcomes, text = gate.run("decoder/dense", "decoder/int8", "decoder/int4")
    red = {trial for trial, outcome in outcomes.items() if outcome == "FAILED"}
    assert status == 1
    assert red == {f"decoder/int8::{name}" for name in ("countries", "cities", "elements")}
    assert set(outcomes.values()) == {"PASSED", "FAILED"}
    assert "recipe: changed from rtn bits=8 to rtn bits=2" in text
    assert re.search(r"\n  \S.* \| capital \| then \S.*, now \S", text)
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "env",
    [
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "default"},
    ],
    ids=["avx2", "no-vector-instructions"],
)
def test_the_baselines_hold_on_another_processor(gate: Gate, env: dict[str, str]) -> None:
    # Each two of model, recipe and benchmark meet; the dense model is always asked.
    chosen = [
        f"{family}/{recipe}::{('countries', 'cities', 'elements')[(i + j) % 3]}"
        for i, family in enumerate(("decoder", "encoder", "encoder-decoder"))
        for j, recipe in enumerate(("dense", "int8", "int4"))
    ]
    status, outcomes, text = gate.run(*chosen, env=env)
    assert status == 0, text
    assert set(outcomes.values()) == {"PASSED"}
    assert len(outcomes) == len(chosen)
    assert "InconclusiveWarning" not in text


def test_workers_come_to_the_same_verdicts(gate: Gate) -> None:
    chosen = ("encoder/dense", "encoder/int8", "decoder/int2")
    _, alone, _ = gate.run(*chosen)
    status, shared, text = gate.run(*chosen, options=("-n", "2", "--dist", "loadscope"))
    assert status == 0, text
    assert shared == alone
    assert len(alone) == 9


def test_recording_again_gives_the_same_scores(gate: Gate) -> None:
    path = gate.folder / "baselines/embedded/encoder/int4/cities.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    options = ("--compress-update", "--compress-reason", "once more")
    status, _, text = gate.run("encoder/int4::cities", options=options)
    after = json.loads(path.read_text(encoding="utf-8"))
    assert status == 0, text
    (hardware,) = before["hardware"]
    then, now = before["hardware"][hardware], after["hardware"][after["fallback"]]
    for key in ("scores", "fingerprint", "footprint"):
        assert now[key] == then[key]
    assert now["cost"]["tokens"] == then["cost"]["tokens"]
    assert now["accepted"]["reason"] == "once more"
    assert now["accepted"]["history"][-1]["date"] == then["accepted"]["date"]
