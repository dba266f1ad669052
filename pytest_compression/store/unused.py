"""Baselines that no trial uses any more: found from the suite files, not from what ran.

They are removed only where that is asked for. Why is not: no record is left that could keep it.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct


class Owner(Struct, frozen=True):
    """The one key of a baseline that says whose it is."""

    trial: str


def unused(folder: Path, trials: dict[Path, str], root: Path) -> list[Path]:
    """Baseline files without a trial, sorted.

    A file of a suite that lies outside the configured ones is not unused as long as that suite
    exists: another run uses it.

    Args:
        folder: the directory of baselines.
        trials: for each baseline file that a configured suite uses, its trial's id.
        root: what the paths in ids are relative to.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        owner = trial_of(path)
        if owner is None or trials.get(path) == owner:
            continue
        suite_id = owner.partition("::")[0]
        known = {trial.partition("::")[0] for trial in trials.values()}
        if suite_id in known or not (root / suite_id).exists():
            found.append(path)
    return found


def trial_of(path: Path) -> str | None:
    """Whose baseline a file is; None if it is no baseline, which is not ours to judge."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Owner).trial
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError):
        return None


def remove(paths: Iterable[Path], folder: Path) -> None:
    """Delete files, and the directories that this leaves empty."""
    for path in paths:
        path.unlink()
        for parent in path.parents:
            if parent == folder or any(parent.iterdir()):
                break
            parent.rmdir()
