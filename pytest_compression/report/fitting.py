"""Tables no wider than the terminal: what tells least is left out, never trial and verdict."""

import io
from collections.abc import Callable, Collection, Sequence

from rich.console import Console
from rich.table import Table

TRIAL = 24
"""Cells that the names of trials need at least; longer ones are folded."""


def trial_table(columns: Sequence[str]) -> Table:
    """An empty table: the trial, and columns of figures."""
    built = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    built.add_column("trial", overflow="fold", min_width=TRIAL)
    for name in columns:
        built.add_column(name, justify="right", no_wrap=True)
    return built


def fitted(
    build: Callable[[Collection[str]], Table], least: Sequence[str], width: int
) -> tuple[Table, Sequence[str]]:
    """A table with as many columns as fit, and the names of those that do not.

    Args:
        build: makes it without some columns.
        least: columns that may be left out, the first one first.
        width: in cells.
    """
    for count in range(len(least) + 1):
        left_out = least[:count]
        built = build(left_out)
        if needed(built) <= width:
            break
    return built, left_out


def needed(built: Table) -> int:
    """Cells that a table needs so that no figure is cut off."""
    console = Console(width=10_000)
    trial = max(len(str(cell)) for cell in (*built.columns[0].cells, built.columns[0].header))
    return console.measure(built).maximum - max(0, trial - TRIAL)


def drawn(built: Table, width: int, *, color: bool) -> str:
    """The table as text."""
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, force_terminal=color, no_color=not color, legacy_windows=False
    )
    console.print(built)
    return buffer.getvalue()
