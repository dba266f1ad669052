"""A run as a JSON file."""

import json
from math import inf, nan
from pathlib import Path

import pytest

from pytest_compression.conclusion import Family
from pytest_compression.report.fitting import drawn
from pytest_compression.report.results import read, write
from pytest_compression.report.terminal import table

ROW = {
    "compression_trial": "x.yaml::m/int8::b",
    "order": 1,
    "outcome": "passed",
    "retention": 1.0,
    "retention_low": -inf,
    "retention_high": inf,
    "standard_error": nan,
    "figure: perplexity": inf,
}


def test_json_has_null_where_a_figure_is_no_finite_number(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    path = tmp_path / "run.json"
    write(path, [ROW], {}, Family(pytestconfig), None)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    (row,) = json.loads(path.read_bytes(), parse_constant=refuse)["trials"]
    names = ("retention_low", "retention_high", "standard_error", "figure: perplexity")
    assert [row[name] for name in names] == [None] * 4
    (again,) = read(path).trials
    assert again == row
    assert "1.000 [-, -]" in drawn(table([again]), 144, color=False)
