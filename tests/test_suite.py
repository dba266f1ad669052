"""Every refusal of a suite file, word for word; sweeps and overrides."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.errors import SuiteError
from pytest_compression.suite import load
from pytest_compression.types import Gate, Part

Load = Callable[[str], Any]

HEAD = """\
version: 1
models:
  tiny: {use: "fakes:Memory"}
"""
TAIL = """\
benchmarks:
  low: {use: "fakes:Facts"}
"""
WHOLE = """\
version: 1
models:
  tiny: {use: "fakes:Memory", knows: 30}
  hub: {path: someone/model, revision: "7"}
recipes:
  int8: {use: rtn, bits: 8, min_retention: 0.9}
  both:
    steps:
      - {use: magnitude, sparsity: 0.3}
      - {use: rtn, bits: 4, granularity: group, group_size: 8}
    near_tie: 0.02
benchmarks:
  low: {use: "fakes:Facts"}
  high: {use: "fakes:Facts", start: 100}
gate: {min_retention: 0.95, alpha: 0.1}
overrides:
  - {recipe: both, benchmark: low, min_retention: 0.5}
  - {model: tiny, recipe: int8, expect: fail, reason: known}
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a suite from its text, as ``s.yaml`` of the working directory."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str) -> Any:
        Path("s.yaml").write_text(text, encoding="utf-8")
        return load(Path("s.yaml"))

    return load_text


def refusal(read: Load, text: str) -> str:
    with pytest.raises(SuiteError) as caught:
        read(text)
    return str(caught.value)


def test_a_whole_suite_is_read_as_it_stands(read: Load) -> None:
    suite = read(WHOLE)
    assert suite.models == {
        "tiny": Part(use="fakes:Memory", options={"knows": 30}),
        "hub": Part(use="pretrained", options={"path": "someone/model", "revision": "7"}),
    }
    assert list(suite.recipes) == ["dense", "int8", "both"]
    assert suite.recipes["dense"].steps == ()
    assert suite.recipes["int8"].steps == (Part(use="rtn", options={"bits": 8}),)
    assert [step.use for step in suite.recipes["both"].steps] == ["magnitude", "rtn"]
    assert [(t.model, t.recipe, t.benchmark) for t in suite.trials] == [
        (model, recipe, benchmark)
        for model in ("tiny", "hub")
        for recipe in ("dense", "int8", "both")
        for benchmark in ("low", "high")
    ]
    gates = {(t.model, t.recipe, t.benchmark): t.gate for t in suite.trials}
    general = Gate(min_retention=0.95, alpha=0.1)
    assert gates["tiny", "dense", "low"] == general
    assert gates["tiny", "int8", "low"] == msgspec.structs.replace(general, min_retention=0.9)
    assert gates["hub", "both", "high"] == msgspec.structs.replace(general, near_tie=0.02)
    assert gates["hub", "both", "low"].min_retention == 0.5
    assert [t.expect for t in suite.trials if t.recipe == "int8"] == [
        "fail",
        "fail",
        "pass",
        "pass",
    ]


def test_a_suite_without_recipes_gates_the_dense_models_alone(read: Load) -> None:
    assert [t.recipe for t in read(HEAD + TAIL).trials] == ["dense"]


