"""The shipped suite and baselines, to be edited and run in processes of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SUITE = "suites/embedded.yaml"
TRIAL = re.compile(r"(PASSED|FAILED|ERROR|XFAIL|XPASS) (suites/\S+)")


class Forks:
    """A process that has loaded what is heavy, and runs pytest in forks of itself."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603  # our own interpreter on our own file
            [sys.executable, str(Path(__file__).with_name("forks.py"))],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, arguments: Sequence[str]) -> tuple[int, str]:
        """Exit status of pytest in this directory, and all that was printed."""
        said = folder / "said.txt"
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(folder), str(said), arguments]), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline()), said.read_text(encoding="utf-8")

    def close(self) -> None:
        self.process.communicate()


class Gate:
    """A copy of them."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder = folder
        self.forks = forks
        shutil.copytree(ROOT / "suites", folder / "suites")
        shutil.copytree(ROOT / "baselines", folder / "baselines")
        (folder / "pytest.toml").write_text("[pytest]\n", encoding="utf-8")

    def run(
        self,
        *trials: str,
        suite: str = SUITE,
        options: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], str]:
        """Exit status, outcome by trial, and all that was printed.

        With an environment of its own it is a new process: libraries read it when they load.
        """
        arguments = ["--compress-suite", "-rA", *options, *(f"{suite}::{one}" for one in trials)]
        if env is None:
            status, text = self.forks.run(self.folder, arguments)
        else:
            done = subprocess.run(  # noqa: S603  # our own interpreter on our own files
                [sys.executable, "-m", "pytest", *arguments],
                cwd=self.folder,
                env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
                capture_output=True,
                text=True,
                check=False,
            )
            status, text = done.returncode, done.stdout + done.stderr
        outcomes = {found[2].partition("::")[2]: found[1] for found in TRIAL.finditer(text)}
        return status, outcomes, text

    def edit(self, old: str, new: str, suite: str = SUITE) -> None:
        """Change a suite."""
        path = self.folder / suite
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")

    def record(self, trial: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change a baseline's record."""
        path = self.folder / "baselines/embedded" / f"{trial.replace('::', '/')}.json"
        stored = json.loads(path.read_text(encoding="utf-8"))
        change(stored["hardware"][stored["fallback"]])
        path.write_text(json.dumps(stored), encoding="utf-8")
