"""``--compress-plan``: what a run could tell and would cost, without running anything."""

import re

import pytest
from lapses import write
from project import Project

from pytest_compression.gate.power import PairedTest

NOTHING: list[int] = []


@pytest.fixture
def planned(project: Project) -> Project:
    """A large benchmark and a small one, and two recipes that were accepted."""
    write(project, {"int8": range(780, 800), "int4": NOTHING}, asked=[range(800), range(40)])
    project.accept()
    return project


def table(result: pytest.RunResult) -> dict[str, list[str]]:
    """The cells of each trial's row."""
    rows = [re.split(r" {2,}", line.strip()) for line in result.outlines]
    return {row[0]: row[1:] for row in rows if re.match(r"tiny/\S+::\S+$", row[0])}


def test_a_plan_runs_nothing_changes_nothing_and_exits_with_0(planned: Project) -> None:
    before = planned.files()
    planned.edit("facts: []", "facts: [1, 2, 3, 4, 5, 6, 7, 8, 9]")
    result = planned.run("--compress-plan")
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {}
    assert planned.events() == []
    planned.edit("facts: [1, 2, 3, 4, 5, 6, 7, 8, 9]", "facts: []")
    assert planned.files() == before
    assert "compression: knowledge retention" not in result.stdout.str()


def test_a_plan_has_the_figures_of_every_trial(planned: Project) -> None:
    rows = table(planned.run("--compress-plan"))
    assert list(rows) == [
        f"tiny/{recipe}::{benchmark}"
        for recipe in ("dense", "int8", "int4")
        for benchmark in ("b0", "b1")
    ]
    seconds = r"\d\.\d s"
    assert rows["tiny/dense::b0"][:6] == ["800", "questions", "1.000", "0.95", "-", "-"]
    assert rows["tiny/int8::b0"][:4] == ["800", "questions", "0.967", "0.95"]
    for name, row in rows.items():
        assert row[6] == "-"
        assert row[7] == ("2,400" if name.endswith("b0") else "120")
        assert re.fullmatch(f"{seconds}|-", row[8])
    least = float(rows["tiny/int4::b0"][4].rstrip(" !").rstrip("%")) / 100
    # Four trials are tested, with half of alpha: the other half is their pool's.
    test = PairedTest(alpha=0.05 / 2 / 4, margin=0.01)
    assert test.power(800, flips=least + 0.00005, loss=least + 0.00005) >= 0.8
    assert test.power(800, flips=least - 0.0001, loss=least - 0.0001) < 0.8
    # Down to the floor, 800 * 0.75 * 0.05 facts are lost.
    assert rows["tiny/int4::b0"][5] == f"{test.power(800, flips=0.0375, loss=0.0375):.0%}"


def test_trials_that_see_too_little_are_marked_and_counted(planned: Project) -> None:
    result = planned.run("--compress-plan")
    assert {name for name, row in table(result).items() if row[4].endswith(" !")} == {
        "tiny/int8::b1",
        "tiny/int4::b1",
    }
    marked = "2 trials, marked !, would only see losses beyond twice their margin"
    assert any(line.startswith(marked) for line in result.outlines)


def test_a_plan_ends_with_what_the_whole_run_costs(planned: Project) -> None:
    result = planned.run("--compress-plan")
    result.stdout.fnmatch_lines(
        ["6 trials with 2,520 questions: 7,560 forward tokens, about *.* s as it was when they *"]
    )
    chosen = planned.run("--compress-plan", "-k", "b1")
    assert list(table(chosen)) == ["tiny/dense::b1", "tiny/int8::b1", "tiny/int4::b1"]
    chosen.stdout.fnmatch_lines(["3 trials with 120 questions: 360 forward tokens, *"])


def test_the_plan_of_a_shard_is_of_its_trials(planned: Project) -> None:
    result = planned.run("--compress-plan", "--compress-shard", "1/3")
    assert list(table(result)) == ["tiny/dense::b0", "tiny/dense::b1"]