STEPS = HEAD + TAIL + "recipes:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Sections
        ("models: {}\n", "s.yaml:1: version: version: 1 is needed at the top of a suite file."),
        ("version: 2\n", "s.yaml:1: version: version: 1 is needed at the top of a suite file."),
        ("version: true\n", "s.yaml:1: version: version: 1 is needed at the top of a suite file."),
        ("version: 1\nmodel: {}\n", "s.yaml:2: model: unknown key 'model'. Did you mean 'models'?"),
        (
            "version: 1\nxyz: {}\n",
            (
                "s.yaml:2: xyz: unknown key 'xyz'. "
                "Known: benchmarks, contracts, gate, models, overrides, recipes, version."
            ),
        ),
        ("version: 1\n", "s.yaml:1: 'models' is missing."),
        (HEAD, "s.yaml:1: 'benchmarks' is missing."),
        ("version: 1\nmodels:\n", "s.yaml:2: models: expected keys with values, got NoneType."),
        ("version: 1\nmodels: []\n", "s.yaml:2: models: expected keys with values, got list."),
        (HEAD + "benchmarks: {}\n", "s.yaml:4: benchmarks: 'benchmarks' is empty."),
        (STEPS, "s.yaml:6: recipes: expected keys with values, got NoneType."),
        # Names
        (
            STEPS + "  a@b: {use: rtn, bits: 8}\n",
            (
                "s.yaml:7: recipes.a@b: 'a@b' cannot be a name: letters, digits, '.', '_' and '-' "
                "only, so that it can be selected and stored."
            ),
        ),
        *(
            (
                HEAD + f"benchmarks:\n  {name!r}: {{use: 'fakes:Facts'}}\n",
                (
                    f"s.yaml:5: benchmarks.{name.lstrip('.')}: '{name}' cannot be a name: letters, "
                    "digits, '.', '_' and '-' only, so that it can be selected and stored."
                ),
            )
            for name in ("a/b", "a::b", "a b", "-a", "a.", "", "a=1", "é", "a[1]")
        ),
        (
            STEPS + "  dense: {use: rtn, bits: 8}\n",
            (
                "s.yaml:7: recipes.dense: every model has the recipe 'dense' already; choose "
                "another name."
            ),
        ),
        # Parts
        (
            HEAD + "benchmarks:\n  low: {limit: 3}\n",
            (
                "s.yaml:5: benchmarks.low: 'use' is missing: it names one of the benchmarks "
                "(bear, cloze, distance, kamel, lama, lm-eval, lre, pararel, perplexity, popqa, "
                "worldfacts)."
            ),
        ),
        (
            STEPS + "  a: {use: rnt, bits: 8}\n",
            "s.yaml:7: recipes.a.use: 'rnt' is none of the modifiers. Did you mean 'rtn'?",
        ),
        (
            STEPS + "  a: {use: magnitud}\n",
            (
                "s.yaml:7: recipes.a.use: 'magnitud' is none of the modifiers. Did you mean "
                "'magnitude'?"
            ),
        ),
        (
            STEPS + "  a: {use: 'nowhere:Part'}\n",
            (
                "s.yaml:7: recipes.a.use: 'nowhere:Part' could not be imported: No module named "
                "'nowhere'. Install the package that provides it, or correct the name."
            ),
        ),
        (
            STEPS + "  a: {use: 'fakes:Memory'}\n",
            (
                "s.yaml:7: recipes.a.use: 'fakes:Memory' is not usable among the modifiers: a "
                "dataclass with apply() is expected."
            ),
        ),
        (
            STEPS + "  a: {use: rtn, bit: 8}\n",
            "s.yaml:7: recipes.a.bit: 'rtn' has no option 'bit'. Did you mean 'bits'?",
        ),
        (STEPS + "  a: {use: rtn}\n", "s.yaml:7: recipes.a: 'bits' is missing: int >= 2 and <= 8."),
        (
            STEPS + "  a: {use: rtn, bits: 9}\n",
            "s.yaml:7: recipes.a.bits: Expected `int` <= 8.",
        ),
        (
            STEPS + "  a: {use: rtn, bits: true}\n",
            "s.yaml:7: recipes.a.bits: Expected `int`, got `bool`.",
        ),
        (
            STEPS + "  a: {use: magnitude, sparsity: .nan}\n",
            "s.yaml:7: recipes.a.sparsity: Expected `float` > 0.0.",
        ),
        (
            STEPS + "  a: {use: rtn, bits: 8, granularity: row}\n",
            "s.yaml:7: recipes.a.granularity: 'row' is none of channel, group, tensor.",
        ),
        (
            STEPS + "  a: {use: rtn, bits: 8, granularity: group}\n",
            (
                "s.yaml:7: recipes.a: 'group_size' is needed for granularity 'group', and for no "
                "other."
            ),
        ),
        (
            STEPS + "  a: rtn\n",
            "s.yaml:7: recipes.a: expected keys with values, got str.",
        ),
        (
            "version: 1\nmodels:\n  tiny:\n    path: a/b\n    revision: 1234567\n" + TAIL,
            (
                "s.yaml:5: models.tiny.revision: Expected `str | null`, got `int`. "
                'Quote it: "1234567".'
            ),
        ),
        (
            "version: 1\nmodels:\n  tiny:\n    path: 7\n" + TAIL,
            's.yaml:4: models.tiny.path: Expected `str`, got `int`. Quote it: "7".',
        ),
        (
            HEAD + "benchmarks:\n  low:\n    use: worldfacts\n    relations: [capital, capitol]\n",
            (
                "s.yaml:7: benchmarks.low.relations: there is no relation 'capitol'. "
                "Did you mean 'capital'?"
            ),
        ),
        # Steps
        (
            STEPS + "  a:\n    steps: []\n",
            "s.yaml:8: recipes.a.steps: 'steps' is a list of one or more steps.",
        ),
        (
            STEPS + "  a:\n    steps: {use: rtn, bits: 8}\n",
            "s.yaml:8: recipes.a.steps: 'steps' is a list of one or more steps.",
        ),
        (
            STEPS + "  a:\n    steps: 3\n",
            "s.yaml:8: recipes.a.steps: 'steps' is a list of one or more steps.",
        ),
        (
            STEPS + "  a:\n    use: rtn\n    bits: 8\n    steps:\n      - {use: rtn, bits: 8}\n",
            (
                "s.yaml:10: recipes.a.steps: 'use' is a recipe of one step, and 'steps' lists "
                "several; write one of both."
            ),
        ),
        (
            STEPS + "  a:\n    use: rtn\n    bits: 8\n    steps: 3\n",
            (
                "s.yaml:10: recipes.a.steps: 'rtn' has no option 'steps'. Known: bits, clip, "
                "granularity, group_size, ignore, symmetric, targets."
            ),
        ),
        (
            STEPS + "  a:\n    steps:\n      - {use: rtn, bits: 8}\n    bits: 8\n",
            (
                "s.yaml:10: recipes.a.bits: unknown key 'bits'. Known: alpha, assurance, "
                "improvement, inconclusive, margin, max_forgotten, min_retention, near_tie, power, "
                "relation_floors, steps."
            ),
        ),
        (
            STEPS + "  a:\n    steps:\n      - {use: rtn, bits: 8}\n      - {use: rtn, bits: 1}\n",
            "s.yaml:10: recipes.a.steps[1].bits: Expected `int` >= 2.",
        ),
        (
            STEPS + "  a:\n    steps:\n      - {use: rtn, bits: 8, min_retention: 0.5}\n",
            (
                "s.yaml:9: recipes.a.steps[0].min_retention: 'rtn' has no option 'min_retention'. "
                "Known: bits, clip, granularity, group_size, ignore, symmetric, targets."
            ),
        ),
        # Sweeps
        (
            STEPS + "  a: {use: rtn, sweep: {bit: [8]}}\n",
            "s.yaml:7: recipes.a.sweep.bit: 'rtn' has no option 'bit'. Did you mean 'bits'?",
        ),
        (
            STEPS + "  a:\n    use: rtn\n    sweep:\n      bits: [8, 9]\n",
            "s.yaml:10: recipes.a.sweep.bits[1]: Expected `int` <= 8.",
        ),
        (
            STEPS + "  a: {use: rtn, bits: 8, sweep: {bits: [4]}}\n",
            "s.yaml:7: recipes.a.sweep.bits: 'bits' is both set and swept.",
        ),
        *(
            (
                STEPS + f"  a: {{use: rtn, sweep: {{bits: {values}}}}}\n",
                "s.yaml:7: recipes.a.sweep.bits: 'bits' sweeps a list of values.",
            )
            for values in ("8", "[]")
        ),
        (
            STEPS + "  a: {use: rtn, bits: 8, sweep: {}}\n",
            "s.yaml:7: recipes.a.sweep: 'sweep' is empty.",
        ),
        (
            STEPS + "  a: {use: rtn, bits: 8, sweep: [bits]}\n",
            "s.yaml:7: recipes.a.sweep: expected keys with values, got list.",
        ),
        (
            STEPS + "  a-4: {use: rtn, bits: 8}\n  a: {use: rtn, sweep: {bits: [4]}}\n",
            "s.yaml:8: recipes.a: two recipes come out as 'a-4'; rename one.",
        ),
        # Gates
        (
            HEAD + TAIL + "gate: {min_retentoin: 0.9}\n",
            (
                "s.yaml:6: gate.min_retentoin: unknown key 'min_retentoin'. "
                "Did you mean 'min_retention'?"
            ),
        ),
        (
            HEAD + TAIL + "gate:\n  min_retention: 95\n",
            "s.yaml:7: gate.min_retention: Expected `float` <= 1.0.",
        ),
        (
            HEAD + TAIL + "gate:\n  min_retention: true\n",
            "s.yaml:7: gate.min_retention: Expected `float`, got `bool`.",
        ),
        (
            HEAD + TAIL + "gate:\n  confidence: 0.95\n",
            (
                "s.yaml:7: gate.confidence: unknown key 'confidence'. Known: alpha, assurance, "
                "improvement, inconclusive, margin, max_forgotten, min_retention, near_tie, power, "
                "relation_floors."
            ),
        ),
        (HEAD + TAIL + "gate: 0.9\n", "s.yaml:6: gate: Expected `object`, got `float`."),
        (
            STEPS + "  a:\n    use: rtn\n    bits: 8\n    min_retention: 2\n",
            "s.yaml:10: recipes.a.min_retention: Expected `float` <= 1.0.",
        ),
        # Overrides
        (HEAD + TAIL + "overrides: {}\n", "s.yaml:6: overrides: 'overrides' is a list."),
        (HEAD + TAIL + "overrides: [x]\n", "s.yaml:6: overrides[0]: Expected `object`, got `str`."),
        (
            HEAD + TAIL + "overrides:\n  - {recipes: dense, min_retention: 0.9}\n",
            "s.yaml:7: overrides[0].recipes: unknown key 'recipes'. Did you mean 'recipe'?",
        ),
        (
            HEAD + TAIL + "overrides:\n  - {recipe: int8, min_retention: 0.9}\n",
            (
                "s.yaml:7: overrides[0]: no trial matches this override; correct its names or "
                "remove it."
            ),
        ),
        (
            HEAD + TAIL + "overrides:\n  - {expect: fail}\n",
            "s.yaml:7: overrides[0]: 'expect: fail' needs a 'reason'.",
        ),
        (
            HEAD + TAIL + "overrides:\n  - {recipe: dense, expect: fail, reason: x}\n",
            "s.yaml:7: overrides[0]: the dense model is the reference and cannot be a control.",
        ),
        (
            HEAD + TAIL + "overrides:\n  - {expect: lost, reason: x}\n",
            "s.yaml:7: overrides[0].expect: 'lost' is none of fail, pass.",
        ),
    ],
    ids=str,
)
def test_refusals_name_file_line_and_key(read: Load, text: str, message: str) -> None:
    assert refusal(read, text) == message


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("metric: P@3", "metric: 'P@3' is none of MRR, P@1, P@k, ranked. Did you mean 'P@k'?"),
        ("metric: mrr", "metric: 'mrr' is none of MRR, P@1, P@k, ranked. Did you mean 'MRR'?"),
        ("metric: 1", "metric: Expected `str`, got `int`. Write one of MRR, P@1, P@k, ranked."),
        ("relations: capital", "relations: Expected `array | null`, got `str`. Write [capital]."),
        ("relations: 'a: b'", 'relations: Expected `array | null`, got `str`. Write ["a: b"].'),
        ("relations: 7", 'relations: Expected `array | null`, got `int`. Write ["7"].'),
        ("relations: {a: b}", "relations: Expected `array | null`, got `object`."),
        ("relations: [a, 7]", 'relations[1]: Expected `str`, got `int`. Quote it: "7".'),
        ("templates: {a: 7}", "templates: Expected `str | array`, got `int`. Quote it."),
        ("templates: {a: [x, 7]}", "templates: Expected `str`, got `int`. Quote it."),
    ],
)
def test_a_value_that_is_not_allowed_is_told_what_is(read: Load, body: str, problem: str) -> None:
    text = HEAD + "benchmarks:\n  low: {use: cloze, path: a.jsonl, " + body + "}\n"
    assert refusal(read, text) == f"s.yaml:5: benchmarks.low.{problem}"


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (
            "{use: qat, bits: turnary}",
            "bits: 'turnary' is none of ternary, int. Did you mean 'ternary'?",
        ),
        (
            "{use: quanto, weights: int4, group_size: 33}",
            "group_size: '33' is none of 32, 64, 96, 128, null.",
        ),
        (
            "{use: quanto, weights: int4, group_size: big}",
            "group_size: Expected `int | null`, got `str`. Write one of 32, 64, 96, 128.",
        ),
        (
            "{use: rtn, bits: 8, sweep: {granularity: [tensor, grup]}}",
            "sweep.granularity[1]: 'grup' is none of channel, group, tensor. Did you mean 'group'?",
        ),
        (
            "{use: distill, material: {facts: capital}}",
            "material.facts: Expected `array | null`, got `str`. Write [capital].",
        ),
        (
            "{use: distill, sweep: {material: [{facts: capital}]}}",
            "sweep.material[0].facts: Expected `array | null`, got `str`. Write [capital].",
        ),
    ],
)
def test_an_option_of_a_step_is_told_what_is_allowed(read: Load, steps: str, problem: str) -> None:
    assert refusal(read, f"{STEPS}  a: {steps}\n") == f"s.yaml:7: recipes.a.{problem}"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            ["use: distill", "material:", "  facts: [capital]", "  sampels: 3"],
            (
                "11: recipes.a.material.sampels: 'material' has no option 'sampels'. "
                "Did you mean 'samples'?"
            ),
        ),
        (
            ["use: distill", "sweep:", "  material:", "    - facts: [capital]", "      sed: 3"],
            (
                "12: recipes.a.sweep.material[0].sed: 'material' has no option 'sed'. "
                "Did you mean 'seed'?"
            ),
        ),
        (
            ["use: distill", "material:", "  samples: 3", "  facts: [capitol]"],
            "11: recipes.a.material.facts: there is no relation 'capitol'. Did you mean 'capital'?",
        ),
        (["use: rtn", "bits: 8", "targets: atention"], "10: recipes.a.targets: 'atention' is no"),
        (["use: rtn", "bits: 8", "ignore: [head]"], "10: recipes.a.ignore: 'ignore' takes"),
        (["use: magnitude", 'pattern: "4:2"'], "9: recipes.a.pattern: '4:2' is no pattern"),
        (
            ["use: magnitude", "sweep:", "  pattern:", '    - "2:4"', '    - "4:2"'],
            "12: recipes.a.sweep.pattern[1]: '4:2' is no pattern",
        ),
        (
            ["use: magnitude", "sparsity: 0.5", "count_of: nope"],
            "10: recipes.a.count_of: 'nope' is no set",
        ),
        (  # A plain ValueError that quotes one written option.
            ["use: magnitude", 'pattern: "2:4"', "count_of: all"],
            "10: recipes.a.count_of: 'count_of' needs 'sparsity'",
        ),
        (  # And one that quotes two of them.
            ["use: magnitude", 'pattern: "2:4"', "sparsity: 0.5"],
            "7: recipes.a: exactly one of 'sparsity' and 'pattern'",
        ),
        (
            ["use: bitsandbytes", "sweep:", "  scheme: [nf4]", "threshold: 6.0"],
            "11: recipes.a.threshold: 'threshold' means nothing",
        ),
        (["use: qat", "steps: 1"], "7: recipes.a: 'material' is missing: keys with values."),
    ],
    ids=str,
)
def test_the_option_at_fault_is_refused_by_its_name_and_line(
    read: Load, lines: list[str], problem: str
) -> None:
    text = STEPS + "  a:\n" + "".join(f"    {line}\n" for line in lines)
    assert refusal(read, text).startswith(f"s.yaml:{problem}")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("min_retention", "-0.1", "Expected `float` >= 0.0."),
        ("min_retention", "1.1", "Expected `float` <= 1.0."),
        ("min_retention", ".nan", "Expected `float` >= 0.0."),
        ("min_retention", "[0.9]", "Expected `float`, got `array`."),
        ("relation_floors", "0.9", "Expected `object`, got `float`."),
        ("relation_floors", "[capital]", "Expected `object`, got `array`."),
        ("max_forgotten", "-0.1", "Expected `float` >= 0.0."),
        ("max_forgotten", "5", "Expected `float` <= 1.0."),
        ("max_forgotten", ".nan", "Expected `float` >= 0.0."),
        ("max_forgotten", "none", "Expected `float | null`, got `str`."),
        ("assurance", "proved", "'proved' is none of point, proven. Did you mean 'proven'?"),
        ("assurance", "true", "Expected `str`, got `bool`. Write one of point, proven."),
        ("margin", "-0.01", "Expected `float` >= 0.0."),
        ("margin", "2", "Expected `float` <= 1.0."),
        ("margin", ".nan", "Expected `float` >= 0.0."),
        ("margin", "1%", "Expected `float`, got `str`."),
        ("alpha", "0", "Expected `float` > 0.0."),
        ("alpha", "0.5", "Expected `float` < 0.5."),
        ("alpha", ".nan", "Expected `float` > 0.0."),
        ("alpha", "5%", "Expected `float`, got `str`."),
        ("power", "0.49", "Expected `float` >= 0.5."),
        ("power", "1", "Expected `float` < 1.0."),
        ("power", ".nan", "Expected `float` >= 0.5."),
        ("power", "true", "Expected `float`, got `bool`."),
        ("inconclusive", "skip", "'skip' is none of fail, pass, warn, null."),
        (
            "inconclusive",
            "false",
            "Expected `str | null`, got `bool`. Write one of fail, pass, warn.",
        ),
        ("improvement", "refuse", "'refuse' is none of accept, report."),
        ("improvement", "1", "Expected `str`, got `int`. Write one of accept, report."),
        ("near_tie", "-0.01", "Expected `float` >= 0.0."),
        ("near_tie", ".inf", "Expected `float` <= 0.5."),
        ("near_tie", "0.51", "Expected `float` <= 0.5."),
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        (HEAD + TAIL + "gate:\n  ", "s.yaml:7: gate"),
        (STEPS + "  a:\n    use: rtn\n    bits: 8\n    ", "s.yaml:10: recipes.a"),
        (HEAD + TAIL + "overrides:\n  - model: tiny\n    ", "s.yaml:8: overrides[0]"),
    ],
    ids=["gate", "recipe", "override"],
)
def test_each_key_of_a_gate_is_refused_by_name_and_line_wherever_it_stands(
    read: Load, place: tuple[str, str], key: str, value: str, problem: str
) -> None:
    before, where = place
    assert refusal(read, f"{before}{key}: {value}\n") == f"{where}.{key}: {problem}"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("2", "Expected `float` <= 1.0."),
        ("-1", "Expected `float` >= 0.0."),
        (".nan", "Expected `float` >= 0.0."),
        ("high", "Expected `float`, got `str`."),
        ("true", "Expected `float`, got `bool`."),
        ("", "Expected `float`, got `null`."),
    ],
)
def test_a_floor_of_a_relation_is_refused_by_the_relation_s_name_and_line(
    read: Load, value: str, problem: str
) -> None:
    text = HEAD + TAIL + f"gate:\n  relation_floors:\n    border*: 0.5\n    capital: {value}\n"
    said = refusal(read, text)
    assert said == f"s.yaml:9: gate.relation_floors.capital: {problem}"


