"""``contracts: true``: an item a recipe that checks its steps, beside the trials."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from project import Project
from runs import said

from pytest_compression import cli, registry
from pytest_compression.types import Footprint

INT8, HALF = "suites/x.yaml::tiny/int8::contract", "suites/x.yaml::tiny/half::contract"


def checks(steps: Sequence[Any], model: Any, footprint: Footprint) -> str:
    """Stands for what is installed: forgetting more than half of all facts is not allowed."""
    assert footprint.modules_touched == 3
    assert model.bits == steps[-1].bits
    return "" if steps[0].above > 500 else "Forget forgets too much."


@pytest.fixture
def asked(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A suite that asks for contracts; all baselines are accepted."""
    project.accept()
    project.edit("version: 1\n", "version: 1\ncontracts: true\n")
    monkeypatch.setattr(registry, "checker", lambda: checks)
    return project


def test_each_recipe_but_the_dense_one_has_an_item_after_its_trials(asked: Project) -> None:
    lines = asked.run("--collect-only", "-q").outlines
    assert [line for line in lines if line.startswith("suites")] == [
        "suites/x.yaml::tiny/dense::low",
        "suites/x.yaml::tiny/dense::high",
        "suites/x.yaml::tiny/int8::low",
        "suites/x.yaml::tiny/int8::high",
        INT8,
        "suites/x.yaml::tiny/half::low",
        "suites/x.yaml::tiny/half::high",
        HALF,
        "suites/x.yaml::pooled",
    ]


@pytest.mark.parametrize("line", ["", "contracts: false\n"])
def test_without_being_asked_for_there_are_none(project: Project, line: str) -> None:
    project.edit("version: 1\n", f"version: 1\n{line}")
    assert "::contract" not in project.run("--collect-only", "-q").stdout.str()


def test_a_broken_contract_fails_and_says_what_is_broken(asked: Project) -> None:
    result = asked.run()
    result.assert_outcomes(passed=6, failed=1, xfailed=2)
    text = said(result)
    assert f"{HALF}: a contract is broken. Forget forgets too much. What every pruner" in text
    assert f"FAILED {HALF} - ContractBroken" in text
    assert f"Contracts of 2 recipes checked; red: {HALF}." in text
    assert "Traceback" not in text
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_one_contract_can_be_run_alone_and_needs_no_baseline_and_no_answers(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.edit("version: 1\n", "version: 1\ncontracts: true\n")
    monkeypatch.setattr(registry, "checker", lambda: checks)
    result = project.run(INT8)
    result.assert_outcomes(passed=1)
    assert "Contracts of 1 recipe checked: all are kept." in said(result)
    assert not any(event.startswith("measure") for event in project.events())
    assert project.baselines() == {}
    assert "compression: knowledge retention" not in result.stdout.str()
    project.run("-k", "contract").assert_outcomes(passed=1, failed=1, deselected=7)
    project.run("-m", "compression", "-k", "int8 and contract").assert_outcomes(
        passed=1, deselected=8
    )


def test_a_recipe_that_cannot_be_applied_errs_in_its_contract_too(asked: Project) -> None:
    asked.edit("above: 1000", "idle: true")
    result = asked.run("-k", "int8 and contract")
    result.assert_outcomes(errors=1, deselected=8)
    assert "Forget touched no layer" in said(result)


def test_without_what_checks_it_a_contract_errs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.edit("version: 1\n", "version: 1\ncontracts: true\n")
    monkeypatch.setattr(registry, "entry_points", lambda **_: [])
    registry.checker.cache_clear()
    try:
        result = project.run("-k", "int8 and contract")
    finally:
        registry.checker.cache_clear()
    result.assert_outcomes(errors=1, deselected=8)
    assert "nothing that checks contracts is installed" in said(result)


@pytest.mark.parametrize("option", ["--compress-update", "--compress-update-new"])
def test_recording_checks_contracts_and_records_nothing_of_them(
    asked: Project, option: str
) -> None:
    before = set(asked.baselines())
    reason = ["--compress-reason", "again"] if option == "--compress-update" else []
    result = asked.run(option, *reason, "-k", "not pooled")
    assert result.parseoutcomes()["failed"] == 1
    assert set(asked.baselines()) == before


def test_an_early_stop_keeps_contracts_and_a_calibration_does_not(asked: Project) -> None:
    asked.run("--compress-early-stop", "-k", "contract").assert_outcomes(
        passed=1, failed=1, deselected=7
    )
    result = asked.run("--compress-calibrate")
    result.assert_outcomes(passed=2, deselected=7)


def test_a_plan_has_no_contracts(asked: Project) -> None:
    text = asked.run("--compress-plan").stdout.str()
    assert "tiny/int8::low" in text
    assert "::contract" not in text.partition("compression: plan")[2]


def test_contracts_go_with_their_variants_into_shards_and_are_merged(
    asked: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for part, outcomes in ((1, {"passed": 2}), (2, {"passed": 3}), (3, {"failed": 1})):
        reports.append(str(asked.path / f"{part}.json"))
        result = asked.run("--compress-shard", f"{part}/3", "--compress-report", f"{part}.json")
        found = result.parseoutcomes()
        assert {name: found[name] for name in outcomes} == outcomes
    checked = [json.loads(Path(path).read_bytes())["contracts"] for path in reports]
    assert checked == [{}, {INT8: "passed"}, {HALF: "failed"}]
    capsys.readouterr()
    assert cli.main(["merge", *reports]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"Contracts of 2 recipes checked; red: {HALF}." in lines
    assert "6 trials of 3 shards, 1 red." in lines
    assert f"RED {HALF}" in lines


LIGHT = """
from pytest_compression import registry

registry.checker = lambda: lambda steps, model, footprint: "" if steps[0].bits > 2 else "Too few."
"""


def test_workers_check_too_and_the_summary_has_all_of_them(asked: Project) -> None:
    asked.pytester.makeconftest(LIGHT)  # in a worker nothing is patched
    result = asked.pytester.runpytest_subprocess("--compress-suite", "-n", "2", "-k", "contract")
    result.assert_outcomes(passed=1, failed=1)
    assert f"Contracts of 2 recipes checked; red: {HALF}." in said(result)


def test_what_is_installed_checks_them() -> None:
    assert registry.checker().__name__ == "violation"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1\n", "version: 1\ncontracts: 1\n", "x.yaml:2: contracts: 'contracts' is true"),
        (
            "version: 1\n",
            "version: 1\ncontract: true\n",
            "unknown key 'contract'. Did you mean 'contracts'?",
        ),
        (
            "  low:",
            '  contract: {use: "fakes:Facts"}\n  low:',
            "with 'contracts: true' no benchmark may be called 'contract'; rename it.",
        ),
    ],
    ids=["type", "typo", "taken"],
)
def test_what_a_suite_says_of_contracts_is_checked(
    project: Project, old: str, new: str, message: str
) -> None:
    project.edit(old, new)
    if "Facts" in new:
        project.edit("version: 1\n", "version: 1\ncontracts: true\n")
    result = project.run("--collect-only")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert message in said(result)
