"""The summary at the end of a run: one row a trial with every figure, green ones too."""

import io
from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pytest_compression import suite
from pytest_compression.errors import SuiteError
from pytest_compression.report.failure import size
from pytest_compression.report.properties import TRIAL
from pytest_compression.settings import KEY, Settings, trial_id
from pytest_compression.store.unused import remove, unused

OUTCOMES = {
    "error": ("ERROR", "bold red"),
    "failed": ("FAILED", "bold red"),
    "xfailed": ("lost, as expected", "yellow"),
    "passed": ("passed", "green"),
}
"""In the order in which one replaces another: an error in teardown outweighs a pass."""

Row = dict[str, Any]


def rows(stats: dict[str, list[Any]]) -> list[Row]:
    """The properties of each trial that was run, with its outcome, in suite order."""
    found: dict[str, Row] = {}
    for outcome in OUTCOMES:
        for report in stats.get(outcome, ()):
            row = dict(getattr(report, "user_properties", ()))
            if TRIAL in row:
                found.setdefault(row[TRIAL], {**row, "outcome": outcome})
    return sorted(found.values(), key=lambda row: (row[TRIAL].partition("::")[0], row["order"]))


def table(found: Iterable[Row]) -> Table:
    """One row a trial."""
    built = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    built.add_column("trial", overflow="fold", min_width=24)
    right = ("n", "dense", "now", "retention", "floor", "-/+", "bytes", "bits", "zeros", "error")
    for name in right:
        built.add_column(name, justify="right", no_wrap=True)
    built.add_column("verdict", no_wrap=True)
    for row in found:
        said, style = OUTCOMES[row["outcome"]]
        cells = figures(row)
        trial = Text(row[TRIAL].partition("::")[2])
        built.add_row(trial, *(cells[column] for column in right), Text(said, style=style))
    return built


def figures(row: Row) -> dict[str, str]:
    """The cells of a row; those that could not be measured are dashes."""

    def cell(form: str, *names: str) -> str:
        if any(name not in row for name in names):
            return "-"
        return form.format(*(row[name] for name in names))

    share = f" {row['bytes'] / row['dense_bytes']:.2f}x" if "bytes" in row else ""
    return {
        "n": cell("{}", "questions") + (f" of {asked(row)}" if row.get("left_out") else ""),
        "dense": cell("{:.3f}", "dense"),
        "now": cell("{:.3f}", "compressed" if "compressed" in row else "measured"),
        "retention": cell(
            "{:.3f} [{:.3f}, {:.3f}]", "retention", "retention_low", "retention_high"
        ),
        "floor": cell("{:g}", "floor"),
        "-/+": cell("-{}/+{}", "forgotten", "learned")
        + (f" ~{row['near_ties_settled']}" if row.get("near_ties_settled") else ""),
        "bytes": (size(row["bytes"]) if "bytes" in row else "-") + share,
        "bits": cell("{:.2f}", "bits") if row.get("modules_touched") else "-",
        "zeros": cell("{:.3f}", "sparsity") if row.get("modules_touched") else "-",
        "error": cell("{:.3f}", "weight_error") if row.get("modules_touched") else "-",
    }


def asked(row: Row) -> int:
    """How many questions there are, with those that the tokenizer could not be asked."""
    return int(row["questions"]) + int(row["left_out"])


def drawn(built: Table, width: int, *, color: bool) -> str:
    """The table as text."""
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, force_terminal=color, no_color=not color, legacy_windows=False
    )
    console.print(built)
    return buffer.getvalue()


def summarize(reporter: pytest.TerminalReporter, config: pytest.Config, exitstatus: int) -> None:
    """Write the table, and name the baselines that nothing uses."""
    settings = config.stash[KEY]
    found = rows(reporter.stats)
    if found:
        reporter.section("compression: knowledge retention", sep="=")
        by_suite: dict[str, list[Row]] = {}
        for row in found:
            by_suite.setdefault(row[TRIAL].partition("::")[0], []).append(row)
        for name, some in by_suite.items():
            reporter.write_line(name, bold=True)
            # Wide enough to be whole where nobody sees it as it comes, as in a CI log.
            width = reporter._tw.fullwidth  # noqa: SLF001
            width = width if reporter.isatty else max(width, 160)
            reporter.write(drawn(table(some), width, color=reporter.hasmarkup))
    report_unused(reporter, config, settings, exitstatus)


def is_whole(config: pytest.Config, exitstatus: int) -> bool:
    """Whether all trials of all suites were collected and none was deselected."""
    option = config.option
    narrowed = config.args_source is pytest.Config.ArgsSource.ARGS or any(
        (option.keyword, option.markexpr, option.deselect, getattr(option, "lf", False))
    )
    return not narrowed and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def report_unused(
    reporter: pytest.TerminalReporter, config: pytest.Config, settings: Settings, exitstatus: int
) -> None:
    """After a whole run, name the baselines without a trial, and remove them if asked to."""
    if not is_whole(config, exitstatus):
        if settings.remove_unused:
            reporter.write_line(
                "Nothing was removed: only a whole run of all suites can tell what is unused.",
                yellow=True,
            )
        return
    try:
        trials = {
            settings.baseline(file, spec): trial_id(settings.suite_id(file), spec)
            for file in settings.files()
            for spec in suite.load(file).trials
        }
    except SuiteError:
        return  # told at collection, and then the run was not whole
    found = unused(settings.baselines, trials, settings.root)
    if not found:
        return
    reporter.section("compression: unused baselines", sep="=")
    for path in found:
        reporter.write_line(settings.suite_id(path))
    if settings.remove_unused:
        remove(found, settings.baselines)
        reporter.write_line(f"{len(found)} removed.")
    else:
        reporter.write_line("No trial uses them. --compress-remove-unused removes them.")
