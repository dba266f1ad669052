"""The shipped suite and baselines, to be edited and run in processes of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SUITE = "suites/embedded.yaml"
TRIAL = re.compile(r"(PASSED|FAILED|ERROR|XFAIL|XPASS) (suites/\S+)")


class Gate:
    """A copy of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        """Exit status, outcome by trial, and all that was printed."""
        command = [sys.executable, "-m", "pytest", "--compress-suite", "-rA", *options]
        done = subprocess.run(  # noqa: S603  # our own interpreter on our own files
            [*command, *(f"{suite}::{trial}" for trial in trials)],
            cwd=self.folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        text = done.stdout + done.stderr
        outcomes = {found[2].partition("::")[2]: found[1] for found in TRIAL.finditer(done.stdout)}
        return done.returncode, outcomes, text

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
