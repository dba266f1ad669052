"""``pytest-compression compare``: two stored results, judged without a run; and the command."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lapses import write
from project import Project

from pytest_compression import cli

Compare = Callable[..., tuple[int, list[str], str]]
MANY = [*range(300, 310)]
"""Facts; ten are 2.5 % of 400."""


@pytest.fixture
def stored(project: Project) -> Project:
    """Baselines of several recipes, none of them compared with another."""
    recipes = {
        "same": [],
        "few": range(300, 305),
        "some": range(300, 307),
        "other": range(310, 320),
        "many": MANY,
        "most": range(100, 400),
    }
    write(project, recipes)
    project.accept()
    return project


@pytest.fixture
def compare(stored: Project, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Exit code, lines and errors of ``compare`` on the baselines of two recipes."""

    def run(accepted: str, now: str, *options: str) -> tuple[int, list[str], str]:
        capsys.readouterr()
        paths = [str(stored.path / stored.baseline(name, "b0")) for name in (accepted, now)]
        code = cli.main(["compare", *paths, *options])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return run


def edited(stored: Project, recipe: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the only record of a baseline file."""
    path = stored.path / stored.baseline(recipe, "b0")
    document = json.loads(path.read_bytes())
    (record,) = document["hardware"].values()
    change(record)
    path.write_text(json.dumps(document), encoding="utf-8")


# A recipe against the dense model


def test_what_a_recipe_keeps_of_the_dense_model(compare: Compare, stored: Project) -> None:
    code, said, error = compare("dense", "many")
    (record,) = json.loads(stored.baselines()[stored.baseline("many", "b0")])["hardware"].values()
    date = record["accepted"]["date"]
    assert (code, error) == (0, "")
    assert said[:2] == [
        f"A  suites/x.yaml::tiny/dense::b0  (fake P1, accepted {date}, score 1.0000)",
        f"B  suites/x.yaml::tiny/many::b0  (fake P1, accepted {date}, score 0.9750)",
    ]
    assert said[2].startswith("retention 0.9667  [0.94")
    assert said[2].endswith("], each limit at 95% over questions; floor 0.95 (point)")
    assert said[3:] == [
        "dense 1.0000  compressed 0.9750  chance 0.2500  on 400 questions; forgotten 10, learned 0",
        "kept, not proven",
        "  even: lost 5, gained 0 of 200",
        "  odd: lost 5, gained 0 of 200",
        "environment: the same",
    ]


@pytest.mark.parametrize(
    ("recipe", "options", "code", "verdict"),
    [
        ("same", [], 0, "kept"),
        ("most", [], 1, "LOST: retention 0.0000 is below the floor 0.95"),
        ("many", ["--min-retention", "0.97"], 1, "LOST: retention 0.9667 is below the floor 0.97"),
        ("many", ["--min-retention", "0.9"], 0, "kept"),
        (
            "many",
            ["--max-forgotten", "0.02"],
            1,
            "LOST: 0.0250 of the right answers were forgotten, more than max_forgotten 0.02",
        ),
        (
            "many",
            ["--assurance", "proven"],
            1,
            (
                "INCONCLUSIVE: 400 questions do not prove that retention reaches the floor 0.95: "
                "the estimate is 0.9667, its lower limit 0.94*; about * questions would"
            ),
        ),
        ("many", ["--assurance", "proven", "--min-retention", "0.9"], 0, "kept"),
    ],
)
def test_retention_is_judged_by_the_gate_of_b_and_by_what_is_asked(
    compare: Compare, recipe: str, options: list[str], code: int, verdict: str
) -> None:
    found, said, _ = compare("dense", recipe, *options)
    assert found == code
    pytest.LineMatcher(said).fnmatch_lines([verdict])


def test_an_inconclusive_proof_passes_where_the_gate_of_b_says_so(
    compare: Compare, stored: Project
) -> None:
    edited(stored, "many", lambda record: record["gate"].update(inconclusive="warn"))
    code, said, _ = compare("dense", "many", "--assurance", "proven")
    assert code == 0
    assert any(line.startswith("INCONCLUSIVE: ") for line in said)


def test_alpha_is_that_of_each_limit(compare: Compare) -> None:
    low = []
    for alpha in ("0.2", "0.01"):
        _, said, _ = compare("dense", "many", "--alpha", alpha)
        assert f"each limit at {1 - float(alpha):.0%} over questions" in said[2]
        low.append(float(said[2].partition("[")[2].partition(",")[0]))
    assert low[1] < low[0] < 0.9667


def test_a_dense_model_that_only_guesses_is_refused(compare: Compare, stored: Project) -> None:
    nothing = {name: {"questions": 200, "right": 0, "bits": "0" * 50} for name in ("even", "odd")}
    for recipe in ("dense", "most"):
        edited(stored, recipe, lambda record: record.update(scores=nothing))
    code, said, error = compare("dense", "most")
    path = stored.path / stored.baseline("dense", "b0")
    assert (code, said) == (2, [])
    assert error == (
        f"pytest-compression compare: {path}: the dense model knows no more than guessing: nothing "
        "to retain.\n"
    )


# A recipe against a recipe


def test_a_recipe_that_is_worse_than_another(compare: Compare) -> None:
    code, said, _ = compare("same", "many")
    assert code == 1
    assert said[2:] == [
        (
            "lost 10, gained 0 of 400 questions: net +2.50% lost, p = 0.000977 (of a gain 1) over "
            "questions; margin 1.00%"
        ),
        "REGRESSED: significant and beyond the margin",
        "  even: lost 5, gained 0 of 200",
        "  odd: lost 5, gained 0 of 200",
        "environment: the same",
    ]


@pytest.mark.parametrize(
    ("pair", "options", "code", "verdict"),
    [
        (("many", "same"), [], 0, "improved"),
        (("many", "many"), [], 0, "no regression"),
        (("many", "other"), [], 0, "no regression"),
        (("same", "few"), [], 1, "REGRESSED: significant and beyond the margin"),
        (("same", "few"), ["--margin", "0.02"], 0, "no regression"),
        (("same", "many"), ["--margin", "0.02"], 1, "REGRESSED: significant and beyond the margin"),
        (
            ("same", "few"),
            ["--alpha", "0.01"],
            0,
            (
                "INCONCLUSIVE: 400 questions cannot tell whether more than 1.0% was lost since the "
                "result was accepted: 1.25% net, p = 0.031. They show a loss of *% with power 80%*"
            ),
        ),
    ],
)
def test_a_change_is_judged_by_the_gate_of_b_and_by_what_is_asked(
    compare: Compare, pair: tuple[str, str], options: list[str], code: int, verdict: str
) -> None:
    found, said, _ = compare(*pair, *options)
    assert found == code
    pytest.LineMatcher(said).fnmatch_lines([verdict])


@pytest.mark.parametrize(
    "gate", [{"inconclusive": "fail"}, {"assurance": "proven"}], ids=["fail", "proven"]
)
def test_an_inconclusive_change_is_red_where_it_would_be_in_a_run(
    compare: Compare, stored: Project, gate: dict[str, str]
) -> None:
    edited(stored, "few", lambda record: record["gate"].update(gate))
    code, said, _ = compare("same", "few", "--alpha", "0.01")
    assert any(line.startswith("INCONCLUSIVE: ") for line in said)
    assert code == 1


def test_what_differs_in_the_environment_is_said(compare: Compare, stored: Project) -> None:
    edited(stored, "many", lambda record: record["environment"].update(library="2.0"))
    assert compare("same", "many")[1][-1] == "environment: library 1.0 -> 2.0"


# Refusals


@pytest.mark.parametrize("keys", [("weights",), ("questions",), ("questions", "scoring")])
def test_results_of_something_else_are_refused(
    compare: Compare, stored: Project, keys: tuple[str, ...]
) -> None:
    edited(stored, "many", lambda record: record["fingerprint"].update(dict.fromkeys(keys, "0")))
    code, said, error = compare("dense", "many")
    a, b = (stored.path / stored.baseline(name, "b0") for name in ("dense", "many"))
    assert (code, said) == (2, [])
    assert error == (
        f"pytest-compression compare: {a} and {b} cannot be compared: they are of other "
        f"{' and other '.join(keys)}.\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "{path} is not a baseline: *. Restore it, or delete it and record anew."),
        (b"{}", "{path} is not a baseline: Object missing required field `schema`*"),
        (b'{"trial": "x", "schema": 1}', "{path} has schema 1; this version reads 2.*"),
        (b'{"trial": "\xff"}', "{path} is not a baseline: *"),
        (None, "{path} cannot be read: No such file or directory."),
    ],
    ids=["no-json", "empty", "old", "no-text", "missing"],
)
def test_what_is_no_baseline_is_refused(
    compare: Compare, stored: Project, content: bytes | None, message: str
) -> None:
    path = stored.path / stored.baseline("many", "b0")
    path.unlink() if content is None else path.write_bytes(content)
    for pair in (("dense", "many"), ("many", "same")):
        code, said, error = compare(*pair)
        assert (code, said) == (2, [])
        pytest.LineMatcher(error.splitlines()).fnmatch_lines(
            [f"pytest-compression compare: {message.format(path=path)}"]
        )


def test_a_damaged_baseline_is_refused(compare: Compare, stored: Project) -> None:
    edited(stored, "many", lambda record: record["scores"]["odd"].update(right=3))
    code, said, error = compare("dense", "many")
    assert (code, said) == (2, [])
    assert "'odd'" in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--margin", "-0.1"),
        ("--margin", "nan"),
        ("--margin", "much"),
        ("--min-retention", "95"),
        ("--alpha", "0"),
        ("--alpha", "0.5"),
        ("--alpha", "1"),
        ("--assurance", "none"),
    ],
)
def test_options_that_no_suite_could_have_are_refused(
    compare: Compare, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        compare("dense", "many", option, value)
    assert exit_.value.code == 2
    assert option in capsys.readouterr().err


# Several kinds of hardware


@pytest.fixture
def two(stored: Project) -> Project:
    """Records of two processors; on the second one, the recipe ``many`` forgets more."""
    stored.edit('"fakes:Memory"', '"fakes:Memory", processor: P2')
    stored.edit(f"facts: {MANY}", "facts: [1, 2, 3, 4, 5, 6, 7, 8]")
    stored.run("--compress-update-hardware", "--compress-reason", "new machines")
    return stored


@pytest.mark.usefixtures("two")
def test_the_record_of_one_kind_of_hardware_is_chosen(compare: Compare) -> None:
    code, said, _ = compare("dense", "many")
    assert "(fake P1, " in said[0]
    assert "forgotten 10, learned 0" in said[3]
    code, said, _ = compare("dense", "many", "--hardware", "fake P2")
    assert code == 0
    assert ("(fake P2, " in said[0], "(fake P2, " in said[1]) == (True, True)
    assert "forgotten 8, learned 0" in said[3]


def test_hardware_of_which_there_is_no_record_is_refused(compare: Compare, two: Project) -> None:
    code, said, error = compare("dense", "many", "--hardware", "fake P3")
    path = two.path / two.baseline("dense", "b0")
    assert (code, said) == (2, [])
    assert error == (
        f"pytest-compression compare: {path} has no record of 'fake P3'; it has 'fake P1', "
        "'fake P2'.\n"
    )


# The command


def test_a_command_is_needed_and_must_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["judge"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == 2
        assert "usage: pytest-compression" in capsys.readouterr().err


def test_run_exits_with_the_code_of_main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest-compression", "merge", str(tmp_path / "none.json")])
    with pytest.raises(SystemExit) as exit_:
        cli.run()
    assert exit_.value.code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pytest_compression.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'scipy', 'pytest', 'rich'}\n"
        "    assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "compare" in done.stdout
    assert "merge" in done.stdout
