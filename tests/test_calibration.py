"""Each condition is set while it is measured and left after it; only the noise is stored."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_strategies import margins
from subjects import DENSE_TRIAL, HARDWARE, answered, subject

from pytest_compression.acceptance import recorded
from pytest_compression.calibration import calibrate
from pytest_compression.errors import BaselineError, MeasurementError
from pytest_compression.examination import Examination, examine
from pytest_compression.gate.noise import above
from pytest_compression.references import References, Subject
from pytest_compression.store import baselines
from pytest_compression.types import Gate, Measurement

N = 6
answers = st.lists(margins, min_size=N, max_size=N)
known = st.lists(st.floats(0.5, 5), min_size=N, max_size=N)


class Numerics:
    """A model whose answers depend on what is set; ``seen`` is what was set when it was asked."""

    def __init__(self, answers: Mapping[str, list[float]]) -> None:
        self.answers = answers
        self.now = ""
        self.seen: list[str] = []

    def conditions(self) -> Mapping[str, AbstractContextManager[None]]:
        return {name: self.set(name) for name in self.answers}

    @contextlib.contextmanager
    def set(self, name: str) -> Iterator[None]:
        self.now = name
        try:
            yield
        finally:
            self.now = ""


class Quiz:
    """Ask such a model; it may break under one condition."""

    def __init__(self, breaks: str = "none") -> None:
        self.breaks = breaks

    def measure(self, model: Any) -> Measurement:
        model.seen.append(model.now)
        if model.now == self.breaks:
            message = "a logit is not a number"
            raise MeasurementError(message)
        return answered(model.answers[model.now])


def dense(path: Path, leads: list[float]) -> Subject:
    """The dense model's trial."""
    made = subject(answered(leads), Gate(min_retention=0.0), path)
    return msgspec.structs.replace(made, trial=DENSE_TRIAL, dense_path=path, steps=())


def accepted(path: Path, leads: list[float], hardware: str = HARDWARE) -> Examination:
    """Accept such answers for the hardware, beside those of two others, and examine them."""
    path.unlink(missing_ok=True)
    trial, measured = dense(path, leads), answered(leads)
    scores = list(measured.scores)
    first = examine(trial, measured, References(dense=scores, near_tie=0.01, hardware=hardware))
    own = recorded(first, None, None, "", 0.25)
    for name in ("fake P0", hardware, "fake P9"):
        baselines.write(path, DENSE_TRIAL, name, own, beside=True)
    found = References(
        dense=scores, near_tie=0.01, own=own, hardware=hardware, accepted=scores, near={}
    )
    return examine(trial, measured, found)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibration")


@given(known, answers, answers)
def test_only_the_noise_of_this_hardware_is_stored(
    place: Path, leads: list[float], threads: list[float], half: list[float]
) -> None:
    path = place / "b.json"
    examined = accepted(path, leads)
    before = baselines.read(path, DENSE_TRIAL)
    model = Numerics({"threads 2": threads, "dtype half": half})
    furthest = max(abs(a - b) for a, b in zip(leads, threads, strict=True))
    if sum(abs(lead) < above(2 * furthest) for lead in leads) > N / 10:
        with pytest.raises(MeasurementError, match="near ties and hide what is lost"):
            calibrate(examined, Quiz(), model)  # type: ignore[arg-type]
        assert baselines.read(path, DENSE_TRIAL) == before
        return
    noise = calibrate(examined, Quiz(), model)  # type: ignore[arg-type]  # all that is asked of it
    assert model.seen == ["threads 2", "dtype half"]
    after = baselines.read(path, DENSE_TRIAL)
    assert after.hardware[HARDWARE].noise == noise
    untouched = dict(after.hardware)
    untouched[HARDWARE] = msgspec.structs.replace(after.hardware[HARDWARE], noise=None)
    assert msgspec.structs.replace(after, hardware=untouched) == before
    assert noise.near_tie >= 2 * furthest  # whatever another dtype does
    assert noise.shifts["threads 2"] == furthest


@pytest.mark.parametrize("breaks", ["threads 1", "dtype half"])
def test_a_condition_is_left_whatever_happens_and_then_nothing_is_stored(
    tmp_path: Path, breaks: str
) -> None:
    leads = [1.0] * N
    path = tmp_path / "b.json"
    examined, before = accepted(path, leads), path.read_bytes()
    model = Numerics(dict.fromkeys(["threads 1", "dtype half"], leads))
    with pytest.raises(MeasurementError, match=r"^a logit is not a number$"):
        calibrate(examined, Quiz(breaks), model)  # type: ignore[arg-type]
    assert model.now == ""
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({}, "there is no condition that computes in the same dtype"),
        ({"dtype half": [1.0] * N}, "there is no condition that computes in the same dtype"),
        ({"threads 1": [1.0] * (N - 1)}, "the conditions asked different questions"),
        (
            {"threads 1": [1.0] * (N - 1) + [float("inf")]},
            "a margin is finite in one condition and not in another",
        ),
    ],
)
def test_conditions_of_which_nothing_is_learned_are_refused(
    tmp_path: Path, answers: dict[str, list[float]], message: str
) -> None:
    path = tmp_path / "b.json"
    examined, before = accepted(path, [1.0] * N), path.read_bytes()
    with pytest.raises(MeasurementError, match=f"^{DENSE_TRIAL} cannot be calibrated: {message}.$"):
        calibrate(examined, Quiz(), Numerics(answers))  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_a_model_of_one_numerics_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    with pytest.raises(MeasurementError, match=r"^object cannot be calibrated: it has no condit"):
        calibrate(accepted(path, [1.0] * N), Quiz(), object())  # type: ignore[arg-type]


def test_noise_of_this_hardware_is_not_stored_with_another_s_baseline(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    examined, before = accepted(path, [1.0] * N, "fake P2"), path.read_bytes()
    with pytest.raises(
        BaselineError,
        match=rf"^there is no baseline of {HARDWARE} to store a calibration in\. Record it: "
        rf"pytest --compress-suite '{DENSE_TRIAL}' --compress-update-hardware ",
    ):
        calibrate(examined, Quiz(), Numerics({"threads 1": [1.0] * N}))  # type: ignore[arg-type]
    assert path.read_bytes() == before
