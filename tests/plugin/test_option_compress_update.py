"""``--compress-update`` records everything that runs, and nothing else."""

import json
import shlex
from typing import Any

import pytest
from project import Project


def test_nothing_is_written_without_a_flag(project: Project) -> None:
    before = project.files()
    project.run().assert_outcomes(errors=6, skipped=1)
    assert project.files() == before


def test_an_error_names_the_command_that_records_what_is_missing(project: Project) -> None:
    result = project.run("-k", "int8 and low")
    (line,) = [line for line in result.outlines if line.startswith("no baseline")]
    assert line == (
        "no baseline of suites/x.yaml::tiny/dense::low (%s). Look at its figures, then record it: "
        "pytest --compress-suite 'suites/x.yaml::tiny/dense::low' "
        "'suites/x.yaml::tiny/int8::low' --compress-update-new"
    ) % (project.path / project.baseline("dense"))
    pytest_, *command = shlex.split(line.partition("record it: ")[2])
    assert pytest_ == "pytest"
    project.plain(*command).assert_outcomes(passed=2)
    assert list(project.baselines()) == [project.baseline("dense"), project.baseline("int8")]
    project.run("-k", "int8 and low").assert_outcomes(passed=1, deselected=6)
    result = project.run("-k", "half and low")
    (line,) = [line for line in result.outlines if line.startswith("no baseline")]
    *_, trial, flag = shlex.split(line)
    assert (trial, flag) == ("suites/x.yaml::tiny/half::low", "--compress-update-new")


def test_what_ran_is_recorded_and_nothing_else_is_touched(project: Project) -> None:
    project.accept()
    stranger = project.path / project.baseline("gone")
    stranger.parent.mkdir()
    stranger.write_bytes((project.path / project.baseline("int8")).read_bytes())
    before = project.files()
    project.edit("tiny: {", 'tiny: {library: "2.0", ')
    project.run("--compress-update", "-k", "int8 and low").assert_outcomes(passed=1, deselected=6)
    after = project.files()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"suites/x.yaml", project.baseline("int8")}
    assert before.keys() == after.keys()


def test_recording_again_changes_nothing_but_the_acceptance_record(project: Project) -> None:
    project.accept()
    first = record(project.baselines()[project.baseline("int8")])
    project.accept()
    again = record(project.baselines()[project.baseline("int8")])
    seconds = first.pop("cost")["seconds"], again.pop("cost")["seconds"]
    assert max(seconds) < 0.1  # of the clock, which may differ
    assert first.pop("accepted")["history"] == []
    accepted = again.pop("accepted")
    assert first == again
    assert accepted["history"] == [
        {
            "date": accepted["date"],
            "reason": "",
            "score": 1.0,
            "questions": 40,
            "floor": 0.95,
            "recipe": [{"use": "fakes:Forget", "above": 1000}],
        }
    ]


def record(data: bytes) -> dict[str, Any]:
    """The only record of a baseline file."""
    file = json.loads(data)
    (found,) = file["hardware"].values()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("old", "new", "erring"),
    [
        pytest.param("above: 1000", "idle: true", ["int8"], id="recipe"),
        pytest.param("low: {", "low: {unusable: true, ", ["dense", "int8"], id="benchmark"),
        pytest.param("tiny: {", "tiny: {absent: true, ", ["dense", "int8"], id="model"),
        pytest.param("tiny: {", "tiny: {crashes: true, ", ["dense", "int8"], id="exception"),
        pytest.param("tiny: {", "tiny: {knows: 12, ", ["dense", "int8"], id="guessing"),
    ],
)
def test_what_errs_is_not_recorded(project: Project, old: str, new: str, erring: list[str]) -> None:
    project.accept()
    before = project.baselines()
    project.edit(old, new)
    result = project.run("--compress-update", "-k", "(dense or int8) and low")
    assert result.parseoutcomes()["errors"] == len(erring)
    after = project.baselines()
    for recipe in erring:
        assert after[project.baseline(recipe)] == before[project.baseline(recipe)]


def test_a_trial_is_not_recorded_while_its_dense_reference_is_missing_or_stale(
    project: Project,
) -> None:
    for flag in ("--compress-update", "--compress-update-new"):
        project.run(flag, "-k", "int8 and low").assert_outcomes(errors=1, deselected=6)
        assert project.baselines() == {}
    project.accept("-k", "dense")
    before = project.baselines()
    project.edit("tiny: {", "tiny: {weights: w2, ")
    project.run("--compress-update", "-k", "int8 and low").assert_outcomes(errors=1, deselected=6)
    assert project.baselines() == before


