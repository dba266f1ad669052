"""Bars: what they say, that pytest's own lines never notice them, and who sees none."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest
from _pytest._io import TerminalWriter
from hypothesis import given
from hypothesis import strategies as st
from project import Project

from pytest_compression.report.progress import (
    Gauge,
    Notes,
    Status,
    Watcher,
    is_watched,
)
from pytest_compression.report.screen import Screen

WIDTH, HEIGHT = 30, 8
MOVE = re.compile(r"\x1b\[(\d*)([A-Za-z])|(.)", re.DOTALL)


def shown(text: str, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """What a terminal shows in the end: every line that was ever written, the last ones on screen.

    It knows what is needed: new lines, returns, moves up, down and to a column, wiping.
    """
    lines, row, column = [""], 0, 0
    for found in MOVE.finditer(text):
        count, action, character = int(found[1] or 1), found[2], found[3]
        if character == "\r" or action == "G":
            column = 0 if character else count - 1
        elif character == "\n":
            row += 1
        elif action == "A":
            row = max(row - count, len(lines) - height, 0)
        elif action == "B":
            row = min(row + count, len(lines) - 1)
        elif action == "J":
            lines = [*lines[:row], lines[row][:column]]
        elif character:
            if column == width:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


class Terminal:
    """A terminal of its own, with pytest's writer on one side and what it gets on the other."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (height, width))
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        self.writer = TerminalWriter(self.stream)
        self.got = b""
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        try:
            while data := os.read(self.master, 65536):
                self.got += data
        except OSError:  # how Linux says that the other side was closed
            pass

    def close(self) -> str:
        """What was sent to it."""
        self.stream.close()
        self.thread.join()
        os.close(self.master)
        return self.got.decode()


words = st.text("abc. ", min_size=1, max_size=40)
steps = st.lists(
    st.one_of(
        words,  # pytest writes
        words.map(lambda text: f"{text}\n"),
        st.lists(words.map(lambda text: f"| {text}"[:WIDTH]), max_size=3),  # bars
    ),
    max_size=12,
)


@given(steps=steps)
def test_pytest_s_own_lines_never_notice_the_bars(steps: list[str | list[str]]) -> None:
    terminal = Terminal()
    screen = Screen(SimpleNamespace(_tw=terminal.writer, hasmarkup=False))  # type: ignore[arg-type]
    for step in steps:
        if isinstance(step, str):
            terminal.writer.write(step)
        else:
            screen.draw(step)
    screen.close()
    written = "".join(step for step in steps if isinstance(step, str))
    left = shown(terminal.close())
    expected = shown(written.replace("\n", "\r\n"))
    while left and not left[-1]:
        left.pop()
    while expected and not expected[-1]:
        expected.pop()
    assert left == expected


def test_a_bar_stands_below_the_line_that_pytest_writes() -> None:
    terminal = Terminal()
    screen = Screen(SimpleNamespace(_tw=terminal.writer, hasmarkup=False))  # type: ignore[arg-type]
    terminal.writer.write("x.yaml ..")
    screen.draw(["bar 1", "bar 2"])
    during = terminal.writer.width_of_current_line
    terminal.writer.write(".")
    screen.draw(["bar 3"])
    screen.ours.close()
    text = terminal.close()
    assert during == 9
    assert shown(text) == ["x.yaml ...", "bar 3"]
    assert shown(text[: text.index("bar 2") + 5]) == ["x.yaml ..", "bar 1", "bar 2"]


@pytest.mark.parametrize("size", [(0, 0), (0, HEIGHT), (WIDTH, 0)])
def test_a_terminal_without_a_size_is_taken_for_a_usual_one(size: tuple[int, int]) -> None:
    terminal = Terminal(*size)
    screen = Screen(SimpleNamespace(_tw=terminal.writer, hasmarkup=False))  # type: ignore[arg-type]
    assert screen.size == (size[0] or 80, size[1] or 24)
    terminal.writer.write("x.yaml ..")
    screen.draw(["bar"])
    terminal.writer.write(".\n")
    screen.close()
    text = terminal.close()
    assert "bar" in text
    assert shown(text, 80, 24) == ["x.yaml ...", ""]


