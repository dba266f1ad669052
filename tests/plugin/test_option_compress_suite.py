"""``--compress-suite``: trials behave as tests do, for every way of choosing and running them."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from project import Project

from pytest_compression.gate.retention import Retention, retention

ALL = [
    f"suites/x.yaml::tiny/{recipe}::{benchmark}"
    for recipe in ("dense", "int8", "half")
    for benchmark in ("low", "high")
]
POOLED = "suites/x.yaml::pooled"


def collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line and " " not in line]


def test_without_the_flag_nothing_is_collected_or_said(project: Project) -> None:
    for args in ((), ("suites",), ("suites/x.yaml",)):
        result = project.plain(*args)
        assert result.ret in (pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR)
        said = [line for line in result.outlines if not line.startswith(("plugins:", "rootdir:"))]
        assert "compress" not in "\n".join(said)
    assert project.events() == []


def test_every_triple_is_one_item_and_collecting_loads_nothing(project: Project) -> None:
    result = project.run("--collect-only", "-q")
    assert collected(result) == [*ALL, POOLED]
    assert result.ret == pytest.ExitCode.OK
    assert project.events() == []
    tree = project.run("--collect-only")
    tree.stdout.fnmatch_lines(
        ["    <SuiteFile x.yaml>", "      <Variant tiny/dense>", "        <Trial low>"],
        consecutive=True,
    )
    tree.stdout.no_fnmatch_line("*knowledge retention*")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(["suites/x.yaml"], [*ALL, POOLED], id="file"),
        pytest.param(["suites"], [*ALL, POOLED], id="directory"),
        pytest.param([ALL[3], ALL[0]], [ALL[3], ALL[0]], id="node-ids"),
        pytest.param(["suites/x.yaml::tiny/int8"], ALL[2:4], id="variant"),
        pytest.param(["-k", "int8 and low"], [ALL[2]], id="keyword"),
        pytest.param(["-m", "compression"], [*ALL, POOLED], id="marker"),
        pytest.param(["-m", "not compression"], [], id="not-marker"),
        pytest.param(["--deselect", ALL[0]], [*ALL[1:], POOLED], id="deselect"),
        pytest.param([POOLED], [POOLED], id="pooled"),
    ],
)
def test_trials_are_selected_as_tests_are(
    project: Project, args: list[str], expected: list[str]
) -> None:
    assert collected(project.run("--collect-only", "-q", *args)) == expected


def test_a_suite_outside_the_configured_ones_runs_when_it_is_named(project: Project) -> None:
    project.suite.rename(project.path / "y.yaml")
    (project.path / "notes.yaml").write_text("not: a suite", encoding="utf-8")
    named = project.run("--collect-only", "-q", "y.yaml")
    assert collected(named) == [name.replace("suites/x", "y") for name in (*ALL, POOLED)]
    assert collected(project.run("--collect-only", "-q", ".")) == []


def test_ordinary_tests_run_beside_suites_where_both_are_named(project: Project) -> None:
    project.accept()
    project.pytester.makepyfile(test_plain="def test_plain():\n    pass\n")
    project.run("suites", "test_plain.py").assert_outcomes(passed=6, xfailed=2)
    project.run().assert_outcomes(passed=5, xfailed=2)
    project.plain().assert_outcomes(passed=1)


def test_a_green_run_prints_every_figure_and_exits_with_0(project: Project) -> None:
    project.accept()
    result = project.run()
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=5, xfailed=2)
    lines = result.outlines
    assert "compression: suites suites; baselines baselines" in lines
    start = next(i for i, line in enumerate(lines) if "compression: knowledge retention" in line)
    table = [re.sub(r"\s+", " ", line).strip() for line in lines[start + 1 :] if line.strip()]
    assert table[:9] == [
        "suites/x.yaml",
        "trial n dense now retention floor -/+ p bytes bits zeros error verdict",
        (
            "tiny/dense::low 40 1.000 1.000 1.000 [1.000, 1.000] 0.95 -0/+0 - 32.0 kB 1.00x - - - "
            "passed"
        ),
        (
            "tiny/dense::high 20 1.000 1.000 1.000 [1.000, 1.000] 0.95 -0/+0 - 32.0 kB 1.00x - - - "
            "passed"
        ),
        (
            f"tiny/int8::low 40 1.000 1.000 1.000 {limits(40, 40)} 0.95 -0/+0 1 8.0 kB 0.25x 8.00 "
            "0.003 0.125 passed, not proven"
        ),
        (
            f"tiny/int8::high 20 1.000 1.000 1.000 {limits(20, 20)} 0.95 -0/+0 1 8.0 kB 0.25x 8.00 "
            "0.003 0.125 passed, not proven"
        ),
        (
            f"tiny/half::low 40 1.000 0.500 0.333 {limits(20, 40)} 0.95 -20/+0 - 2.0 kB 0.06x 2.00 "
            "0.003 0.125 lost, as expected"
        ),
        (
            f"tiny/half::high 20 1.000 0.000 -0.333 {limits(0, 20)} 0.95 -20/+0 - 2.0 kB 0.06x "
            "2.00 0.003 0.125 lost, as expected"
        ),
        (
            "Pooled over 2 tested trials: +0.000% of the answers lost, net, since they were "
            "accepted, p = 1 (0 questions differ)."
        ),
    ]


def limits(right: int, n: int) -> str:
    """Of the retention where ``right`` of ``n`` known facts are left, each with 4 candidates."""
    found = retained(right, n)
    assert found.low < found.value < found.high
    return f"[{found.low:.3f}, {found.high:.3f}]"


def retained(right: int, n: int) -> Retention:
    return retention([1] * n, [1] * right + [0] * (n - right), [0.25] * n)


def test_lost_knowledge_fails_and_what_is_not_measured_errs_both_with_1(project: Project) -> None:
    project.accept()
    project.edit("above: 1000", "above: 10")
    failed = project.run()
    failed.assert_outcomes(passed=2, failed=2, xfailed=2, skipped=1)
    assert failed.ret == pytest.ExitCode.TESTS_FAILED
    project.edit("above: 10}", "idle: true}")
    erred = project.run()
    erred.assert_outcomes(passed=2, errors=2, xfailed=2, skipped=1)
    assert erred.ret == pytest.ExitCode.TESTS_FAILED
    erred.stdout.fnmatch_lines(["tiny/int8::low * - * ERROR*", "tiny/int8::high * - * ERROR*"])


def test_x_stops_at_the_first_loss_and_lf_repeats_failures_and_errors(project: Project) -> None:
    project.accept()
    project.edit("above: 1000", "above: 10")
    project.edit("high: {use", "high: {unusable: true, use")
    project.run("-x", "-k", "int8").assert_outcomes(failed=1, deselected=5)
    project.run().assert_outcomes(passed=1, failed=1, errors=3, xfailed=1, skipped=1)
    again = project.run("--lf", "-v")
    again.assert_outcomes(failed=1, errors=3, deselected=3)
    project.edit("unusable: true, ", "")
    project.edit("above: 10}", "above: 1000}")
    project.run("--lf").assert_outcomes(passed=3, xfailed=1, deselected=3)


def test_no_plugin_means_no_option_and_no_suites(project: Project) -> None:
    assert project.plain("-p", "no:compression").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    refused = project.run("-p", "no:compression")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*unrecognized arguments: --compress-suite*"])


def test_junit_holds_every_figure_for_errors_too(project: Project) -> None:
    project.accept()
    project.edit("tiny: {use", "tiny: {weights: w2, use")
    project.run("--junitxml=erred.xml", "-k", "int8 and low")
    project.edit("weights: w2, ", "")
    project.run("--junitxml=run.xml")
    *trials, pooled = properties(project.path / "run.xml")
    cases = {case["compression_trial"]: case for case in trials}
    assert list(cases) == ALL
    assert pooled == {"verdict": "kept"}
    assert cases[ALL[4]] == {
        "compression_trial": "suites/x.yaml::tiny/half::low",
        "order": "4",
        "model": "tiny",
        "recipe": "half",
        "benchmark": "low",
        "floor": "0.95",
        "near_tie": "0.01",
        "expect": "fail",
        "bytes": "2000",
        "dense_bytes": "32000",
        "parameters": "8000",
        "zeros": "20",
        "sparsity": "0.0025",
        "bits": "2.0",
        "modules_touched": "3",
        "modules": "4",
        "weight_error": "0.125",
        "metric": "ranked",
        "questions": "40",
        "left_out": "0",
        "measured": "0.5",
        "chance": "0.25",
        "dense": "1.0",
        "compressed": "0.5",
        "retention": repr(10 / 30),
        "retention_low": cases[ALL[4]]["retention_low"],
        "retention_high": cases[ALL[4]]["retention_high"],
        "standard_error": cases[ALL[4]]["standard_error"],
        "clustered": "False",
        "proven": "False",
        "forgotten": "20",
        "learned": "0",
        "near_ties_settled": "0",
        "hardware": "fake P1",
        "fallback": "False",
        "verdict": "lost",
    }
    found = retained(20, 40)
    for name, figure in {
        "retention_low": found.low,
        "retention_high": found.high,
        "standard_error": found.standard_error,
    }.items():
        assert float(cases[ALL[4]][name]) == pytest.approx(figure)
    compared = {"accepted_loss": "0.0", "p_loss": "1.0", "p_gain": "1.0", "verdict": "kept"}
    assert compared.items() <= cases[ALL[2]].items()
    assert "p_loss" not in cases[ALL[0]]  # a loss of the dense model would be drift
    (erred,) = properties(project.path / "erred.xml")
    assert {"questions": "40", "bytes": "8000", "measured": "1.0"}.items() <= erred.items()
    assert "retention" not in erred


def properties(path: Path) -> list[dict[str, str]]:
    """The properties of each test case of a junit file."""
    return [
        {entry.attrib["name"]: entry.attrib["value"] for entry in case.iter("property")}
        for case in ET.parse(path).iter("testcase")  # noqa: S314  # we wrote it ourselves
    ]


def test_a_control_may_lose_knowledge_and_nothing_else(project: Project) -> None:
    project.accept()
    project.edit("bits: 2}", "bits: 2, idle: true}")
    erred = project.run("-k", "half")
    erred.assert_outcomes(errors=2, deselected=5)
    erred.stdout.fnmatch_lines(["*Forget touched no layer*"])
    project.edit("idle: true", "idle: false")
    project.edit("above: 20", "above: 1000")
    passed = project.run("-k", "half")
    passed.assert_outcomes(failed=2, deselected=5)
    passed.stdout.fnmatch_lines(["*XPASS(strict)*it forgets most*"])
    assert passed.ret == pytest.ExitCode.TESTS_FAILED


def test_two_workers_give_the_same_outcomes_and_the_same_table(project: Project) -> None:
    project.accept()
    project.edit("above: 1000", "above: 10")
    alone = project.run()
    shared = project.pytester.runpytest_subprocess(
        "--compress-suite", "-n", "2", "--dist", "loadscope"
    )
    assert shared.ret == alone.ret == pytest.ExitCode.TESTS_FAILED
    assert shared.parseoutcomes() == alone.parseoutcomes()
    assert table(shared) == table(alone)
    loads = [event for event in project.events() if event == "load tiny"]
    assert len(loads) <= 3  # one alone, at most one for each worker


def table(result: pytest.RunResult) -> list[str]:
    return [line.strip() for line in result.outlines if re.match(r"tiny/\w+::\w+ +\d", line)]


def test_a_mistake_in_one_suite_stops_the_run_before_any_model_is_loaded(project: Project) -> None:
    (project.path / "suites" / "y.yaml").write_text("version: 2\n", encoding="utf-8")
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["suites/y.yaml:1: version: *"])
    assert "Traceback" not in result.stdout.str()
    assert project.events() == []