def test_no_recipe_is_recorded_beside_a_dense_result_that_was_refused(project: Project) -> None:
    project.accept()
    before = project.baselines()
    project.edit("tiny: {", "tiny: {weights: w2, knows: 30, ")
    project.run("--compress-update", "-k", "low").assert_outcomes(errors=3, deselected=4)
    assert project.baselines() == before


def test_a_baseline_of_another_trial_is_never_overwritten(project: Project) -> None:
    project.accept()
    project.suite.rename(project.path / "suites" / "x.yml")
    before = project.baselines()
    result = project.run("--compress-update")
    result.assert_outcomes(errors=6, skipped=1)
    result.stdout.fnmatch_lines(
        ["*is the baseline of suites/x.yaml::*, not of suites/x.yml::*: rename one of the two*"]
    )
    assert project.baselines() == before


def test_lost_knowledge_stays_lost_when_it_is_recorded(project: Project) -> None:
    project.edit("above: 1000", "above: 10")
    for _ in range(2):
        result = project.run("--compress-update")
        result.assert_outcomes(passed=2, failed=2, xfailed=2, skipped=1)
    project.run().assert_outcomes(passed=2, failed=2, xfailed=2, skipped=1)


def test_recipes_are_compared_with_the_dense_model_that_is_recorded_with_them(
    project: Project,
) -> None:
    project.accept()
    project.edit("tiny: {", "tiny: {weights: w2, knows: 30, ")
    project.run("-k", "low").assert_outcomes(errors=3, deselected=4)
    worse = ("--compress-update", "--compress-reason=it knows less")
    project.run(*worse, "-k", "low").assert_outcomes(passed=2, xfailed=1, deselected=4)
    # In the other order, too: a worker may meet the recipe first.
    project.edit("knows: 30", "knows: 32")
    chosen = [f"suites/x.yaml::tiny/{recipe}::low" for recipe in ("int8", "dense")]
    project.run("--compress-update", *chosen).assert_outcomes(passed=2)
    project.run(*chosen).assert_outcomes(passed=2)


def test_two_workers_record_what_one_does(project: Project) -> None:
    project.accept()
    alone = project.baselines()
    for name in alone:
        (project.path / name).unlink()
    # Without loadscope both workers may hold trials of one variant.
    run = project.pytester.runpytest_subprocess("--compress-suite", "--compress-update", "-n2")
    run.assert_outcomes(passed=4, xfailed=2, skipped=1)
    shared = project.baselines()
    assert shared.keys() == alone.keys()  # no temporary file is left
    for name, data in alone.items():
        mine, theirs = record(data), record(shared[name])
        assert mine.pop("accepted").keys() == theirs.pop("accepted").keys()
        assert mine.pop("cost")["tokens"] == theirs.pop("cost")["tokens"]
        assert mine == theirs


@pytest.mark.parametrize(
    "second",
    [
        "--compress-update-new",
        "--compress-update-hardware",
        "--compress-calibrate",
        "--compress-plan",
        "--compress-early-stop",
    ],
)
def test_two_modes_at_once_are_refused(project: Project, second: str) -> None:
    result = project.run(second, "--compress-update")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = f"--compress-update and {second} exclude each other: run one after the other"
    if second == "--compress-early-stop":
        said = "--compress-update needs whole measurements: drop --compress-early-stop"
    result.stderr.fnmatch_lines([f"ERROR: {said}"])
    assert project.events() == []


@pytest.mark.parametrize(
    "args",
    [
        ["--compress-update"],
        ["--compress-update-new"],
        ["--compress-update-hardware"],
        ["--compress-reason=why"],
        ["--compress-plan"],
        ["--compress-calibrate"],
        ["--compress-early-stop"],
        ["--compress-shard=1/2"],
        ["--compress-report=r.json"],
        ["--compress-remove-unused"],
    ],
    ids=lambda args: args[0],
)
def test_the_options_need_compress_suite(project: Project, args: list[str]) -> None:
    result = project.plain(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the --compress-* options need --compress-suite"])
    assert project.baselines() == {}
