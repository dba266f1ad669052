"""What a suite asks may not be learned by a recipe of the same suite."""

import pytest
from project import Project
from runs import said

LEARNER = """\
from dataclasses import dataclass

from fakes import Forget


@dataclass(frozen=True, kw_only=True)
class Cram(Forget):
    text: str

    def lessons(self):
        yield self.text
"""


@pytest.fixture
def cramming(project: Project) -> Project:
    """A project with a recipe that learns from one sentence."""
    (project.path / "learner.py").write_text(LEARNER, encoding="utf-8")
    cram = '  cram: {use: "learner:Cram", text: "Everybody knows that fact 7 is right 7."}\n'
    project.edit("benchmarks:", f"{cram}benchmarks:")
    return project


def test_to_learn_what_is_asked_is_an_error_of_that_recipe_alone(cramming: Project) -> None:
    result = cramming.run("--compress-update")
    text = said(result)
    assert result.parseoutcomes()["errors"] == 2  # both trials: their recipe cannot be applied
    assert "number:007" in text
    assert "1 of 40 of 'low' questions" in text
    assert not list((cramming.path / "baselines").rglob("cram/*.json"))
    assert list((cramming.path / "baselines").rglob("int8/*.json"))


def test_to_learn_something_else_is_not(cramming: Project) -> None:
    cramming.edit("fact 7 is right 7", "fact 700 is right 700")
    outcomes = cramming.run("--compress-update").parseoutcomes()
    assert "errors" not in outcomes
