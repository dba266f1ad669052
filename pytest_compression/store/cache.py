"""Measurements that are kept for the next run: one file each, named by what it depends on.

A file is written beside its place and moved there, so a run that is killed leaves whole files
only. Whatever cannot be read, or is of another key, counts as absent. Files that were not used
for longest go first.
"""

import contextlib
import os
import time
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex

import msgspec
from msgspec import Struct

from pytest_compression.fingerprints import digest
from pytest_compression.store.keys import Key
from pytest_compression.types import Measurement

MAGIC = b"pytest-compression measurement 1\n"
"""Raise the number when the layout changes."""

SUFFIX, UNFINISHED = ".measured", ".unfinished"

OLD = 3600.0
"""Seconds after which nobody will finish a file any more."""


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file holds."""

    key: Key
    seconds: float
    """That it took to measure."""
    measurement: Measurement


class UnstoredError(Exception):
    """A measurement could not be kept."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A directory of measurements; several processes may share it."""

    folder: Path
    limit: int
    """Bytes, of all files together."""
    since: float
    """When the run began, in seconds of the clock."""
    reads: bool = True
    writes: bool = True

    def path(self, key: Key) -> Path:
        """Where the measurement of a key is kept."""
        parts = (part for item in sorted(key.items()) for part in item)
        return self.folder / (digest(part.encode() for part in parts) + SUFFIX)

    def find(self, key: Key) -> Entry | None:
        """The measurement of a key, if there is one; then it is the last to go."""
        if not self.reads:
            return None
        path = self.path(key)
        try:
            found = unpacked(path.read_bytes())
        except OSError:
            return None
        if found is None or found.key != key:
            return None
        if self.writes:
            with contextlib.suppress(OSError):  # another process removed it meanwhile
                os.utime(path)
        return found

    def keep(self, key: Key, measurement: Measurement, seconds: float) -> None:
        """Keep a measurement in place of any other of the key.

        Raises:
            UnstoredError: it cannot be written, and why.
        """
        if not self.writes:
            return
        try:
            data = packed(Entry(key=key, seconds=seconds, measurement=measurement))
        except (TypeError, OverflowError) as error:
            message = f"it holds what is no plain value ({error})"
            raise UnstoredError(message) from error
        if len(data) > self.limit:
            message = f"its {len(data)} bytes are more than all files may have ({self.limit})"
            raise UnstoredError(message)
        try:
            self.write(self.path(key), data)
            self.trim()
        except OSError as error:
            message = f"{error.strerror} ('{self.folder}')"
            raise UnstoredError(message) from error

    def write(self, path: Path, data: bytes) -> None:
        """Write a file wholly or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f"{path.stem}.{os.getpid()}-{token_hex(4)}{UNFINISHED}"
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)  # not there if all went well

    def trim(self) -> None:
        """Remove what a killed run left, and the files that were not used for longest."""
        kept: list[tuple[float, str, int]] = []
        with os.scandir(self.folder) as found:
            for file in found:
                with contextlib.suppress(FileNotFoundError):  # by another process
                    about = file.stat()
                    if file.name.endswith(SUFFIX):
                        kept.append((about.st_mtime, file.path, about.st_size))
                    elif file.name.endswith(UNFINISHED) and about.st_mtime < time.time() - OLD:
                        Path(file.path).unlink(missing_ok=True)
        size = sum(one[2] for one in kept)
        for _, path, bytes_ in sorted(kept):
            if size <= self.limit:
                return
            Path(path).unlink(missing_ok=True)
            size -= bytes_


def packed(entry: Entry) -> bytes:
    """A file: a line that says what it is, a checksum, and the entry."""
    body = zlib.compress(msgspec.msgpack.encode(entry), 1)  # candidates repeat in each question
    return MAGIC + blake2b(body, digest_size=16).digest() + body


def unpacked(data: bytes) -> Entry | None:
    """The entry of a file; None if it is damaged, or of another version."""
    head, rest = data[: len(MAGIC)], data[len(MAGIC) :]
    check, body = rest[:16], rest[16:]
    if head != MAGIC or check != blake2b(body, digest_size=16).digest():
        return None
    try:
        return msgspec.msgpack.decode(zlib.decompress(body), type=Entry)
    except (zlib.error, msgspec.DecodeError):  # whole, but not what this version writes
        return None
