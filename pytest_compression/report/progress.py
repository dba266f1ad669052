"""Bars that show how far measurements are: drawn in a terminal only, and wiped off again.

With pytest-xdist the workers note how far they are in small files, and the process that owns the
terminal draws one bar each.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import Struct

from pytest_compression.report.screen import Screen

if TYPE_CHECKING:
    from rich.progress import Progress

PERIOD = 0.2
"""Seconds between two drawings, and between two notes of a worker."""

STILL = 1.0
"""Seconds between two drawings of the same."""

PATIENCE = 0.5
"""Seconds that a measurement may take before there is a bar: most trials are quicker."""

BAR = 12
"""Characters of a bar."""

FIGURES = BAR + 38
"""Characters of a line besides the name: counts of five digits, speed, time, and gaps."""

INPUT = "compression_progress"
"""What tells workers where to note how far they are."""


class Status(Struct, frozen=True, kw_only=True):
    """How far a measurement is."""

    name: str
    since: float
    """When it began, in seconds of the clock."""
    done: int = 0
    """Questions."""
    total: int | None = None
    """None before it is known."""


class Watcher:
    """Follows the measurements of this process, if anybody looks."""

    def __init__(self, tell: Callable[[Status | None], None], period: float = 0.0) -> None:
        self.tell = tell
        self.period = period

    @contextlib.contextmanager
    def watching(self, model: Any, name: str) -> Iterator[None]:
        """Tell how far a model is while it is asked; a model that does not say is just named."""
        status = Status(name=name, since=time.time())
        told = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told >= self.period:
                told = time.monotonic()
                self.tell(msgspec.structs.replace(status, done=done, total=total))

        before = getattr(model, "progress", None)
        if before is not None:
            model.progress = progress
        self.tell(status)
        try:
            yield
        finally:
            self.tell(None)
            if before is not None:
                model.progress = before


class Notes:
    """The files in which workers note how far they are, one each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def teller(self, worker: str) -> Callable[[Status | None], None]:
        """What notes how far a worker is."""
        path = self.folder / worker

        def tell(status: Status | None) -> None:
            with contextlib.suppress(OSError):  # a bar is not worth an error
                if status is None:
                    path.unlink(missing_ok=True)
                    return
                beside = self.folder / f".{worker}"
                beside.write_bytes(msgspec.json.encode(status))
                beside.replace(path)

        return tell

    def read(self) -> dict[str, Status]:
        """What is noted, by worker."""
        found = {}
        for path in sorted(self.folder.glob("[!.]*")):
            with contextlib.suppress(OSError, msgspec.DecodeError):  # just removed
                found[path.name] = msgspec.json.decode(path.read_bytes(), type=Status)
        return found


class Gauge:
    """Statuses as lines of text, with questions per second and time left."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.bars: Progress | None = None
        self.tasks: dict[str, tuple[Status, Any]] = {}
        """By worker: what is measured, and its bar."""

    def lines(self, statuses: dict[str, Status], width: int, *, color: bool) -> list[str]:
        """A line each for those that have taken long enough."""
        from rich.console import Console

        if self.bars is None:
            self.bars = made(self.clock)
        shown = {
            worker: status
            for worker, status in statuses.items()
            if self.clock() - status.since >= PATIENCE
        }
        for worker in self.tasks.keys() - shown.keys():
            self.bars.remove_task(self.tasks.pop(worker)[1])
        for worker, status in shown.items():
            self.show(worker, status, self.bars, max(8, width - FIGURES))
        if not self.tasks:
            return []
        console = Console(file=io.StringIO(), width=width, force_terminal=color, no_color=not color)
        with console.capture() as capture:
            console.print(self.bars.get_renderable())
        return capture.get().splitlines()

    def show(self, worker: str, status: Status, bars: "Progress", room: int) -> None:
        """Bring a worker's bar up to date; another measurement gets another bar.

        Args:
            worker: whose.
            status: how far it is.
            bars: of all workers.
            room: characters for names.
        """
        known = self.tasks.get(worker)
        if known is not None and (known[0].name, known[0].since) != (status.name, status.since):
            bars.remove_task(known[1])
            known = None
        name = f"{worker} {status.name}".lstrip()
        shown = name if len(name) <= room else f"{name[: room - 1]}…"
        task = known[1] if known else bars.add_task(shown, total=None)
        bars.update(task, description=shown, completed=status.done, total=status.total)
        self.tasks[worker] = status, task


def made(clock: Callable[[], float]) -> "Progress":
    """Bars that are never drawn by themselves."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Speed(ProgressColumn):
        """Questions per second."""

        def render(self, task: Task) -> Text:
            """Of the last half minute."""
            if task.speed is None:
                return Text("")
            return Text(f"{task.speed:.{0 if task.speed >= 10 else 1}f} questions/s")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        Speed(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        auto_refresh=False,
        get_time=clock,
    )