def test_every_key_of_a_gate_is_read_in_each_place(read: Load) -> None:
    keys = {
        "min_retention": 0.5,
        "relation_floors": {"capital": 0.75, "border*": 0},
        "max_forgotten": 0.25,
        "assurance": "proven",
        "margin": 0.02,
        "alpha": 0.1,
        "power": 0.9,
        "inconclusive": "warn",
        "improvement": "accept",
        "near_tie": 0.03,
    }
    assert keys.keys() == set(Gate.__struct_fields__)
    wanted = msgspec.convert(keys, Gate)
    assert all(getattr(wanted, key) != getattr(Gate(), key) for key in keys)
    body = yaml.safe_dump(keys, default_flow_style=True, width=1000).strip()[1:-1]
    dense, recipe = read(f"{STEPS}  a: {{use: rtn, bits: 8}}\ngate: {{{body}}}\n").trials
    assert dense.gate == recipe.gate == wanted
    dense, recipe = read(f"{STEPS}  a: {{use: rtn, bits: 8, {body}}}\n").trials
    assert (dense.gate, recipe.gate) == (Gate(), wanted)
    (dense,) = read(f"{HEAD}{TAIL}overrides:\n  - {{model: t*, {body}}}\n").trials
    assert dense.gate == wanted


@pytest.mark.parametrize("use", [":Part", "fakes:", ".fakes:Memory", "fakes:Nothing", "fakes:note"])
def test_a_use_that_names_no_part_is_refused_without_a_traceback(read: Load, use: str) -> None:
    text = HEAD.replace("fakes:Memory", use) + TAIL
    assert refusal(read, text).startswith(f"s.yaml:3: models.tiny.use: '{use}' ")


