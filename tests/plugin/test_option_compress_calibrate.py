"""``--compress-calibrate`` stores how far numerics alone move the dense model's answers."""

import json

import pytest
from project import Project
from runs import recorded, said, stored

OPTION = "--compress-calibrate"
LOW = ("-k", "low")

STILL = """\
from dataclasses import dataclass

import fakes


class Still(fakes.Model):
    conditions = None


@dataclass(frozen=True, kw_only=True)
class Stone(fakes.Memory):
    def load(self):
        return Still(self)
"""
"""A model source whose model can be computed in one way only."""

SHADES = """\
import fakes
from msgspec.structs import replace


class Shades(fakes.Grades):
    def measure(self, model):
        whole = super().measure(model)
        return replace(whole, values=tuple(v + model.source.shift for v in whole.values))
"""
"""Graded scores that move with the numerics."""


def noisy(project: Project, noise: float = -0.009) -> None:
    """Three facts lead by 0.004 nats; other threads take some away, half precision more."""
    project.edit("tiny: {", f"tiny: {{tied: [3, 5, 7], noise: {noise}, ")


def test_only_dense_trials_run_under_each_condition(project: Project) -> None:
    project.accept()
    project.run(OPTION).assert_outcomes(passed=2, deselected=5)
    assert [event for event in project.events() if not event.startswith("free")] == [
        "load tiny",
        *["measure tiny 0 bits 32"] * 3,
        *["measure tiny 100 bits 32"] * 3,
    ]


def test_the_noise_is_stored_with_the_dense_model_and_nothing_else_changes(
    project: Project,
) -> None:
    noisy(project)
    project.accept()
    before = project.files()
    project.run(OPTION).assert_outcomes(passed=2, deselected=5)
    after = project.files()
    assert after.keys() == before.keys()
    paths = {project.baseline("dense", benchmark) for benchmark in ("low", "high")}
    assert {name for name in after if after[name] != before[name]} == paths
    for path in paths:
        then, now = json.loads(before[path]), json.loads(after[path])
        noise = now["hardware"]["fake P1"].pop("noise")
        assert now == then
        assert noise["date"] == then["hardware"]["fake P1"]["accepted"]["date"]
    noise = recorded(project, "dense")["noise"]
    assert noise["shifts"] == {
        "threads 2": pytest.approx(0.009),
        "dtype half": pytest.approx(0.9),
    }
    assert noise["flips"] == {"threads 2": 3, "dtype half": 3}
    assert noise["near_tie"] == 0.019  # above twice 0.009; the other dtype does not count
    assert noise["false_red"] == 0


def test_the_figures_are_printed(project: Project) -> None:
    noisy(project)
    project.accept()
    message = said(project.run(OPTION))
    assert (
        "tiny/dense::low: margins moved by at most, in nats: threads 2 0.009 (3 flips), dtype half "
        "0.9 (3 flips). Near ties within 0.019 nats settle all of that; 0.019 are asked for from "
        "now on. To be expected: 0.00% of runs are called drift by numerics alone." in message
    )
    assert (
        "tiny/dense::high: margins moved by at most, in nats: threads 2 0 (0 flips), dtype half 0 "
        "(0 flips). Near ties within 0 nats settle all of that; 0.01 are asked for from now on."
        in message
    )


def test_what_the_suite_asks_for_is_not_narrowed(project: Project) -> None:
    noisy(project, -0.001)
    project.accept()
    message = said(project.run(OPTION))
    assert (
        "Near ties within 0.0021 nats settle all of that; 0.01 are asked for from now on."
        in message
    )
    project.run().assert_outcomes(passed=5, xfailed=2)


def test_baselines_with_narrower_near_ties_are_stale_until_they_are_accepted_again(
    project: Project,
) -> None:
    noisy(project)
    project.accept()
    project.run(OPTION)
    result = project.run()
    result.assert_outcomes(errors=3, passed=2, xfailed=1, skipped=1)  # of ``high`` none moved
    for recipe in ("dense", "int8", "half"):
        assert (
            f"stale baseline {project.path / project.baseline(recipe)}: its near ties were "
            "recorded within 0.01 nats, and 0.019 are needed by the suite or by the dense model's "
            "calibration. If the change is meant, accept it: pytest --compress-suite "
            f"'suites/x.yaml::tiny/{recipe}::low' --compress-update" in said(result)
        )
    project.run("--compress-update", *LOW).assert_outcomes(passed=2, xfailed=1, deselected=4)
    assert {recorded(project, recipe)["near_tie"] for recipe in ("dense", "int8", "half")} == {
        0.019
    }
    assert recorded(project, "dense")["noise"]["near_tie"] == 0.019
    project.run().assert_outcomes(passed=5, xfailed=2)


def test_a_recipe_accepted_after_the_calibration_has_near_ties_as_wide(project: Project) -> None:
    noisy(project)
    project.accept("-k", "dense and low")
    project.run(OPTION, *LOW)
    project.run("--compress-update-new", "-k", "int8 and low")
    assert recorded(project, "int8")["near_tie"] == 0.019


def test_a_shift_that_flipped_answers_before_is_settled_from_then_on(project: Project) -> None:
    noisy(project)
    project.accept()
    shifted = ("noise: -0.009", "noise: -0.009, shift: -0.03")
    project.edit(*shifted)
    result = project.run(*LOW)
    result.assert_outcomes(errors=3, deselected=4)
    assert "environment drift" in said(result)
    project.edit(*reversed(shifted))
    project.run(OPTION)
    project.run("--compress-update", *LOW)
    project.edit(*shifted)
    project.run(*LOW).assert_outcomes(passed=2, xfailed=1, deselected=4)


