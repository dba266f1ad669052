import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetGenerationError

from pytest_compression.benchmarks.files import Row, draw, hub, jsonl, parsed, table, whole_json
from pytest_compression.errors import MeasurementError

DEEP = "[" * 100_000
LONG = "1" * 5000
HALF = json.dumps("\ud800")


@pytest.mark.parametrize("text", ["{", DEEP, LONG, HALF, f'{{"a": [{HALF}]}}', f"{{{HALF}: 1}}"])
def test_what_json_cannot_say_is_an_error_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(f'{{"a": 1}}\n{{"b": {text}}}\n', encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"x\.json:2: this line is no JSON"):
        list(jsonl(path))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"x\.json:1: this file is no JSON"):
        whole_json(path)


@pytest.mark.parametrize("value", [{"é": ["😀", 10**4000]}, "\\ud800", [[[]]]])
def test_whatever_json_says_is_read(value: Any) -> None:
    assert parsed(json.dumps(value)) == value
    assert parsed(json.dumps(value, ensure_ascii=False)) == value


def test_a_filled_text_is_stripped_and_not_empty() -> None:
    row = Row({"a": " x ", "b": " ", "c": 1}, "f:3")
    assert row.filled("a") == "x"
    with pytest.raises(MeasurementError, match="f:3: 'b' is empty"):
        row.filled("b")
    with pytest.raises(MeasurementError, match="f:3: 'c' is 1, but str is expected"):
        row.filled("c")


def test_a_row_of_several_lines_stands_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n"1\n\n2",3\n\n4,5\n"6\n",7,8\n', encoding="utf-8")
    rows = table(path)
    assert next(rows) == Row({"a": "1\n\n2", "b": "3"}, f"{path}:2")
    assert next(rows) == Row({"a": "4", "b": "5"}, f"{path}:6")
    with pytest.raises(MeasurementError, match=r"x\.csv:7: 3 cells, but the header has 2"):
        next(rows)
    path.write_text('a,b\n1,2\n"3,4\n5,6\n', encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"x\.csv:3: this is no CSV"):
        list(table(path))


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,a\n1,2,3\n", encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"x\.csv:1: the header has 'a' more than once"):
        list(table(path))


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, DatasetGenerationError])
@pytest.mark.parametrize("late", [False, True])
def test_a_data_set_that_breaks_is_named(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
    late: bool,  # noqa: FBT001
) -> None:
    reason = "the wire was cut"

    def rows() -> Any:
        yield {"a": 1}
        raise kind(reason)

    def loaded(*_: object, **__: object) -> Any:
        return rows() if late else [*rows()]

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    with pytest.raises(MeasurementError, match=r"'some' \(test\) could not be loaded: the wire"):
        list(hub("some", name=None, split="test", revision=None))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", [0, 1, 5000])
def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path: Path, before: int, end: str) -> None:
    path = tmp_path / "x.jsonl"
    text = f'{{"a": "é"}}{end}' * before
    path.write_bytes(text.encode() + b'{"a": "Mal\xe9"}' + end.encode())
    words = rf"x\.jsonl:{before + 1}: byte 0xe9 is not UTF-8; save the file as UTF-8\.$"
    with pytest.raises(MeasurementError, match=words):
        list(jsonl(path))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text("\ufeffa,b\n1,2\n", encoding=encoding)
    with pytest.raises(MeasurementError, match=r"x\.csv:1: this file is UTF-16; save it as UTF-8"):
        list(table(path))


@pytest.mark.parametrize(
    ("other", "delimiter", "words"),
    [
        (";", ",", r"'a;b', parted by semicolons; save the file with commas between"),
        ("\t", ",", r"parted by tabs; save the file with commas between"),
        (",", "\t", r"'a,b', parted by commas; save the file with tabs between"),
    ],
)
def test_a_table_with_other_delimiters_is_refused(
    tmp_path: Path, other: str, delimiter: str, words: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"a{other}b\n1{other}2\n", encoding="utf-8")
    with pytest.raises(MeasurementError, match=rf"x\.csv:1: the header is one column, .*{words}"):
        list(table(path, delimiter=delimiter))
    path.write_text(f'"a{other}b"{delimiter}c\n1{delimiter}2\n', encoding="utf-8")
    assert [row.values for row in table(path, delimiter=delimiter)] == [
        {f"a{other}b": "1", "c": "2"}
    ]


def test_what_is_drawn_stays_drawn() -> None:
    """Stored results are of these rows."""
    names = [f"n{i}" for i in range(9)]
    assert [draw(range(9), names, 3, seed) for seed in (0, -1, 2**63 - 1, -(2**63))] == [
        [0, 2, 8],
        [0, 4, 7],
        [1, 4, 6],
        [0, 2, 4],
    ]
