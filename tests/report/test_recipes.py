"""The table of recipes, from suites and baselines alone."""

from pathlib import Path

import pytest
from project import Project

from pytest_compression.cli import main
from pytest_compression.errors import BaselineError
from pytest_compression.report.recipes import BEGIN, END, lines, options, placed, table
from pytest_compression.types import Part

SOURCED = '''\
from dataclasses import dataclass

from fakes import Forget


@dataclass(frozen=True, kw_only=True)
class Slowly(Forget):
    """Forget, as everybody does.

    Source: Nobody 2020,
    nowhere.
    """
'''


def test_it_has_a_row_a_recipe_with_what_was_accepted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.path / "sourced.py").write_text(SOURCED, encoding="utf-8")
    monkeypatch.syspath_prepend(project.path)
    slowly = "{use: 'sourced:Slowly', above: 900}"
    project.edit("  half:", f"  slow: {{steps: [{slowly}, {{use: 'fakes:Forget'}}]}}\n  half:")
    project.accept()
    said = "Nobody 2020, nowhere | 1.000 1.000, 0.25x"
    assert table([project.suite], project.path / "baselines") == [
        "| recipe | steps | source | tiny |",
        "|---|---|---|---|",
        "| `int8` | `fakes:Forget` `above: 1000` | - | 1.000 1.000, 0.25x |",
        f"| `slow` | `sourced:Slowly` `above: 900`, then `fakes:Forget` | {said} |",
        # 20 of 40 facts are kept, which is 1/3 above guessing one of four; none of the others
        "| `half` | `fakes:Forget` `above: 20, bits: 2` | - | 0.333 -0.333, 0.06x |",
    ]


def test_what_was_not_recorded_is_named(project: Project) -> None:
    with pytest.raises(BaselineError, match=r"dense/low.json cannot be read \(No such file"):
        table([project.suite], project.path / "baselines")


def test_options_are_written_as_a_suite_has_them() -> None:
    given = {"pattern": "2:4", "on": True, "targets": ["qkv", "*.o"], "more": {"a": 1, "b": None}}
    part = Part(use="x", options=given)
    shown = '`pattern: "2:4", on: true, targets: [qkv, *.o], more: {a: 1, b: null}`'
    assert options(part.options).strip() == shown
    assert options({"ignore": "a|b"}) == r" `ignore: a\|b`"  # a bare one would end the cell


def test_the_table_is_put_between_its_marks(project: Project, tmp_path: Path) -> None:
    project.accept()
    into = tmp_path / "README.md"
    into.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    folder = project.path / "baselines"
    assert list(lines([project.suite], folder, into)) == [f"{into}: written"]
    shown = into.read_text(encoding="utf-8")
    rows = list(lines([project.suite], folder, None))
    assert shown == "\n".join(["before", BEGIN, *rows, END, "after\n"])
    assert list(lines([project.suite], folder, into)) == [f"{into}: as it was"]
    assert into.read_text(encoding="utf-8") == shown


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_file_without_marks_is_left_alone(text: str, tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="has no '<!-- recipes: begin -->' and"):
        placed(text, ["row"], tmp_path)


def test_the_command_prints_it_and_a_mistake_is_said(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.accept()
    arguments = ["table", str(project.suite), "--baselines", str(project.path / "baselines")]
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("| recipe | steps | source | tiny |\n|---|")
    assert main(["table", str(project.suite), "--baselines", "nowhere"]) == 2
    assert "pytest-compression table: nowhere/x/tiny/dense" in capsys.readouterr().err


def test_figures_of_another_recipe_are_no_figures(project: Project) -> None:
    project.accept()
    project.edit("above: 1000", "above: 999")
    with pytest.raises(BaselineError, match="tiny/int8::low is of another recipe"):
        table([project.suite], project.path / "baselines")