def test_noise_outlasts_an_acceptance_of_the_same_weights_only(project: Project) -> None:
    noisy(project, -0.001)
    project.accept()
    project.run(OPTION)
    noise = recorded(project, "dense")["noise"]
    project.run("--compress-update", *LOW)
    assert recorded(project, "dense")["noise"] == noise
    project.edit("tiny: {", "tiny: {weights: w2, ")
    project.run("--compress-update", *LOW)
    assert "noise" not in recorded(project, "dense")
    assert "noise" in recorded(project, "dense", "high")


def test_a_calibration_takes_the_place_of_the_one_before(project: Project) -> None:
    noisy(project, -0.001)
    project.accept()
    project.run(OPTION)
    project.edit("noise: -0.001", "noise: -0.002")
    project.run(OPTION).assert_outcomes(passed=2, deselected=5)
    assert recorded(project, "dense")["noise"]["near_tie"] == 0.0041


def test_each_hardware_has_noise_of_its_own(project: Project) -> None:
    noisy(project, -0.001)
    project.accept()
    project.edit("tiny: {", "tiny: {processor: P2, ")
    project.run("--compress-update-hardware", "-k", "dense and low")
    project.run(OPTION, *LOW).assert_outcomes(passed=1, deselected=6)
    records = stored(project, "dense")["hardware"]
    assert {name: "noise" in record for name, record in records.items()} == {
        "fake P1": False,
        "fake P2": True,
    }
    assert stored(project, "dense")["fallback"] == "fake P1"


@pytest.mark.parametrize("option", ["--compress-update", "--compress-update-hardware"])
def test_a_first_record_of_other_hardware_does_not_take_over_noise(
    project: Project, option: str
) -> None:
    noisy(project, -0.001)
    project.accept("-k", "low")
    project.run(OPTION, *LOW)
    project.edit("tiny: {", "tiny: {processor: P2, ")
    project.run(option, "-k", "dense and low").assert_outcomes(passed=1, deselected=6)
    assert "noise" not in recorded(project, "dense", hardware="fake P2")


def test_grades_that_move_no_further_have_not_changed(project: Project) -> None:
    project.pytester.makepyfile(shades=SHADES)
    project.edit('low: {use: "fakes:Facts"}', 'low: {use: "shades:Shades"}')
    project.edit("tiny: {", "tiny: {noise: -0.009, shift: 0.0, ")
    project.accept("-k", "low")
    project.run(OPTION, *LOW).assert_outcomes(passed=1, deselected=6)
    noise = recorded(project, "dense")["noise"]
    assert noise["near_tie"] == 0.019
    assert noise["flips"] == {"threads 2": 40, "dtype half": 40}
    assert noise["shifts"]["dtype half"] == pytest.approx(0.9)
    assert noise["false_red"] == 0
    project.run("--compress-update", *LOW)
    for shift, outcomes in ((-0.018, {"passed": 2, "xfailed": 1}), (-0.02, {"errors": 3})):
        project.edit("shift: 0.0", f"shift: {shift}")
        assert project.run(*LOW).parseoutcomes() == {"deselected": 4, **outcomes}
        project.edit(f"shift: {shift}", "shift: 0.0")


def test_one_grade_that_jumps_by_numerics_may_not_blind_the_gate(project: Project) -> None:
    noisy(project)
    project.edit('low: {use: "fakes:Facts"}', 'low: {use: "fakes:Grades"}')
    project.edit(", above: 1000}", "}")
    project.accept("-k", "low")
    result = project.run(OPTION, *LOW)
    result.assert_outcomes(errors=1, deselected=6)
    assert "tiny/dense::low: numerics alone move its answers by up to 0.8 ('threads 2')" in said(
        result
    )
    assert recorded(project, "dense").get("noise") is None


# Refusals


def refused(project: Project, message: str, *args: str) -> None:
    """An ERROR with this message, and nothing is written."""
    before = project.baselines()
    result = project.run(OPTION, *LOW, *args)
    result.assert_outcomes(errors=1, deselected=6)
    assert message in said(result)
    assert project.baselines() == before


def test_a_model_that_can_be_computed_in_one_way_only_is_refused(project: Project) -> None:
    project.pytester.makepyfile(stone=STILL)
    project.edit("fakes:Memory", "stone:Stone")
    project.accept()
    refused(
        project,
        "Still cannot be calibrated: it has no conditions() to compute the same in other ways.",
    )


def test_without_a_baseline_there_is_nothing_to_store_it_in(project: Project) -> None:
    refused(project, "no baseline of suites/x.yaml::tiny/dense::low (")


def test_the_baseline_of_other_hardware_is_not_for_this_ones_noise(project: Project) -> None:
    project.accept()
    project.edit("tiny: {", "tiny: {processor: P2, ")
    refused(
        project,
        "there is no baseline of fake P2 to store a calibration in. Record it: pytest "
        "--compress-suite 'suites/x.yaml::tiny/dense::low' --compress-update-hardware",
    )


def test_a_drifted_environment_is_not_calibrated(project: Project) -> None:
    project.accept()
    project.edit("tiny: {", "tiny: {knows: 39, ")
    refused(project, "environment drift")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("--compress-update", "--compress-update and --compress-calibrate exclude each other"),
        ("--compress-plan", "--compress-calibrate and --compress-plan exclude each other"),
        (
            "--compress-early-stop",
            "--compress-calibrate needs whole measurements: drop --compress-early-stop",
        ),
        ("--compress-reason=why", "--compress-reason is kept with a baseline; add"),
    ],
)
def test_it_excludes_the_other_modes(project: Project, other: str, message: str) -> None:
    result = project.run(OPTION, other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}*"])


def test_it_needs_compress_suite(project: Project) -> None:
    result = project.plain(OPTION)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the --compress-* options need --compress-suite"])
