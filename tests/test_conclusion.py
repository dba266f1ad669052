"""Regressions, as a user meets them: what is held back, what it says, and where it is counted."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from lapses import Lapse, write
from project import Project

INT8 = "suites/x.yaml::tiny/int8::b0"
INT4 = "suites/x.yaml::tiny/int4::b0"
POOLED = "suites/x.yaml::pooled"
NOTHING: list[int] = []


def accepted(project: Project, **options: object) -> Project:
    """A project that has accepted two recipes that forget nothing."""
    write(project, {"int8": NOTHING, "int4": NOTHING}, **options)  # type: ignore[arg-type]
    project.accept()
    return project


def message(result: pytest.RunResult, trial: str) -> list[str]:
    """What a trial or a pooled test says in its failure, up to the next heading."""
    start = next(i for i, line in enumerate(result.outlines) if line.startswith(f"{trial}: "))
    end = next(
        i
        for i, line in enumerate(result.outlines[start:], start)
        if re.match(r"[_=]{3,} |[=_]{20}", line)
    )
    return result.outlines[start:end]


def cases(path: Path) -> dict[str, list[dict[str, str]]]:
    """Of each test case of a junit file its properties and outcome; a list, for it may be there
    twice."""
    found: dict[str, list[dict[str, str]]] = {}
    for case in ET.parse(path).iter("testcase"):  # noqa: S314  # we wrote it ourselves
        entries = {entry.attrib["name"]: entry.attrib["value"] for entry in case.iter("property")}
        children = [child.tag for child in case if child.tag != "properties"]
        name = f"{case.attrib['classname']}::{case.attrib['name']}"
        found.setdefault(name, []).append({**entries, "outcome": " ".join(children)})
    return found


def verdicts(result: pytest.RunResult) -> dict[str, str]:
    """The last cell of each row of the table."""
    rows = [re.split(r" {2,}", line.strip()) for line in result.outlines]
    return {row[0]: row[-1] for row in rows if re.match(r"tiny/\S+::\S+$", row[0]) and len(row) > 9}


# One trial


def test_a_significant_loss_above_the_floor_fails_with_all_that_explains_it(
    project: Project,
) -> None:
    accepted(project)
    write(project, {"int8": range(390, 400), "int4": NOTHING})
    result = project.run()
    result.assert_outcomes(failed=1, passed=2, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = message(result, INT8)
    assert said[0] == (
        f"{INT8}: a regression: 2.50% of the answers were lost, net, since the result was "
        "accepted, beyond the margin 1.00%; p = 0.00098, significant after Holm's adjustment over "
        "2 tests."
    )
    assert "  forgotten 10 of 400 known  learned 0  near ties settled 0" in said
    assert (
        "  since accepted: lost 10, regained 0, net +2.50% of the questions lost, p = 0.00098"
    ) in said
    changed = next(line for line in said if line.startswith("  recipe: changed"))
    assert changed == (
        "  recipe: changed from lapses:Lapse facts=[] to lapses:Lapse facts=[390, 391, 392, 393, "
        "394, 395, 396, 397, 398, 399]"
    )
    assert (
        "To blame: the recipe: it was edited, and the dense model still gives its accepted answers"
    ) in said
    facts = [line for line in said if line.startswith("  Fact ")]
    assert facts[0] == "  Fact 399 | odd | then right 399, now wrong 399c (by 1.40 nats)"
    assert len(facts) == 10
    assert f"Run it again: pytest --compress-suite '{INT8}'" in said
    assert said[-1] == (
        "Mend what is to blame, or accept the worse result and say why: pytest --compress-suite "
        f"'{INT8}' --compress-update --compress-reason \"...\""
    )
    assert verdicts(result) == {
        "tiny/dense::b0": "passed",
        "tiny/int8::b0": "REGRESSED",
        "tiny/int4::b0": "passed",
    }
    assert any(line.startswith(f"FAILED {INT8}") for line in result.outlines)
    assert ".py:" not in result.stdout.str()


def test_a_significant_loss_within_the_margin_is_green(project: Project) -> None:
    accepted(project, gate="margin: 0.03")
    write(project, {"int8": range(390, 400), "int4": NOTHING}, gate="margin: 0.03")
    result = project.run()
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(result)["tiny/int8::b0"].startswith("passed")


@pytest.mark.parametrize("policy", ["warn", "fail", "pass"])
def test_a_loss_that_is_not_significant_among_all_is_inconclusive(
    project: Project, policy: str
) -> None:
    gate = f"inconclusive: {policy}"
    accepted(project, gate=gate)
    write(project, {"int8": range(395, 400), "int4": NOTHING}, gate=gate)
    result = project.run()
    said = (
        f"{INT8}: INCONCLUSIVE: 1.25% of the answers were lost since the result was accepted, "
        "p = 0.031 by itself, which is not significant after Holm's adjustment over 2 tests. They "
        "show a loss of 2.26% with power 80% at level 0.013; about 1,801 would settle one of this "
        "size."
    )
    assert verdicts(result)["tiny/int8::b0"] == "INCONCLUSIVE"
    assert (said in result.stdout.str()) == (policy != "pass")
    if policy == "fail":
        result.assert_outcomes(failed=1, passed=3)
        assert message(result, INT8)[0] == said
    else:
        result.assert_outcomes(passed=4, warnings=policy == "warn")
        assert result.ret == pytest.ExitCode.OK
    assert result.stdout.str().count("InconclusiveWarning: ") == (policy == "warn")


def test_too_few_questions_warn_once_and_pass(project: Project) -> None:
    gate = "min_retention: 0.9"
    accepted(project, asked=[range(100)], gate=gate)
    write(project, {"int8": range(96, 100), "int4": NOTHING}, asked=[range(100)], gate=gate)
    result = project.run()
    result.assert_outcomes(passed=4, warnings=1)
    assert result.stdout.str().count("InconclusiveWarning: ") == 1
    result.stdout.fnmatch_lines(
        [f"  *{INT8}: INCONCLUSIVE: 100 questions cannot tell whether more than 1.0% was lost *"]
    )


def test_a_warning_can_be_named_and_turned_into_an_error_or_silence(project: Project) -> None:
    accepted(project)
    write(project, {"int8": range(395, 400), "int4": NOTHING})
    name = "pytest_compression.InconclusiveWarning"
    for action in ("error", "ignore"):
        result = project.run("-W", f"{action}::{name}")
        assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        assert sum(result.parseoutcomes().get(key, 0) for key in ("passed", "failed")) == 4
        assert ("InconclusiveWarning" in result.stdout.str()) == (action == "error")


def test_warnings_that_are_errors_do_not_break_the_end_of_a_run(project: Project) -> None:
    accepted(project)
    write(project, {"int8": range(395, 400), "int4": NOTHING})
    result = project.run("-W", "error")
    assert sum(result.parseoutcomes().get(key, 0) for key in ("passed", "failed")) == 4
    assert "INTERNALERROR" not in result.stdout.str()


@pytest.mark.parametrize("improvement", ["report", "accept"])
def test_an_improvement_is_reported_or_must_be_accepted(project: Project, improvement: str) -> None:
    gate = f"improvement: {improvement}"
    write(project, {"int8": range(390, 400), "int4": NOTHING}, gate=gate)
    project.accept()
    write(project, {"int8": NOTHING, "int4": NOTHING}, gate=gate)
    result = project.run()
    if improvement == "report":
        result.assert_outcomes(passed=4)
        assert verdicts(result)["tiny/int8::b0"] == "passed, improved"
        return
    result.assert_outcomes(failed=1, passed=3)
    assert verdicts(result)["tiny/int8::b0"] == "IMPROVED"
    said = message(result, INT8)
    assert said[0] == (
        f"{INT8}: an improvement that is not accepted yet: 2.50% of the answers were gained, net, "
        "beyond the margin 1.00%; p = 0.00098, significant after Holm's adjustment over 4 tests."
    )
    assert said[-1] == (
        "Accept it, so that it is not lost again unseen: pytest --compress-suite "
        f"'{INT8}' --compress-update --compress-reason \"...\""
    )


def test_a_loss_below_the_floor_is_told_as_that_and_not_as_a_regression(project: Project) -> None:
    accepted(project)
    write(project, {"int8": range(350, 400), "int4": NOTHING})
    result = project.run()
    result.assert_outcomes(failed=1, passed=2, skipped=1)
    assert message(result, INT8)[0].startswith(f"{INT8}: knowledge was lost: retention 0.8333 is ")
    assert verdicts(result)["tiny/int8::b0"] == "FAILED"


@pytest.mark.parametrize("policy", ["warn", "fail"])
def test_a_regression_whose_retention_is_not_proven_is_reported_once(
    project: Project, policy: str
) -> None:
    gate = f"assurance: proven, min_retention: 0.96, inconclusive: {policy}"
    accepted(project, gate=gate)
    write(project, {"int8": range(390, 400), "int4": NOTHING}, gate=gate)
    result = project.run("--junitxml=run.xml")
    result.assert_outcomes(failed=1, passed=2, skipped=1)
    assert [len(found) for found in cases(project.path / "run.xml").values()] == [1] * 4
    headings = [line for line in result.outlines if line.startswith(f"{INT8}: ")]
    assert len(headings) == 1
    if policy == "warn":  # then the loss is what makes it fail
        assert headings[0].startswith(f"{INT8}: a regression: 2.50% of the answers were lost, net,")


def test_the_same_recipe_in_another_environment_is_to_blame_with_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted(project)
    lapse = Lapse(facts=tuple(range(390, 400)))
    monkeypatch.setattr(Lapse, "apply", lambda _, model, apply=lapse.apply: apply(model))
    project.edit('"fakes:Memory"', '"fakes:Memory", library: "2.0"')
    result = project.run("-k", "int8")
    result.assert_outcomes(failed=1, deselected=3)
    assert "  recipe: unchanged, lapses:Lapse facts=[]" in message(result, INT8)
    assert (
        "To blame: the recipe in the changed environment: the dense model still gives its accepted "
        "answers, so that what changed moves only compressed weights"
    ) in message(result, INT8)


# The pooled test


HUNDREDS = [range(start, start + 100) for start in range(0, 800, 100)]
ONE_EACH = [hundred[7] for hundred in HUNDREDS]


def test_a_small_loss_in_every_trial_turns_only_the_pooled_test_red(project: Project) -> None:
    write(project, {"int8": NOTHING}, asked=HUNDREDS)
    project.accept()
    project.run().assert_outcomes(passed=17)
    write(project, {"int8": ONE_EACH}, asked=HUNDREDS)
    result = project.run("--junitxml=run.xml")
    result.assert_outcomes(failed=1, passed=16)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert all(said.startswith("passed") for said in verdicts(result).values())
    assert [line.split()[1] for line in result.outlines if line.startswith("FAILED ")] == [POOLED]
    said = message(result, "suites/x.yaml")[0]
    assert said == (
        "suites/x.yaml: a loss is spread over 8 trials: 1.000% of all answers were lost, net, "
        "since they were accepted, beyond the pooled margin 0.354%; p = 0.0039, significant beside "
        "Holm's adjustment over 8 tests. No single trial shows it: look for what they share, such "
        "as the environment or a step of all recipes. If it is meant, accept it: pytest "
        "--compress-suite 'suites/x.yaml' --compress-update --compress-reason \"...\""
    )
    remark = "+1.000% of the answers lost, net, since they were accepted, p = 0.0039"
    assert f"Pooled over 8 tested trials: {remark} (8 questions differ)." in result.outlines
    (pooled,) = [found for name, found in cases(project.path / "run.xml").items() if "pool" in name]
    assert pooled == [{"verdict": "regressed", "outcome": "failure"}]


def test_the_pooled_test_alone_says_that_it_knows_nothing(project: Project) -> None:
    accepted(project)
    for args in ((POOLED,), ("-k", "pooled")):
        result = project.run(*args)
        assert result.parseoutcomes()["failed"] == 1
        result.stdout.fnmatch_lines(["No trial of the suite was judged in this run, *"])
    assert project.events() == []


def test_lf_does_not_make_a_red_pooled_test_green(project: Project) -> None:
    write(project, {"int8": NOTHING}, asked=HUNDREDS)
    project.accept()
    write(project, {"int8": ONE_EACH}, asked=HUNDREDS)
    assert project.run().ret == pytest.ExitCode.TESTS_FAILED
    project.run("--lf").assert_outcomes(failed=1, deselected=16)
    project.run().assert_outcomes(failed=1, passed=16)


def test_a_suite_with_one_tested_trial_has_no_pooled_test(project: Project) -> None:
    write(project, {"int8": NOTHING})
    project.accept()
    assert POOLED not in project.run("--collect-only", "-q").outlines
    write(project, {"int8": range(395, 400)})
    result = project.run()
    result.assert_outcomes(failed=1, passed=1)  # 2 ** -5 is less than the whole alpha
    assert "after Holm's adjustment over 1 tests." in message(result, INT8)[0]


# Choosing and stopping


def test_trials_that_were_held_back_are_counted_once_and_first_stop_nothing(
    project: Project,
) -> None:
    accepted(project)
    write(project, {"int8": range(390, 400), "int4": range(380, 390)})
    result = project.run("-x", "-v")
    result.assert_outcomes(failed=2, passed=1, skipped=1)
    assert result.outlines.count(f"{INT8} FAILED".ljust(60)) <= 1
    failed = [line.split()[1] for line in result.outlines if line.startswith("FAILED ")]
    assert sorted(failed) == [INT4, INT8]
    project.run("-k", "int4").assert_outcomes(failed=1, deselected=3)
    project.run(INT8).assert_outcomes(failed=1)


def test_lf_repeats_what_was_held_back_and_turned_red(project: Project) -> None:
    accepted(project)
    write(project, {"int8": range(390, 400), "int4": NOTHING})
    project.run()
    project.run("--lf").assert_outcomes(failed=1, deselected=3)
    write(project, {"int8": NOTHING, "int4": NOTHING})
    project.run("--lf").assert_outcomes(passed=1, deselected=3)


@pytest.mark.parametrize("how", ["exit", "failure"])
def test_what_was_held_back_is_told_even_if_the_run_is_cut_short(
    project: Project, how: str
) -> None:
    accepted(project)
    write(project, {"int8": range(390, 400), "int4": NOTHING})
    body = "pytest.exit('enough')" if how == "exit" else "assert False"
    project.pytester.makepyfile(test_last=f"import pytest\ndef test_last():\n    {body}\n")
    result = project.run("-x", "suites", "test_last.py")
    assert result.ret in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED)
    assert message(result, INT8)[0].startswith(f"{INT8}: a regression: ")
    assert result.parseoutcomes()["failed"] == 1 + (how == "failure")


def test_a_trial_that_fails_otherwise_after_it_was_measured_is_counted_once(
    project: Project,
) -> None:
    accepted(project)
    write(project, {"int8": range(390, 400), "int4": NOTHING})
    project.pytester.makeconftest(
        "import pytest\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_runtest_teardown(item):\n"
        "    if 'int8' in item.nodeid:\n"
        "        raise ValueError('a bug of somebody\\'s')\n"
    )
    result = project.run("--junitxml=run.xml")
    outcomes = result.parseoutcomes()
    assert outcomes.get("errors", 0) + outcomes.get("error", 0) == 1
    assert outcomes.get("failed", 0) <= 1
    assert [len(found) for found in cases(project.path / "run.xml").values()] == [1] * 4


def test_r_a_names_every_trial_once(project: Project) -> None:
    accepted(project)
    write(project, {"int8": range(390, 400), "int4": NOTHING})
    result = project.run("-rA")
    named = [line.split()[:2] for line in result.outlines if re.match(r"(PASSED|FAILED) ", line)]
    assert sorted(named) == [
        ["FAILED", INT8],
        ["PASSED", "suites/x.yaml::tiny/dense::b0"],
        ["PASSED", INT4],
    ]


# Several workers


@pytest.mark.parametrize("dist", ["load", "loadscope"])
def test_two_workers_say_what_one_process_says(project: Project, dist: str) -> None:
    recipes = ["worse", "doubtful", "same", "broken", "control"]
    overrides = "{recipe: control, expect: fail, reason: it forgets most}"
    write(project, dict.fromkeys(recipes, NOTHING), overrides=overrides)
    project.accept()
    lost = [range(390, 400), range(395, 400), NOTHING, range(300, 400), range(200, 400)]
    write(project, dict(zip(recipes, lost, strict=True)), overrides=overrides)
    args = ["--compress-suite", "-rA"]
    alone = project.plain(*args, "--junitxml=alone.xml")
    alone.assert_outcomes(failed=2, passed=4, xfailed=1, warnings=1)
    shared = project.pytester.runpytest_subprocess(
        *args, "-n", "2", "--dist", dist, "--junitxml=shared.xml"
    )
    assert shared.ret == alone.ret == pytest.ExitCode.TESTS_FAILED
    assert shared.parseoutcomes() == alone.parseoutcomes()
    assert verdicts(shared) == verdicts(alone)
    assert message(shared, "suites/x.yaml::tiny/worse::b0") == message(
        alone, "suites/x.yaml::tiny/worse::b0"
    )
    files = cases(project.path / "alone.xml"), cases(project.path / "shared.xml")
    assert files[0] == files[1]
    assert all(len(found) == 1 for found in files[0].values())
    said = {found["recipe"]: found for (found,) in files[0].values() if "recipe" in found}
    assert {name: case["verdict"] for name, case in said.items()} == {
        "dense": "kept",
        "worse": "regressed",
        "doubtful": "inconclusive",
        "same": "kept",
        "broken": "lost",
        "control": "lost",
    }
    assert said["worse"]["p_loss"] == repr(2**-10)
    named = [
        sorted(line.split(" - ")[0] for line in run.outlines if re.match("[A-Z]+ suites/", line))
        for run in (alone, shared)
    ]
    assert named[0] == named[1]
    again = project.run("--lf")  # what the workers found was remembered
    again.assert_outcomes(failed=2, deselected=5)


def test_a_worker_that_dies_takes_no_verdict_with_it(project: Project) -> None:
    accepted(project)
    write(project, {"int8": range(390, 400), "int4": NOTHING})
    project.edit("facts: []}", "facts: [], dies: true}")
    result = project.pytester.runpytest_subprocess(
        "--compress-suite", "-n", "1", "--junitxml=run.xml"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["passed"]) == (2, 1)
    assert message(result, INT8)[0].startswith(f"{INT8}: a regression: ")
    result.stdout.fnmatch_lines([f"worker 'gw0' crashed while running '{INT4}'"])
