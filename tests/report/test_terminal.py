"""The summary's rows and table, from reports alone."""

from types import SimpleNamespace
from typing import Any

from pytest_compression.report.terminal import drawn, figures, rows, table

TRIAL = {
    "compression_trial": "suites/x.yaml::decoder/int8::capitals",
    "order": 1,
    "floor": 0.95,
}
FOOTPRINT = {
    "bytes": 1_500_000,
    "dense_bytes": 6_000_000,
    "modules_touched": 3,
    "bits": 8.0,
    "sparsity": 0.0625,
    "weight_error": 0.0125,
}
MEASURED = {"questions": 250, "measured": 0.912}
VERDICT = {
    "dense": 0.96,
    "compressed": 0.92,
    "retention": 0.95833,
    "retention_low": 0.93,
    "retention_high": 0.99,
    "forgotten": 12,
    "learned": 2,
}


def report(**properties: object) -> Any:
    return SimpleNamespace(user_properties=list(properties.items()))


def test_a_row_shows_every_figure() -> None:
    assert figures(TRIAL | FOOTPRINT | MEASURED | VERDICT) == {
        "n": "250",
        "dense": "0.960",
        "now": "0.920",
        "retention": "0.958 [0.930, 0.990]",
        "floor": "0.95",
        "-/+": "-12/+2",
        "bytes": "1.5 MB 0.25x",
        "bits": "8.00",
        "zeros": "0.062",
        "error": "0.013",
    }


def test_what_could_not_be_measured_is_a_dash() -> None:
    loaded = figures(TRIAL | FOOTPRINT | MEASURED)
    assert [loaded[name] for name in ("n", "dense", "now", "retention")] == [
        "250",
        "-",
        "0.912",
        "-",
    ]
    nothing = figures(TRIAL)
    assert {name for name, cell in nothing.items() if cell != "-"} == {"floor"}
    dense = figures(TRIAL | FOOTPRINT | {"modules_touched": 0})
    assert (dense["bits"], dense["zeros"], dense["error"]) == ("-", "-", "-")


def test_rows_are_in_suite_order_and_the_worst_outcome_counts() -> None:
    first = report(compression_trial="a.yaml::m/r::b", order=0)
    second = report(compression_trial="a.yaml::m/r::c", order=10)
    other = report(compression_trial="b.yaml::m/r::b", order=2)
    stats = {
        "passed": [second, other, report(unrelated=1), SimpleNamespace()],
        "error": [second],
        "failed": [first],
        "deselected": [object()],
        "": [first, second, other],
    }
    assert [(row["compression_trial"], row["outcome"]) for row in rows(stats)] == [
        ("a.yaml::m/r::b", "failed"),
        ("a.yaml::m/r::c", "error"),
        ("b.yaml::m/r::b", "passed"),
    ]


def test_a_table_is_whole_in_a_log_and_plain_without_a_terminal() -> None:
    whole = TRIAL | FOOTPRINT | MEASURED | VERDICT
    found = [{**whole, "outcome": outcome} for outcome in ("passed", "failed", "error", "xfailed")]
    text = drawn(table(found), 144, color=False)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert len(lines) == 5
    assert [line.rstrip().rsplit("  ", 1)[-1].strip() for line in lines[1:]] == [
        "passed",
        "FAILED",
        "ERROR",
        "lost, as expected",
    ]
    assert all("decoder/int8::capitals" in line for line in lines[1:])
    assert "\x1b[" in drawn(table(found), 144, color=True)


def test_a_long_name_is_folded_and_never_cut() -> None:
    name = "encoder-decoder/" + "pruned-" * 12 + "int8::countries"
    row = {**TRIAL, **FOOTPRINT, **MEASURED, **VERDICT, "outcome": "passed"}
    row["compression_trial"] = f"x.yaml::{name}"
    text = drawn(table([row]), 144, color=False)
    assert name == "".join(line.split(" ")[0] for line in text.splitlines()[1:])
    assert "passed" in text


def test_a_name_like_markup_is_shown_as_it_is() -> None:
    row = {**TRIAL, "compression_trial": "x.yaml::m/a-[bold]::b", "outcome": "error"}
    assert "[bold]" in drawn(table([row]), 144, color=False)
