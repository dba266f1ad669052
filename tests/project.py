"""A directory in which pytest can be run: a suite and fake parts."""

from dataclasses import dataclass
from pathlib import Path

import pytest

# Before pytester remembers what is imported, and forgets the rest after each run: NumPy loads once
# only, no run meets classes of an earlier one, and none imports anew what all of them need.
import pytest_compression.acceptance
import pytest_compression.calibration
import pytest_compression.early_stop
import pytest_compression.protocol
import pytest_compression.report.evidence
import pytest_compression.report.terminal
import pytest_compression.selection  # noqa: F401

SUITE = """\
version: 1
models:
  tiny: {use: "fakes:Memory"}
recipes:
  int8: {use: "fakes:Forget", above: 1000}
  half: {use: "fakes:Forget", above: 20, bits: 2}
benchmarks:
  low: {use: "fakes:Facts"}
  high: {use: "fakes:Facts", start: 100, n: 20}
overrides:
  - {recipe: half, expect: fail, reason: it forgets most}
"""
"""One model, three recipes with the dense one, two benchmarks; ``half`` is a control."""

ACCEPTED: dict[tuple[object, ...], dict[str, bytes]] = {}
"""The files of projects after ``accept``, by its arguments and the files before."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A directory with a suite and fake parts, in which pytest can be run."""

    pytester: pytest.Pytester

    @property
    def path(self) -> Path:
        return self.pytester.path

    @property
    def suite(self) -> Path:
        return self.path / "suites" / "x.yaml"

    def run(self, *args: str) -> pytest.RunResult:
        """Run the suites in this process."""
        return self.plain("--compress-suite", *args)

    def plain(self, *args: str) -> pytest.RunResult:
        """Run pytest in this process, without being asked for suites."""
        # Plain: no assert is to be explained, and pytest need not look for those of its plugins.
        return self.pytester.runpytest_inprocess("--assert=plain", *args)

    def accept(self, *args: str) -> None:
        """Record all baselines, and forget what happened meanwhile; equal projects share a run."""
        self.events()
        before = self.tree()
        key = (args, *before.items())
        if key not in ACCEPTED:
            self.run("--compress-update", "-q", *args)
            self.events()
            ACCEPTED[key] = self.tree()
            return
        for name in before.keys() - ACCEPTED[key].keys():
            (self.path / name).unlink()
        for name, data in ACCEPTED[key].items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def edit(self, old: str, new: str, path: str = "suites/x.yaml") -> None:
        """Replace what stands exactly once in a file."""
        file = self.path / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def baseline(self, recipe: str, benchmark: str = "low", model: str = "tiny") -> str:
        """The path of a baseline of x.yaml, relative to the project."""
        return f"baselines/x/{model}/{recipe}/{benchmark}.json"

    def tree(self) -> dict[str, bytes]:
        """Every file, with its content."""
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }

    def files(self) -> dict[str, bytes]:
        """Every file of the project that a run could leave, with its content."""
        return {
            name: data
            for name, data in self.tree().items()
            if ".pytest_cache" not in Path(name).parts
            and Path(name).name not in {"events.txt", "stdout", "stderr"}
        }

    def baselines(self) -> dict[str, bytes]:
        """The recorded ones, by path."""
        return {name: data for name, data in self.files().items() if name.startswith("baselines/")}

    def events(self) -> list[str]:
        """What happened to the fake models since this was last asked."""
        file = self.path / "events.txt"
        events = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return events
