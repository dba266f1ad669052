"""A table of recipes: what each is, where it comes from, and what it was accepted with.

It is made of suite files and their baselines alone, so that it can be checked at any time.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_compression import registry, suite
from pytest_compression.errors import BaselineError
from pytest_compression.gate.retention import retention
from pytest_compression.store import baselines
from pytest_compression.store.baselines import Baseline
from pytest_compression.store.unused import trial_of
from pytest_compression.types import Part, Suite

BEGIN, END = "<!-- recipes: begin -->", "<!-- recipes: end -->"
SOURCE = re.compile(r"^Source: (.+?)(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
NONE = "-"


def table(paths: Sequence[Path], folder: Path) -> list[str]:
    """Rows of Markdown, one a recipe: its steps, their sources, and each model's figures.

    Args:
        paths: suite files, of the same models.
        folder: of the baselines.

    Raises:
        SuiteError: a suite is refused.
        BaselineError: a trial has no baseline.
    """
    suites = [(path, suite.load(path)) for path in paths]
    models = list(dict.fromkeys(name for _, found in suites for name in found.models))
    heads = ["recipe", "steps", "source", *models]
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for path, found in suites:
        for recipe in found.recipes.values():
            if recipe.steps:
                figures = [figure(path, found, model, recipe.name, folder) for model in models]
                cells = [f"`{recipe.name}`", written(recipe.steps), source(recipe.steps), *figures]
                rows.append(f"| {' | '.join(cells)} |")
    return rows


def written(steps: Sequence[Part]) -> str:
    """Steps as a suite has them."""
    return ", then ".join(f"`{step.use}`{options(step.options)}" for step in steps)


def options(given: Mapping[str, Any]) -> str:
    """Options in one line, as a cell of a table may hold them."""
    if not given:
        return ""
    line = ", ".join(f"{name}: {plain(value)}" for name, value in given.items())
    return " `" + line.replace("|", r"\|") + "`"


def plain(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {plain(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return f'"{value}"' if isinstance(value, str) and ":" in value else str(value)


def source(steps: Sequence[Part]) -> str:
    """What the steps' classes say of where they come from."""
    said = []
    for step in steps:
        found = SOURCE.search(inspect.getdoc(registry.resolve("modifiers", step.use)) or "")
        if found:
            said.append(" ".join(found[1].split()).rstrip("."))
    return "; ".join(dict.fromkeys(said)) or NONE


def figure(path: Path, found: Suite, model: str, recipe: str, folder: Path) -> str:
    """Retention and bytes of a model after a recipe; if the suite has no such model, nothing."""
    specs = [spec for spec in found.trials if (spec.model, spec.recipe) == (model, recipe)]
    if not specs:
        return NONE
    kept = []
    steps = [{"use": step.use, **step.options} for step in found.recipes[recipe].steps]
    for spec in specs:
        dense, now = (
            record(path, folder / path.stem / model / name / f"{spec.benchmark}.json")
            for name in (suite.DENSE, recipe)
        )
        if now.recipe != steps or now.fingerprint != dense.fingerprint:
            message = (
                f"{path}: what was accepted of {model}/{recipe}::{spec.benchmark} is of another "
                "recipe, or of other questions than the dense model's: record it again."
            )
            raise BaselineError(message)
        kept.append(retained(dense, now))
    after = now.footprint
    share = f"{after.bytes / after.dense_bytes:.2f}x"
    return f"{' '.join(f'{value:.3f}' for value in kept)}, {share}"


def retained(dense: Baseline, now: Baseline) -> float:
    """Knowledge retention of one record against another's."""
    then, here = baselines.restored(dense), baselines.restored(now)
    return retention(then.scores, here.scores, then.chance, then.clusters).value


def record(path: Path, stored: Path) -> Baseline:
    """The record that a file falls back to."""
    try:
        found = baselines.read(stored, trial_of(stored) or "")
    except OSError as error:
        message = f"{stored} cannot be read ({error.strerror}): record the trials of {path} first."
        raise BaselineError(message) from error
    return found.hardware[found.fallback]


def placed(text: str, rows: Sequence[str], path: Path) -> str:
    """A text with the rows between its two marks.

    Raises:
        BaselineError: it has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        message = f"{path} has no '{BEGIN}' and '{END}' around a place for the table."
        raise BaselineError(message)
    return before + "\n".join([begin, *rows, end]) + after


def lines(paths: Sequence[Path], folder: Path, into: Path | None) -> Iterator[str]:
    """The table, or what became of the file that it was written into."""
    rows = table(paths, folder)
    if into is None:
        yield from rows
        return
    text = into.read_text(encoding="utf-8")
    made = placed(text, rows, into)
    into.write_text(made, encoding="utf-8")
    yield f"{into}: {'as it was' if made == text else 'written'}"
