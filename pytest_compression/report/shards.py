"""The reports of all shards, judged as one run: one adjustment, one pooled test a suite."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from pytest_compression.errors import BaselineError
from pytest_compression.familywise import decide
from pytest_compression.report.fitting import drawn
from pytest_compression.report.properties import TRIAL
from pytest_compression.report.remarks import remark_of_contracts, remarks_of_pool
from pytest_compression.report.results import Results, read
from pytest_compression.report.terminal import table

WIDTH = 170


def merge(paths: Sequence[Path]) -> tuple[list[str], bool]:
    """What is said of all shards together, and whether anything is red.

    Raises:
        BaselineError: a report is missing, given twice, or of another division into shards.
    """
    parts = [read(path) for path in paths]
    require_whole(parts, paths)
    # The tests of all shards are here now: none is elsewhere.
    evidence = [replace(one, tests_in_all=0) for part in parts for one in part.evidence]
    rows = [dict(row) for part in parts for row in part.trials]
    tested = Counter(one.suite for one in evidence if one.test is not None)
    judged = decide(evidence, sorted(suite for suite, count in tested.items() if count > 1))
    decisions = judged.decisions
    reds = [decided.red for decided in decisions.values() if decided.red]
    for row in rows:
        decided = decisions.get(row[TRIAL])
        if decided is not None and decided.verdict:
            row["verdict"] = decided.verdict
            if decided.red:
                row["outcome"] = "failed"
    lines = drawn(table(rows), WIDTH, color=False).splitlines()
    for suite, one in judged.pools.items():
        lines.append(f"{suite}: {remarks_of_pool(one)}")
    lines += [f"WARNING {one.warning}" for one in decisions.values() if one.warning]
    for red in reds:
        lines += ["", red]
    bad = [row[TRIAL] for row in rows if row["outcome"] in ("failed", "error")]
    whole = [suite for suite in judged.pools if decisions[suite].red]
    checked = {node: outcome for part in parts for node, outcome in part.contracts.items()}
    if checked:
        lines.append(remark_of_contracts(checked))
    broken = [node for node, outcome in checked.items() if outcome != "passed"]
    every = [*bad, *whole, *broken]
    lines += ["", f"{len(rows)} trials of {len(parts)} shards, {len(every)} red."]
    lines += [f"RED {name}" for name in every]
    return lines, bool(every)


def require_whole(parts: Sequence[Results], paths: Sequence[Path]) -> None:
    """All shards must be there, each once."""
    for part, path in zip(parts, paths, strict=True):
        if part.shard is None:
            message = f"{path} is the report of a whole run, not of a shard: nothing to merge."
            raise BaselineError(message)
        selected = max((row.get("trials_selected", 0) for row in part.trials), default=0)
        if not selected or len(part.trials) < selected:
            message = (
                f"{path} is of a shard that did not finish: {len(part.trials)} of "
                f"{selected or 'its'} trials have a result. Run it again."
            )
            raise BaselineError(message)
    selections = {row.get("selection") for part in parts for row in part.trials}
    if len(selections) > 1:
        message = "the reports are of shards of different suites or selections of trials."
        raise BaselineError(message)
    shards = [part.shard for part in parts if part.shard is not None]
    counts = {count for _, count in shards}
    if len(counts) > 1:
        said = ", ".join(f"{part}/{count}" for part, count in sorted(shards))
        message = f"the reports are of different divisions ({said}): run all shards as I/N alike."
        raise BaselineError(message)
    count = counts.pop()
    given = sorted(part for part, _ in shards)
    if given != list(range(1, count + 1)):
        missing = sorted(set(range(1, count + 1)) - set(given))
        twice = sorted({part for part in given if given.count(part) > 1})
        problems = (
            [f"missing {', '.join(f'{part}/{count}' for part in missing)}"] if missing else []
        )
        problems += (
            [f"given twice {', '.join(f'{part}/{count}' for part in twice)}"] if twice else []
        )
        message = f"not every shard is there once: {'; '.join(problems)}."
        raise BaselineError(message)
