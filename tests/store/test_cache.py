"""Kept measurements: what is found again, what counts as absent, what goes, and who is killed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import light_strategies
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept import cache, measured, noisy

from pytest_compression.store.cache import (
    MAGIC,
    OLD,
    Cache,
    Entry,
    UnstoredError,
    packed,
    unpacked,
)
from pytest_compression.store.keys import Key
from pytest_compression.types import Measurement

keys = st.dictionaries(light_strategies.words, light_strategies.words, min_size=1, max_size=4)
measurements = st.one_of(light_strategies.measurements(), light_strategies.graded_measurements())


def found(kept: Cache, key: Key) -> Measurement | None:
    entry = kept.find(key)
    return None if entry is None else entry.measurement


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(
    key=keys,
    measurement=measurements,
    seconds=st.floats(0, 1e6),
    margin=st.sampled_from([float("inf"), float("-inf"), 5e-324, 0.1 + 0.2]),
)
def test_what_is_packed_comes_back_bit_for_bit(
    key: Key, measurement: Measurement, seconds: float, margin: float
) -> None:
    odd = msgspec.structs.replace(measurement, figures={"MRR": margin}, expected=(margin,))
    entry = Entry(key=key, seconds=seconds, measurement=odd)
    assert unpacked(packed(entry)) == entry


@given(one=keys, other=keys)
def test_each_key_has_its_own_file(tmp_path_factory: Any, one: Key, other: Key) -> None:
    kept = cache(tmp_path_factory.mktemp("cache"))
    kept.keep(one, measured("Accra"), 1.5)
    kept.keep(other, measured("Paris"), 2.5)
    assert found(kept, other) == measured("Paris")
    assert found(kept, one) == measured("Paris" if one == other else "Accra")
    assert len(names(kept.folder)) == (1 if one == other else 2)


@pytest.mark.parametrize(
    "other", [{"a": "1"}, {"a": "1", "b": "3"}, {"a": "12", "b": ""}, {"a": "2", "b": "1"}, {}]
)
def test_another_key_finds_nothing(tmp_path: Path, other: Key) -> None:
    kept = cache(tmp_path)
    kept.keep({"a": "1", "b": "2"}, measured(), 1.0)
    assert kept.find(other) is None
    assert kept.find({"b": "2", "a": "1"}) is not None  # in any order


@given(data=st.data())
def test_a_damaged_file_is_absent(data: st.DataObject) -> None:
    whole = packed(Entry(key={"a": "1"}, seconds=1.0, measurement=measured()))
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = whole[:place]
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    assert unpacked(whole) is not None
    assert unpacked(cut) is None
    assert unpacked(bytes(flipped)) is None
    assert unpacked(data.draw(st.binary(max_size=80))) is None


@pytest.mark.parametrize(
    "body",
    [
        b"not compressed",
        msgspec.msgpack.encode({"key": {}}),
        msgspec.msgpack.encode(Entry(key={}, seconds=1.0, measurement=measured())),
    ],
)
def test_a_whole_file_of_another_layout_is_absent(body: bytes) -> None:
    from hashlib import blake2b
    from zlib import compress

    for layout in (body, compress(body + b"more")):
        data = MAGIC + blake2b(layout, digest_size=16).digest() + layout
        assert unpacked(data) is None
    newer = MAGIC.replace(b"1", b"2") + data[len(MAGIC) :]
    assert unpacked(newer) is None


def test_what_counts_as_absent_is_replaced(tmp_path: Path) -> None:
    kept, key = cache(tmp_path), {"a": "1"}
    kept.keep(key, measured(), 1.0)
    path = kept.path(key)
    path.write_bytes(path.read_bytes()[:-1])
    assert kept.find(key) is None
    kept.keep(key, measured("Paris"), 1.0)
    assert found(kept, key) == measured("Paris")


def test_a_file_in_the_place_of_another_answers_for_none(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.keep({"a": "1"}, measured(), 1.0)
    kept.path({"a": "1"}).rename(kept.path({"a": "2"}))
    assert kept.find({"a": "2"}) is None


def test_only_what_may_be_written_is_and_only_what_may_be_read(tmp_path: Path) -> None:
    key = {"a": "1"}
    cache(tmp_path / "none", writes=False).keep(key, measured(), 1.0)
    assert not (tmp_path / "none").exists()
    cache(tmp_path, reads=False).keep(key, measured(), 1.0)
    assert cache(tmp_path, reads=False).find(key) is None
    path = cache(tmp_path).path(key)
    os.utime(path, (1e9, 1e9))
    assert cache(tmp_path, writes=False).find(key) is not None
    assert path.stat().st_mtime == 1e9


def test_the_longest_unused_go_first_and_the_size_keeps_its_limit(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.keep({"name": "a"}, noisy(10_000), 1.0)
    size = kept.path({"name": "a"}).stat().st_size
    kept = replace(kept, limit=4 * size + size // 2)
    for age, name in enumerate("abcd"):
        kept.keep({"name": name}, noisy(10_000), 1.0)
        os.utime(kept.path({"name": name}), (1e9 + age, 1e9 + age))
    assert kept.find({"name": "a"}) is not None  # and so it was used last
    for name in "efg":
        kept.keep({"name": name}, noisy(10_000), 1.0)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= kept.limit
    assert "".join(name for name in "abcdefg" if kept.path({"name": name}).exists()) == "aefg"


def test_what_is_larger_than_all_may_be_is_not_kept(tmp_path: Path) -> None:
    kept = cache(tmp_path, limit=3000)
    kept.keep({"name": "small"}, noisy(1000), 1.0)
    with pytest.raises(UnstoredError, match=r"its \d+ bytes are more than all files may have"):
        kept.keep({"name": "large"}, noisy(9000), 1.0)
    assert kept.find({"name": "small"}) is not None


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnstoredError, match=r"Not a directory \('.*file/below'\)|File exists"):
        cache(tmp_path / "file/below").keep({"a": "1"}, measured(), 1.0)
    foreign = msgspec.structs.replace(measured(), figures={"odd": object()})
    with pytest.raises(UnstoredError, match="it holds what is no plain value"):
        cache(tmp_path).keep({"a": "1"}, foreign, 1.0)
    assert names(tmp_path) == ["file"]


def test_what_a_killed_run_left_is_swept_when_nobody_can_be_writing_it(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    old, new = tmp_path / "x.1-a.unfinished", tmp_path / "x.2-b.unfinished"
    old.touch()
    new.touch()
    long_ago = time.time() - OLD - 1
    os.utime(old, (long_ago, long_ago))
    (tmp_path / "README").touch()
    kept.keep({"a": "1"}, measured(), 1.0)
    assert names(tmp_path) == sorted(["README", new.name, kept.path({"a": "1"}).name])


WRITER = """\
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from kept import cache, noisy

