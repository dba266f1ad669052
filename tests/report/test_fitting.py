"""No terminal is too narrow for the trial and its verdict."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.report import fitting, plan
from pytest_compression.report.fitting import drawn, fitted, needed
from pytest_compression.report.properties import TRIAL, Row
from pytest_compression.report.terminal import COLUMNS, LEAST, table

NAME = "encoder-decoder/magnitude-0.7::countries"


def row(name: str) -> Row:
    """A trial that has a figure for each column."""
    return {
        TRIAL: f"suites/x.yaml::{name}",
        "outcome": "passed",
        "questions": 337,
        "dense": 0.8284,
        "compressed": 0.0089,
        "retention": -0.003,
        "retention_low": -0.01,
        "retention_high": 0.013,
        "floor": 0.75,
        "forgotten": 276,
        "learned": 0,
        "p_loss": 0.12,
        "bytes": 6_000_000,
        "dense_bytes": 6_000_000,
        "modules_touched": 3,
        "bits": 32.0,
        "sparsity": 0.7,
        "weight_error": 0.427,
    }


@given(width=st.integers(80, 200), name=st.sampled_from(["a/b::c", NAME, NAME * 3]))
def test_what_is_shown_is_whole(width: int, name: str) -> None:
    built, left_out = fitted(partial(table, [row(name)]), LEAST, width)
    text = drawn(built, width, color=False)
    lines = text.splitlines()
    named = max(len("trial"), min(len(name), width - needed(built) + fitting.TRIAL))
    assert "".join(line[:named].strip() for line in lines[1:]) == name
    assert all(len(line) <= width for line in lines)
    assert "passed" in text
    assert "-0.003 [-0.010, 0.013]" in text
    assert [name for name in COLUMNS if name in lines[0].split()] == [
        name for name in COLUMNS if name not in left_out
    ]


@pytest.mark.parametrize(("width", "left_out"), [(170, ()), (120, ("error", "zeros"))])
def test_what_tells_least_goes_first_and_no_more_than_must(
    width: int, left_out: tuple[str, ...]
) -> None:
    built, gone = fitted(partial(table, [row(NAME)]), LEAST, width)
    assert tuple(gone) == left_out
    assert needed(built) <= width
    if gone:
        assert needed(table([row(NAME)], gone[:-1])) > width


def test_columns_that_may_go_are_columns() -> None:
    assert set(LEAST) < set(COLUMNS)
    assert set(plan.LEAST) < set(plan.COLUMNS)
