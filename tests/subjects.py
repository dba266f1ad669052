"""A trial of values alone, and its measurements: no project, no model."""

from collections.abc import Sequence
from pathlib import Path

from fakes import Facts

from pytest_compression.references import Subject
from pytest_compression.types import Footprint, Gate, Measurement, Part, TrialSpec

TRIAL = "x.yaml::m/int8::b"
DENSE_TRIAL = "x.yaml::m/dense::b"
HARDWARE = "fake P1"
FOOTPRINT = Footprint(
    bytes=8,
    dense_bytes=32,
    parameters=8,
    zeros=0,
    modules_touched=1,
    modules=1,
    sparsity=0.0,
    bits=8.0,
    weight_error=0.125,
)


def answered(margins: Sequence[float]) -> Measurement:
    """What a model answers that leads by so many nats; every second question is of ``even``."""
    questions = Facts(n=len(margins)).questions()
    return Measurement(
        metric="ranked",
        questions=questions,
        margins=tuple(margins),
        given=tuple(question.answer for question in questions),
        scoring="v1",
        left_out={},
        tokens=3 * len(questions),
    )


def subject(dense: Measurement, gate: Gate, path: Path = Path("b.json")) -> Subject:
    """The trial of one recipe, on hardware of its own."""
    return Subject(
        trial=TRIAL,
        dense_trial=DENSE_TRIAL,
        spec=TrialSpec(model="m", recipe="int8", benchmark="b", gate=gate),
        steps=(Part(use="rtn"),),
        path=path,
        dense_path=path.with_name("dense.json"),
        dense=dense,
        records_dense=False,
        weights="w",
        footprint=FOOTPRINT,
        environment={"machine": "fake", "processor": "P1"},
        command="pytest --compress-suite",
    )
