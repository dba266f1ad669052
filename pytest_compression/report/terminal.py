"""The summary at the end of a run: one row a trial with every figure, green ones too."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from math import isfinite
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from pytest_compression import suite
from pytest_compression.conclusion import FAMILY, TESTS_IN_ALL
from pytest_compression.errors import SuiteError
from pytest_compression.report import plan, results
from pytest_compression.report.failure import size
from pytest_compression.report.fitting import drawn, fitted, trial_table
from pytest_compression.report.properties import CONTRACT, TRIAL, Row
from pytest_compression.report.remarks import (
    in_all,
    kept,
    left_out,
    remark_of_contracts,
    remarks,
)
from pytest_compression.settings import KEY, PLANNED, Settings, trial_id
from pytest_compression.store.unused import remove, unused

OUTCOMES = ("error", "failed", "xfailed", "passed")
"""In the order in which one replaces another: an error in teardown outweighs a pass."""

FOOTPRINT = ("bytes", "bits", "zeros", "error")
COLUMNS = ("n", "dense", "now", "retention", "floor", "-/+", "p", *FOOTPRINT)
LEAST = ("error", "zeros", "bits", "p", "dense", "floor", "n", "bytes", "now", "-/+")
"""Columns that are left out where a terminal is narrow, the first one first."""


def rows(stats: dict[str, list[Any]]) -> list[Row]:
    """The properties of each trial that was run, with its outcome, in suite order."""
    found: dict[str, Row] = {}
    for outcome in OUTCOMES:
        for report in stats.get(outcome, ()):
            row = dict(getattr(report, "user_properties", ()))
            if TRIAL in row:
                found.setdefault(row[TRIAL], {**row, "outcome": outcome})
    return sorted(found.values(), key=lambda row: (row[TRIAL].partition("::")[0], row["order"]))


def contracts(stats: dict[str, list[Any]]) -> dict[str, str]:
    """What became of each check of a recipe, by node id."""
    found: dict[str, str] = {}
    for outcome in OUTCOMES:
        for report in stats.get(outcome, ()):
            row = dict(getattr(report, "user_properties", ()))
            if CONTRACT in row:
                found.setdefault(row[CONTRACT], outcome)
    return dict(sorted(found.items()))


def table(found: Iterable[Row], without: Collection[str] = ()) -> Table:
    """One row a trial."""
    right = [name for name in COLUMNS if name not in without]
    built = trial_table(right)
    built.add_column("verdict", no_wrap=True)
    for row in found:
        said, style = verdict(row)
        cells = figures(row)
        trial = Text(row[TRIAL].partition("::")[2])
        built.add_row(trial, *(cells[column] for column in right), Text(said, style=style))
    return built


def verdict(row: Row) -> tuple[str, str]:
    """What became of a trial, and how it is shown."""
    outcome, said = row["outcome"], row.get("verdict")
    if outcome == "error":
        return "ERROR", "bold red"
    if outcome == "xfailed":
        return "lost, as expected", "yellow"
    if outcome == "failed":
        loud = said in ("regressed", "improved", "inconclusive")
        return (str(said).upper() if loud else "FAILED"), "bold red"
    if said == "inconclusive":
        return "INCONCLUSIVE", "bold yellow"
    words = "passed" if said != "improved" else "passed, improved"
    if not row.get("proven", True):
        words += ", not proven"
    if "stopped_after" in row:
        words += ", stopped early"
    return words, "green"


def figures(row: Row) -> dict[str, str]:
    """The cells of a row; those that could not be measured are dashes."""

    def cell(form: str, *names: str) -> str:
        if any(row.get(name) is None for name in names):
            return "-"
        return form.format(*(row[name] for name in names))

    rounded = f" A{row['activation_bits']}" if row.get("activation_bits") else ""
    share = f" {row['bytes'] / row['dense_bytes']:.2f}x" if "bytes" in row else ""
    return {
        "n": cell("{}", "questions") + (f" of {in_all(row)}" if in_all(row) else ""),
        "dense": cell("{:.3f}", "dense"),
        "now": cell("{:.3f}", "compressed" if "compressed" in row else "measured"),
        "retention": cell("{:.3f}", "retention") + limits(row),
        "floor": cell("{:g}", "floor"),
        "-/+": cell("-{}/+{}", "forgotten", "learned")
        + (f" ~{row['near_ties_settled']}" if row.get("near_ties_settled") else ""),
        "p": cell("{:.2g}", "p_loss"),
        "bytes": (size(row["bytes"]) if "bytes" in row else "-") + share,
        "bits": cell("{:.2f}", "bits") + rounded if row.get("modules_touched") else "-",
        "zeros": cell("{:.3f}", "sparsity") if row.get("modules_touched") else "-",
        "error": cell("{:.3f}", "weight_error") if row.get("modules_touched") else "-",
    }


def limits(row: Row) -> str:
    """Of the retention; one that is infinite, which JSON makes a null, is a dash."""
    if "retention" not in row:
        return ""
    found = (row["retention_low"], row["retention_high"])
    low, high = ("-" if one is None or not isfinite(one) else f"{one:.3f}" for one in found)
    return f" [{low}, {high}]"


def summarize(reporter: pytest.TerminalReporter, config: pytest.Config, exitstatus: int) -> None:
    """Write the table, and name the baselines that nothing uses."""
    settings = config.stash[KEY]
    if settings.plan:
        show_plan(reporter, config, settings)
        return
    found, checked = rows(reporter.stats), contracts(reporter.stats)
    if found:
        reporter.section("compression: knowledge retention", sep="=")
        by_suite: dict[str, list[Row]] = {}
        for row in found:
            by_suite.setdefault(row[TRIAL].partition("::")[0], []).append(row)
        for name, some in by_suite.items():
            reporter.write_line(name, bold=True)
            draw(reporter, partial(table, some), LEAST)
            for line in remarks(name, some, config.stash.get(FAMILY, None)):
                reporter.write_line(line)
            told = reporter.verbosity > 0
            for line in (*(left_out(some) if told else ()), *kept(some, reasons=told)):
                reporter.write_line(line)
    if checked:
        reporter.write_line(remark_of_contracts(checked))
    if settings.report is not None:
        results.write(settings.report, found, checked, config.stash[FAMILY], settings.shard)
        reporter.write_line(f"Written: {settings.report}")
    report_unused(reporter, config, settings, exitstatus)


def draw(
    reporter: pytest.TerminalReporter,
    build: Callable[[Collection[str]], Table],
    least: Sequence[str],
) -> None:
    """Write a table as wide as there is room, and what it leaves out."""
    width = width_of(reporter)
    built, left_out = fitted(build, least, width)
    reporter.write(drawn(built, width, color=reporter.hasmarkup))
    if left_out:
        names = ", ".join(reversed(left_out))
        reporter.write_line(f"(too narrow for {names})")


def width_of(reporter: pytest.TerminalReporter) -> int:
    """Wide enough to be whole where nobody sees it as it comes, as in a CI log."""
    width: int = reporter._tw.fullwidth  # noqa: SLF001
    return width if reporter.isatty else max(width, 170)


def show_plan(reporter: pytest.TerminalReporter, config: pytest.Config, settings: Settings) -> None:
    """What the collected trials could tell, and what they would cost."""
    reporter.section("compression: plan", sep="=")
    trials = config.stash.get(PLANNED, [])
    found = plan.plan(trials, settings, config.stash.get(TESTS_IN_ALL, 0))
    if found:
        draw(reporter, partial(plan.table, found), plan.LEAST)
    for line in plan.closing(found):
        reporter.write_line(line)


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
