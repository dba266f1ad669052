"""What FAILS, what ERRS, what each says, and when models are loaded and freed."""

import json
import re

import pytest
from project import Project
from runs import HERE, recorded

from pytest_compression.store.packing import pack_bits


def said(result: pytest.RunResult) -> str:
    """The messages of a run, on one line."""
    text = result.stdout.str().partition("=== compression: knowledge retention")[0]
    return " ".join(text.split())


# Errors


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "half, expect",
            "int8, min_retention: 0.9}\n  - {recipe: half, expect",
            "x/tiny/int8/low.json: it was accepted under another gate (min_retention 0.95 -> "
            "0.9). If the change is meant, accept it: pytest --compress-suite "
            "'suites/x.yaml::tiny/int8::low' --compress-update --compress-reason \"...\"",
            id="floor",
        ),
        pytest.param(
            "overrides:",
            "gate: {max_forgotten: 0.1, alpha: 0.1, relation_floors: {odd: 0.5}}\noverrides:",
            "x/tiny/int8/low.json: it was accepted under another gate (max_forgotten none -> 0.1, "
            "alpha 0.05 -> 0.1, relation floor odd none -> 0.5). If",
            id="gate",
        ),
        pytest.param(
            'low: {use: "fakes:Facts"',
            'low: {use: "fakes:Facts", n: 42',
            "the questions are not those of the baseline (even 20 -> 21, odd 20 -> 21).",
            id="more-questions",
        ),
        pytest.param(
            'low: {use: "fakes:Facts"',
            'low: {use: "fakes:Facts", candidates: 5',
            "the questions are not those of the baseline. If",
            id="other-candidates",
        ),
        pytest.param(
            "tiny: {",
            "tiny: {weights: w2, ",
            "x/tiny/dense/low.json: the dense weights are not those of the baseline. If",
            id="other-weights",
        ),
        pytest.param(
            'low: {use: "fakes:Facts"',
            'low: {use: "fakes:Facts", version: v2',
            "the questions are tokenized or scored otherwise than for the baseline. If",
            id="other-scoring",
        ),
        pytest.param(
            "low: {", "low: {unusable: true, ", "a logit is not a number", id="not-a-number"
        ),
        pytest.param("above: 1000", "idle: true", "Forget touched no layer", id="no-effect"),
    ],
)
def test_a_trial_that_cannot_be_compared_errs(
    project: Project, old: str, new: str, message: str
) -> None:
    project.accept()
    project.edit(old, new)
    result = project.run("-k", "int8 and low")
    result.assert_outcomes(errors=1, deselected=6)
    assert message in said(result)
    assert "Traceback" not in said(result)
    assert ".py:" not in said(result)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            ("gate", "min_retention"),
            0.5,
            "stale baseline {path}: it was accepted under another gate (min_retention 0.5 -> 0.95)",
        ),
        (
            ("gate", "near_tie"),
            0.02,
            "stale baseline {path}: it was accepted under another gate (near_tie 0.02 -> 0.01)",
        ),
        (
            ("near_tie",),
            0.005,
            "stale baseline {path}: its near ties were recorded within 0.005 nats, and",
        ),
        (
            ("fingerprint", "weights"),
            "0" * 32,
            "stale baseline {path}: the dense weights are not those of the baseline.",
        ),
        (
            ("fingerprint", "questions"),
            "0" * 32,
            "stale baseline {path}: the questions are not those of the baseline.",
        ),
        (
            ("fingerprint", "scoring"),
            "0" * 32,
            "stale baseline {path}: the questions are tokenized or scored otherwise than",
        ),
        (("scores", "odd", "right"), 19, "damaged baseline {path}: 'odd' has 20 right answers"),
        (("scores", "odd", "bits"), "fff", "damaged baseline {path}: the bits of 'odd' are dam"),
        (("scores", "odd", "bits"), "ffffg", "damaged baseline {path}: the bits of 'odd' are"),
        (("scores", "odd", "questions"), 19, "damaged baseline {path}: its scores are of"),
        (("recipe",), 2, "{path} is not a baseline: Expected `array`, got `int` - at `$.hardware["),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
