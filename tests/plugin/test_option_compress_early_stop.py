"""``--compress-early-stop`` asks no more than is needed, and says what the whole run says."""

import re

import pytest
from project import Project
from runs import figures, said

OPTION = "--compress-early-stop"
INT8 = ("-k", "int8 and low")

PARTS = """\
from dataclasses import dataclass

import fakes
from msgspec.structs import replace


@dataclass(frozen=True, kw_only=True)
class Marks(fakes.Grades):
    forgotten: float = 0.1

    def measure(self, model):
        whole = super().measure(model)
        values = tuple(value if value != 0.1 else self.forgotten for value in whole.values)
        return replace(whole, values=values)

    def measure_part(self, model, ids):
        fakes.note(f"measure {len(ids)} of marks bits {model.bits}")
        whole = self.measure(model)
        where = [i for i, question in enumerate(whole.questions) if question.id in ids]
        parts = {
            name: tuple(getattr(whole, name)[i] for i in where)
            for name in ("questions", "given", "values")
        }
        return replace(whole, **parts)
"""


def wide(project: Project, recipes: dict[str, str], n: int = 400, gate: str = "") -> None:
    """A suite of such recipes, by their options, on one benchmark of many questions."""
    lines = [
        "version: 1",
        "models: {tiny: {use: fakes:Memory}}",
        "recipes:",
        *(f'  {name}: {{use: "fakes:Forget", {options}}}' for name, options in recipes.items()),
        f"benchmarks: {{low: {{use: fakes:Facts, n: {n}}}}}",
        f"gate: {{{gate}}}",
    ]
    project.suite.write_text("\n".join(lines), encoding="utf-8")


def asked(events: list[str], bits: int) -> int:
    """How many questions a compressed model was asked, round by round."""
    found = [re.fullmatch(rf"measure (\d+) of tiny 0 bits {bits}", event) for event in events]
    return sum(int(match[1]) for match in found if match)


def test_clear_trials_stop_and_the_dense_model_is_asked_in_full(project: Project) -> None:
    wide(project, {"int8": "above: 1000", "half": "above: 300, bits: 2"})
    project.accept()
    before = project.files()
    result = project.run(OPTION)
    result.assert_outcomes(passed=2, failed=1)
    events = project.events()
    assert [event for event in events if event.endswith("bits 32")] == ["measure tiny 0 bits 32"]
    whole = [event for event in events if event.startswith("measure tiny")]
    assert len(whole) == 1  # nothing but the dense model is asked all at once
    assert asked(events, 8) == 232
    assert asked(events, 2) == 16
    result.stdout.re_match_lines(
        [
            r"tiny/dense::low +400 .* passed *$",
            r"tiny/int8::low +232 of 400 .* passed, stopped early *$",
            r"tiny/half::low +16 of 400 .* FAILED *$",
        ]
    )
    assert project.files() == before


def test_a_failure_says_how_few_questions_were_enough(project: Project) -> None:
    wide(project, {"int8": "above: 300"})
    project.accept()
    text = said(project.run(OPTION, *INT8))
    assert re.search(
        r"suites/x\.yaml::tiny/int8::low: knowledge was lost: (\d+) of 400 questions were enough "
        r"to know that it misses its floors; the retention of the whole trial lies in "
        r"\[0\.\d{4}, 0\.\d{4}\], the floor is 0\.95\.",
        text,
    )
    assert re.search(r"on (\d+) questions of 400, stopped early \(ranked\)", text)


def test_the_figures_say_where_it_stopped(project: Project) -> None:
    wide(project, {"int8": "above: 1000"})
    project.accept()
    rows = figures(project, OPTION)
    row = rows["int8::low"]
    assert (row["questions"], row["stopped_after"], row["questions_in_all"]) == (232, 232, 400)
    assert row["retention_low"] >= row["floor"]
    assert "p_loss" not in row  # of a part nothing is compared
    assert "stopped_after" not in rows["dense::low"]


GRID = (0, 200, 340, 370, 378, 380, 382, 384, 385, 386, 388, 390, 396, 399, 400)


@pytest.mark.parametrize(
    "gate",
    [
        "min_retention: 0.95",
        "min_retention: 0.5, max_forgotten: 0.05",
        'min_retention: 0.5, relation_floors: {"*": 0.95}',
        "assurance: proven, inconclusive: pass",
    ],
)
def test_verdicts_are_those_of_the_whole_run(project: Project, gate: str) -> None:
    wide(project, {f"to-{above}": f"above: {above}" for above in GRID}, gate=gate)
    project.accept()
    whole = figures(project)
    part = figures(project, OPTION)
    assert part.keys() == whole.keys()
    for name, row in part.items():
        assert (name, row["outcome"], row.get("verdict")) == (
            name,
            whole[name]["outcome"],
            whole[name].get("verdict"),
        )
    assert {row["outcome"] for row in whole.values()} == {"passed", "failed"}
    stopped = {name for name, row in part.items() if "stopped_after" in row}
    assert {"to-0::low", "to-200::low"} <= stopped
    assert "dense::low" not in stopped
    assert ("to-400::low" in stopped) == ("proven" not in gate)


