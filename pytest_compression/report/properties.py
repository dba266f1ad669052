"""Every figure of a trial as ``user_properties``: junit keeps them, and they cross processes."""

from pytest_compression.types import Footprint, Measurement, TrialSpec, Verdict

Properties = list[tuple[str, object]]

TRIAL = "compression_trial"
"""The property that marks a report as one of ours."""


def of_trial(trial: str, order: int, spec: TrialSpec) -> Properties:
    """What the trial is of; known before anything is measured."""
    return [
        (TRIAL, trial),
        ("order", order),
        ("model", spec.model),
        ("recipe", spec.recipe),
        ("benchmark", spec.benchmark),
        ("floor", spec.gate.min_retention),
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
        ("weight_error", footprint.weight_error),
    ]


def of_measurement(measured: Measurement) -> Properties:
    """How much was asked and answered."""
    n = len(measured.scores)
    return [
        ("metric", measured.metric),
        ("questions", n),
        ("left_out", sum(measured.left_out.values())),
        ("measured", sum(measured.scores) / n),
        ("chance", sum(measured.chance) / n),
    ]


def of_verdict(verdict: Verdict) -> Properties:
    """What is said of it; ``compressed`` is what was measured, with near ties settled."""
    low, high = verdict.interval
    return [
        ("dense", verdict.dense),
        ("compressed", verdict.compressed),
        ("retention", verdict.retention),
        ("retention_low", low),
        ("retention_high", high),
        ("standard_error", verdict.standard_error),
        ("forgotten", len(verdict.forgotten)),
        ("learned", len(verdict.learned)),
        ("near_ties_settled", verdict.near_ties),
    ]
