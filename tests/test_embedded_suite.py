"""The gate at work on the shipped suite, its models and its baselines, in processes of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = "suites/embedded.yaml"
TRIAL = re.compile(r"(PASSED|FAILED|ERROR|XFAIL|XPASS) (\S+)")


class Gate:
    """A copy of the shipped suite and baselines, to be edited and run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "suites", folder / "suites")
        shutil.copytree(ROOT / "baselines", folder / "baselines")
        (folder / "pytest.toml").write_text("[pytest]\n", encoding="utf-8")

    def run(
        self, *trials: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], str]:
        """Exit status, outcome by trial, and all that was printed."""
        command = [sys.executable, "-m", "pytest", "--compress-suite", "-rA", *options]
        done = subprocess.run(  # noqa: S603  # our own interpreter on our own files
            [*command, *(f"{SUITE}::{trial}" for trial in trials)],
            cwd=self.folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        text = done.stdout + done.stderr
        outcomes = {found[2].partition("::")[2]: found[1] for found in TRIAL.finditer(done.stdout)}
        return done.returncode, outcomes, text

    def edit(self, old: str, new: str) -> None:
        """Change the suite."""
        path = self.folder / SUITE
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


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
    ("key", "value", "said"),
    [
        ("floor", 0.5, "it was accepted with the floor 0.5, and the suite now says 0.95"),
        ("questions", "0" * 32, "the questions are not those of the baseline"),
        ("weights", "0" * 32, "the dense weights are not those of the baseline"),
    ],
)
def test_an_edited_baseline_is_an_error_that_says_which(
    gate: Gate, key: str, value: object, said: str
) -> None:
    path = gate.folder / "baselines/embedded/decoder/int8/elements.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    (stored if key == "floor" else stored["fingerprint"])[key] = value
    path.write_text(json.dumps(stored), encoding="utf-8")
    status, outcomes, text = gate.run("decoder/int8")
    assert status == 1
    assert outcomes["decoder/int8::elements"] == "ERROR"
    assert outcomes["decoder/int8::cities"] == "PASSED"
    assert said in text


@pytest.mark.parametrize(
    "env",
    [
        {"OMP_NUM_THREADS": "1"},
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "default"},
    ],
    ids=["one-thread", "avx2", "no-vector-instructions"],
)
def test_the_baselines_hold_on_another_processor(gate: Gate, env: dict[str, str]) -> None:
    families = ("decoder", "encoder", "encoder-decoder")
    chosen = [f"{family}/{recipe}" for family in families for recipe in ("dense", "int8", "int4")]
    status, outcomes, text = gate.run(*chosen, env=env)
    assert status == 0, text
    assert set(outcomes.values()) == {"PASSED"}
    assert len(outcomes) == 3 * len(chosen)


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
    assert after["scores"] == before["scores"]
    assert after["fingerprint"] == before["fingerprint"]
    assert after["footprint"] == before["footprint"]
    assert after["accepted"]["reason"] == "once more"
    assert after["accepted"]["previous"]["date"] == before["accepted"]["date"]
