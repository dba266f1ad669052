"""Lines below the one that pytest is writing, drawn and wiped off so that it notices nothing.

After drawing, the cursor is put back to its column, so that dots and names go on as if nothing had
been there. All moves are relative, for the terminal may scroll meanwhile.
"""

import contextlib
import os
import threading
from typing import Any, TextIO

import pytest

USUAL = os.terminal_size((80, 24))
"""What is taken for the size of a terminal that has none."""


class Screen:
    """The lines below the one that pytest is writing.

    It stands in for pytest's stream, so that whatever pytest writes wipes the bars off first.
    """

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self.writer = reporter._tw  # noqa: SLF001  # no other way to the stream
        self.color = reporter.hasmarkup
        self.lock = threading.Lock()
        self.drawn = 0
        """Lines."""
        self.column = 0
        """Where pytest's cursor is, from the start of its line."""
        self.theirs: TextIO = self.writer._file  # noqa: SLF001
        # Of our own: while a test runs, pytest captures what goes to the usual one.
        self.ours = os.fdopen(os.dup(self.theirs.fileno()), "w", encoding="utf-8")
        self.writer._file = self  # noqa: SLF001  # what is used of it

    def __getattr__(self, name: str) -> Any:
        """All else is as pytest's stream has it."""
        return getattr(self.theirs, name)

    def write(self, text: str) -> int:
        """Write for pytest, with no bar there."""
        with self.lock:
            self.wipe()
            written = self.theirs.write(text)
            self.theirs.flush()
            self.column = self.writer.width_of_current_line
            return written

    @property
    def size(self) -> os.terminal_size:
        """Of the terminal; the usual one in place of what it does not tell.

        In a container, under ``script`` or in a CI runner a terminal often has 0 columns and lines.
        """
        try:
            width, height = os.get_terminal_size(self.ours.fileno())
        except OSError:
            return USUAL
        return os.terminal_size((width or USUAL.columns, height or USUAL.lines))

    def draw(self, lines: list[str]) -> None:
        """Replace what is drawn."""
        with self.lock:
            self.wipe()
            width, height = self.size
            lines = lines[: height - 1]
            at_margin = self.column > 0 and self.column % width == 0  # a column none can go back to
            if lines and self.column >= 0 and not at_margin:
                below = "".join(f"\r\n{line}" for line in lines)
                self.tell(f"{below}\x1b[{len(lines)}A{self.back()}")
                self.drawn = len(lines)

    def wipe(self) -> None:
        """Leave nothing of what was drawn; the lock is held."""
        if self.drawn:
            self.tell(f"\x1b[1B\r\x1b[J\x1b[1A{self.back()}")
        self.drawn = 0

    def back(self) -> str:
        """What moves the cursor back to its column."""
        return f"\x1b[{self.column % self.size.columns + 1}G"

    def tell(self, text: str) -> None:
        """Send to the terminal at once, if it is still there: a bar is not worth an error."""
        with contextlib.suppress(OSError):
            self.ours.write(text)
            self.ours.flush()

    def close(self) -> None:
        """Leave the terminal to pytest."""
        self.draw([])
        self.writer._file = self.theirs  # noqa: SLF001
        with contextlib.suppress(OSError):  # what a lost terminal did not take is tried once more
            self.ours.close()
