"""One stored result judged against another, without a model or a run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pytest_compression.errors import BaselineError
from pytest_compression.gate.retention import better_than_chance
from pytest_compression.gate.verdict import Regression, Scored, Verdict, against_accepted, judge
from pytest_compression.report.failure import figure
from pytest_compression.store import baselines
from pytest_compression.store.baselines import Baseline, Restored, differences
from pytest_compression.store.unused import trial_of
from pytest_compression.types import Gate


def compare(
    accepted: Path, now: Path, hardware: str | None, asked: Mapping[str, Any]
) -> tuple[list[str], bool]:
    """What is said of B against A, and whether it is red.

    A of the dense model: what B retains, and whether that is above B's floors. Otherwise: whether
    B is worse than A, beyond the margin and significantly.

    Args:
        accepted: A's baseline file.
        now: B's.
        hardware: whose records are compared; the files' fallbacks if not given.
        asked: keys of the gate in place of B's own.

    Raises:
        BaselineError: a file cannot be read, or the two are of other questions, weights or
            scoring.
    """
    (old_name, old), (new_name, new) = (stored(path, hardware) for path in (accepted, now))
    require_comparable(old, new, accepted, now)
    gate = msgspec.structs.replace(new.gate, **asked)
    then, found = baselines.restored(old), baselines.restored(new)
    lines = [f"A  {old_name}", f"B  {new_name}"]
    if not old.recipe and not better_than_chance(then.scores, then.chance):
        message = f"{accepted}: the dense model knows no more than guessing: nothing to retain."
        raise BaselineError(message)
    if not old.recipe:
        scored = Scored(
            scores=found.scores, dense=then.scores, chance=then.chance, clusters=then.clusters
        )
        try:
            verdict = judge(scored, gate)
        except ValueError as error:
            message = f"{accepted} and {now} cannot be judged: {error}."
            raise BaselineError(message) from error
        lines += [*retained(verdict, gate), *by_relation(then, found)]
        red = verdict.outcome == "lost" or (
            verdict.outcome == "inconclusive" and gate.on_inconclusive == "fail"
        )
    else:
        regression = against_accepted(then.scores, found.scores, then.clusters, gate)
        lines += [*changed(regression, gate, len(then.scores)), *by_relation(then, found)]
        red = regression.suspected or (bool(regression.unclear) and gate.on_inconclusive == "fail")
    if near := len({*old.near_ties, *new.near_ties}):
        lines.append(f"{near} answers were near ties of A or B: a run would settle them")
    differs = differences(old.environment, new.environment)
    lines.append(f"environment: {', '.join(differs) or 'the same'}")
    return lines, red


def stored(path: Path, hardware: str | None) -> tuple[str, Baseline]:
    """A record of a file, with its trial and hardware in words."""
    try:
        owner = trial_of(path)
        found = baselines.read(path, owner or "")
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise BaselineError(message) from error
    name = hardware or found.fallback
    if name not in found.hardware:
        known = ", ".join(f"'{one}'" for one in sorted(found.hardware))
        message = f"{path} has no record of '{name}'; it has {known}."
        raise BaselineError(message)
    record = found.hardware[name]
    said = f"{found.trial}  ({name}, accepted {record.accepted.date}, score {record.score:.4f})"
    return said, record


def require_comparable(old: Baseline, new: Baseline, accepted: Path, now: Path) -> None:
    """Only answers to the same questions, scored alike, of the same dense weights compare."""
    names = ("weights", "questions", "scoring")
    differ = [
        name for name in names if getattr(old.fingerprint, name) != getattr(new.fingerprint, name)
    ]
    if not differ and old.counts != new.counts:
        differ = ["questions"]
    if differ:
        message = (
            f"{accepted} and {now} cannot be compared: they are of other "
            f"{' and other '.join(differ)}."
        )
        raise BaselineError(message)


def retained(verdict: Verdict, gate: Gate) -> Iterator[str]:
    """Retention against the dense model."""
    low, high = (figure(limit) for limit in verdict.interval)
    yield (
        f"retention {verdict.retention:.4f}  [{low}, {high}], each limit at "
        f"{1 - gate.alpha:.0%} over {'relations' if verdict.clustered else 'questions'}; floor "
        f"{gate.min_retention:g} ({gate.assurance})"
    )
    yield (
        f"dense {verdict.dense:.4f}  compressed {verdict.compressed:.4f}  chance "
        f"{verdict.chance:.4f}  on {verdict.questions} questions; forgotten "
        f"{len(verdict.forgotten)}, learned {len(verdict.learned)}"
    )
    if verdict.broken:
        yield f"LOST: {'; '.join(verdict.broken)}"
    elif verdict.unclear:
        yield f"INCONCLUSIVE: {'; '.join(verdict.unclear)}"
    else:
        yield "kept" if verdict.proven else "kept, not proven"


def changed(regression: Regression, gate: Gate, n: int) -> Iterator[str]:
    """The change since A was accepted."""
    change = regression.change
    yield (
        f"lost {len(change.forgotten)}, gained {len(change.learned)} of {n} questions: net "
        f"{change.loss:+.2%} lost, p = {change.p_loss:.3g} (of a gain {change.p_gain:.3g}) over "
        f"{'relations' if change.clustered else 'questions'}; margin {gate.margin:.2%}"
    )
    if regression.suspected:
        yield "REGRESSED: significant and beyond the margin"
    elif regression.unclear:
        yield f"INCONCLUSIVE: {regression.unclear}"
    else:
        yield "improved" if regression.improved else "no regression"


def by_relation(then: Restored, now: Restored) -> Iterator[str]:
    """The relations that lost most."""
    lost: dict[str, list[float]] = {}
    for cluster, a, b in zip(then.clusters, then.scores, now.scores, strict=True):
        lost.setdefault(cluster, []).append(a - b)
    worst = sorted(lost.items(), key=lambda item: (-sum(item[1]), item[0]))
    for cluster, each in worst[:5]:
        if any(each):
            yield (
                f"  {cluster}: lost {sum(x > 0 for x in each)}, gained {sum(x < 0 for x in each)} "
                f"of {len(each)}"
            )
