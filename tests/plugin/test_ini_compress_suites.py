"""Ini ``compress_suites``: the files and directories that a bare run collects."""

import pytest
from project import Project


def test_several_files_and_directories_in_their_order(project: Project) -> None:
    folder = project.path / "gates" / "deep"
    folder.mkdir(parents=True)
    (folder / "z.yml").write_bytes(project.suite.read_bytes())
    (project.path / "y.yaml").write_bytes(project.suite.read_bytes())
    (project.path / "gates" / "notes.txt").write_text("no suite", encoding="utf-8")
    project.edit("strict", 'compress_suites = ["y.yaml", "gates"]\nstrict', "pytest.toml")
    result = project.run("--compress-update", "-v")
    result.stdout.fnmatch_lines(["compression: suites y.yaml, gates; baselines baselines"])
    result.assert_outcomes(passed=8, xfailed=4, skipped=2)
    assert sorted({"/".join(name.split("/")[:-3]) for name in project.baselines()}) == [
        "baselines/deep/z",
        "baselines/y",
    ]


def test_a_place_that_does_not_exist_is_refused_unless_a_suite_is_named(project: Project) -> None:
    project.suite.rename(project.path / "y.yaml")
    project.suite.parent.rmdir()
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            (
                f"ERROR: no suites: '{project.path}/suites' (ini compress_suites) does not exist; "
                "write a suite file there, or name one on the command line"
            )
        ]
    )
    project.run("--compress-update", "y.yaml").assert_outcomes(passed=4, xfailed=2, skipped=1)


def test_a_directory_without_suites_collects_nothing(project: Project) -> None:
    project.suite.unlink()
    assert project.run().ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_linked_directory_is_the_same_suite_named_or_not(project: Project) -> None:
    elsewhere = project.path / "elsewhere"
    project.suite.parent.rename(elsewhere)
    project.suite.parent.symlink_to(elsewhere)
    project.accept("suites/x.yaml")
    assert project.baseline("int8") in project.baselines()
    project.run().assert_outcomes(passed=5, xfailed=2)