def test_sweeps_are_named_after_their_values_and_cross(read: Load) -> None:
    suite = read(
        STEPS
        + """\
  one: {use: magnitude, sweep: {sparsity: [0.1, 0.30]}}
  two: {use: rtn, sweep: {bits: [4, 8], symmetric: [true, false]}, min_retention: 0.5}
  more:
    steps:
      - {use: magnitude, sweep: {sparsity: [0.3, 0.5]}}
      - {use: rtn, targets: attention, sweep: {bits: [4, 8]}}
  patterns: {use: rtn, bits: 8, sweep: {targets: [feed-forward]}}
"""
    )
    assert list(suite.recipes) == [
        "dense",
        "one-0.1",
        "one-0.3",
        "two-4-True",
        "two-4-False",
        "two-8-True",
        "two-8-False",
        "more-0.3-4",
        "more-0.3-8",
        "more-0.5-4",
        "more-0.5-8",
        "patterns-feed-forward",
    ]
    assert suite.recipes["two-4-False"].steps == (
        Part(use="rtn", options={"bits": 4, "symmetric": False}),
    )
    assert suite.recipes["more-0.5-4"].steps == (
        Part(use="magnitude", options={"sparsity": 0.5}),
        Part(use="rtn", options={"targets": "attention", "bits": 4}),
    )
    floors = {t.recipe: t.gate.min_retention for t in suite.trials}
    assert [floors["one-0.1"], floors["two-8-True"]] == [0.95, 0.5]


