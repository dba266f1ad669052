"""A run as a JSON file: every figure, and what is needed to judge shards as one run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from pytest_compression.conclusion import Family
from pytest_compression.errors import BaselineError
from pytest_compression.familywise import Evidence

SCHEMA = 1


class Results(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run found."""

    schema: int = SCHEMA
    shard: tuple[int, int] | None
    """Which part of how many; None for a whole run."""
    trials: list[dict[str, Any]]
    """The properties of each trial, with its outcome, in suite order; null is no finite number."""
    evidence: list[Evidence]
    """Of every trial that could be measured."""
    pooled: dict[str, dict[str, Any]]
    """By suite, the test of all its trials; ``red`` is what it says if it fails."""
    contracts: dict[str, str] = field(default_factory=dict)
    """By node id, what became of the check of each recipe: an outcome, as of trials."""


def write(
    path: Path,
    rows: list[dict[str, Any]],
    contracts: dict[str, str],
    family: Family,
    shard: tuple[int, int] | None,
) -> None:
    """Write a run."""
    found = Results(
        shard=shard,
        trials=rows,
        contracts=contracts,
        evidence=list(family.evidence.values()),
        pooled={
            suite: {
                **asdict(pool.found),
                "margin": pool.margin,
                **msgspec.to_builtins(family.decisions[suite]),
            }
            for suite, pool in family.pools.items()
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def read(path: Path) -> Results:
    """Read a run.

    Raises:
        BaselineError: it is not there, or not such a file.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise BaselineError(message) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"{path} is no report of --compress-report: {error}."
        raise BaselineError(message) from error
    if found.schema != SCHEMA:
        message = f"{path} has schema {found.schema}; this version reads {SCHEMA}."
        raise BaselineError(message)
    return found
