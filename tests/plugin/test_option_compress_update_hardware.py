"""``--compress-update-hardware`` records beside what other hardware accepted."""

import pytest
from project import Project
from runs import figures, recorded, said, stored

OPTION = "--compress-update-hardware"
LOW = ("-k", "low")


def moved(project: Project, keys: str = "") -> None:
    """Go on with other hardware."""
    project.edit("tiny: {", f"tiny: {{processor: P2, {keys}")


def tied(project: Project) -> None:
    """Three facts that the dense model knows by a hair."""
    project.edit("tiny: {", "tiny: {tied: [3, 5, 7], ")


def test_records_stand_beside_each_other_and_the_first_is_the_fallback(project: Project) -> None:
    project.accept()
    alone = stored(project, "int8")
    assert (alone["fallback"], list(alone["hardware"])) == ("fake P1", ["fake P1"])
    moved(project)
    project.run(OPTION).assert_outcomes(passed=4, xfailed=2, skipped=1)
    for recipe in ("dense", "int8", "half"):
        for benchmark in ("low", "high"):
            both = stored(project, recipe, benchmark)
            assert both["fallback"] == "fake P1"
            assert list(both["hardware"]) == ["fake P1", "fake P2"]
            assert both["hardware"]["fake P2"]["environment"]["processor"] == "P2"
    assert stored(project, "int8")["hardware"]["fake P1"] == alone["hardware"]["fake P1"]


def test_a_first_record_is_a_fallback_whatever_it_was_asked_for(project: Project) -> None:
    moved(project)
    project.run(OPTION).assert_outcomes(passed=4, xfailed=2, skipped=1)
    assert stored(project, "int8")["fallback"] == "fake P2"


def test_what_counts_on_other_hardware_is_the_fallback_and_the_run_says_so(
    project: Project,
) -> None:
    project.accept()
    assert "of other hardware" not in said(project.run())
    moved(project)
    result = project.run()
    result.assert_outcomes(passed=5, xfailed=2)
    assert (
        "6 trials were compared with the baselines of other hardware (fake P1): there are none of "
        "this one." in said(result)
    )
    rows = figures(project, *LOW)
    assert {(row["hardware"], row["fallback"]) for row in rows.values()} == {("fake P1", True)}
    project.run(OPTION, *LOW)
    rows = figures(project)
    assert rows["int8::low"]["hardware"] == "fake P2"
    assert not rows["int8::low"]["fallback"]
    assert "3 trials were compared with the baselines of other" in said(project.run())


def test_a_failure_says_what_hardware_it_was_compared_with(project: Project) -> None:
    project.accept()
    moved(project)
    project.edit("above: 1000", "above: 20")
    chosen = ("-k", "int8 and low")
    line = "hardware: compared with the baseline of fake P1; there is none of fake P2"
    result = project.run(*chosen)
    result.assert_outcomes(failed=1, deselected=6)
    assert line in said(result)
    project.edit("above: 20}", "above: 1000}")
    project.run(OPTION, *LOW)
    project.edit("above: 1000", "above: 20")
    result = project.run(*chosen)
    result.assert_outcomes(failed=1, deselected=6)
    assert line not in said(result)


def test_drift_on_other_hardware_offers_to_keep_both(project: Project) -> None:
    tied(project)
    project.accept()
    moved(project, "shift: -0.1, ")  # far beyond near ties
    result = project.run(*LOW)
    result.assert_outcomes(errors=3, deselected=4)
    assert (
        "environment drift: the same dense weights answer 3 of 40 questions otherwise than when "
        "the baseline was accepted (number:003, number:005, number:007), beyond near ties. No "
        "recipe is to blame. Changed since: processor P1 -> P2. If this environment is right, "
        "accept it: pytest --compress-suite 'suites/x.yaml::tiny/dense::low' --compress-update "
        '--compress-reason "...". The baseline is that of fake P1, for there is none of fake P2; '
        "to keep both: pytest --compress-suite 'suites/x.yaml::tiny/dense::low' "
        '--compress-update-hardware --compress-reason "..."' in said(result)
    )
    project.run(OPTION, "--compress-reason=P2 rounds otherwise", *LOW)
    project.run(*LOW).assert_outcomes(passed=2, xfailed=1, deselected=4)
    project.edit("processor: P2, shift: -0.1", "processor: P1")
    project.run(*LOW).assert_outcomes(passed=2, xfailed=1, deselected=4)


