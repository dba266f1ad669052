"""Rows of benchmark files, from the disk or the hub; a bad row is named by file and line.

No file is executed: pickles that come with some benchmarks are never opened, and no dataset's own
code is run.
"""

import csv
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from msgspec import Meta

from pytest_compression.errors import MeasurementError

Drawn = TypeVar("Drawn")
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""Decides what is drawn; it must fit into the eight bytes of a key."""


DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What stands between the columns of a table."""


class Row(NamedTuple):
    """One record, and where it stands."""

    values: Mapping[str, Any]
    where: str
    """File and line, for errors."""

    def text(self, key: str) -> str:
        """A string, stripped.

        Raises:
            MeasurementError: it is missing or no string.
        """
        return str(self.of(key, str)).strip()

    def filled(self, key: str) -> str:
        """A text that is not empty.

        Raises:
            MeasurementError: it is, or is no text.
        """
        text = self.text(key)
        if not text:
            message = f"{self.where}: '{key}' is empty."
            raise MeasurementError(message)
        return text

    def of(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """A value of one type.

        Raises:
            MeasurementError: it is missing or of another type.
        """
        if key not in self.values:
            message = f"{self.where}: the row has no key '{key}'; it has {', '.join(self.values)}."
            raise MeasurementError(message)
        value = self.values[key]
        if not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(one.__name__ for one in kinds)
            message = f"{self.where}: '{key}' is {value!r:.60}, but {names} is expected."
            raise MeasurementError(message)
        return value


def there(path: str, *, kind: str = "file") -> Path:
    """A path that exists; relative ones are taken from where pytest was started.

    Raises:
        MeasurementError: there is nothing.
    """
    found = Path(path).expanduser()
    if not found.exists():
        message = (
            f"there is no {kind} '{path}'. A relative path is taken from where pytest was started "
            f"({Path.cwd()})."
        )
        raise MeasurementError(message)
    return found


def under(*paths: str | Path | None) -> Iterator[Path]:
    """The files that are named, and all in directories that are; what answers depend on.

    A path that is not there is given, too: who reads it will say so.
    """
    for path in paths:
        if path is not None:
            found = Path(path).expanduser()
            yield from (
                sorted(f for f in found.rglob("*") if f.is_file()) if found.is_dir() else [found]
            )


def jsonl(path: Path) -> Iterator[Row]:
    """The objects of a JSON Lines file; blank lines are skipped.

    Raises:
        MeasurementError: it cannot be read, or a line is no JSON object.
    """
    for number, line in lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = parsed(line)
        except ValueError as error:
            message = f"{where}: this line is no JSON: {error}."
            raise MeasurementError(message) from error
        if not isinstance(values, dict):
            message = f"{where}: a JSON object is expected, but this is {line.strip():.60}"
            raise MeasurementError(message)
        yield Row(values, where)


def whole_json(path: Path) -> Any:
    """The one value of a JSON file.

    Raises:
        MeasurementError: it cannot be read, or is no JSON.
    """
    text = "".join(line for _, line in lines(path))
    try:
        return parsed(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        message = f"{path}:{line}: this file is no JSON: {error}."
        raise MeasurementError(message) from error


def parsed(text: str) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has an integer of thousands of digits
            or half a surrogate pair, which no file can hold.
    """
    try:
        found = json.loads(text)
        if "\\ud" in text.lower():  # pairs are put together, halves are left
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        message = "it is nested too deeply"
        raise ValueError(message) from error
    return found


def table(path: Path, *, delimiter: str = ",") -> Iterator[Row]:
    """The rows of a CSV file with a header, quoted as spreadsheets do.

    Raises:
        MeasurementError: it cannot be read, its columns are parted otherwise, the header has a
            name twice, or a row has more or fewer cells than the header.
    """
    reader = csv.reader((line for _, line in lines(path)), delimiter=delimiter, strict=True)
    begin = 1
    try:
        header = next(reader, [])
        check_delimiter(path, header, delimiter)
        for name, count in Counter(header).items():
            if count > 1:
                message = f"{path}:1: the header has '{name}' more than once."
                raise MeasurementError(message)
        begin = reader.line_num + 1
        for cells in reader:
            where = f"{path}:{begin}"
            begin = reader.line_num + 1  # a quoted cell may go on for lines
            if not cells:
                continue
            if len(cells) != len(header):
                message = f"{where}: {len(cells)} cells, but the header has {len(header)}."
                raise MeasurementError(message)
            yield Row(dict(zip(header, cells, strict=True)), where)
    except csv.Error as error:
        message = f"{path}:{begin}: this is no CSV: {error}."
        raise MeasurementError(message) from error


def check_delimiter(path: Path, header: Sequence[str], delimiter: str) -> None:
    """Refuse a header of one column that has others in it, parted by something else.

    Raises:
        MeasurementError: it has.
    """
    for other, name in DELIMITERS.items():
        if len(header) == 1 and other in header[0] and other != delimiter:
            message = (
                f"{path}:1: the header is one column, '{header[0]:.60}', parted by {name}; save "
                f"the file with {DELIMITERS[delimiter]} between its columns."
            )
            raise MeasurementError(message)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, read one by one: some files are larger than memory.

    Raises:
        MeasurementError: it cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        message = f"'{path}' cannot be read: {error.strerror}."
        raise MeasurementError(message) from error
    except UnicodeDecodeError as error:
        raise MeasurementError(not_utf8(path)) from error


def not_utf8(path: Path) -> str:
    """Where a file is not what it must be, and what to do; it is read again for its line."""
    with path.open("rb") as file:
        if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE):
            return f"{path}:1: this file is UTF-16; save it as UTF-8."
        file.seek(0)
        number = 1
        for line in file:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                number += line.count(b"\r", 0, error.start)
                byte = f"0x{line[error.start]:02x}"
                return f"{path}:{number}: byte {byte} is not UTF-8; save the file as UTF-8."
            number += len(re.findall(rb"\r\n?|\n", line))
    return f"{path}: the file changed while it was read; try again."


def hub(dataset: str, *, name: str | None, split: str, revision: str | None) -> Iterator[Row]:
    """Rows of a dataset of the hub, or of its local cache; needs the package ``datasets``.

    Raises:
        MeasurementError: it is not there, or the package is missing.
    """
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        message = (
            f"dataset '{dataset}' needs a package: pip install 'pytest-compression[datasets]'."
        )
        raise MeasurementError(message) from error
    try:
        loaded = load_dataset(dataset, name, split=split, revision=revision)
        for number, values in enumerate(loaded):
            yield Row(values, f"{dataset}/{split}, row {number}")
    # Unknown names, no network, bad files.
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        message = f"dataset '{dataset}' ({split}) could not be loaded: {reason}"
        raise MeasurementError(message) from error


def draw(rows: Sequence[Drawn], keys: Iterable[str], limit: int | None, seed: int) -> list[Drawn]:
    """At most ``limit`` rows: those whose keyed hashes are lowest, so others hardly matter.

    A prefix is no sample: files are sorted by something.

    Args:
        rows: all of a relation.
        keys: what names each of them, whatever the order.
        limit: how many to draw; all if None.
        seed: of 64 bits (:data:`Seed`); another draws others.
    """
    if limit is None or limit >= len(rows):
        return list(rows)
    key = seed.to_bytes(8, "little", signed=True)
    lots = [blake2b(name.encode(), key=key).digest() for name in keys]
    chosen = sorted(range(len(rows)), key=lambda i: lots[i])[:limit]
    return [rows[i] for i in sorted(chosen)]
