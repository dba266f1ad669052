"""The plugin's options and ini keys, read and checked once a run."""

import contextlib
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

if TYPE_CHECKING:
    from pytest_compression.types import TrialSpec

SUFFIXES = (".yaml", ".yml")
RECORDING = ("update", "update_new", "update_hardware")
MODES = (*RECORDING, "calibrate", "plan", "early_stop")
"""Options of which a run takes one at most."""

CacheMode = Literal["off", "ro", "rw", "refresh"]
"""Whether kept answers are read (ro, rw), and new ones written (rw, refresh)."""


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
    update_hardware: bool
    """Record everything that runs, beside what other hardware accepted."""
    reason: str
    remove_unused: bool
    plan: bool
    """Run nothing; say what the suites could tell and what they would cost."""
    calibrate: bool
    """Measure the noise of the dense models' numerics, and store it."""
    early_stop: bool
    """Stop asking as soon as a trial is decided."""
    shard: tuple[int, int] | None
    """Which part of how many, counted from 1."""
    report: Path | None
    """Where the run is written to, for other programs and for merging shards."""
    command: str
    """What starts such a run, for messages that say what to type."""
    cache: CacheMode
    cache_folder: Path | None
    """None where pytest's own cache is disabled and no other directory is named."""
    cache_limit: int
    """Bytes."""
    since: float
    """When the run began, in seconds of the clock."""

    @property
    def records(self) -> bool:
        """Whether everything that runs is recorded."""
        return self.update or self.update_hardware

    @property
    def reads_cache(self) -> bool:
        """Whether kept answers may be given: what is recorded or calibrated is measured."""
        anew = self.records or self.update_new or self.calibrate or self.early_stop
        return self.cache in ("ro", "rw") and not anew

    @property
    def writes_cache(self) -> bool:
        """Whether answers are kept."""
        return self.cache in ("rw", "refresh")

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
PLANNED = pytest.StashKey[list[tuple[Path, "TrialSpec", "TrialSpec"]]]()
"""For a plan: of each trial its suite file, its spec and that of the dense model's trial."""


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
        "--compress-update-hardware",
        action="store_true",
        help="record everything that runs beside the baselines of other hardware",
    )
    group.addoption(
        "--compress-reason",
        metavar="TEXT",
        help="why baselines are recorded; kept in their acceptance record, and needed where a "
        "floor is lowered, a result is worse or questions are fewer",
    )
    group.addoption(
        "--compress-remove-unused",
        action="store_true",
        help="after a whole run, remove the baselines that no trial uses any more",
    )
    group.addoption(
        "--compress-plan",
        action="store_true",
        help="run nothing: print what each trial could detect, and what it would cost",
    )
    group.addoption(
        "--compress-calibrate",
        action="store_true",
        help="run the dense models with other batches, threads and dtypes, and store how far "
        "numerics alone move their answers",
    )
    group.addoption(
        "--compress-early-stop",
        action="store_true",
        help="ask in random order and stop as soon as a trial is decided, at the same error rate",
    )
    group.addoption(
        "--compress-shard",
        metavar="I/N",
        help="run the I-th of N parts (from 1); pytest-compression merge judges them as one run",
    )
    group.addoption(
        "--compress-report",
        metavar="FILE",
        help="write every figure of the run to a JSON file",
    )
    group.addoption(
        "--compress-cache",
        choices=get_args(CacheMode),
        help="answers of earlier runs to the same questions by the same model: rw uses and keeps "
        "them, ro only uses them, refresh measures anew and keeps that, off does neither "
        "(default: ini compress_cache, 'rw')",
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
    parser.addini("compress_cache", "default of --compress-cache", type="string", default="rw")
    parser.addini(
        "compress_cache_dir",
        "directory of kept answers, relative to the root directory (default: in pytest's cache)",
        type="string",
        default="",
    )
    parser.addini(
        "compress_cache_size",
        "megabytes that kept answers may take; the longest unused go first",
        type="string",
        default="512",
    )


def read_options(config: pytest.Config) -> Settings:
    """Check the options against each other.

    Raises:
        pytest.UsageError: they contradict each other, or name what is not there.
    """
    option = config.option
    check(option)
    command, where = "pytest --compress-suite", config.invocation_params.dir
    if option.compress_baselines:
        command += f" --compress-baselines {shlex.quote(option.compress_baselines)}"
        baselines = where / option.compress_baselines
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
        update_hardware=option.compress_update_hardware,
        reason=option.compress_reason or "",
        remove_unused=option.compress_remove_unused,
        plan=option.compress_plan,
        calibrate=option.compress_calibrate,
        early_stop=option.compress_early_stop,
        shard=None if option.compress_shard is None else part(option.compress_shard),
        report=None if option.compress_report is None else where / option.compress_report,
        command=command,
        cache=(mode := cache_mode(config)),
        cache_folder=cache_folder(config, mode),
        cache_limit=cache_limit(config),
        since=time.time(),
    )


