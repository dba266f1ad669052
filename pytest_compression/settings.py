"""The plugin's options and ini keys, read and checked once a run."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_compression.types import TrialSpec

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for."""

    root: Path
    """pytest's root directory, which node ids are relative to."""
    suites: tuple[Path, ...]
    """Files and directories that hold suites."""
    baselines: Path
    update: bool
    """Record everything that runs."""
    update_new: bool
    """Record what has no baseline."""
    reason: str
    remove_unused: bool
    command: str
    """What starts such a run, for messages that say what to type."""

    def holds(self, path: Path) -> bool:
        """Whether a file lies among the suites."""
        return any(path == suite or path.is_relative_to(suite) for suite in self.suites)

    def files(self) -> list[Path]:
        """Every suite file there is."""
        found = []
        for suite in self.suites:
            inside = sorted(p for p in suite.rglob("*") if p.suffix in SUFFIXES)
            found += [suite] if suite.is_file() else inside
        return found

    def suite_id(self, path: Path) -> str:
        """A suite file as node ids name it."""
        shown = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return shown.as_posix()

    def baseline(self, path: Path, spec: "TrialSpec") -> Path:
        """Where the baseline of a trial of the suite file ``path`` is kept."""
        roots = [suite for suite in self.suites if suite.is_dir() and path.is_relative_to(suite)]
        root = roots[0] if roots else self.root
        inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        folder = self.baselines / inside.with_suffix("") / spec.model / spec.recipe
        return folder / f"{spec.benchmark}.json"


def trial_id(suite_id: str, spec: "TrialSpec") -> str:
    """The node id of a trial."""
    return f"{suite_id}::{spec.model}/{spec.recipe}::{spec.benchmark}"


KEY = pytest.StashKey[Settings]()


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and their ini twins."""
    group = parser.getgroup("compression", "gates for compressed language models")
    group.addoption(
        "--compress-suite",
        action="store_true",
        help="collect suite files: each (model, recipe, benchmark) triple becomes one test",
    )
    group.addoption(
        "--compress-baselines",
        metavar="DIR",
        help="directory of accepted baselines (default: ini compress_baselines, 'baselines')",
    )
    group.addoption(
        "--compress-update",
        action="store_true",
        help="record a baseline for every trial that runs, and nothing else",
    )
    group.addoption(
        "--compress-update-new",
        action="store_true",
        help="record a baseline for the trials that have none",
    )
    group.addoption(
        "--compress-reason",
        metavar="TEXT",
        help="why baselines are recorded; kept in their acceptance record",
    )
    group.addoption(
        "--compress-remove-unused",
        action="store_true",
        help="after a whole run, remove the baselines that no trial uses any more",
    )
    parser.addini(
        "compress_suites",
        "suite files, or directories that hold them, relative to the root directory",
        type="linelist",
        default=["suites"],
    )
    parser.addini(
        "compress_baselines",
        "directory of accepted baselines, relative to the root directory",
        type="string",
        default="baselines",
    )


def read_options(config: pytest.Config) -> Settings:
    """Check the options against each other.

    Raises:
        pytest.UsageError: they contradict each other, or name what is not there.
    """
    option = config.option
    if option.compress_update and option.compress_update_new:
        message = "--compress-update records everything that runs; drop --compress-update-new"
        raise pytest.UsageError(message)
    records = option.compress_update or option.compress_update_new
    if option.compress_reason is not None and not records:
        message = "--compress-reason is kept with a baseline; add --compress-update"
        raise pytest.UsageError(message)
    command = "pytest --compress-suite"
    if option.compress_baselines:
        command += f" --compress-baselines {shlex.quote(option.compress_baselines)}"
        baselines = config.invocation_params.dir / option.compress_baselines
    else:
        baselines = config.rootpath / config.getini("compress_baselines")
    return Settings(
        root=config.rootpath,
        suites=tuple(
            Path(os.path.normpath(config.rootpath / name))  # a link stays one, as in node ids
            for name in config.getini("compress_suites")
        ),
        baselines=baselines,
        update=option.compress_update,
        update_new=option.compress_update_new,
        reason=option.compress_reason or "",
        remove_unused=option.compress_remove_unused,
        command=command,
    )