def test_steps_beside_use_are_an_option_of_the_one_step(read: Load) -> None:
    learns = "use: distill, layers: 2, material: {facts: [continent]}"
    suite = read(
        STEPS
        + f"""\
  one: {{{learns}, steps: 3, min_retention: 0.5}}
  swept: {{{learns}, sweep: {{steps: [3, 4]}}}}
  list:
    steps:
      - {{{learns}, steps: 3}}
"""
    )
    options = {"layers": 2, "material": {"facts": ["continent"]}, "steps": 3}
    learned = (Part(use="distill", options=options),)
    assert list(suite.recipes) == ["dense", "one", "swept-3", "swept-4", "list"]
    assert suite.recipes["one"].steps == suite.recipes["list"].steps == learned
    assert suite.recipes["swept-3"].steps == learned
    assert [t.gate.min_retention for t in suite.trials if t.recipe == "one"] == [0.5]


def test_the_last_override_that_matches_wins_key_by_key(read: Load) -> None:
    suite = read(
        WHOLE.partition("overrides")[0]
        + """\
overrides:
  - {recipe: "[bi]*", expect: fail, reason: first, near_tie: 0.5}
  - {recipe: "int?", model: tiny, expect: pass, min_retention: 0.25}
  - {benchmark: high, min_retention: 0.75}
"""
    )
    said = {
        (t.model, t.recipe, t.benchmark): (t.expect, t.gate.min_retention, t.gate.near_tie)
        for t in suite.trials
    }
    assert said["tiny", "int8", "low"] == ("pass", 0.25, 0.5)
    assert said["tiny", "int8", "high"] == ("pass", 0.75, 0.5)
    assert said["hub", "int8", "low"] == ("fail", 0.9, 0.5)
    assert said["hub", "both", "high"] == ("fail", 0.75, 0.5)
    assert said["hub", "dense", "high"] == ("pass", 0.75, 0.01)


