"""Every figure of a trial as ``user_properties``: junit keeps them, and they cross processes."""

from typing import TYPE_CHECKING, Any

from pytest_compression.gate.erosion import slide
from pytest_compression.types import Footprint, Measurement, Noise, TrialSpec

if TYPE_CHECKING:
    from pytest_compression.examination import Examination
    from pytest_compression.store.baselines import Baseline

Properties = list[tuple[str, object]]
Row = dict[str, Any]
"""The same of one trial as a mapping, with its outcome."""

TRIAL = "compression_trial"
"""The property that marks a report as a trial's."""
CONTRACT = "compression_contract"
"""The property that marks a report as that of a recipe's contract; it holds the node's id."""
REASON = "left_out: "
"""What begins the names of the properties that count the questions left out for one reason."""


def of_trial(trial: str, order: int, spec: TrialSpec) -> Properties:
    """What the trial is of; known before anything is measured."""
    return [
        (TRIAL, trial),
        ("order", order),
        ("model", spec.model),
        ("recipe", spec.recipe),
        ("benchmark", spec.benchmark),
        ("floor", spec.gate.min_retention),
        ("near_tie", spec.gate.near_tie),
        ("expect", spec.expect),
    ]


def of_footprint(footprint: Footprint) -> Properties:
    """What the recipe did to the model."""
    return [
        ("bytes", footprint.bytes),
        ("dense_bytes", footprint.dense_bytes),
        ("parameters", footprint.parameters),
        ("zeros", footprint.zeros),
        ("sparsity", footprint.sparsity),
        ("bits", footprint.bits),
        ("modules_touched", footprint.modules_touched),
        ("modules", footprint.modules),
        *([] if footprint.reshaped else [("weight_error", footprint.weight_error)]),
        *([("activation_bits", footprint.activation_bits)] if footprint.activation_bits else []),
    ]


def of_measurement(measured: Measurement) -> Properties:
    """How much was asked and answered."""
    n = len(measured.scores)
    return [
        ("metric", measured.metric),
        ("questions", n),
        ("left_out", sum(measured.left_out.values())),
        *((REASON + reason, count) for reason, count in measured.left_out.items()),
        ("measured", sum(measured.scores) / n),
        ("chance", sum(measured.chance) / n),
        *(("figure: " + name, value) for name, value in measured.figures.items()),
    ]


def of_verdict(examined: "Examination") -> Properties:
    """What is said of it; ``compressed`` is what was measured, with near ties settled."""
    verdict = examined.verdict
    low, high = verdict.interval
    found: Properties = [
        ("dense", verdict.dense),
        ("compressed", verdict.compressed),
        ("retention", verdict.retention),
        ("retention_low", low),
        ("retention_high", high),
        ("standard_error", verdict.standard_error),
        ("clustered", verdict.clustered),
        ("proven", verdict.proven),
        ("forgotten", len(verdict.forgotten)),
        ("learned", len(verdict.learned)),
        ("near_ties_settled", verdict.near_ties),
        ("hardware", examined.references.hardware),
        ("fallback", examined.references.hardware != examined.subject.hardware),
    ]
    if verdict.regression is not None:
        change = verdict.regression.change
        found += [
            ("accepted_loss", change.loss),
            ("p_loss", change.p_loss),
            ("p_gain", change.p_gain),
        ]
    if examined.current is not None:
        found += of_slide(examined.current)
    if not examined.asked_all:
        found.append(("stopped_after", len(examined.measured.questions)))
        found.append(("questions_in_all", len(examined.subject.questions)))
    return found


def of_slide(current: "Baseline") -> Properties:
    """How far the accepted figures have slid since the first; nothing if they are the first."""
    slid = slide(
        current.accepted.history, current.score, current.questions, current.gate.min_retention
    )
    if slid is None:
        return []
    return [
        ("slid_since", slid.since),
        ("slid_times", slid.times),
        ("slid_score", slid.score),
        ("slid_questions", slid.questions),
        ("slid_floor", slid.floor),
    ]


def of_noise(noise: Noise) -> Properties:
    """What a calibration found."""
    return [
        ("noise_near_tie", noise.near_tie),
        ("noise_shifts", noise.shifts),
        ("noise_flips", noise.flips),
        ("false_red", noise.false_red),
    ]