kept = cache(Path(sys.argv[1]))
print("begun", flush=True)
while True:
    for name in "abc":
        kept.keep({"name": name}, noisy(60_000), 1.0)
"""


def test_kill_9_leaves_whole_files_and_a_usable_cache(tmp_path: Path) -> None:
    here = Path(__file__).parents[1]
    kept = cache(tmp_path)
    chance = random.Random(0)  # noqa: S311  # no secret
    for _ in range(6):
        with subprocess.Popen(  # noqa: S603  # our own interpreter
            [sys.executable, "-c", WRITER, str(tmp_path), str(here)],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            time.sleep(chance.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
        for path in tmp_path.glob("*.measured"):
            assert unpacked(path.read_bytes()) is not None
    assert any(kept.find({"name": name}) for name in "abc")
    kept.keep({"name": "a"}, measured(), 1.0)
    assert found(kept, {"name": "a"}) == measured()


def test_several_may_share_a_directory(tmp_path: Path) -> None:
    kept = replace(cache(tmp_path), limit=30_000)
    broken: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311  # no secret
        try:
            for _ in range(60):
                name = chance.choice("abcde")
                entry = kept.find({"name": name})
                assert entry is None or entry.measurement.given[0].startswith(name)
                text = name + chance.randbytes(3000).hex()
                kept.keep({"name": name}, measured(text), 1.0)
        except BaseException as error:  # noqa: BLE001  # told below
            broken.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    assert not list(tmp_path.glob("*.unfinished"))
