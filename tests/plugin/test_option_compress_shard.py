"""``--compress-shard`` and ``pytest-compression merge``: parts that are judged as one run."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lapses import write
from project import Project

from pytest_compression import cli, selection

NOTHING: list[int] = []
HUNDREDS = [range(start, start + 100) for start in range(0, 800, 100)]
POOLED = "suites/x.yaml::pooled"


@pytest.fixture
def several(project: Project) -> Project:
    """Five recipes on two benchmarks, and all of them accepted."""
    changed(project, {})
    project.accept()
    return project


def changed(project: Project, lost: dict[str, Sequence[int]]) -> None:
    recipes = {f"r{i}": lost.get(f"r{i}", NOTHING) for i in range(5)}
    write(project, recipes, asked=[range(400), range(400, 800)])


def collected(project: Project, *args: str) -> list[str]:
    lines = project.run("--collect-only", "-q", *args).outlines
    return [line for line in lines if "::" in line and " " not in line]


def shards(project: Project, parts: int) -> tuple[list[str], list[pytest.RunResult]]:
    """Run every shard; their reports, and what each said."""
    names = [f"{part}.json" for part in range(1, parts + 1)]
    return names, [
        project.run("--compress-shard", f"{part}/{parts}", "--compress-report", name)
        for part, name in enumerate(names, 1)
    ]


def merge(
    project: Project, names: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str], str]:
    """Exit code, output and errors of ``pytest-compression merge``."""
    capsys.readouterr()
    code = cli.main(["merge", *(str(project.path / name) for name in names)])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


# The parts


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_shards_part_the_trials_and_tear_no_variant(several: Project, parts: int) -> None:
    whole = collected(several)
    found = [collected(several, "--compress-shard", f"{i}/{parts}") for i in range(1, parts + 1)]
    assert [name for part in found for name in part] == [name for name in whole if name != POOLED]
    variants = [{name.rpartition("::")[0] for name in part} for part in found]
    assert sum(map(len, variants)) == len(set.union(*variants)) == 6


class Stub:
    """A trial, as far as its part depends on it."""

    def __init__(self, variant: int) -> None:
        self.variant = variant


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(1, 40))
def test_every_variant_is_in_one_shard_and_shards_are_alike(sizes: list[int], parts: int) -> None:
    trials = [Stub(number) for number, size in enumerate(sizes) for _ in range(size)]
    found = [
        selection.of_shard(trials, part, parts)  # type: ignore[arg-type]  # knows its variant
        for part in range(1, parts + 1)
    ]
    assert [trial for part in found for trial in part] == trials  # type: ignore[comparison-overlap]
    for part in found:
        assert len(part) < len(trials) / parts + max(sizes)


def test_a_model_is_loaded_only_by_the_shards_that_have_its_variants(project: Project) -> None:
    project.edit("models:\n", 'models:\n  big: {use: "fakes:Memory", name: big}\n')
    project.accept()
    project.run("--compress-shard", "2/2")
    assert [event for event in project.events() if event.startswith("load")] == ["load tiny"]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "/4", "a/4", "1/0", "-1/4", "1/4/4", ""])
def test_what_names_no_part_is_refused(several: Project, text: str) -> None:
    result = several.run(f"--compress-shard={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: --compress-shard {text}: say which part of how many, such as 1/4 to 4/4"]
    )
    assert several.events() == []


def test_a_shard_of_nothing_is_refused(several: Project) -> None:
    result = several.run("--compress-shard", "4/7")  # six variants
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --compress-shard 4/7: nothing is left"])


def test_a_shard_tests_among_all_trials_of_all_shards(several: Project) -> None:
    changed(several, {"r0": range(393, 400)})
    several.run().assert_outcomes(failed=1, passed=12)  # 2 ** -7, and nothing else flipped
    shard = several.run("--compress-shard", "1/3")
    shard.assert_outcomes(passed=4, warnings=1, deselected=9)
    shard.stdout.fnmatch_lines(
        ["*p = 0.008 by itself, which is not significant after Holm's adjustment over 10 tests. *"]
    )
    changed(several, {"r0": range(390, 400)})
    several.run("--compress-shard", "1/3").assert_outcomes(failed=1, passed=3, deselected=9)


def test_a_shard_counts_the_tests_of_improvements_of_all_shards(project: Project) -> None:
    # Five recipes with a loss and a gain each, in questions of which many flip: 2 ** -8 is below
    # 0.025 / 6, and above 0.025 / 10.
    gate = "improvement: accept"
    flipping = range(100, 160)
    before = {"r0": [], **{f"r{i}": [*flipping][:30] for i in range(1, 5)}}
    after = {"r0": range(392, 400), **{f"r{i}": [*flipping][30:] for i in range(1, 5)}}
    write(project, before, gate=f"{gate}, min_retention: 0.5")
    project.accept()
    write(project, after, gate=f"{gate}, min_retention: 0.5")
    project.run().assert_outcomes(passed=7, warnings=1)
    shard = project.run("--compress-shard", "1/2")
    assert shard.parseoutcomes().get("failed", 0) == 0


# Merging


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"r1": range(390, 400)}, id="regression"),
        pytest.param({"r1": range(393, 400)}, id="seen-among-all-only"),
        pytest.param({"r1": range(395, 400)}, id="inconclusive"),
        pytest.param({"r4": range(300, 400)}, id="lost"),
        pytest.param({"r0": range(390, 400), "r3": range(780, 800)}, id="two"),
    ],
)
def test_merged_shards_say_what_the_whole_run_says(
    several: Project, capsys: pytest.CaptureFixture[str], lost: dict[str, Sequence[int]]
) -> None:
    changed(several, lost)
    whole = several.run("--compress-report", "whole.json")
    names, _ = shards(several, 3)
    code, said, _ = merge(several, names, capsys)
    assert code == whole.ret
    table = said[: said.index("")]
    start = next(i for i, line in enumerate(whole.outlines) if line.startswith("trial "))
    assert [line.rstrip() for line in table if line.startswith("tiny/")] == [
        line.rstrip() for line in whole.outlines[start:] if line.startswith("tiny/")
    ]
    pooled = [line for line in whole.outlines if line.startswith("Pooled over ")]
    assert [f"suites/x.yaml: {line}" for line in pooled] == [
        line for line in said if ": Pooled over " in line
    ]
    red = [line.split()[1] for line in whole.outlines if line.startswith("FAILED ")]
    named = [line.removeprefix("RED ") for line in said if line.startswith("RED ")]
    assert sorted(named) == sorted(red)
    assert f"12 trials of 3 shards, {len(red)} red." in said


def test_one_shard_of_one_is_all(several: Project, capsys: pytest.CaptureFixture[str]) -> None:
    changed(several, {"r1": range(393, 400)})
    names, (only,) = shards(several, 1)
    assert len(json.loads((several.path / "1.json").read_bytes())["trials"]) == 12
    assert "failed" not in only.parseoutcomes()  # a shard is as strict as its share
    assert merge(several, names, capsys)[0] == 1


def test_a_loss_in_all_shards_is_red_only_where_they_are_merged(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = {"r0": NOTHING, "r1": NOTHING}
    write(project, recipes, asked=HUNDREDS)
    project.accept()
    lost = {"r0": [h[7] for h in HUNDREDS], "r1": [h[9] for h in HUNDREDS]}
    write(project, lost, asked=HUNDREDS)
    names, results = shards(project, 3)
    assert [result.ret for result in results] == [pytest.ExitCode.OK] * 3
    assert "Pooled" not in "".join(result.stdout.str() for result in results)
    code, said, _ = merge(project, names, capsys)
    assert code == 1
    assert said[-2:] == ["24 trials of 3 shards, 1 red.", "RED suites/x.yaml"]
    assert any(
        line.startswith("suites/x.yaml: a loss is spread over 16 trials: 1.000% of all answers ")
        for line in said
    )


def test_a_suite_with_one_tested_trial_is_judged_alike_in_shards(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, {"r0": NOTHING})
    project.accept()
    write(project, {"r0": range(395, 400)})
    whole = project.run()
    names, _ = shards(project, 2)
    assert merge(project, names, capsys)[0] == whole.ret == pytest.ExitCode.TESTS_FAILED


def test_what_could_not_be_measured_in_a_shard_is_red(
    several: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (several.path / several.baseline("r3", "b0")).unlink()
    names, _ = shards(several, 2)
    code, said, _ = merge(several, names, capsys)
    assert code == 1
    assert said[-1] == "RED suites/x.yaml::tiny/r3::b0"


def reports(several: Project) -> Iterator[Path]:
    shards(several, 2)
    several.run("--compress-shard", "1/3", "--compress-report", "third.json")
    several.run("--compress-report", "whole.json")
    (several.path / "broken.json").write_text('{"schema": 1', encoding="utf-8")
    (several.path / "other.json").write_text('{"a": 1}', encoding="utf-8")
    newer = json.loads((several.path / "1.json").read_bytes()) | {"schema": 2}
    (several.path / "newer.json").write_text(json.dumps(newer), encoding="utf-8")
    yield from several.path.glob("*.json")


def test_reports_that_are_no_whole_run_are_refused(
    several: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(reports(several))) == 7
    for names, message in {
        ("1.json",): "not every shard is there once: missing 2/2.",
        ("2.json", "2.json"): "not every shard is there once: missing 1/2; given twice 2/2.",
        ("1.json", "2.json", "1.json"): "not every shard is there once: given twice 1/2.",
        ("third.json", "2.json"): (
            "the reports are of different divisions (1/3, 2/2): run all shards as I/N alike."
        ),
        ("1.json", "whole.json"): (
            f"{several.path}/whole.json is the report of a whole run, not of a shard: nothing to "
            "merge."
        ),
        ("1.json", "none.json"): (
            f"{several.path}/none.json cannot be read: No such file or directory."
        ),
        ("broken.json",): (
            f"{several.path}/broken.json is no report of --compress-report: Input data was "
            "truncated."
        ),
        ("other.json",): (
            f"{several.path}/other.json is no report of --compress-report: Object contains "
            "unknown field `a`."
        ),
    }.items():
        code, said, error = merge(several, names, capsys)
        assert (code, said, error) == (2, [], f"pytest-compression merge: {message}\n")


def test_a_report_of_another_version_is_refused(
    several: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(reports(several))
    code, said, error = merge(several, ["newer.json", "2.json"], capsys)
    assert (code, said) == (2, [])
    assert "schema 2" in error


def test_a_shard_that_could_not_be_collected_is_not_merged_as_green(
    several: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    several.run("--compress-shard", "1/2", "--compress-report", "1.json")
    several.edit("version: 1", "version: 2")
    several.run("--compress-shard", "2/2", "--compress-report", "2.json")
    assert merge(several, ["1.json", "2.json"], capsys)[0] != 0


def test_a_shard_that_was_cut_short_is_not_merged_as_green(
    several: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    several.run("--compress-shard", "1/2", "--compress-report", "1.json")
    several.pytester.makeconftest(
        "import pytest\n"
        "def pytest_runtest_setup(item):\n"
        "    if 'r4' in item.nodeid:\n"
        "        pytest.exit('enough')\n"
    )
    cut = several.run("--compress-shard", "2/2", "--compress-report", "2.json")
    assert cut.ret == pytest.ExitCode.INTERRUPTED
    assert merge(several, ["1.json", "2.json"], capsys)[0] != 0