def test_drift_on_the_same_hardware_offers_nothing_beside(project: Project) -> None:
    tied(project)
    project.accept()
    project.edit("tiny: {", "tiny: {shift: -0.1, ")
    result = project.run(*LOW)
    result.assert_outcomes(errors=3, deselected=4)
    assert "environment drift" in said(result)
    assert OPTION not in said(result)


def test_each_hardware_has_its_own_accepted_answers(project: Project) -> None:
    tied(project)
    project.accept()
    moved(project, "shift: -0.1, ")
    project.run(OPTION, "--compress-reason=P2 rounds otherwise", *LOW)
    assert recorded(project, "dense")["scores"]["odd"]["right"] == 20
    other = recorded(project, "dense", hardware="fake P2")
    assert other["scores"]["odd"]["right"] == 17
    # Answers of P1 are drift on P2 now, although the fallback would have them.
    project.edit("shift: -0.1", "shift: 0.1")
    result = project.run(*LOW)
    result.assert_outcomes(errors=3, deselected=4)
    assert "environment drift" in said(result)


def test_a_worse_result_than_the_fallback_needs_a_reason(project: Project) -> None:
    tied(project)
    project.accept()
    before = project.baselines()
    moved(project, "shift: -0.1, ")
    result = project.run(OPTION, "-k", "dense and low")
    result.assert_outcomes(errors=1, deselected=6)
    assert "(a worse result: 1.0000 -> 0.9250). If that is meant, say why" in said(result)
    assert project.baselines() == before


def test_a_plain_update_on_other_hardware_replaces_the_fallback(project: Project) -> None:
    project.accept()
    moved(project)
    project.run("--compress-update", *LOW).assert_outcomes(passed=2, xfailed=1, deselected=4)
    assert stored(project, "int8")["fallback"] == "fake P2"
    assert list(stored(project, "int8")["hardware"]) == ["fake P2"]
    assert len(recorded(project, "int8", hardware="fake P2")["accepted"]["history"]) == 1
    assert list(stored(project, "int8", "high")["hardware"]) == ["fake P1"]


def test_a_plain_update_keeps_the_fallback_where_this_hardware_has_its_own(
    project: Project,
) -> None:
    project.accept()
    moved(project)
    project.run(OPTION, *LOW)
    first = stored(project, "int8")["hardware"]["fake P1"]
    project.run("--compress-update", *LOW)
    both = stored(project, "int8")
    assert both["fallback"] == "fake P1"
    assert both["hardware"]["fake P1"] == first
    assert len(both["hardware"]["fake P2"]["accepted"]["history"]) == 2


def test_it_records_everything_that_runs(project: Project) -> None:
    project.accept()
    project.run(OPTION, *LOW)  # the same hardware: its record is replaced
    assert list(stored(project, "int8")["hardware"]) == ["fake P1"]
    assert len(recorded(project, "int8")["accepted"]["history"]) == 1
    assert recorded(project, "int8", "high")["accepted"]["history"] == []


@pytest.mark.parametrize(
    "other",
    [
        "--compress-update",
        "--compress-update-new",
        "--compress-calibrate",
        "--compress-plan",
        "--compress-early-stop",
    ],
)
def test_it_excludes_the_other_modes(project: Project, other: str) -> None:
    result = project.run(OPTION, other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *"])
    assert OPTION in result.stderr.str()
    assert other in result.stderr.str()
    assert project.baselines() == {}


def test_a_reason_is_kept_with_it_and_it_needs_compress_suite(project: Project) -> None:
    project.run(OPTION, "--compress-reason=new machine", "-k", "dense and low")
    assert recorded(project, "dense")["accepted"]["reason"] == "new machine"
    result = project.plain(OPTION)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the --compress-* options need --compress-suite"])