@pytest.mark.parametrize("recipe", ["dense", "int8"])
def test_an_edited_baseline_errs(
    project: Project, recipe: str, key: tuple[str, ...], value: object, message: str
) -> None:
    project.accept()
    path = project.path / project.baseline(recipe)
    document = json.loads(path.read_bytes())
    inside = document["hardware"][HERE]
    for name in key[:-1]:
        inside = inside[name]
    inside[key[-1]] = value
    path.write_text(json.dumps(document), encoding="utf-8")
    result = project.run("-k", f"{recipe} and low")
    result.assert_outcomes(errors=1, deselected=6)
    assert message.format(path=path) in said(result)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trial", "y.yaml::a/b::c", "{path} is the baseline of y.yaml::a/b::c, not of suites/"),
        ("schema", 1, "{path} has schema 1; this version reads 2."),
        ("schema", 3, "{path} has schema 3; this version reads 2."),
        ("fallback", "P0", "{path} falls back to the record of 'P0', and its records are: 'fake P"),
        ("hardware", {}, "{path} falls back to the record of 'fake P1', and its records are: none"),
    ],
)
@pytest.mark.parametrize("recipe", ["dense", "int8"])
def test_an_edited_baseline_file_errs(
    project: Project, recipe: str, key: str, value: object, message: str
) -> None:
    project.accept()
    path = project.path / project.baseline(recipe)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {key: value}), encoding="utf-8")
    result = project.run("-k", f"{recipe} and low")
    result.assert_outcomes(errors=1, deselected=6)
    assert message.format(path=path) in said(result)


def test_editing_one_recipe_turns_exactly_its_trials_red(project: Project) -> None:
    project.accept()
    project.edit("above: 1000", "above: 0")
    result = project.run("-v")
    result.assert_outcomes(passed=2, failed=2, xfailed=2, skipped=1)
    red = [line for line in result.outlines if line.startswith("FAILED ")]
    assert [line.split()[1] for line in red] == [
        "suites/x.yaml::tiny/int8::low",
        "suites/x.yaml::tiny/int8::high",
    ]


def test_a_loss_beyond_the_margin_turns_an_edited_recipe_red_though_it_keeps_its_floor(
    project: Project,
) -> None:
    project.edit('Facts"}', 'Facts", n: 300}')
    project.accept()
    project.edit("above: 1000", "above: 291")  # 9 of 300 forgotten: retention 0.96
    result = project.run()
    result.assert_outcomes(passed=3, failed=1, xfailed=2, skipped=1)
    result.stdout.fnmatch_lines(["tiny/int8::low * 0.960 * 0.002 * REGRESSED*"])
    assert (
        "suites/x.yaml::tiny/int8::low: a regression: 3.00% of the answers were lost, net, since "
        "the result was accepted, beyond the margin 1.00%; p = 0.002, significant after Holm's"
    ) in said(result)
    assert "To blame: the recipe: it was edited, and the dense model still" in said(result)
    project.edit("above: 291", "above: 297")  # 3 of 300 is the margin, and not beyond it
    project.run().assert_outcomes(passed=5, xfailed=2)


def test_the_dense_model_needs_no_proof_that_it_retains_what_it_knows(project: Project) -> None:
    project.edit("overrides:", "gate: {assurance: proven}\noverrides:")
    project.accept()
    result = project.run()
    # 40 questions are too few for the recipe, though it forgot nothing.
    result.assert_outcomes(passed=3, failed=2, xfailed=2)
    result.stdout.fnmatch_lines(["tiny/dense::low *passed*", "tiny/int8::low *INCONCLUSIVE*"])


def test_a_dense_model_that_only_guesses_errs(project: Project) -> None:
    project.edit("tiny: {", "tiny: {knows: 14, ")
    result = project.run("--compress-update", "-k", "dense and low")
    result.assert_outcomes(errors=1, deselected=6)
    assert (
        "the dense model does not answer better than chance (14 of 40 right; guessing gets 10.0, "
        "one answer a relation 2): there is no knowledge here to retain." in said(result)
    )
    project.edit("knows: 14", "knows: 15")  # 10 + 1.64 * sqrt(40 * 1/4 * 3/4) = 14.5
    project.run("--compress-update", "-k", "dense and low").assert_outcomes(passed=1, deselected=6)


def test_a_dense_model_with_other_answers_is_environment_drift(project: Project) -> None:
    project.accept()
    project.edit("tiny: {", 'tiny: {knows: 32, library: "2.0", ')
    result = project.run("-k", "dense and low")
    result.assert_outcomes(errors=1, deselected=6)
    assert (
        "environment drift: the same dense weights answer 8 of 40 questions otherwise than when "
        "the baseline was accepted (number:032, number:033, number:034, number:035, number:036), "
        "beyond near ties. No recipe is to blame. Changed since: library 1.0 -> 2.0. If this "
        "environment is right, accept it: pytest --compress-suite 'suites/x.yaml::tiny/dense::low'"
    ) in said(result)


