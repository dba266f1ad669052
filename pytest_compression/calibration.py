"""The noise floor: how far numerics alone move the dense model's answers."""

from datetime import UTC, datetime
from math import fsum
from typing import TYPE_CHECKING

import msgspec

from pytest_compression.errors import BaselineError, MeasurementError
from pytest_compression.examination import Examination
from pytest_compression.gate.noise import learned
from pytest_compression.gate.verdict import near_ties
from pytest_compression.store import baselines
from pytest_compression.types import Calibrated, Measurement, Noise

if TYPE_CHECKING:
    from pytest_compression.types import Benchmark, Model

MOST = 0.1
"""Share of the questions that may be near ties; of a mean graded score, how far scores may move."""


def calibrate(examined: Examination, benchmark: "Benchmark", model: "Model") -> Noise:
    """Ask the dense model again under each condition, and store what is learned.

    Raises:
        MeasurementError: the model's numerics cannot be varied.
        BaselineError: there is no baseline of this hardware to store it in.
    """
    if not isinstance(model, Calibrated):
        message = (
            f"{type(model).__name__} cannot be calibrated: it has no conditions() to compute the "
            "same in other ways."
        )
        raise MeasurementError(message)
    subject, own = examined.subject, examined.references.own
    if own is None or examined.references.hardware != subject.hardware:
        message = (
            f"there is no baseline of {subject.hardware} to store a calibration in. Record it: "
            f"{subject.accept(subject.trial, '--compress-update-hardware')}"
        )
        raise BaselineError(message)
    others = {}
    for name, condition in model.conditions().items():
        with condition:
            others[name] = benchmark.measure(model)
    try:
        noise = learned(
            examined.measured,
            others,
            near_tie=examined.references.near_tie,
            date=datetime.now(UTC).date().isoformat(),
        )
    except ValueError as error:
        message = f"{subject.trial} cannot be calibrated: {error}."
        raise MeasurementError(message) from error
    require_quiet(subject.trial, examined.measured, noise)
    baselines.write(
        subject.path,
        subject.trial,
        subject.hardware,
        msgspec.structs.replace(own, noise=noise),
        beside=True,
    )
    return noise


def require_quiet(trial: str, measured: Measurement, noise: Noise) -> None:
    """Refuse near ties so wide that they would hide what is lost."""
    if measured.values:
        blind = noise.near_tie > MOST * fsum(map(abs, measured.values)) / len(measured.values)
        hidden = len(measured.values) if blind else 0
    else:
        hidden = len(near_ties(measured.margins, noise.near_tie))
    if hidden > MOST * len(measured.scores):
        condition = max(
            noise.shifts, key=lambda name: (not name.startswith("dtype"), noise.shifts[name])
        )
        message = (
            f"{trial}: numerics alone move its answers by up to {noise.shifts[condition]:.2g} "
            f"('{condition}'), so that {hidden} of {len(measured.scores)} questions would be near "
            "ties and hide what is lost. Nothing was stored. Look for what is random or unstable "
            "in the model, or compute it in a wider dtype."
        )
        raise MeasurementError(message)