def test_a_control_for_all_recipes_does_not_mean_the_dense_model(read: Load) -> None:
    suite = read(WHOLE + '  - {recipe: "*", expect: fail, reason: all}\n')
    assert {t.recipe for t in suite.trials if t.expect == "fail"} == {"int8", "both"}


def test_floors_of_relations_are_replaced_whole_as_any_other_key(read: Load) -> None:
    suite = read(
        STEPS
        + """\
  a: {use: rtn, bits: 8}
  b: {use: rtn, bits: 4, relation_floors: {language: 0.5}}
gate: {relation_floors: {capital: 0.9, language: 0.8}}
overrides:
  - {recipe: a, relation_floors: {}}
"""
    )
    floors = {t.recipe: t.gate.relation_floors for t in suite.trials}
    assert floors == {
        "dense": {"capital": 0.9, "language": 0.8},
        "a": {},
        "b": {"language": 0.5},
    }


@pytest.mark.parametrize(
    ("said", "meant"), [("", "warn"), ("assurance: proven", "fail"), ("inconclusive: pass", "pass")]
)
def test_what_cannot_be_decided_fails_only_where_a_proof_is_asked_for(
    read: Load, said: str, meant: str
) -> None:
    (trial,) = read(f"{HEAD}{TAIL}gate: {{{said}}}\n").trials
    assert trial.gate.on_inconclusive == meant


