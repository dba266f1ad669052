"""``--compress-cache``: what is answered from the cache, what is measured, and what is said."""

import json
import re
from pathlib import Path

import pytest
from project import Project
from runs import figures, said

from pytest_compression import registry

KEYED = """\
from dataclasses import dataclass, replace
from typing import ClassVar

import fakes
from pytest_compression.fingerprints import digest
from pytest_compression.types import Identity


@dataclass(frozen=True, kw_only=True)
class Memory(fakes.Memory):
    unknown: str = ""

    def load(self):
        super().load()
        return Model(self)


class Model(fakes.Model):
    def identity(self):
        if self.source.unknown:
            return Identity(digest="", unknown=self.source.unknown)
        state = self.source, sorted(self.lost), sorted(self.found), self.bits
        return Identity(digest=digest([repr(state).encode()]))


@dataclass(frozen=True, kw_only=True)
class Always(fakes.Facts):
    cached: ClassVar[bool] = False
"""


@pytest.fixture(name="kept")
def kept_(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose model says what it is, with accepted baselines and an empty cache."""
    # Each run in this process imports its modules anew, so it must not meet an earlier one's.
    monkeypatch.setattr(registry, "resolve", registry.resolve.__wrapped__)
    (project.path / "keyed.py").write_text(KEYED, encoding="utf-8")
    project.edit("fakes:Memory", "keyed:Memory")
    project.accept("--compress-cache", "off")
    assert entries(project) == []
    return project


def entries(project: Project, folder: str = ".pytest_cache/d/compression") -> list[Path]:
    return sorted((project.path / folder).glob("*.measured"))


def measured(project: Project) -> int:
    """How often the model was asked since this was last asked."""
    return sum(event.startswith("measure ") for event in project.events())


def test_an_unchanged_trial_is_free_in_the_next_run(kept: Project) -> None:
    first = figures(kept)
    assert measured(kept) == 6
    assert len(entries(kept)) == 6
    again = figures(kept)
    assert measured(kept) == 0
    assert {name: row.pop("cached") for name, row in again.items()} == dict.fromkeys(first, True)
    assert again == first
    outcome = kept.run()
    outcome.assert_outcomes(passed=5, xfailed=2)
    assert "6 of 6 trials from the cache (--compress-cache refresh measures anew)." in said(outcome)


def test_the_dense_answers_that_a_recipe_is_compared_with_are_kept_too(kept: Project) -> None:
    kept.run("-k", "int8 and low")
    assert measured(kept) == 2
    kept.run("-k", "int8 and low")
    assert measured(kept) == 0
    kept.run("-k", "dense and low")
    assert measured(kept) == 0


@pytest.mark.parametrize(
    ("old", "new", "asked"),
    [
        ("above: 1000", "above: 999", 2),
        ("keyed:Memory", 'keyed:Memory", weights: "w2', 6),
        ('low: {use: "fakes:Facts"', 'low: {use: "fakes:Facts", n: 39', 3),
        ("reason: it forgets most", "reason: it forgets nearly all", 0),
    ],
    ids=["recipe", "weights", "benchmark", "nothing"],
)
def test_what_is_changed_is_measured(kept: Project, old: str, new: str, asked: int) -> None:
    kept.run()
    kept.events()
    kept.edit(old, new)
    kept.run()
    assert measured(kept) == asked


def test_modes(kept: Project) -> None:
    kept.run("--compress-cache", "ro")
    assert (measured(kept), entries(kept)) == (6, [])
    assert not (kept.path / ".pytest_cache/d/compression").exists()
    kept.run("--compress-cache", "rw")
    assert (measured(kept), len(entries(kept))) == (6, 6)
    written = {path: path.stat().st_mtime_ns for path in entries(kept)}
    kept.run("--compress-cache", "ro")
    assert measured(kept) == 0
    assert {path: path.stat().st_mtime_ns for path in entries(kept)} == written
    kept.run("--compress-cache", "off")
    assert measured(kept) == 6
    assert {path: path.stat().st_mtime_ns for path in entries(kept)} == written
    kept.run("--compress-cache", "refresh")
    assert measured(kept) == 6
    assert all(path.stat().st_mtime_ns > written[path] for path in entries(kept))


@pytest.mark.parametrize("mode", ["ro", "refresh", "off"])
def test_the_header_says_what_is_unusual(kept: Project, mode: str) -> None:
    line = f"compression: cache {mode}"
    assert line in kept.run("--compress-cache", mode).outlines
    assert not [line for line in kept.run().outlines if line.startswith("compression: cache")]


@pytest.mark.parametrize(
    "option", ["--compress-update", "--compress-update-hardware", "--compress-calibrate"]
)
def test_what_is_accepted_or_calibrated_is_measured_and_kept(kept: Project, option: str) -> None:
    kept.run()
    before = [path.stat().st_mtime_ns for path in entries(kept)]
    kept.events()
    kept.run(option)
    dense_only = option == "--compress-calibrate"
    assert measured(kept) >= (2 if dense_only else 6)
    after = [path.stat().st_mtime_ns for path in entries(kept)]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == (2 if dense_only else 6)
    kept.run()
    assert measured(kept) == 0


def test_new_baselines_and_early_stops_are_measured(kept: Project) -> None:
    kept.run()
    kept.events()
    kept.run("--compress-early-stop")
    assert measured(kept) >= 6
    (kept.path / kept.baseline("int8")).unlink()
    kept.run("--compress-update-new", "-k", "int8 and low")
    assert measured(kept) == 2


def test_seconds_of_a_baseline_are_those_of_a_measurement(kept: Project) -> None:
    kept.run()
    for path in entries(kept):  # as if it had taken hours
        from pytest_compression.store.cache import packed, unpacked

        entry = unpacked(path.read_bytes())
        assert entry is not None
        slow = {name: getattr(entry, name) for name in ("key", "measurement")}
        path.write_bytes(packed(type(entry)(**slow, seconds=7200.0)))
    kept.run("--compress-update")
    for data in kept.baselines().values():
        (record,) = json.loads(data)["hardware"].values()
        assert record["cost"]["seconds"] < 60


def test_a_damaged_file_is_replaced(kept: Project) -> None:
    kept.run()
    kept.events()
    damaged = entries(kept)[0]
    damaged.write_bytes(b"<<<<<<<")
    kept.run()
    assert measured(kept) == 1
    kept.run()
    assert measured(kept) == 0


def test_a_model_that_is_not_known_is_measured_and_said(kept: Project) -> None:
    kept.edit('use: "keyed:Memory"', 'use: "keyed:Memory", unknown: hooks on head')
    for _ in range(2):
        result = kept.run("-v")
        assert measured(kept) == 6
    assert "Cache, 6 trials: not usable: hooks on head." in said(result)
    assert "Cache," not in said(kept.run())
    rows = figures(kept)
    assert {row["cache"] for row in rows.values()} == {"not usable: hooks on head"}
    assert entries(kept) == []


def test_a_benchmark_can_be_asked_always(kept: Project) -> None:
    kept.edit('low: {use: "fakes:Facts"', 'low: {use: "keyed:Always"')
    kept.accept("--compress-reason", "another")
    kept.run()
    kept.events()
    result = kept.run("-v")
    assert measured(kept) == 3
    assert "3 of 6 trials from the cache" in said(result)
    assert "Cache, 3 trials: not usable: Always is always asked." in said(result)


def test_cache_clear_clears_it(kept: Project) -> None:
    kept.run()
    kept.events()
    kept.run("--cache-clear")
    assert measured(kept) == 6
    kept.run()
    assert measured(kept) == 0


def test_without_pytest_s_cache_nothing_is_kept_and_the_header_says_so(kept: Project) -> None:
    word = (
        "compression: no answers are kept, for pytest's cache is disabled; ini compress_cache_dir "
        "can name another directory"
    )
    for _ in range(2):
        result = kept.run("-p", "no:cacheprovider")
        assert word in result.outlines
        assert measured(kept) == 6
    assert word not in kept.run("-p", "no:cacheprovider", "--compress-cache", "off").outlines


def ini(project: Project, **values: str) -> None:
    with (project.path / "pytest.toml").open("a", encoding="utf-8") as file:
        file.writelines(f'\n{name} = "{value}"' for name, value in values.items())


def test_ini_keys_say_where_how_large_and_whether(kept: Project) -> None:
    ini(kept, compress_cache_dir="kept/answers", compress_cache_size="1", compress_cache="rw")
    for asked in (6, 0):
        kept.run("-p", "no:cacheprovider")
        assert measured(kept) == asked
    assert len(entries(kept, "kept/answers")) == 6
    assert entries(kept) == []


def test_the_size_has_a_limit(kept: Project) -> None:
    ini(kept, compress_cache_size="0.0001")
    result = kept.run("-v")
    assert re.search(
        r"not stored: its \d+ bytes are more than all files may have \(100\)", said(result)
    )
    assert entries(kept) == []


def test_an_ini_key_is_the_default_of_the_option(kept: Project) -> None:
    ini(kept, compress_cache="off")
    kept.run()
    assert entries(kept) == []
    kept.run("--compress-cache", "rw")
    assert len(entries(kept)) == 6


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("compress_cache", "yes", "ini compress_cache 'yes': say one of off, ro, rw, refresh"),
        (
            "compress_cache_size",
            "-1",
            "ini compress_cache_size '-1': say how many megabytes, such as 512",
        ),
        (
            "compress_cache_size",
            "inf",
            "ini compress_cache_size 'inf': say how many megabytes, such as 512",
        ),
    ],
)
def test_ini_keys_are_checked(kept: Project, key: str, value: str, message: str) -> None:
    ini(kept, **{key: value})
    result = kept.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_it_needs_suites_and_one_of_four_words(kept: Project) -> None:
    result = kept.plain("--compress-cache", "ro")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the --compress-* options need --compress-suite"])
    result = kept.run("--compress-cache", "on")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--compress-cache: invalid choice: 'on'*"])


def test_workers_share_it(kept: Project) -> None:
    command = ("--compress-suite", "-n", "2", "--dist", "loadscope")
    kept.pytester.runpytest_subprocess(*command)
    assert measured(kept) >= 6
    assert len(entries(kept)) == 6
    result = kept.pytester.runpytest_subprocess(*command)
    assert measured(kept) == 0
    assert "6 of 6 trials from the cache" in said(result)


def test_a_directory_that_cannot_be_written_is_said(kept: Project) -> None:
    ini(kept, compress_cache_dir="pytest.toml")
    result = kept.run("-v")
    result.assert_outcomes(passed=5, xfailed=2)
    assert "Cache, 6 trials: not stored: " in said(result)