def check(option: Any) -> None:
    """Check the options against each other.

    Raises:
        pytest.UsageError: they contradict each other.
    """
    modes = [name for name in MODES if getattr(option, f"compress_{name}")]
    if len(modes) > 1:
        first, second = (f"--compress-{name.replace('_', '-')}" for name in modes[:2])
        message = f"{first} and {second} exclude each other: run one after the other"
        if second == "--compress-early-stop" and first != "--compress-plan":
            message = f"{first} needs whole measurements: drop --compress-early-stop"
        raise pytest.UsageError(message)
    records = any(getattr(option, f"compress_{name}") for name in RECORDING)
    if option.compress_reason is not None and not records:
        message = "--compress-reason is kept with a baseline; add --compress-update"
        raise pytest.UsageError(message)
    if option.compress_report is not None and (
        not option.compress_report or Path(option.compress_report).is_dir()
    ):
        message = f"--compress-report '{option.compress_report}' names no file"
        raise pytest.UsageError(message)
    if option.compress_report is not None and option.compress_plan:
        message = "--compress-plan runs nothing that could be reported: drop --compress-report"
        raise pytest.UsageError(message)
    if option.compress_plan and getattr(option, "numprocesses", None):
        message = "--compress-plan runs nothing that could be shared out: drop -n"
        raise pytest.UsageError(message)


def part(text: str) -> tuple[int, int]:
    """The two numbers of ``I/N``.

    Raises:
        pytest.UsageError: they are not two numbers, or there is no such part.
    """
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        message = f"--compress-shard {text}: say which part of how many, such as 1/4 to 4/4"
        raise pytest.UsageError(message)
    return int(first), int(second)


def cache_mode(config: pytest.Config) -> CacheMode:
    """What is done with kept answers.

    Raises:
        pytest.UsageError: the ini key says something else.
    """
    said = config.option.compress_cache or config.getini("compress_cache")
    for mode in get_args(CacheMode):
        if said == mode:
            return mode  # type: ignore[no-any-return]  # one of the literals
    message = f"ini compress_cache '{said}': say one of {', '.join(get_args(CacheMode))}"
    raise pytest.UsageError(message)


def cache_folder(config: pytest.Config, mode: CacheMode) -> Path | None:
    """Where answers are kept; None if there is no place."""
    named = config.getini("compress_cache_dir")
    if named:
        return Path(os.path.normpath(config.rootpath / Path(named).expanduser()))
    inside = getattr(config, "cache", None)
    if inside is None:
        return None
    if mode in ("rw", "refresh"):
        with contextlib.suppress(OSError):  # then each trial says why nothing is kept
            made: Path = inside.mkdir("compression")
            return made
    return Path(inside._cachedir, "d", "compression")  # noqa: SLF001  # mkdir() would write


def cache_limit(config: pytest.Config) -> int:
    """Bytes that kept answers may take.

    Raises:
        pytest.UsageError: it is no number of megabytes.
    """
    said = config.getini("compress_cache_size")
    try:
        found = int(float(said) * 1e6)
    except (ValueError, OverflowError):
        found = 0
    if found <= 0:
        message = f"ini compress_cache_size '{said}': say how many megabytes, such as 512"
        raise pytest.UsageError(message)
    return found
