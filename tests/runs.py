"""What a run said, and what it left."""

import json
from typing import Any

import pytest
from project import Project

HERE = "fake P1"
"""The hardware that the fake model names if it is not told otherwise."""


def said(result: pytest.RunResult) -> str:
    """Everything on one line, however it was broken."""
    return " ".join(result.stdout.str().split())


def stored(project: Project, recipe: str, benchmark: str = "low") -> Any:
    """A baseline file."""
    return json.loads(project.baselines()[project.baseline(recipe, benchmark)])


def recorded(
    project: Project, recipe: str, benchmark: str = "low", hardware: str = HERE
) -> dict[str, Any]:
    """One record of a baseline file."""
    record: dict[str, Any] = stored(project, recipe, benchmark)["hardware"][hardware]
    return record


def figures(project: Project, *args: str) -> dict[str, dict[str, Any]]:
    """Run, and give the figures of each trial by recipe and benchmark, as ``int8::low``."""
    project.run("--compress-report=report.json", *args)
    report = json.loads((project.path / "report.json").read_bytes())
    return {row["compression_trial"].partition("::tiny/")[2]: row for row in report["trials"]}