def test_near_ties_are_settled_as_in_the_whole_run(project: Project) -> None:
    # A proof is never cut short, so that all questions are asked, in parts.
    wide(project, {"int8": "above: 1000"}, n=120, gate="assurance: proven, inconclusive: pass")
    project.edit("use: fakes:Memory", "use: fakes:Memory, tied: [3, 50, 77, 111], shift: 0.0")
    project.accept()
    project.edit("shift: 0.0", "shift: -0.01")
    whole, part = figures(project)["int8::low"], figures(project, OPTION)["int8::low"]
    assert part["near_ties_settled"] == 4
    assert part == whole
    assert asked(project.events(), 8) == 120


def test_near_ties_that_flip_cost_a_trial_nothing(project: Project) -> None:
    wide(project, {"int8": "above: 1000"})
    project.edit(
        "use: fakes:Memory", f"use: fakes:Memory, tied: {list(range(0, 400, 8))}, shift: 0.0"
    )
    project.accept()
    calm = figures(project, OPTION)["int8::low"]
    project.edit("shift: 0.0", "shift: -0.01")
    shifted = figures(project, OPTION)["int8::low"]
    assert shifted["stopped_after"] == calm["stopped_after"] < 400
    assert shifted["outcome"] == "passed"
    assert shifted["near_ties_settled"] > 0
    assert shifted["measured"] < shifted["compressed"] == 1


def test_a_control_stays_a_control(project: Project) -> None:
    project.edit('low: {use: "fakes:Facts"', 'low: {use: "fakes:Facts", n: 400')
    project.accept()
    rows = figures(project, OPTION, "-k", "half and low")
    assert rows["half::low"]["outcome"] == "xfailed"
    assert rows["half::low"]["stopped_after"] < 400
    project.edit("above: 20", "above: 1000")
    result = project.run(OPTION, "-k", "half and low")
    result.assert_outcomes(failed=1, deselected=6)
    assert "[XPASS(strict)] it forgets most" in said(result)


# What was accepted


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ("above: 384", "regressed"),
        ("above: 376", "regressed"),
        ("above: 380, learn: [390, 391, 392, 393, 394]", "inconclusive"),
    ],
)
def test_a_loss_beyond_the_margin_is_asked_in_full_and_never_waved_through(
    project: Project, options: str, verdict: str
) -> None:
    wide(project, {"int8": "above: 1000"})
    project.edit("use: fakes:Memory", "use: fakes:Memory, knows: 390")
    project.accept()
    project.edit("above: 1000", options)
    whole = figures(project, *INT8)["int8::low"]
    project.events()
    part = figures(project, OPTION, *INT8)["int8::low"]
    assert asked(project.events(), 8) == 400
    assert "stopped_after" not in part
    assert part == whole
    assert part["verdict"] == verdict


def test_a_loss_within_the_margin_is_found_to_be_none(project: Project) -> None:
    wide(project, {"int8": "above: 1000"}, n=1000, gate="margin: 0.1")
    project.accept()
    project.edit("above: 1000", "above: 999")
    row = figures(project, OPTION, *INT8)["int8::low"]
    assert (row["outcome"], row["verdict"]) == ("passed", "kept")
    assert row["stopped_after"] < 1000


def test_a_gain_that_must_be_accepted_is_seen(project: Project) -> None:
    wide(project, {"int8": "above: 300"}, gate="min_retention: 0.5, improvement: accept")
    project.accept()
    project.edit("above: 300", "above: 1000")
    whole = figures(project, *INT8)["int8::low"]
    assert (whole["outcome"], whole["verdict"]) == ("failed", "improved")
    part = figures(project, OPTION, *INT8)["int8::low"]
    assert (part["outcome"], part["verdict"]) == ("failed", "improved")


