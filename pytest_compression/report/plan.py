"""What a run could tell and would cost, from stored baselines, before anything runs."""

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import NormalDist

from msgspec import Struct
from msgspec.structs import replace
from rich.table import Table

from pytest_compression.errors import BaselineError
from pytest_compression.gate.clusters import units
from pytest_compression.gate.retention import Retention, retention
from pytest_compression.gate.verdict import paired_test
from pytest_compression.report.fitting import trial_table
from pytest_compression.settings import Settings, trial_id
from pytest_compression.store import baselines
from pytest_compression.store.baselines import Baseline
from pytest_compression.types import Gate, TrialSpec

COLUMNS = (
    "n",
    "units",
    "accepted",
    "floor",
    "sees a loss of",
    "power at floor",
    "proof",
    "tokens",
    "time",
)
LEAST = ("tokens", "units", "accepted", "floor", "proof", "time", "n")
"""Columns that are left out where a terminal is narrow, the first one first."""


class Planned(Struct, frozen=True, kw_only=True):
    """One trial, as far as its baselines tell."""

    trial: str
    missing: str = ""
    """Why nothing is known; empty if it is."""
    questions: int = 0
    units: str = ""
    retention: float = 1.0
    """As accepted."""
    floor: float = 0.0
    least: float | None = None
    """Share of the questions: the net loss that is seen with the gate's power; None if none is."""
    chance: float | None = None
    """Chance that a loss from the accepted result down to the floor is seen as a regression;
    None if it is not tested."""
    proof: float | None = None
    """Chance that the lower limit reaches the floor, if the retention is as accepted; None if that
    is not asked for."""
    blind: bool = False
    """Whether a loss must be twice the margin or more to be seen."""
    tokens: int = 0
    seconds: float = 0.0


def plan(
    trials: Sequence[tuple[Path, TrialSpec, TrialSpec]], settings: Settings, tests_in_all: int = 0
) -> list[Planned]:
    """What is known of each trial.

    Args:
        trials: of each its suite file, its spec and that of the dense model's trial.
        settings: where baselines are.
        tests_in_all: how many there are in all shards; 0 if the run is no shard.
    """
    tests = tests_in_all or sum(spec.tests for _, spec, _ in trials)
    return [one(*trial, settings, tests) for trial in trials]


def one(path: Path, spec: TrialSpec, dense: TrialSpec, settings: Settings, tests: int) -> Planned:
    """What is known of one trial.

    Args:
        path: of the suite file.
        spec: of the trial.
        dense: of the dense model's trial on the same benchmark.
        settings: where baselines are.
        tests: how many the run makes in all, for Holm's first step.
    """
    name = trial_id(settings.suite_id(path), spec)
    try:
        own = stored(settings, path, spec)
        reference = stored(settings, path, dense)
        now, then = baselines.restored(own), baselines.restored(reference)
    except FileNotFoundError:
        return Planned(trial=name, missing="no baseline")
    except BaselineError:
        return Planned(trial=name, missing="unreadable baseline")
    if own.fingerprint != reference.fingerprint:
        return Planned(trial=name, missing="stale baseline")
    gate = spec.gate
    kept = retention(then.scores, now.scores, now.chance, now.clusters, gate.alpha)
    unit = units(now.clusters)
    relations = len(set(now.clusters))
    known = Planned(
        trial=name,
        questions=own.questions,
        units=f"{relations} relations" if unit is not None else "questions",
        retention=kept.value,
        floor=gate.min_retention,
        proof=proof(kept, gate) if gate.assurance == "proven" and spec.recipe != "dense" else None,
        tokens=own.cost.tokens,
        seconds=own.cost.seconds,
    )
    if not spec.is_tested:
        return known
    return sensitivity(known, own, (then, now), spec, tests)


def proof(kept: Retention, gate: Gate) -> float:
    """Chance that the lower limit reaches the floor, by the normal approximation."""
    if kept.standard_error == 0:
        return float(kept.low >= gate.min_retention)
    normal = NormalDist()
    above = (kept.value - gate.min_retention) / kept.standard_error
    return normal.cdf(above - normal.inv_cdf(1 - gate.alpha))


def sensitivity(
    known: Planned,
    own: Baseline,
    scores: tuple[baselines.Restored, baselines.Restored],
    spec: TrialSpec,
    tests: int,
) -> Planned:
    """Add what the regression test of a trial could see."""
    then, now = scores
    gate, n = spec.gate, own.questions
    pairs = list(zip(then.scores, now.scores, strict=True))
    harmless = 2 * min(sum(d > c for d, c in pairs), sum(c > d for d, c in pairs)) / n
    level = gate.alpha / (2 if tests > 1 else 1) / tests  # half is for the pooled test
    test = paired_test(then.scores, now.scores, now.clusters, alpha=level, margin=gate.margin)
    least = test.detectable(n, harmless=harmless, power=gate.power)
    knowledge = sum(then.scores) - sum(then.chance)
    loss = min((known.retention - gate.min_retention) * knowledge / n, 1 - harmless)
    chance = test.power(n, flips=harmless + loss, loss=loss) if loss > 0 else 0.0
    return replace(
        known,
        least=least,
        chance=chance,
        blind=least is None or least > 2 * gate.margin,
    )


def stored(settings: Settings, path: Path, spec: TrialSpec) -> Baseline:
    """The record of a trial that counts on unknown hardware."""
    name = trial_id(settings.suite_id(path), spec)
    found = baselines.read(settings.baseline(path, spec), name)
    return found.hardware[found.fallback]


def table(found: Sequence[Planned], without: Collection[str] = ()) -> Table:
    """One row a trial."""
    right = [name for name in COLUMNS if name not in without]
    built = trial_table(right)
    for row in found:
        trial = row.trial.partition("::")[2]
        cells = {right[0]: row.missing} if row.missing else figures(row)
        built.add_row(trial, *(cells.get(name, "") for name in right))
    return built


def figures(row: Planned) -> dict[str, str]:
    """The cells of a row; what cannot be told is a dash."""
    sees = "nothing" if row.least is None else f"{row.least:.2%}"
    return {
        "n": str(row.questions),
        "units": row.units,
        "accepted": f"{row.retention:.3f}",
        "floor": f"{row.floor:g}",
        "sees a loss of": "-" if row.chance is None else sees + (" !" if row.blind else ""),
        "power at floor": "-" if row.chance is None else f"{row.chance:.0%}",
        "proof": "-" if row.proof is None else f"{row.proof:.0%}",
        "tokens": f"{row.tokens:,}" if row.tokens else "-",
        "time": duration(row.seconds) if row.seconds else "-",
    }


def closing(found: Sequence[Planned]) -> list[str]:
    """What the whole run costs, and what it could not see."""
    known = [row for row in found if not row.missing]
    cost = (
        f"{len(known)} trials with {sum(row.questions for row in known):,} questions: "
        f"{sum(row.tokens for row in known):,} forward tokens, about "
        f"{duration(sum(row.seconds for row in known))} as it was when they were accepted, besides "
        "loading and compressing."
    )
    said = [cost]
    if len(known) < len(found):
        said.append(f"{len(found) - len(known)} trials have no usable baseline: nothing is known.")
    blind = sum(row.blind for row in known)
    if blind:
        said.append(
            f"{blind} trials, marked !, would only see losses beyond twice their margin as a "
            "regression, if all trials changed; where few do, less is enough. More questions, more "
            "relations or a wider margin would be honest."
        )
    return said


def duration(seconds: float) -> str:
    """A time for a reader."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
