"""The summary at the end of a run: one row a trial with every figure, green ones too."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pytest_compression import suite
from pytest_compression.conclusion import FAMILY, TESTS_IN_ALL, Family
from pytest_compression.errors import SuiteError
from pytest_compression.familywise import Pool
from pytest_compression.gate.erosion import Slide, slid
from pytest_compression.report import plan, results
from pytest_compression.report.failure import size
from pytest_compression.report.properties import CONTRACT, TRIAL
from pytest_compression.settings import KEY, PLANNED, Settings, trial_id
from pytest_compression.store.unused import remove, unused

OUTCOMES = ("error", "failed", "xfailed", "passed")
"""In the order in which one replaces another: an error in teardown outweighs a pass."""

Row = dict[str, Any]


FOOTPRINT = ("bytes", "bits", "zeros", "error")


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


def table(found: Iterable[Row]) -> Table:
    """One row a trial."""
    built = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    built.add_column("trial", overflow="fold", min_width=24)
    right = ("n", "dense", "now", "retention", "floor", "-/+", "p", *FOOTPRINT)
    for name in right:
        built.add_column(name, justify="right", no_wrap=True)
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
        if any(name not in row for name in names):
            return "-"
        return form.format(*(row[name] for name in names))

    rounded = f" A{row['activation_bits']}" if row.get("activation_bits") else ""
    share = f" {row['bytes'] / row['dense_bytes']:.2f}x" if "bytes" in row else ""
    return {
        "n": cell("{}", "questions") + (f" of {in_all(row)}" if in_all(row) else ""),
        "dense": cell("{:.3f}", "dense"),
        "now": cell("{:.3f}", "compressed" if "compressed" in row else "measured"),
        "retention": cell(
            "{:.3f} [{:.3f}, {:.3f}]", "retention", "retention_low", "retention_high"
        ),
        "floor": cell("{:g}", "floor"),
        "-/+": cell("-{}/+{}", "forgotten", "learned")
        + (f" ~{row['near_ties_settled']}" if row.get("near_ties_settled") else ""),
        "p": cell("{:.2g}", "p_loss"),
        "bytes": (size(row["bytes"]) if "bytes" in row else "-") + share,
        "bits": cell("{:.2f}", "bits") + rounded if row.get("modules_touched") else "-",
        "zeros": cell("{:.3f}", "sparsity") if row.get("modules_touched") else "-",
        "error": cell("{:.3f}", "weight_error") if row.get("modules_touched") else "-",
    }


def in_all(row: Row) -> int:
    """How many questions there are, if some could not be asked or need not be."""
    asked = int(row.get("questions", 0))
    whole = int(row.get("questions_in_all", asked)) + int(row.get("left_out", 0))
    return whole if whole > asked else 0


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
            drawing = drawn(table(some), width_of(reporter), color=reporter.hasmarkup)
            reporter.write(drawing)
            for line in remarks(name, some, config.stash.get(FAMILY, None)):
                reporter.write_line(line)
            for line in kept(some, reasons=reporter.verbosity > 0):
                reporter.write_line(line)
    if checked:
        reporter.write_line(remark_of_contracts(checked))
    if settings.report is not None:
        results.write(settings.report, found, checked, config.stash[FAMILY], settings.shard)
        reporter.write_line(f"Written: {settings.report}")
    report_unused(reporter, config, settings, exitstatus)


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
        drawing = drawn(plan.table(found), width_of(reporter), color=reporter.hasmarkup)
        reporter.write(drawing)
    for line in plan.closing(found):
        reporter.write_line(line)


def remarks(name: str, found: list[Row], family: Family | None) -> Iterator[str]:
    """What is to be said of a suite besides its figures."""
    if family is not None and name in family.pools:
        yield remarks_of_pool(family.pools[name])
    yield from slides(found)
    other = sorted({str(row["hardware"]) for row in found if row.get("fallback")})
    if other:
        count = sum(bool(row.get("fallback")) for row in found)
        yield (
            f"{count} trials were compared with the baselines of other hardware "
            f"({', '.join(other)}): there are none of this one."
        )
    yield from noise(found)


def remark_of_contracts(checked: dict[str, str]) -> str:
    """How many recipes keep the contracts of their steps."""
    broken = [node for node, outcome in checked.items() if outcome != "passed"]
    said = f"Contracts of {len(checked)} recipe{'s' if len(checked) > 1 else ''} checked"
    return f"{said}; red: {', '.join(broken)}." if broken else f"{said}: all are kept."


def kept(found: list[Row], *, reasons: bool) -> Iterator[str]:
    """How many trials were answered from the cache, and why others could not be kept."""
    count = sum(bool(row.get("cached")) for row in found)
    if count:
        trials = f"{len(found)} trial{'s' if len(found) > 1 else ''}"
        yield f"{count} of {trials} from the cache (--compress-cache refresh measures anew)."
    if reasons:
        for reason, times in Counter(row["cache"] for row in found if "cache" in row).items():
            yield f"Cache, {times} trial{'s' if times > 1 else ''}: {reason}."


def remarks_of_pool(pool: Pool) -> str:
    """What all trials of a suite say together."""
    found = pool.found
    units = "relations" if found.clustered else "questions"
    return (
        f"Pooled over {found.trials} tested trials: {found.loss:+.3%} of the answers lost, net, "
        f"since they were accepted, p = {found.p:.2g} ({found.units} {units} differ)."
    )


def slides(found: list[Row]) -> Iterator[str]:
    """How far the accepted figures have slid since the first."""
    erosion = slid(
        {
            row[TRIAL].partition("::")[2]: Slide(
                since=row["slid_since"],
                times=row["slid_times"],
                score=row["slid_score"],
                questions=row["slid_questions"],
                floor=row["slid_floor"],
            )
            for row in found
            if "slid_since" in row
        }
    )
    if erosion is None:
        return
    count = erosion.trials
    said = f"{count} trial{'s' if count > 1 else ''} accepted anew since the first time"
    if not (erosion.lower or erosion.floors or erosion.questions):
        yield f"{said}; nothing has slid."
        return
    slid_ = [f"mean score {erosion.mean_score:+.4f}"]
    if erosion.lower:
        slid_.append(
            f"{erosion.lower} with a lower one, the worst {erosion.worst_score:+.4f} "
            f"({erosion.worst})"
        )
    slid_ += [f"{erosion.floors} floors lowered"] if erosion.floors else []
    slid_ += [f"{erosion.questions} questions dropped"] if erosion.questions else []
    yield f"{said}: {'; '.join(slid_)}."


def noise(found: list[Row]) -> Iterator[str]:
    """What a calibration has found."""
    for row in found:
        if "noise_near_tie" in row:
            shifts = ", ".join(
                f"{name} {shift:.2g} ({row['noise_flips'].get(name, 0)} flips)"
                for name, shift in row["noise_shifts"].items()
            )
            yield (
                f"{row[TRIAL].partition('::')[2]}: margins moved by at most, in nats: {shifts}. "
                f"Near ties within {row['noise_near_tie']:.2g} nats settle all of that; "
                f"{max(row['near_tie'], row['noise_near_tie']):.2g} are asked for from now on. To "
                f"be expected: {row['false_red']:.2%} of runs are called drift by numerics alone."
            )


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