def test_a_trial_that_stopped_counts_among_the_tests_of_the_run(project: Project) -> None:
    # Twenty recipes forget ten facts and learn ten others; one forgets 100 and learns 70.
    wide(
        project,
        {f"calm-{i}": "above: 1000" for i in range(20)} | {"loser": "above: 1001"},
        gate="min_retention: 0.5, margin: 0.05",
    )
    project.edit("use: fakes:Memory", "use: fakes:Memory, knows: 300")
    project.accept()
    text = project.suite.read_text(encoding="utf-8")
    calm, lost = list(range(300, 310)), list(range(300, 370))
    text = text.replace("above: 1000", f"above: 290, learn: {calm}")
    text = text.replace("above: 1001", f"above: 200, learn: {lost}")
    project.suite.write_text(text, encoding="utf-8")
    whole, part = figures(project), figures(project, OPTION)
    assert sum("stopped_after" in row for row in part.values()) == 20
    assert whole["loser::low"]["p_loss"] == part["loser::low"]["p_loss"] < 0.025
    assert whole["loser::low"]["verdict"] == "inconclusive"  # one of so many may be so by chance
    assert part["loser::low"]["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    "gate",
    ["max_forgotten: 0", 'relation_floors: {"*": 0.9}', "min_retention: 1"],
)
def test_a_dense_model_that_knows_little_can_be_stopped_too(project: Project, gate: str) -> None:
    recipes = {"all": "above: 0", "some": "above: 60", "last": "above: 119"}
    wide(project, recipes, gate=f"min_retention: 0.5, {gate}" if "min" not in gate else gate)
    project.edit("use: fakes:Memory", "use: fakes:Memory, knows: 120")
    project.accept()
    whole, part = figures(project), figures(project, OPTION)
    assert [(name, row["outcome"]) for name, row in part.items()] == [
        (name, row["outcome"]) for name, row in whole.items()
    ]


def test_what_cannot_be_compared_is_not_asked(project: Project) -> None:
    wide(project, {"int8": "above: 1000"})
    project.accept()
    project.edit("n: 400", "n: 402")
    project.run(OPTION, *INT8).assert_outcomes(errors=1, deselected=1)
    assert asked(project.events(), 8) == 0


def test_without_a_baseline_it_errs_as_ever(project: Project) -> None:
    result = project.run(OPTION)
    result.assert_outcomes(errors=6)
    assert "no baseline of suites/x.yaml::tiny/dense::low" in said(result)
    assert project.baselines() == {}


# Graded scores


def marked(project: Project, options: str = "") -> None:
    """Ask for marks instead of facts."""
    project.pytester.makepyfile(marks=PARTS)
    project.edit('low: {use: "fakes:Facts"}', f'low: {{use: "marks:Marks", n: 400{options}}}')


def test_graded_scores_stop_too(project: Project) -> None:
    marked(project)
    project.accept()
    rows = figures(project, OPTION, "-k", "low")
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "dense::low": "passed",
        "int8::low": "passed",
        "half::low": "xfailed",
    }
    assert rows["int8::low"]["stopped_after"] < 400
    assert rows["half::low"]["stopped_after"] < 400


@pytest.mark.parametrize(
    ("before", "after", "score", "asks"),
    [
        pytest.param("worth: 1.25", "worth: 1.25", "1.25", False, id="dense"),
        pytest.param("forgotten: -0.25", "forgotten: -0.25", "-0.25", False, id="accepted"),
        pytest.param("forgotten: 0.1", "forgotten: -0.25", "-0.25", True, id="compressed"),
    ],
)
def test_scores_out_of_range_cannot_stop_early(
    project: Project, before: str, after: str, score: str, *, asks: bool
) -> None:
    marked(project, f", {before}")
    project.accept()
    project.edit(before, after)
    result = project.run(OPTION, "-k", "half and low")
    result.assert_outcomes(errors=1, deselected=6)
    assert (
        f"suites/x.yaml::tiny/half::low cannot stop early: a score is {score}, not in [0, 1]. Its "
        "scores must lie between 0 and 1; run it without --compress-early-stop." in said(result)
    )
    assert any(event.endswith("of marks bits 2") for event in project.events()) == asks
    project.run("-k", "half and low").assert_outcomes(xfailed=1, deselected=6)


# Refusals


def test_a_benchmark_of_which_no_part_can_be_asked_is_refused(project: Project) -> None:
    project.edit('low: {use: "fakes:Facts"}', 'low: {use: "fakes:Grades"}')
    project.accept()
    result = project.run(OPTION, "-k", "low")
    result.assert_outcomes(passed=1, errors=2, deselected=4)
    assert (
        "Grades cannot be asked in part: it has no measure_part(model, ids). Run it without "
        "--compress-early-stop." in said(result)
    )


@pytest.mark.parametrize(
    "other",
    [
        "--compress-update",
        "--compress-update-new",
        "--compress-update-hardware",
        "--compress-calibrate",
    ],
)
def test_what_is_recorded_is_measured_wholly(project: Project, other: str) -> None:
    result = project.run(OPTION, other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: {other} needs whole measurements: drop --compress-early-stop"]
    )
    assert project.baselines() == {}


def test_it_needs_compress_suite(project: Project) -> None:
    result = project.plain(OPTION)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the --compress-* options need --compress-suite"])
