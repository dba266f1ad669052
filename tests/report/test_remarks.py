"""What is said below the table: from rows alone, and in a run."""

import json
import xml.etree.ElementTree as ET
from typing import Any

from project import Project

from pytest_compression.familywise import Pool
from pytest_compression.gate.multiplicity import pooled
from pytest_compression.report.remarks import left_out, remarks, remarks_of_pool

SLID = {
    "slid_since": "2026-08-01",
    "slid_times": 2,
    "slid_score": -0.01,
    "slid_questions": 0,
    "slid_floor": 0.0,
}


def trial(name: str, **properties: object) -> dict[str, Any]:
    return {"compression_trial": f"x.yaml::{name}", "outcome": "passed", **properties}


def test_nothing_is_remarked_where_there_is_nothing_to_say() -> None:
    assert list(remarks("x.yaml", [trial("m/a::b", fallback=False, hardware="P1")], None)) == []


def test_how_far_the_accepted_figures_have_slid_is_summed_up() -> None:
    found = [
        trial("m/a::b", **SLID | {"slid_score": -0.04, "slid_questions": -5}),
        trial("m/c::b", **SLID | {"slid_score": 0.01, "slid_floor": -0.05, "slid_questions": 9}),
        trial("m/d::b"),
    ]
    assert list(remarks("x.yaml", found, None)) == [
        (
            "2 trials accepted anew since the first time: mean score -0.0150; 1 with a lower "
            "one, the worst -0.0400 (m/a::b); 1 floors lowered; 5 questions dropped."
        )
    ]
    again = [trial("m/a::b", **SLID | {"slid_score": 0.0}), trial("m/c::b")]
    assert list(remarks("x.yaml", again, None)) == [
        "1 trial accepted anew since the first time; nothing has slid."
    ]


def test_other_hardware_is_named_once_with_how_many_trials_it_served() -> None:
    found = [
        trial("m/a::b", fallback=True, hardware="cuda H100"),
        trial("m/c::b", fallback=True, hardware="cuda H100"),
        trial("m/d::b", fallback=False, hardware="cpu x86_64"),
    ]
    assert list(remarks("x.yaml", found, None)) == [
        (
            "2 trials were compared with the baselines of other hardware (cuda H100): there are "
            "none of this one."
        )
    ]


def test_the_noise_that_a_calibration_found_is_told_by_condition() -> None:
    found = trial(
        "m/dense::b",
        near_tie=0.02,
        noise_near_tie=0.012,
        noise_shifts={"threads 1": 0.0061, "dtype bfloat16": 0.5},
        noise_flips={"dtype bfloat16": 3},
        false_red=0.0004,
    )
    assert list(remarks("x.yaml", [found], None)) == [
        (
            "m/dense::b: margins moved by at most, in nats: threads 1 0.0061 (0 flips), dtype "
            "bfloat16 0.5 (3 flips). Near ties within 0.012 nats settle all of that; 0.02 are "
            "asked for from now on. To be expected: 0.04% of runs are called drift by numerics "
            "alone."
        )
    ]
    large = found | {"noise_near_tie": 0.03}
    assert "within 0.03 nats settle all of that; 0.03 are asked for" in next(
        remarks("x.yaml", [large], None)
    )


def test_what_all_trials_say_together_is_told_in_figures() -> None:
    lost = [{("r", f"q{i}"): 1.0 for i in range(4)}, {("r", "q9"): -1.0}]
    pool = Pool(found=pooled(lost, clusters={"r"}, asked=400), margin=0.01, alpha=0.05)
    assert remarks_of_pool(pool) == (
        "Pooled over 2 tested trials: +0.750% of the answers lost, net, since they were accepted, "
        "p = 0.19 (5 questions differ)."  # 6 of 32 sign patterns
    )


def test_what_was_left_out_is_told_by_reason_the_most_frequent_first() -> None:
    found = [
        trial("m/a::b", questions=28, left_out=12)
        | {"left_out: one": 1, "left_out: of two parts, too long": 9, "left_out: another": 2},
        trial("m/c::b", questions=40, left_out=0),
        trial("m/d::b"),  # nothing could be measured
        trial("m/e::b", questions=10, questions_in_all=28, left_out=12) | {"left_out: one": 12},
    ]
    assert list(left_out(found)) == [
        "m/a::b left out 12 of 40: of two parts, too long (9); another (2); one (1).",
        "m/e::b left out 12 of 40: one (12).",  # stopped early
    ]


def test_reasons_are_told_of_trials_that_err_too(project: Project) -> None:
    project.edit('low: {use: "fakes:Facts"}', 'low: {use: "fakes:Facts", left_out: 12}')
    outputs = ("--compress-report", "run.json", "--junitxml=run.xml")
    result = project.run("-v", "-k", "low and not half", *outputs)  # there are no baselines
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "trial *",
            "tiny/dense::low left out 12 of 52: too long (12).",
            "tiny/int8::low left out 12 of 52: too long (12).",
        ],
    )
    rows = json.loads((project.path / "run.json").read_bytes())["trials"]
    assert [(row["left_out"], row["left_out: too long"]) for row in rows] == [(12, 12)] * 2
    found = [
        entry.attrib["value"]
        for entry in ET.parse(project.path / "run.xml").iter("property")  # noqa: S314  # our own
        if entry.attrib["name"].startswith("left_out")
    ]
    assert found == ["12"] * 4  # the sum and the reason
    assert "left out" not in project.run("-k", "low").stdout.str()  # the table says how many