@pytest.mark.parametrize("recipe", ["int8", "half"])
def test_drift_is_no_recipe_s_fault_even_if_its_trial_runs_alone(
    project: Project, recipe: str
) -> None:
    project.accept()
    project.edit("tiny: {", 'tiny: {knows: 32, library: "2.0", ')
    before = project.baselines()
    for options in ((), ("--compress-update",)):
        result = project.run("-k", f"{recipe} and low", *options)
        result.assert_outcomes(errors=1, deselected=6)
        assert "environment drift" in said(result)
        assert project.baselines() == before


def test_the_dense_model_is_asked_once_for_all_its_variants(project: Project) -> None:
    project.accept()
    project.run()
    asked = [event for event in project.events() if event.startswith("measure")]
    assert len(asked) == 6  # three recipes, two benchmarks


def test_another_environment_with_the_same_answers_is_green(project: Project) -> None:
    project.accept()
    project.edit("tiny: {", 'tiny: {library: "2.0", ')
    project.run().assert_outcomes(passed=5, xfailed=2)


# Near ties


@pytest.mark.parametrize("recipe", ["dense", "int8"])
def test_near_ties_that_flip_change_no_verdict_unless_nobody_recorded_them(
    project: Project, recipe: str
) -> None:
    project.edit("tiny: {", "tiny: {tied: [3, 5, 7], shift: 0.0, ")
    project.accept()
    project.edit("shift: 0.0", "shift: -0.01")
    result = project.run("--junitxml=run.xml", "-k", f"{recipe} and low")
    result.assert_outcomes(passed=1, deselected=6)
    xml = (project.path / "run.xml").read_text(encoding="utf-8")
    for name, value in {"near_ties_settled": 3, "measured": 37 / 40, "compressed": 1.0}.items():
        assert f'name="{name}" value="{value}"' in xml
    path = project.path / project.baseline(recipe)
    document = json.loads(path.read_bytes())
    record = document["hardware"][HERE]
    assert list(record["near_ties"]) == ["number:003", "number:005", "number:007"]
    record["near_ties"] = {}
    path.write_text(json.dumps(document), encoding="utf-8")
    unsettled = project.run("-k", f"{recipe} and low").parseoutcomes()
    assert {"failed", "errors"} & unsettled.keys()


def test_a_margin_beyond_twice_the_distance_is_no_near_tie(project: Project) -> None:
    project.edit("tiny: {", "tiny: {tied: [3, 5, 7], shift: 0.0, ")
    project.accept()
    project.edit("shift: 0.0", "shift: -0.025")  # now trailing by 0.021
    result = project.run("-k", "dense and low")
    result.assert_outcomes(errors=1, deselected=6)
    assert "environment drift" in said(result)


# Failures


def test_a_failure_tells_what_was_lost_and_what_changed(project: Project) -> None:
    project.accept()
    project.edit("above: 1000}", "above: 24, bits: 4, learn: [26]}")
    project.edit("tiny: {", 'tiny: {library: "2.0", ')
    result = project.run("-k", "int8 and low")
    result.assert_outcomes(failed=1, deselected=6)
    start = result.outlines.index(
        "suites/x.yaml::tiny/int8::low: knowledge was lost: retention 0.5000 is below the floor "
        "0.95."
    )
    message = result.outlines[start:]
    date = recorded(project, "int8")["accepted"]["date"]
    assert (
        message[2] == "  dense 1.0000  compressed 0.6250  chance 0.2500  on 40 questions (ranked)"
    )
    assert re.fullmatch(
        r"  retention 0\.5000  \[0\.\d{4}, 0\.\d{4}\], each limit at 95% over questions; "
        r"paired standard error 0\.\d{4}",
        message[3],
    )
    assert message[4:14] == [
        "  forgotten 15 of 40 known  learned 0  near ties settled 0",
        "  since accepted: lost 15, regained 0, net +37.50% of the questions lost, p = 3.1e-05",
        (
            "  recipe: 3 of 4 linear layers, 4.00 bits a weight, 0.2% zeros, weight error 0.125; "
            "4.0 kB of 32.0 kB (0.12x)"
        ),
        "",
        f"Since it was accepted ({date}, score 1.0000):",
        "  data: the same questions, scored the same way; the same dense weights",
        "  recipe: changed from fakes:Forget above=1000 to fakes:Forget above=24 bits=4 learn=[26]",
        "  environment: changed: library 1.0 -> 2.0",
        (
            "To blame: the recipe: it was edited, and the dense model still gives its accepted "
            "answers"
        ),
        "",
    ]
    assert message[14:19] == [
        "Relations that lost most:",
        "  odd: forgotten 8, learned 0, of 20 questions",
        "  even: forgotten 7, learned 0, of 20 questions",
        "Forgotten facts (the 12 most clearly wrong of 15):",
        "  Fact 39 | odd | then right 39, now wrong 39c (by 1.04 nats)",
    ]
    assert message[31] == ("Run it again: pytest --compress-suite 'suites/x.yaml::tiny/int8::low'")
    assert "Traceback" not in said(result)
    assert ".py:" not in said(result)


