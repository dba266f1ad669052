"""``--compress-remove-unused``: what nothing uses is named after whole runs, gone if asked."""

import pytest
from project import Project


@pytest.fixture
def stale(project: Project) -> Project:
    """A project whose recipe ``half`` was renamed, and whose suite y.yaml is gone."""
    (project.path / "suites" / "y.yaml").write_bytes(project.suite.read_bytes())
    project.accept()
    (project.path / "suites" / "y.yaml").unlink()
    project.suite.write_text(project.suite.read_text().replace("half", "quarter"))
    project.run("--compress-update-new", "-q")
    return project


def unused() -> list[str]:
    gone = [f"baselines/x/tiny/half/{name}.json" for name in ("high", "low")]
    return gone + [
        f"baselines/y/tiny/{recipe}/{name}.json"
        for recipe in ("dense", "half", "int8")
        for name in ("high", "low")
    ]


def named(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("baselines/")]


def test_a_whole_run_names_them_and_keeps_them(stale: Project) -> None:
    before = stale.files()
    result = stale.run()
    assert result.ret == pytest.ExitCode.OK
    assert named(result) == unused()
    result.stdout.fnmatch_lines(
        ["*compression: unused baselines*", "No trial uses them. --compress-remove-unused *"]
    )
    assert stale.files() == before


def test_a_red_run_is_whole_as_well(stale: Project) -> None:
    stale.edit("above: 1000", "above: 10")
    assert named(stale.run()) == unused()


@pytest.mark.parametrize(
    "args",
    [
        ["-k", "tiny"],
        ["-m", "compression"],
        ["suites/x.yaml"],
        ["suites"],
        ["--deselect", "suites/x.yaml::tiny/int8::low"],
        ["--lf"],
        ["--collect-only"],
    ],
    ids=lambda args: args[0],
)
def test_a_part_of_a_run_names_and_removes_nothing(stale: Project, args: list[str]) -> None:
    before = stale.files()
    assert named(stale.run(*args)) == []
    stale.run("--compress-remove-unused", *args)
    assert stale.files() == before


def test_a_part_of_a_run_says_that_it_removed_nothing(stale: Project) -> None:
    stale.run("--compress-remove-unused", "-k", "tiny").stdout.fnmatch_lines(
        ["Nothing was removed: only a whole run of all suites can tell what is unused."]
    )


def test_they_are_removed_when_asked_with_what_it_leaves_empty(stale: Project) -> None:
    (stale.path / "baselines/x/tiny/half/README.md").write_text("kept", encoding="utf-8")
    (stale.path / "baselines/other.json").write_text('{"not": "ours"}', encoding="utf-8")
    kept = stale.files().keys() - set(unused())
    result = stale.run("--compress-remove-unused")
    assert named(result) == unused()
    result.stdout.fnmatch_lines(["8 removed."])
    assert stale.files().keys() == kept
    assert not (stale.path / "baselines/y").exists()
    clean = stale.run("--compress-remove-unused")
    assert named(clean) == []
    assert "unused" not in clean.stdout.str()


def test_baselines_of_a_suite_that_stands_elsewhere_are_used_by_other_runs(
    project: Project,
) -> None:
    (project.path / "nightly.yaml").write_bytes(project.suite.read_bytes())
    project.accept("nightly.yaml")
    project.accept()
    assert named(project.run()) == []
    (project.path / "nightly.yaml").unlink()
    assert len(named(project.run())) == 6


def test_a_run_that_collection_stopped_removes_nothing(stale: Project) -> None:
    before = stale.files()
    stale.edit("version: 1", "version: 2")
    stale.run("--compress-remove-unused")
    assert stale.files().keys() == before.keys()