def test_controls_are_planned_but_not_tested(project: Project) -> None:
    overrides = "{recipe: control, expect: fail, reason: it forgets most}"
    write(project, {"control": range(200, 400), "int4": NOTHING}, overrides=overrides)
    project.accept()
    rows = table(project.run("--compress-plan"))
    assert rows["tiny/control::b0"][:6] == ["400", "questions", "0.333", "0.95", "-", "-"]
    assert rows["tiny/int4::b0"][4] != "-"


def test_missing_unreadable_and_stale_baselines_are_said(planned: Project) -> None:
    (planned.path / planned.baseline("int8", "b0")).unlink()
    (planned.path / planned.baseline("int8", "b1")).write_text("{", encoding="utf-8")
    path = planned.path / planned.baseline("int4", "b1")
    weights = '"weights": "'
    path.write_text(path.read_text().replace(weights, f"{weights}other "), encoding="utf-8")
    result = planned.run("--compress-plan")
    assert result.ret == pytest.ExitCode.OK
    rows = table(result)
    assert rows["tiny/int8::b0"] == ["no baseline"]
    assert rows["tiny/int8::b1"] == ["unreadable baseline"]
    assert rows["tiny/int4::b1"] == ["stale baseline"]
    assert "3 trials have no usable baseline: nothing is known." in result.outlines


def test_without_any_baseline_a_plan_says_so(project: Project) -> None:
    result = project.run("--compress-plan")
    assert result.ret == pytest.ExitCode.OK
    assert "6 trials have no usable baseline: nothing is known." in result.outlines
    assert project.events() == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-n", "2"], "--compress-plan runs nothing that could be shared out: drop -n"),
        (
            ["--compress-calibrate"],
            "--compress-calibrate and --compress-plan exclude each other: run one after the other",
        ),
        (
            ["--compress-update"],
            "--compress-update and --compress-plan exclude each other: run one after the other",
        ),
        (
            ["--compress-update-new"],
            "--compress-update-new and --compress-plan exclude each other: run one after the other",
        ),
        (
            ["--compress-update-hardware"],
            (
                "--compress-update-hardware and --compress-plan exclude each other: run one after "
                "the other"
            ),
        ),
        (
            ["--compress-early-stop"],
            "--compress-plan and --compress-early-stop exclude each other: run one after the other",
        ),
        (
            ["--compress-reason", "why"],
            "--compress-reason is kept with a baseline; add --compress-update",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_what_a_plan_has_nothing_to_do_with_is_refused(
    planned: Project, args: list[str], message: str
) -> None:
    before = planned.files()
    result = planned.run("--compress-plan", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {message}" in result.errlines
    assert planned.files() == before
    assert planned.events() == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--compress-update", "--compress-update-new"],
            (
                "--compress-update and --compress-update-new exclude each other: run one after the "
                "other"
            ),
        ),
        (
            ["--compress-update", "--compress-calibrate"],
            (
                "--compress-update and --compress-calibrate exclude each other: run one after the "
                "other"
            ),
        ),
        (
            ["--compress-update", "--compress-early-stop"],
            "--compress-update needs whole measurements: drop --compress-early-stop",
        ),
        (
            ["--compress-calibrate", "--compress-early-stop"],
            "--compress-calibrate needs whole measurements: drop --compress-early-stop",
        ),
    ],
    ids=" ".join,
)
def test_a_run_has_one_purpose(planned: Project, args: list[str], message: str) -> None:
    result = planned.run(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {message}" in result.errlines
    assert planned.events() == []


@pytest.mark.parametrize(
    "option",
    [
        *("--compress-plan", "--compress-calibrate", "--compress-early-stop"),
        *("--compress-update", "--compress-shard=1/2", "--compress-report=x.json"),
    ],
)
def test_options_need_suites(project: Project, option: str) -> None:
    result = project.plain(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: the --compress-* options need --compress-suite" in result.errlines