def test_a_terminal_that_is_gone_makes_no_error() -> None:
    gone, side = os.pipe()
    os.close(gone)
    with os.fdopen(side, "w", encoding="utf-8") as stream:
        writer = TerminalWriter(stream)
        screen = Screen(SimpleNamespace(_tw=writer, hasmarkup=False))  # type: ignore[arg-type]
        assert screen.size == (80, 24)
        screen.draw(["bar"])
        assert screen.drawn == 1
        screen.close()
        assert writer._file is stream
        assert screen.ours.closed


def gauge() -> tuple[Gauge, Callable[..., list[str]]]:
    """A gauge whose clock is told, and what it says at a time."""
    now = [0.0]
    made = Gauge(lambda: now[0])

    def at(moment: float, width: int = 80, **statuses: tuple[int, int | None]) -> list[str]:
        now[0] = moment
        found = {
            worker.strip("_"): Status(name="decoder/int8::low", since=0.0, done=done, total=total)
            for worker, (done, total) in statuses.items()
        }
        return made.lines(found, width, color=False)

    return made, at


def test_a_bar_names_the_trial_and_gives_counts_speed_and_time_left() -> None:
    _, at = gauge()
    for second in range(1, 11):
        (line,) = at(float(second), _=(20 * second, 400))
    assert re.fullmatch(r"decoder/int8::low ━+[ ╸╺━]* 200/400 20 questions/s 00:10 *", line)


def test_a_quick_measurement_has_no_bar() -> None:
    _, at = gauge()
    assert at(0.4, _=(1, 10)) == []
    assert len(at(0.6, _=(2, 10))) == 1
    assert at(0.8) == []


def test_a_model_that_does_not_say_how_far_it_is_is_named() -> None:
    _, at = gauge()
    (line,) = at(1.0, _=(0, None))
    assert line.startswith("decoder/int8::low ━")
    assert "0/?" in line


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_each_worker_has_one_line_that_fits(width: int) -> None:
    _, at = gauge()
    for second in range(1, 5):
        lines = at(float(second), width, gw0=(second * 1000, 99_999), gw1=(second, 20))
    assert [line[:5] for line in lines] == ["gw0 d", "gw1 d"]
    assert max(map(len, lines)) <= width


def test_another_measurement_of_a_worker_is_another_bar() -> None:
    made, at = gauge()
    at(9.0, _=(90, 100))
    later = Status(name="decoder/int4::low", since=10.0, done=1, total=100)
    made.clock = lambda: 11.0
    (line,) = made.lines({"": later}, 80, color=False)
    assert line.startswith("decoder/int4::low")
    assert "questions/s" not in line  # nothing is known yet of its speed


def test_a_watched_model_tells_and_gets_back_what_it_had() -> None:
    told: list[Status | None] = []
    before: Callable[[int, int], None] = lambda _done, _total: None  # noqa: E731  # as the model has
    model = SimpleNamespace(progress=before)

    def fail() -> None:
        with Watcher(told.append).watching(model, "a/b::c"):
            model.progress(3, 10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.progress is before
    assert [(one.name, one.done, one.total) if one else None for one in told] == [
        ("a/b::c", 0, None),
        ("a/b::c", 3, 10),
        None,
    ]


def test_a_model_that_tells_nothing_is_left_alone() -> None:
    model, told = SimpleNamespace(), list[Any]()
    with Watcher(told.append).watching(model, "a/b::c"):
        assert not vars(model)
    assert len(told) == 2


def test_a_worker_tells_no_more_often_than_anybody_looks() -> None:
    told: list[Any] = []
    model = SimpleNamespace(progress=None)
    model.progress = lambda _done, _total: None
    with Watcher(told.append, period=60.0).watching(model, "a/b::c"):
        for done in range(1000):
            model.progress(done, 1000)
    assert len(told) == 2  # that it begins and that it ends


def test_notes_of_workers_are_read(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    status = Status(name="a/b::c", since=1.5, done=3, total=None)
    for worker in ("gw0", "gw1"):
        notes.teller(worker)(status)
    assert notes.read() == {"gw0": status, "gw1": status}
    notes.teller("gw0")(None)
    (tmp_path / "gw2").write_bytes(b'{"name": "half a')
    assert notes.read() == {"gw1": status}


def test_a_worker_whose_directory_is_gone_goes_on(tmp_path: Path) -> None:
    tell = Notes(tmp_path / "gone").teller("gw0")
    tell(Status(name="a/b::c", since=1.5))
    tell(None)
    assert Notes(tmp_path / "gone").read() == {}


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({}, True),
        ({"isatty": False}, False),
        ({"CI": "true"}, False),
        ({"BUILD_NUMBER": "7"}, False),
        ({"TERM": "dumb"}, False),
        ({"verbose": -1}, True),
        ({"verbose": -2}, False),
        ({"capture": "no"}, False),
        ({"collectonly": True}, False),
    ],
)
def test_who_sees_bars(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], seen: bool) -> None:  # noqa: FBT001
    for name in ("CI", "BUILD_NUMBER", "TERM"):
        monkeypatch.setenv(name, change.get(name, "xterm" if name == "TERM" else ""))
    option = {"verbose": 0, "capture": "fd", "collectonly": False} | change
    config: Any = SimpleNamespace(option=SimpleNamespace(**option))
    reporter: Any = SimpleNamespace(isatty=change.get("isatty", True))
    assert is_watched(config, reporter) is seen


