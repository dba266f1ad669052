"""``--compress-baselines`` and ini ``compress_baselines``: where accepted measurements are."""

import pytest
from project import Project


def test_the_option_is_relative_to_where_pytest_was_started(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = project.path / "suites"
    monkeypatch.chdir(inside)
    project.run("--compress-baselines", "../there", "--compress-update", "-k", "low")
    there = project.path / "there" / "x" / "tiny"
    assert sorted(p.name for p in there.iterdir()) == ["dense", "half", "int8"]
    assert project.baselines() == {}
    project.run("--compress-baselines", str(project.path / "there"), "-k", "low").assert_outcomes(
        passed=2, xfailed=1, deselected=4
    )
    project.run("-k", "low").assert_outcomes(errors=3, deselected=4)


def test_the_ini_key_is_relative_to_the_root_directory(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.edit("strict", 'compress_baselines = "kept/here"\nstrict', "pytest.toml")
    monkeypatch.chdir(project.path / "suites")
    result = project.run("--compress-update")
    result.assert_outcomes(passed=4, xfailed=2, skipped=1)
    result.stdout.fnmatch_lines(["compression: suites suites; baselines kept/here"])
    assert (project.path / "kept/here/x/tiny/half/high.json").is_file()
    assert not (project.path / "suites" / "kept").exists()