# Each single key: deleted where it is needed, misspelt anywhere

DATA = yaml.safe_load(WHOLE)


def places(data: Any, keys: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every key of every mapping stands, names that are free to choose left out."""
    found: list[tuple[str | int, ...]] = []
    if isinstance(data, dict):
        for key, value in data.items():
            if keys not in {("models",), ("recipes",), ("benchmarks",)}:
                found.append((*keys, key))
            found += places(value, (*keys, key))
    if isinstance(data, list):
        for position, value in enumerate(data):
            found += places(value, (*keys, position))
    return found


NEEDED = [
    (("version",), "version"),
    (("models",), "'models' is missing"),
    (("benchmarks",), "'benchmarks' is missing"),
    (("models", "tiny", "use"), "'pretrained' has no option 'knows'"),
    (("models", "hub", "path"), "models.hub: 'path' is missing: text"),
    (("recipes", "int8", "use"), "recipes.int8: 'use' is missing"),
    (("recipes", "int8", "bits"), "recipes.int8: 'bits' is missing: int >= 2 and <= 8"),
    (("recipes", "both", "steps"), "recipes.both: 'use' is missing"),
    (("recipes", "both", "steps", 0, "use"), "recipes.both.steps[0]: 'use' is missing"),
    (("recipes", "both", "steps", 1, "bits"), "recipes.both.steps[1]: 'bits' is missing: int"),
    (("recipes", "both", "steps", 1, "group_size"), "recipes.both.steps[1]: 'group_size' is"),
    (("benchmarks", "low", "use"), "benchmarks.low: 'use' is missing"),
    (("overrides", 1, "reason"), "overrides[1]: 'expect: fail' needs a 'reason'"),
]


@pytest.mark.parametrize(("place", "message"), NEEDED, ids=str)
def test_each_required_key_is_missed_by_name(
    read: Load, place: tuple[str | int, ...], message: str
) -> None:
    data = copy.deepcopy(DATA)
    inside = data
    for key in place[:-1]:
        inside = inside[key]
    del inside[place[-1]]
    assert message in refusal(read, yaml.safe_dump(data, sort_keys=False))


@given(st.sampled_from(places(DATA)), st.data())
def test_each_misspelt_key_is_refused_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str | int, ...], choice: st.DataObject
) -> None:
    key = str(place[-1])
    at = choice.draw(st.integers(0, len(key)))
    wrong = key[:at] + choice.draw(st.sampled_from("qxz")) + key[at:]
    data = copy.deepcopy(DATA)
    inside = data
    for step in place[:-1]:
        inside = inside[step]
    renamed = {wrong if name == key else name: value for name, value in inside.items()}
    inside.clear()
    inside.update(renamed)
    path = tmp_path_factory.getbasetemp() / "misspelt.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    with pytest.raises(SuiteError) as caught:
        load(path)
    said = str(caught.value)
    # A missing 'use' or 'steps' may be what is noticed first; the place is named in any case.
    parts = [str(step) for step in place[:-1] if isinstance(step, str)]
    assert (
        (f"'{wrong}'" in said)
        or (f"'{key}'" in said)
        or ("'use' is missing" in said)
        or ("version: 1 is needed" in said)
    )
    assert all(part in said for part in parts)
