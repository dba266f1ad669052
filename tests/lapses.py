"""A recipe that forgets single facts, besides those of ``fakes``; and suites of such recipes."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compression.types import Claim

if TYPE_CHECKING:
    from fakes import Model
    from project import Project


@dataclass(frozen=True, kw_only=True)
class Lapse:
    """Forget single facts."""

    facts: tuple[int, ...] = ()
    dies: bool = False
    """Whether it ends its process, if that is a worker."""

    def apply(self, model: "Model") -> Claim:
        if self.dies and "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(1)
        model.lost |= frozenset(self.facts)
        model.bits = 8
        return Claim(targets=["a"])


def write(
    project: "Project",
    recipes: Mapping[str, Iterable[int]],
    *,
    asked: Iterable[range] = (range(400),),
    gate: str = "",
    overrides: str = "",
) -> None:
    """Write the suite x.yaml.

    Args:
        project: whose suite it is.
        recipes: the facts that each forgets.
        asked: facts, of each benchmark; they are called b0, b1 and so on.
        gate: keys of the gate, such as ``margin: 0.02``.
        overrides: a list of them.
    """
    lines = ["version: 1", "models:", '  tiny: {use: "fakes:Memory"}', "recipes:"]
    for name, facts in recipes.items():
        lines.append(f'  {name}: {{use: "lapses:Lapse", facts: {list(facts)}}}')
    lines.append("benchmarks:")
    for number, facts in enumerate(asked):
        lines.append(f'  b{number}: {{use: "fakes:Facts", start: {facts[0]}, n: {len(facts)}}}')
    lines += [f"gate: {{{gate}}}", f"overrides: [{overrides}]", ""]
    project.suite.write_text("\n".join(lines), encoding="utf-8")
    copy = project.path / "lapses.py"
    if not copy.exists():
        copy.write_bytes(Path(__file__).read_bytes())