SLOW = """\
import time
from dataclasses import dataclass

import fakes


@dataclass(frozen=True, kw_only=True)
class Memory(fakes.Memory):
    def load(self):
        model = fakes.Model(self)
        model.progress = lambda done, total: None
        return model


@dataclass(frozen=True, kw_only=True)
class Facts(fakes.Facts):
    def measure(self, model):
        for done in range(8):
            time.sleep(0.2)
            model.progress(5 * done, self.n)
            print("captured")
        return super().measure(model)
"""


@pytest.fixture(name="slow")
def slow_(project: Project) -> Project:
    """A project with one trial that takes more than a second."""
    (project.path / "slow.py").write_text(SLOW, encoding="utf-8")
    project.suite.write_text(
        "version: 1\n"
        "models: {tiny: {use: slow:Memory}}\n"
        "benchmarks: {low: {use: slow:Facts}, quick: {use: fakes:Facts}}\n",
        encoding="utf-8",
    )
    project.accept()
    return project


def in_a_terminal(
    project: Project, *args: str, size: tuple[int, int] = (100, 40), **environment: str
) -> str:
    """What a run sends to the terminal it runs in."""
    terminal = Terminal(*size)
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER")}
    command = [sys.executable, "-m", "pytest", "--compress-suite", *args]
    done = subprocess.run(  # noqa: S603  # our own command
        command,
        cwd=project.path,
        env={**env, "TERM": "xterm", "COLUMNS": "100", **environment},
        stdout=terminal.stream,
        stderr=terminal.stream,
        check=False,
    )
    time.sleep(0.05)
    text = terminal.close()
    assert done.returncode == 0, text
    return text


def lines(text: str) -> list[str]:
    """What stands there in the end, without colours and times."""
    plain = re.sub(r"\x1b\[[\d;]*m|\x1b\]9;4;[^\x1b]*\x1b\\", "", text)
    found = [re.sub(r"[\d.]+s", "?s", line) for line in shown(plain, 100, 40)]
    return [line.strip("=").strip() for line in found]


def test_a_terminal_shows_a_bar_and_keeps_nothing_of_it(slow: Project) -> None:
    seen = in_a_terminal(slow, "--color=no")
    assert re.search(r"\r\ntiny/dense::low [^\r\n]*━[^\r\n]* \d+/40", seen)
    unseen = in_a_terminal(slow, "--color=no", CI="true")
    assert "━" not in unseen
    assert [line for line in lines(seen) if line] == [line for line in lines(unseen) if line]


def test_each_worker_has_a_bar_where_the_terminal_has_no_size_too(slow: Project) -> None:
    seen = in_a_terminal(slow, "-n", "1", "--color=no", size=(0, 0), COLUMNS="80")
    assert re.search(r"\r\ngw0 tiny/dense::low [^\r\n]*━[^\r\n]* \d+/40", seen)
    assert "━" not in "".join(lines(seen))


def test_nothing_is_drawn_where_there_is_no_terminal(slow: Project) -> None:
    result = slow.pytester.runpytest_subprocess("--compress-suite")
    assert "━" not in result.stdout.str() + result.stderr.str()
    assert "\x1b" not in result.stdout.str()
