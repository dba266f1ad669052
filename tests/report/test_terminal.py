"""The summary's rows and table, from reports alone."""

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_compression.report.fitting import drawn
from pytest_compression.report.terminal import figures, rows, table, verdict

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
    "p_loss": 0.01234,
    "proven": True,
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
        "p": "0.012",
        "bytes": "1.5 MB 0.25x",
        "bits": "8.00",
        "zeros": "0.062",
        "error": "0.013",
    }


def test_bits_of_rounded_inputs_stand_behind_those_of_the_weights() -> None:
    assert figures(FOOTPRINT | {"activation_bits": 8})["bits"] == "8.00 A8"


def test_questions_that_were_not_asked_and_near_ties_are_counted() -> None:
    assert figures(MEASURED | {"left_out": 0})["n"] == "250"
    assert figures(MEASURED | {"left_out": 50})["n"] == "250 of 300"
    stopped = MEASURED | {"questions": 40, "questions_in_all": 250, "left_out": 50}
    assert figures(stopped)["n"] == "40 of 300"
    assert figures(VERDICT | {"near_ties_settled": 0})["-/+"] == "-12/+2"
    assert figures(VERDICT | {"near_ties_settled": 3})["-/+"] == "-12/+2 ~3"
    without = {key: value for key, value in VERDICT.items() if key != "p_loss"}
    assert figures(without)["p"] == "-"  # not compared with anything accepted


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"outcome": "passed", "verdict": "kept"}, "passed"),
        ({"outcome": "passed", "verdict": "kept", "proven": True}, "passed"),
        ({"outcome": "passed", "verdict": "kept", "proven": False}, "passed, not proven"),
        (
            {"outcome": "passed", "verdict": "improved", "proven": False, "stopped_after": 40},
            "passed, improved, not proven, stopped early",
        ),
        ({"outcome": "passed", "verdict": "inconclusive", "proven": False}, "INCONCLUSIVE"),
        ({"outcome": "failed", "verdict": "inconclusive"}, "INCONCLUSIVE"),
        ({"outcome": "failed", "verdict": "regressed"}, "REGRESSED"),
        ({"outcome": "failed", "verdict": "improved"}, "IMPROVED"),
        ({"outcome": "failed", "verdict": "lost"}, "FAILED"),
        ({"outcome": "failed", "verdict": "kept"}, "FAILED"),  # a control that lost nothing
        ({"outcome": "failed"}, "FAILED"),
        ({"outcome": "xfailed", "verdict": "lost"}, "lost, as expected"),
        ({"outcome": "error", "verdict": "kept"}, "ERROR"),
        ({"outcome": "error"}, "ERROR"),
    ],
)
def test_the_verdict_says_what_was_decided_and_red_is_loud(row: dict[str, Any], said: str) -> None:
    words, style = verdict(row)
    assert words == said
    red = row["outcome"] in {"failed", "error"}
    assert ("red" in style) == red
    assert ("green" in style) == words.startswith("passed")


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


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-inf, inf, "0.958 [-, -]"),
        (0.93, inf, "0.958 [0.930, -]"),
        (None, 0.99, "0.958 [-, 0.990]"),  # as it is read from JSON
    ],
)
def test_a_limit_without_bounds_is_a_dash(low: float | None, high: float, said: str) -> None:
    row = VERDICT | {"retention_low": low, "retention_high": high, "p_loss": None}
    assert (figures(row)["retention"], figures(row)["p"]) == (said, "-")


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
