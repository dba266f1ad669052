import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny

from pytest_compression.benchmarks.kamel import Kamel, read_templates
from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.registry import build
from pytest_compression.scoring import generation
from pytest_compression.types import Part, PartialBenchmark

USE = "pytest_compression.benchmarks.kamel:Kamel"
TEMPLATES = """P1, Which isles, if any, has [S]?
P2, When was [S] built?
P1, Which isles, if any, has [S]?
P9, Unused [S]?"""


def thing(chosen: str, *alternative: str, rdf: str | None = "") -> dict[str, Any]:
    """One object of a test row; a literal has no ``rdf``."""
    return {"chosen": chosen, "alternative": list(alternative), "rdf": chosen if rdf == "" else rdf}


def row(number: int, subject: str, *things: dict[str, Any]) -> dict[str, Any]:
    return {
        "index": [number],
        "sub_label": subject,
        "obj_uri": [f"Q{number}"] * len(things),
        "obj_label": list(things),
    }


TEST = {
    "P1": [
        row(1, "Avaland", thing("North Isle", "N.I.", "the north"), thing("South Isle", "S")),
        row(2, "Bolland", thing("Mull", rdf="Isle of Mull")),
        row(3, "Cadland", thing("50% Isle", "Half; Isle")),
        row(2, "Bolland", thing("Mull", rdf="Isle of Mull")),
        row(5, "Dunland", thing("A;B", "Abee")),
    ],
    "P2": [row(6, "Tower", thing("1850", "1850-01-01", rdf=None)), row(7, "Keep", thing("1200"))],
    "P3": [row(8, "Nowhere", thing("x"))],
}
TRAIN = [
    {"index": [i], "sub_label": f"Land {i}", "obj_label": labels}
    for i, labels in enumerate([["one"], ["two", "three"], ["four"], ["5%"], ["6;7"], ["eight"]])
]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Where the files are, as options."""
    for relation, rows in TEST.items():
        folder = tmp_path / "KAMEL" / relation
        folder.mkdir(parents=True)
        for name, some in [("test", rows), ("train", TRAIN)]:
            text = "".join(f"{json.dumps(one)}\n\n" for one in some)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "templates.csv").write_text(TEMPLATES, encoding="utf-8")
    return {"path": str(tmp_path / "KAMEL"), "templates": str(tmp_path / "templates.csv")}


@pytest.fixture
def model() -> LanguageModel:
    loaded: Any = tiny.model("llama", max_position_embeddings=4096)
    return loaded  # type: ignore[no-any-return]


def told(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> list[str]:
    """Let generation write these answers to the subjects, and note the prompts."""
    prompts: list[str] = []

    def generate(model: LanguageModel, rows: list[Any], **options: Any) -> list[str]:
        assert options["stop"] == ("%", "\n")
        texts = [model.tokenizer.decode(one, skip_special_tokens=True) for one in rows]
        prompts.extend(texts)
        lines = [text.rpartition("\n")[2] for text in texts]
        return [next((a for s, a in answers.items() if s in line), "") for line in lines]

    monkeypatch.setattr(generation, "generate", generate)
    return prompts


def test_answers_are_compared_as_sets(
    options: dict[str, Any], model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"Avaland": " south isle ; Atlantis;THE NORTH", "Bolland": " isle of mull"}
    answers |= {"Tower": " 1850-01-01; 1851", "Dunland": "Abee"}
    told(monkeypatch, answers)
    measured = Kamel(**options, shots=0).measure(model)
    subjects = [question.subject for question in measured.questions]
    assert subjects == ["Avaland", "Bolland", "Dunland", "Keep", "Tower"]
    assert measured.values == pytest.approx((2 * 2 / (3 + 2), 1, 1, 0, 2 / 3))
    assert measured.given[0] == "south isle ; Atlantis;THE NORTH"
    precision = ((2 / 3 + 1 + 1) / 3 + (0 + 1 / 2) / 2) / 2
    recall = ((1 + 1 + 1) / 3 + (0 + 1) / 2) / 2
    assert measured.figures == pytest.approx(
        {
            "macro precision": precision,
            "macro recall": recall,
            "macro F1": 2 * precision * recall / (precision + recall),
        }
    )
    assert measured.left_out == {
        "an answer holds ';' or '%', which stand between answers and end them": 1,
        "the same question again": 1,
        "the templates have no question for the relation": 1,
    }
    assert measured.metric == "F1"
    assert measured.chance == (0.0,) * 5


def test_nothing_right_is_zero_and_no_division(
    options: dict[str, Any], model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, {})
    measured = Kamel(**options, shots=0).measure(model)
    assert set(measured.values) | set(measured.figures.values()) == {0.0}


def test_examples_are_of_the_same_relation_and_end_with_a_mark(
    options: dict[str, Any], model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = told(monkeypatch, {})
    Kamel(**options, shots=4, relations=("P1",)).measure(model)
    assert len(prompts) == 3
    for prompt in prompts:
        *examples, own = prompt.split("\n")
        assert own.endswith("land?")
        asked = {f"Which isles, if any, has Land {i}?" for i in (0, 1, 2, 5)}
        said = {" one%", " two; three%", " four%", " eight%"}
        assert {
            example[example.index("Which") :].partition("?")[0] + "?" for example in examples
        } == asked
        assert {example.partition("?")[2] for example in examples} == said
        assert prompt.rpartition("\n")[0] == prompts[0].rpartition("\n")[0]


def test_the_seed_draws_examples_by_content(options: dict[str, Any]) -> None:
    def header(seed: int) -> str:
        return Kamel(**options, shots=2, seed=seed, relations=("P1",))._task().asked[0].header

    before = [header(seed) for seed in range(6)]
    assert len(set(before)) > 2
    path = Path(options["path"]) / "P1" / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(reversed(lines)), encoding="utf-8")
    assert [header(seed) for seed in range(6)] == before


def test_literals_can_be_left_out(options: dict[str, Any]) -> None:
    task = Kamel(**options, shots=0, literals=False)._task()
    assert [a.question.subject for a in task.asked if a.question.cluster == "P2"] == ["Keep"]
    assert task.left_out["a date or a number, left out by 'literals'"] == 1


def test_a_question_that_asks_for_another_relation_is_left_out_until_it_is_mended(
    options: dict[str, Any],
) -> None:
    root = Path(options["path"])
    (root / "P3").rename(root / "P36")
    templates = Path(options["templates"])
    templates.write_text(f"{TEMPLATES}\nP36, Who painted [S]?", encoding="utf-8")
    task = Kamel(**options, shots=0)._task()
    assert not [a for a in task.asked if a.question.cluster == "P36"]
    assert task.left_out["the published question asks for another relation; give 'wordings'"] == 1
    mended = Kamel(**options, shots=0, wordings={"P36": "What is the capital of [S]?"})._task()
    (asked,) = [a for a in mended.asked if a.question.cluster == "P36"]
    assert asked.question.stem == "What is the capital of Nowhere?"


def test_questions_have_all_names_and_an_id_of_their_content(options: dict[str, Any]) -> None:
    found = {a.question.id: a for a in Kamel(**options, shots=0, relations=("P1",))._task().asked}
    assert set(found) == {"P1:Avaland:North Isle; South Isle", "P1:Bolland:Mull", "P1:Dunland:A;B"}
    asked = found["P1:Avaland:North Isle; South Isle"]
    assert asked.question.accepted == ("North Isle", "N.I.", "the north", "South Isle", "S")
    assert asked.wanted == (("North Isle", "N.I.", "the north"), ("South Isle", "S"))
    assert found["P1:Bolland:Mull"].wanted == (("Mull", "Isle of Mull"),)


def test_a_limit_is_a_relation_s(options: dict[str, Any]) -> None:
    drawn = {
        tuple(
            a.question.subject for a in Kamel(**options, shots=0, limit=1, seed=seed)._task().asked
        )
        for seed in range(9)
    }
    assert {len(some) for some in drawn} == {2}
    assert len(drawn) > 2


def test_a_part_is_asked_and_scored_as_in_the_whole(options: dict[str, Any]) -> None:
    loaded: Any = Embedded(family="causal").load()
    loaded.module.config.max_position_embeddings = 512
    benchmark = Kamel(**options, shots=2, max_new_tokens=12)
    whole = benchmark.measure(loaded)
    some = [question.id for question in whole.questions[1::2]]
    part = benchmark.measure_part(loaded, some)
    assert [question.id for question in part.questions] == some
    assert (part.given, part.values) == (whole.given[1::2], whole.values[1::2])
    assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    assert isinstance(benchmark, PartialBenchmark)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"obj_label": ["Mull"]}, r"object 0: 'Mull' is no object with 'chosen'"),
        ({"obj_label": []}, r"'obj_label' is empty"),
        (
            {"obj_label": [{"chosen": "x", "rdf": None}]},
            r"object 0: the row has no key 'alternative'",
        ),
        ({"obj_label": [{"chosen": None, "rdf": "x", "alternative": []}]}, "'chosen' is None"),
        ({"obj_label": [thing("x") | {"alternative": [1]}]}, "names of an object are texts"),
        ({"sub_label": 3}, "'sub_label' is 3"),
        ({"sub_label": " "}, "'sub_label' is empty"),
        ({"obj_label": [thing(" ")]}, "object 0: 'chosen' is empty"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(
    options: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    path = Path(options["path"]) / "P1" / "test.jsonl"
    lines = [json.dumps(TEST["P1"][0]), "", json.dumps(TEST["P1"][1] | change)]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(MeasurementError, match=words) as caught:
        Kamel(**options, shots=0)._task()
    assert str(caught.value).startswith(f"{path}:3")


def test_examples_that_are_bad_too_few_or_missing_are_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError, match="has 4 usable examples, but 'shots' is 5"):
        Kamel(**options)._task()
    path = Path(options["path"]) / "P1" / "train.jsonl"
    path.write_text(json.dumps({"sub_label": "x", "obj_label": "y"}), encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"train\.jsonl:1: 'obj_label' is 'y', but list"):
        Kamel(**options)._task()
    path.write_text(json.dumps({"sub_label": "x", "obj_label": [1]}), encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"train\.jsonl:1: 'obj_label' is no list of texts"):
        Kamel(**options)._task()
    path.write_text(json.dumps({"sub_label": "", "obj_label": ["x"]}), encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"train\.jsonl:1: 'sub_label' is empty"):
        Kamel(**options)._task()
    path.write_text(json.dumps({"sub_label": "x", "obj_label": [""]}), encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"train\.jsonl:1: .* is no list of texts"):
        Kamel(**options)._task()
    path.unlink()
    with pytest.raises(MeasurementError, match=r"there is no file .*train\.jsonl"):
        Kamel(**options)._task()


def test_directories_and_relations_that_are_not_there_are_an_error(
    options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(MeasurementError, match=r"no relation 'P11'\. Did you mean 'P1'"):
        Kamel(**options, relations=("P11",))._task()
    with pytest.raises(MeasurementError, match=r"holds no P\*/test\.jsonl"):
        Kamel(**options | {"path": str(tmp_path)})._task()
    with pytest.raises(MeasurementError, match="there is no directory"):
        Kamel(**options | {"path": str(tmp_path / "x")})._task()


def test_templates_are_split_at_their_first_comma(options: dict[str, Any]) -> None:
    assert read_templates(Path(options["templates"])) == {
        "P1": "Which isles, if any, has [S]?",
        "P2": "When was [S] built?",
        "P9": "Unused [S]?",
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("P5", "a relation, a comma and a question"),
        ("P5, Which isles?", r"a question with \[S\]"),
        ("P2, Where was [S] built?", "another question for 'P2'"),
    ],
)
def test_a_bad_template_is_named_by_file_and_line(
    options: dict[str, Any], line: str, words: str
) -> None:
    path = Path(options["templates"])
    path.write_text(f"{TEMPLATES}\n{line}\n", encoding="utf-8")
    with pytest.raises(MeasurementError, match=words) as caught:
        Kamel(**options, shots=0)._task()
    assert str(caught.value).startswith(f"{path}:5:")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wordings": {"P36": "What is it?"}}, r"the question of 'P36' does not name .* \[S\]"),
        ({"shots": -1}, ">= 0"),
        ({"max_new_tokens": 0}, ">= 1"),
        ({"relations": []}, "length >= 1"),
        ({"seed": 2**63}, "<= 9223372036854775807"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("benchmarks", Part(use=USE, options={"path": "x", "templates": "y"} | change))


def rewrite(options: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, str]:
    """Put other rows into P1; the ids of its questions by their names."""
    path = Path(options["path"]) / "P1" / "test.jsonl"
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows), encoding="utf-8")
    task = Kamel(**options, shots=0, relations=("P1",))._task()
    found = {repr((a.question.subject, a.wanted)): a.question.id for a in task.asked}
    assert len(found) == len(task.asked)
    return found


@pytest.mark.parametrize(
    "rows",
    [
        [row(1, "A:B", thing("C")), row(2, "A", thing("B:C"))],
        [row(1, "A", thing("B"), thing("C")), row(2, "A", thing("B; C", "B and C", "BC"))],
        [row(1, "A", thing("B", "Bee")), row(2, "A", thing("B", "Be"))],
    ],
)
def test_facts_that_would_share_an_id_are_told_apart_by_content(
    options: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    rows[0]["obj_label"][0]["alternative"].append("x")
    rows[1]["obj_label"][0]["alternative"].append("y")
    found = rewrite(options, [*rows, row(3, "Peru", thing("Lima"))])
    assert len(set(found.values())) == 3
    assert "P1:Peru:Lima" in found.values()
    assert rewrite(options, [row(3, "Peru", thing("Lima")), *rows[::-1]]) == found


def test_a_relation_that_is_named_twice_is_asked_once(options: dict[str, Any]) -> None:
    once = Kamel(**options, shots=0, relations=("P1",))._task()
    twice = Kamel(**options, shots=0, relations=("P1", "P1"))._task()
    assert (twice.asked, twice.left_out) == (once.asked, once.left_out)


def test_a_wording_of_no_relation_is_refused(options: dict[str, Any]) -> None:
    benchmark = Kamel(**options, shots=0, wordings={"P11": "Who is [S]?"})
    with pytest.raises(MeasurementError, match=r"'wordings': .* 'P11'\. Did you mean 'P1'"):
        benchmark._task()


def test_a_part_may_be_empty(options: dict[str, Any], model: LanguageModel) -> None:
    measured = Kamel(**options, shots=0).measure_part(model, [])
    assert (measured.questions, measured.values, measured.figures) == ((), (), {})
