"""``--compress-report``: every figure of a run as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from lapses import write
from project import Project

INT8 = "suites/x.yaml::tiny/int8::b0"


@pytest.fixture
def worse(project: Project) -> Project:
    """A recipe that regressed and one that did not."""
    write(project, {"int8": [], "int4": []})
    project.accept()
    write(project, {"int8": range(390, 400), "int4": []})
    return project


def report(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def test_a_report_has_every_trial_with_its_outcome_in_suite_order(worse: Project) -> None:
    result = worse.run("--compress-report", "out/run.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    path = worse.path / "out" / "run.json"
    assert f"Written: {path}" in result.outlines
    assert path.read_bytes().endswith(b"}\n")
    found = report(path)
    assert (found["schema"], found["shard"]) == (1, None)
    rows = {row["recipe"]: row for row in found["trials"]}
    assert list(rows) == ["dense", "int8", "int4"]
    assert {name: (row["outcome"], row["verdict"]) for name, row in rows.items()} == {
        "dense": ("passed", "kept"),
        "int8": ("failed", "regressed"),
        "int4": ("passed", "kept"),
    }
    assert rows["int8"] == rows["int8"] | {
        "compression_trial": INT8,
        "questions": 400,
        "dense": 1.0,
        "compressed": 0.975,
        "retention": 290 / 300,
        "accepted_loss": 0.025,
        "p_loss": 2**-10,
        "bytes": 8000,
    }


def test_a_report_has_the_evidence_that_merging_needs(worse: Project) -> None:
    worse.run("--compress-report", "run.json")
    evidence = {one["trial"]: one for one in report(worse.path / "run.json")["evidence"]}
    assert {INT8, "suites/x.yaml::tiny/dense::b0"} < evidence.keys()
    assert evidence["suites/x.yaml::tiny/dense::b0"]["test"] is None
    test = evidence[INT8]["test"]
    assert test["suspected"]
    assert test["differences"] == [
        ["even" if i % 2 == 0 else "odd", f"number:{i}", 1.0] for i in range(390, 400)
    ]
    assert test["headline"].startswith(f"{INT8}: a regression: 2.50% of the answers were lost")


def test_a_report_tells_what_a_shard_was(worse: Project) -> None:
    worse.run("--compress-report", "run.json", "--compress-shard", "2/3")
    found = report(worse.path / "run.json")
    assert found["shard"] == [2, 3]
    assert [row["recipe"] for row in found["trials"]] == ["int8"]
    assert [one["tests_in_all"] for one in found["evidence"]] == [2]


def test_trials_that_err_are_in_the_report(worse: Project) -> None:
    (worse.path / worse.baseline("int4", "b0")).unlink()
    worse.run("--compress-report", "run.json")
    found = report(worse.path / "run.json")
    assert [row["outcome"] for row in found["trials"]] == ["passed", "failed", "error"]
    assert len([one for one in found["evidence"] if one["trial"].count("::") == 2]) == 2


def test_a_red_pooled_test_is_in_the_report(project: Project) -> None:
    hundreds = [range(start, start + 100) for start in range(0, 800, 100)]
    write(project, {"int8": []}, asked=hundreds)
    project.accept()
    write(project, {"int8": [hundred[7] for hundred in hundreds]}, asked=hundreds)
    result = project.run("--compress-report", "run.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = (project.path / "run.json").read_text(encoding="utf-8")
    assert "regressed" in found


def test_a_path_is_relative_to_where_pytest_was_started(
    worse: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (worse.path / "below").mkdir()
    monkeypatch.chdir(worse.path / "below")
    worse.run("--rootdir", str(worse.path), "--compress-report", "run.json")
    assert (worse.path / "below" / "run.json").exists()


def test_workers_write_one_report_that_says_the_same(worse: Project) -> None:
    worse.run("--compress-report", "alone.json")
    worse.pytester.runpytest_subprocess(
        "--compress-suite", "-n", "2", "--compress-report", "shared.json"
    )
    alone, shared = (report(worse.path / f"{name}.json") for name in ("alone", "shared"))
    assert shared["trials"] == alone["trials"]
    alone, shared = (sorted(found["evidence"], key=str) for found in (alone, shared))  # type: ignore[assignment]
    assert shared == alone


def test_a_report_needs_suites(project: Project) -> None:
    result = project.plain("--compress-report", "run.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the --compress-* options need --compress-suite"])
    assert not (project.path / "run.json").exists()
