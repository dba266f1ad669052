"""Recording: what is measured now becomes the accepted baseline, with its history.

A figure that slides a little at each acceptance has slid far after ten. So whoever accepts less
than before, a lower floor, a worse result, fewer questions, must say why.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from math import fsum
from typing import TYPE_CHECKING

import msgspec

from pytest_compression.errors import BaselineError
from pytest_compression.examination import Examination
from pytest_compression.gate.erosion import Terms, loosened, shrunk, worse
from pytest_compression.gate.verdict import near_ties, settled
from pytest_compression.references import Subject, existing
from pytest_compression.store import baselines
from pytest_compression.store.baselines import Baseline
from pytest_compression.types import Acceptance, Cost, Measurement, Noise

if TYPE_CHECKING:
    from pytest_compression.settings import Settings


def record(examined: Examination, settings: "Settings", seconds: float) -> Examination:
    """Write the trial's baseline, if the run was asked to.

    Args:
        examined: with no accepted baseline among its references.
        settings: what was asked for.
        seconds: that the measurement took.

    Raises:
        BaselineError: it is less than what was accepted before, and no reason is given. Then
            nothing is written.
    """
    subject = examined.subject
    if examined.references.own is not None:
        return examined
    found = existing(subject)
    old = found[1] if found else None
    if not settings.reason:
        if old is not None:
            laxer = loosened(Terms(old.gate, old.expect), subject.terms)
            require_nothing_less(subject, subject.trial, examined.measured, old, laxer)
        dense = existing(subject, dense=True) if subject.records_dense else None
        if dense is not None:  # else a recipe would stand beside a dense result that was refused
            require_nothing_less(subject, subject.dense_trial, subject.dense, dense[1], [])
    noise = None
    if found is not None and found[0] == subject.hardware:
        noise = found[1].noise if found[1].fingerprint == subject.fingerprint else None
    new = recorded(examined, old, noise, settings.reason, seconds)
    baselines.write(
        subject.path,
        subject.trial,
        subject.hardware,
        new,
        beside=settings.update_hardware,
    )
    references = msgspec.structs.replace(examined.references, own=old or new)
    return msgspec.structs.replace(examined, references=references, current=new, recorded=True)


def require_nothing_less(
    subject: Subject, trial: str, measured: Measurement, old: Baseline, laxer: Sequence[str]
) -> None:
    """Refuse to accept less than before without a word.

    Args:
        subject: what is recorded.
        trial: whose result is less: its own, or the dense model's.
        measured: what is measured of it now.
        old: what was accepted.
        laxer: by what changes the gate is laxer.
    """
    less = [f"the gate is laxer: {change}" for change in laxer]
    less += [
        f"fewer questions: {change}" for change in shrunk(old.counts, Counter(measured.clusters))
    ]
    score = fsum(measured.scores) / len(measured.scores)
    if old.fingerprint == subject.fingerprint:
        near = baselines.near_tie_scores(old, subject.questions)
        scores, _ = settled(measured, near, old.near_tie)
        lost = worse(baselines.unpacked(old, subject.questions), scores) > 0
    else:
        lost = score < old.score
    if lost:
        less.append(f"a worse result: {old.score:.4f} -> {score:.4f}")
    if less:
        which = "it" if trial == subject.trial else trial
        message = (
            f"nothing was recorded of {subject.trial}, for {which} is less than what was accepted "
            f"on {old.accepted.date} ({'; '.join(less)}). If that is meant, say why: "
            f"{subject.accept(trial)}"
        )
        raise BaselineError(message)


def recorded(
    examined: Examination, old: Baseline | None, noise: Noise | None, reason: str, seconds: float
) -> Baseline:
    """What is measured now, as a baseline that replaces the one there is."""
    subject, measured = examined.subject, examined.measured
    distance = examined.references.near_tie
    cost = Cost(tokens=measured.tokens, seconds=seconds)
    return Baseline(
        recipe=subject.recipe,
        metric=measured.metric,
        scores=baselines.packed(measured),
        chance=baselines.chance(measured),
        near_ties={
            measured.questions[i].id: round(measured.margins[i], 6)
            for i in near_ties(measured.margins, distance)
        },
        near_tie=distance,
        gate=subject.gate,
        expect=subject.spec.expect,
        left_out=measured.left_out,
        figures=measured.figures,
        fingerprint=subject.fingerprint,
        footprint=subject.footprint,
        environment=subject.environment,
        cost=baselines.cost_kept(old.cost if old else None, cost),
        noise=noise,
        accepted=Acceptance(
            date=datetime.now(UTC).date().isoformat(),
            reason=reason,
            history=baselines.history(old),
        ),
    )