class Bars:
    """Draws bars from a thread of its own, from the start of a run to its end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.here: dict[str, Status] = {}
        """What is measured in this process."""
        self.notes: Notes | None = None
        """Of what is measured in others."""
        self.screen: Screen | None = None
        self.gauge = Gauge()
        self.statuses: dict[str, Status] = {}
        """What was drawn last."""
        self.due = 0.0
        """When it is to be drawn anew, for time goes on even if nothing else does."""
        self.paused = threading.Event()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, name="compression-progress", daemon=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Begin, if somebody looks."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and is_watched(self.config, reporter):
            self.screen = Screen(reporter)
            self.config.stash[WATCHER] = Watcher(self.tell)
            self.thread.start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of pytest-xdist where to note how far it is."""
        if self.screen is None:
            return
        if self.notes is None:
            self.notes = Notes(Path(tempfile.mkdtemp(prefix="pytest-compression-")))
        node.workerinput[INPUT] = str(self.notes.folder)

    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger."""
        self.paused.set()

    def pytest_leave_pdb(self) -> None:
        """Go on."""
        self.paused.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Wipe everything off, before anything is summed up."""
        self.ended.set()
        if self.screen is not None:
            self.thread.join()
            self.screen.close()
        if self.notes is not None:
            shutil.rmtree(self.notes.folder, ignore_errors=True)

    def tell(self, status: Status | None) -> None:
        """Take in how far a measurement of this process is."""
        self.here = {} if status is None else {"": status}
        if status is None and self.screen is not None:
            self.screen.draw([])  # at once: the next thing may be a dot

    def run(self) -> None:
        """Draw until the run ends."""
        while not self.ended.wait(PERIOD):
            self.draw()

    def draw(self) -> None:
        """Draw how far everything is now."""
        assert self.screen is not None  # noqa: S101
        statuses = {**self.here, **(self.notes.read() if self.notes else {})}
        if self.paused.is_set():
            statuses = {}
        known = statuses == self.statuses and self.screen.drawn
        if known and time.monotonic() < self.due:
            return  # a drawing takes milliseconds
        self.statuses, self.due = statuses, time.monotonic() + STILL
        lines = self.gauge.lines(statuses, self.screen.size.columns, color=self.screen.color)
        if lines or self.screen.drawn:
            self.screen.draw(lines)


WATCHER = pytest.StashKey[Watcher]()


def is_watched(config: pytest.Config, reporter: pytest.TerminalReporter) -> bool:
    """Whether there is a terminal that somebody looks at, and nothing else is drawn there."""
    if not reporter.isatty or sys.platform == "win32":
        return False
    unattended = any(os.environ.get(name) for name in ("CI", "BUILD_NUMBER"))
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    option = config.option
    quiet = option.verbose <= -2 or option.capture == "no" or option.collectonly
    return not (unattended or dumb or quiet)


def begin(config: pytest.Config) -> None:
    """Follow the measurements of a run; in a worker, note how far they are."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Bars(config), "compression-progress")
    elif INPUT in config.workerinput:
        notes = Notes(Path(config.workerinput[INPUT]))
        tell = notes.teller(config.workerinput["workerid"])
        config.stash[WATCHER] = Watcher(tell, PERIOD)


def watching(
    config: pytest.Config, model: Any, name: str
) -> contextlib.AbstractContextManager[None]:
    """Show how far a model is while it is asked, if anybody looks."""
    watcher = config.stash.get(WATCHER, None)
    return contextlib.nullcontext() if watcher is None else watcher.watching(model, name)