def test_learned_facts_count_against_forgotten_ones(project: Project) -> None:
    project.edit("tiny: {", "tiny: {knows: 30, ")
    project.edit("above: 1000}", "above: 29, learn: [30]}")
    project.run("--compress-update", "-k", "low")
    result = project.run("-k", "low", "-v")
    result.stdout.fnmatch_lines(["tiny/int8::low * 1.000 * -1/+1 * passed*"])


# Lifetimes


def test_a_model_is_loaded_once_for_all_its_variants_and_freed_before_the_next(
    project: Project,
) -> None:
    project.edit("models:\n", 'models:\n  big: {use: "fakes:Memory", name: big}\n')
    project.accept()
    project.run().assert_outcomes(passed=9, xfailed=4)
    events = [event for event in project.events() if not event.startswith("measure")]
    one = ["load big", "restore big", "restore big", "free big"]
    assert events == one + [event.replace("big", "tiny") for event in one]


def test_a_model_that_cannot_be_restored_is_freed_and_loaded_again(project: Project) -> None:
    project.edit("tiny: {", "tiny: {restores: false, ")
    project.accept()
    project.run().assert_outcomes(passed=5, xfailed=2)
    events = [event for event in project.events() if not event.startswith("measure")]
    assert events == ["load tiny", *["restore tiny", "free tiny", "load tiny"] * 2, "free tiny"]


@pytest.mark.parametrize(
    ("key", "message"),
    [("absent", "there is no model 'tiny'"), ("crashes", "a bug of somebody's")],
)
def test_a_model_that_cannot_be_loaded_errs_for_each_trial_but_is_tried_once(
    project: Project, key: str, message: str
) -> None:
    project.edit("models:\n", 'models:\n  other: {use: "fakes:Memory", name: other}\n')
    project.accept()
    project.edit("tiny: {", f"tiny: {{{key}: true, ")
    result = project.run()
    result.assert_outcomes(passed=5, xfailed=2, errors=6)  # pooled over the other model
    assert said(result).count(message) >= 6
    assert ("ZeroDivisionError" in said(result)) == (key == "crashes")
    assert [event for event in project.events() if event.startswith("load")] == [
        "load other",
        "load tiny",
    ]


def test_a_recipe_that_errs_leaves_the_next_one_a_dense_model(project: Project) -> None:
    project.edit(
        '  int8: {use: "fakes:Forget", above: 1000}',
        "  idle:\n    steps:\n"
        '      - {use: "fakes:Forget", above: 0}\n      - {use: "fakes:Forget", idle: true}\n'
        '  int8: {use: "fakes:Forget", above: 1000}',
    )
    result = project.run("--compress-update")
    result.assert_outcomes(passed=4, xfailed=2, errors=2, skipped=1)


def test_a_foreign_exception_keeps_its_traceback(project: Project) -> None:
    project.accept()
    project.edit("low: {", "low: {crashes: true, ")
    result = project.run("-k", "int8 and low")
    result.assert_outcomes(errors=1, deselected=6)
    result.stdout.fnmatch_lines(["*fakes.py:*: ZeroDivisionError"])


def test_packed_scores_of_a_failure_are_those_that_were_accepted(project: Project) -> None:
    project.accept()
    scores = recorded(project, "half")["scores"]
    assert scores["even"] == {"questions": 20, "right": 10, "bits": pack_bits([1] * 10 + [0] * 10)}
