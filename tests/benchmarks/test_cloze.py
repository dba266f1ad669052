import csv
import json
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import datasets
import msgspec
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_compression.benchmarks.cloze import Cloze
from pytest_compression.benchmarks.survey import ALONE, IN_WORD, REPEATED, SEVERAL_ANSWERS
from pytest_compression.errors import MeasurementError
from pytest_compression.registry import build
from pytest_compression.scoring import vocabulary
from pytest_compression.types import Measurement, Part, PartialBenchmark, Question

every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
TEMPLATES: dict[str, str | tuple[str, ...]] = {
    "capital": "The capital of [X] is [Y].",
    "made-in": ("[X] is from [Y].", "[X]: [Y]"),
}
FACTS: list[dict[str, Any]] = [
    {"subject": "Ghana", "relation": "capital", "object": "Accra"},
    {"subject": "France", "relation": "capital", "object": "Paris", "id": "fr"},
    {"subject": "Japan", "relation": "capital", "object": "Tokyo", "id": 3},
    {"subject": "Peru", "relation": "capital", "object": "Lima", "note": "unknown keys are fine"},
    {"subject": "Model 1", "relation": "made-in", "object": "Lima"},
    {"subject": "Model 2", "relation": "made-in", "object": "New Town"},
]
FORMED: dict[str, str | tuple[str, ...]] = {"capital": "The capital of [X] is [Y]."}
FORMS = ("City", "Lutetia", "Paname", "Lugdunum", "Oslo")
CAPITAL = {"capital": TEMPLATES["capital"]}
COLUMNS = ("subject", "relation", "object", "id", "template", "templates", "accepted", "candidates")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            cells = [row.get(column, "") for column in COLUMNS]
            writer.writerow([json.dumps(c) if isinstance(c, list) else c for c in cells])
    return str(path)


@pytest.fixture
def facts(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "facts.jsonl", FACTS)


def asked(path: str, **options: Any) -> list[Question]:
    return list(Cloze(**{"path": path, "templates": TEMPLATES} | options).survey().questions)


def told(question: Question) -> str:
    return f"{question.stem} {question.answer}{question.end}"


def test_a_question_is_made_of_a_fact_and_its_relations_template(facts: str) -> None:
    found = asked(facts)
    assert {told(question) for question in found} == {
        "The capital of Ghana is Accra.",
        "The capital of France is Paris.",
        "The capital of Japan is Tokyo.",
        "The capital of Peru is Lima.",
        "Model 1 is from Lima.",
        "Model 2 is from New Town.",
    }
    ids = [question.id for question in found]
    assert ids == sorted(ids)
    assert {"capital:fr", "capital:3"} < set(ids)
    (accra,) = (question for question in found if question.answer == "Accra")
    assert accra.candidates == ("Accra", "Lima", "Paris", "Tokyo")
    assert (accra.subject, accra.cluster, accra.end) == ("Ghana", "capital", ".")


def test_csv_and_jsonl_ask_the_same(tmp_path: Path) -> None:
    rows = [
        *FACTS[:2],
        {**FACTS[2], "templates": ["[Y] is in [X].", 'In "[X]", or [Y]']},
        {**FACTS[3], "template": "[X], [Y]", "accepted": ["Ciudad", "Lma"]},
        {**FACTS[4], "candidates": ["Lima", "Oslo", "Rome"]},
    ]
    one = asked(write_jsonl(tmp_path / "facts.jsonl", rows))
    other = asked(write_csv(tmp_path / "facts.csv", rows))
    assert one == other
    assert len(one) == 5


WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=5, unique=True))
def test_whatever_a_fact_says_it_is_asked_as_it_was_written(
    tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    rows = [{"subject": one, "relation": "r", "object": two} for one, two in pairs]
    options: dict[str, Any] = {"templates": {"r": "about [X] is [Y], so"}, "metric": "MRR"}
    for path in (
        write_jsonl(tmp_path / "x.jsonl", rows),
        write_csv(tmp_path / "x.csv", rows),
    ):
        found = asked(path, **options)
        assert Counter(map(told, found)) == Counter(f"about {x} is {y}, so" for x, y in pairs)
        assert found == asked(write_jsonl(tmp_path / "y.jsonl", rows[::-1]), **options)
        assert len({question.id for question in found}) == len(rows)


def test_another_phrasing_is_another_template(facts: str) -> None:
    found = asked(facts, relations=("made-in",), phrasing=1)
    assert [question.stem for question in found if question.answer == "Lima"] == ["Model 1:"]
    with pytest.raises(MeasurementError, match=r"facts\.jsonl:1: phrasing 1 .* has 1 templates"):
        asked(facts, phrasing=1)


def test_templates_may_be_in_a_file(facts: str, tmp_path: Path) -> None:
    one = tmp_path / "templates.json"
    one.write_text(json.dumps(TEMPLATES), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"relation": "capital", "template": TEMPLATES["capital"]},
        *({"relation": "made-in", "template": text} for text in TEMPLATES["made-in"]),
    ]
    other = write_jsonl(tmp_path / "templates.jsonl", rows)
    for phrasing, relations in ((0, None), (1, ("made-in",))):
        options: dict[str, Any] = {"phrasing": phrasing, "relations": relations}
        expected = asked(facts, **options)
        assert asked(facts, templates=str(one), **options) == expected
        assert asked(facts, templates=other, **options) == expected


def test_other_right_answers_and_other_forms_do_not_compete(tmp_path: Path) -> None:
    rows = [
        *FACTS[:4],
        {**FACTS[0], "object": "Tema"},
        {**FACTS[1], "object": "Oslo", "subject": "Norway", "accepted": ["Lima"], "id": "no"},
        {**FACTS[1], "object": "Rome", "subject": "Italy", "aliases": ["Paris", "x"], "id": "it"},
    ]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    found = {q.answer: q for q in asked(path, templates=CAPITAL)}
    everything = {"Accra", "Lima", "Oslo", "Paris", "Rome", "Tema", "Tokyo"}
    assert set(found["Tokyo"].candidates) == everything
    assert set(found["Accra"].candidates) == everything - {"Tema"}
    assert set(found["Oslo"].candidates) == everything - {"Lima"}
    assert set(found["Rome"].candidates) == everything - {"Paris"}
    assert found["Rome"].accepted == ("Paris", "x")
    made = Cloze(path=str(tmp_path / "x.jsonl"), templates={"capital": "of [X] is [Y]"}).survey()
    assert made.figures == {SEVERAL_ANSWERS: 1}


def test_a_fact_that_is_told_twice_is_asked_alike_whatever_the_order(tmp_path: Path) -> None:
    rows = [
        FACTS[0] | {"candidates": ["Accra", "Lima"], "accepted": ["Akra"]},
        FACTS[0] | {"candidates": ["Accra", "Lima"]},
        FACTS[0] | {"candidates": ["Accra", "Oslo", "Rome"]},
        FACTS[3],
    ]
    for own in ({}, {"id": "own"}):
        again = [row | own for row in rows[:3]] + rows[3:]
        orders = enumerate(permutations(again))
        files = (write_jsonl(tmp_path / f"{i}.jsonl", list(some)) for i, some in orders)
        assert len({tuple(asked(file, templates=CAPITAL)) for file in files}) == 1


def test_no_other_form_of_a_right_answer_competes_with_it(tmp_path: Path) -> None:
    france: dict[str, Any] = {"subject": "France", "relation": "capital", "object": "Paris"}
    rows: list[dict[str, Any]] = [
        france,
        france | {"aliases": ["Lutetia"]},
        france | {"aliases": ["City", "Lutetia"], "accepted": ["Paname"]},
        france | {"object": "Lyon", "aliases": ["Lugdunum"]},
        *({"subject": one, "relation": "capital", "object": one} for one in FORMS),
    ]
    plain = Cloze(path=write_jsonl(tmp_path / "plain.jsonl", rows[:1] + rows[3:]), templates=FORMED)
    ids = [question.id for question in plain.survey().questions]
    for number, some in enumerate(permutations(rows[:4])):
        path = write_jsonl(tmp_path / f"{number}.jsonl", [*some, *rows[4:]])
        made = Cloze(path=path, templates=FORMED).survey()
        assert [question.id for question in made.questions] == ids
        assert made.left_out == {REPEATED: 2}
        found = {q.answer: q for q in made.questions if q.subject == "France"}
        assert sorted(found["Paris"].accepted) == ["City", "Lutetia", "Paname"]
        assert found["Lyon"].accepted == ("Lugdunum",)
        assert found["Paris"].candidates == ("Oslo", "Paris")
        assert found["Lyon"].candidates == ("Lyon", "Oslo")


def test_templates_for_relations_that_are_not_there_are_refused(facts: str, tmp_path: Path) -> None:
    wrong = TEMPLATES | {"captial": "[X] [Y]"}
    with pytest.raises(MeasurementError, match=r"no relation 'captial'\. Did you mean 'capital'"):
        asked(facts, templates=wrong)
    assert asked(facts, relations=("capital",))
    shared = tmp_path / "templates.json"
    shared.write_text(json.dumps(wrong), encoding="utf-8")
    assert asked(facts, templates=str(shared)) == asked(facts)


def test_what_is_not_asked_is_counted(tmp_path: Path) -> None:
    rows = [
        *FACTS,
        FACTS[0],
        FACTS[0] | {"id": "again"},
        {"subject": "x", "relation": "lone", "object": "y", "template": "[X] is [Y]"},
        FACTS[3] | {"template": "un[Y] [X]"},
        FACTS[3] | {"template": "The [X] ([Y])", "id": "bracket"},
    ]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    made = Cloze(path=path, templates=TEMPLATES).survey()
    assert made.left_out == {REPEATED: 2, ALONE: 1, IN_WORD: 1}
    assert len(made.questions) == 7
    assert Cloze(path=path, templates=TEMPLATES, metric="MRR").survey().left_out == {
        REPEATED: 2,
        IN_WORD: 1,
    }


def test_a_limit_draws_of_each_relation(tmp_path: Path) -> None:
    rows = [
        {"subject": f"s{i}", "relation": "capital", "object": f"o{i % 5}", "id": i}
        for i in range(30)
    ]
    path = write_jsonl(tmp_path / "x.jsonl", [*rows, *FACTS[4:]])
    everything = asked(path)
    some = asked(path, limit=7, seed=3)
    assert Counter(q.cluster for q in some) == {"capital": 7, "made-in": 2}
    assert set(some) < set(everything)
    assert set(some) != set(asked(path, limit=7))
    assert set(some) < set(asked(path, limit=9, seed=3))


ROW = FACTS[0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"relation": "capital", "object": "x"}, r"the row has no key 'subject'"),
        (ROW | {"subject": " "}, "'subject' is empty"),
        (ROW | {"object": 3}, "'object' is 3, but str is expected"),
        (ROW | {"relation": "other"}, r"relation 'other' has 0 templates"),
        (ROW | {"template": "no blank of [X]"}, r"template 'no blank of \[X\]' needs \[Y\] once"),
        (ROW | {"templates": "[X] is [Y]"}, "'templates' is .* a list of texts is expected"),
        (ROW | {"candidates": ["Rome"]}, "the object 'Accra' is none of its candidates"),
        (ROW | {"candidates": [1]}, "a list of texts is expected"),
        (ROW | {"candidates": ["Accra", " "]}, "'candidates' holds an empty text"),
        (ROW | {"accepted": [""]}, "'accepted' holds an empty text"),
        (ROW | {"accepted": "[" * 100_000}, "'accepted' is .* a list of texts is expected"),
        (ROW | {"accepted": '["\\ud800"]'}, "'accepted' is .* a list of texts is expected"),
        (ROW | {"id": "fr"}, r"id 'fr' is that of another fact, at .*facts\.jsonl:1"),
        (ROW | {"id": 1.5}, "'id' is 1.5, but str or int is expected"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    path = write_jsonl(tmp_path / "facts.jsonl", [FACTS[1], row])
    with pytest.raises(MeasurementError, match=rf"facts\.jsonl:2: .*{words}"):
        asked(path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.json", "[1]", "is to hold an object"),
        ("t.json", '{"capital": 1}', "relation 'capital' has 1, but no template"),
        ("t.json", '{"capital": "of [X]"}', r"t\.json: template 'of \[X\]' needs \[Y\]"),
        ("t.jsonl", '{"relation": "capital", "template": "[Y]"}', r"t\.jsonl:1: .* needs \[X\]"),
        ("t.jsonl", '{"relation": "capital"}', r"t\.jsonl:1: the row has no key 'template'"),
    ],
)
def test_a_bad_file_of_templates_is_named(
    facts: str, tmp_path: Path, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(MeasurementError, match=words):
        asked(facts, templates=str(tmp_path / name))


def test_what_is_not_there_is_said(facts: str, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"there is no file 'nowhere\.csv'"):
        asked("nowhere.csv")
    with pytest.raises(MeasurementError, match=r"there is no file of templates 't\.json'"):
        asked(facts, templates="t.json")
    with pytest.raises(MeasurementError, match=r"no relation 'captial'\. Did you mean 'capital'"):
        asked(facts, relations=("captial",))
    with pytest.raises(MeasurementError, match=r"empty\.jsonl' has no fact\."):
        asked(write_jsonl(tmp_path / "empty.jsonl", []))
    with pytest.raises(MeasurementError, match=rf"no fact that can be asked: {ALONE} \(1\)\."):
        asked(write_jsonl(tmp_path / "alone.jsonl", FACTS[:1]), templates=CAPITAL)
    only = write_csv(tmp_path / "x.csv", FACTS)
    Path(only).write_text("subject,relation\nGhana,capital\n", encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"x\.csv:2: the row has no key 'object'"):
        asked(only)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one is needed"),
        ({"path": "x.csv", "dataset": "y"}, "exactly one is needed"),
        ({"path": "x.csv", "name": "y"}, "are of a 'dataset', not of a 'path'"),
        ({"path": "x.csv", "revision": "y"}, "are of a 'dataset', not of a 'path'"),
        ({"path": "x.csv", "split": "y"}, "are of a 'dataset', not of a 'path'"),
        ({"path": "x.csv", "k": 5}, "'k' is for P@1, P@k and MRR"),
        ({"path": "x.csv", "seed": 2**63}, "seed"),
        ({"path": "x.txt"}, r"'x\.txt' is to end in \.jsonl or \.csv"),
        ({"path": "x.csv", "vocabulary": "w"}, "a vocabulary is for P@1, P@k and MRR"),
        ({"path": "x.csv", "templates": {"r": "[X]"}}, r"relation 'r': .* needs \[Y\] once"),
        ({"path": "x.csv", "templates": {"r": ["[Y]"]}}, r"relation 'r': .* needs \[X\]"),
        ({"path": "x.csv", "templates": {"r": 1}}, "templates"),
        ({"path": "x.csv", "phrasing": -1}, ">= 0"),
        ({"path": "x.csv", "relations": []}, "length >= 1"),
        ({"path": "x.csv", "limit": 0}, ">= 1"),
        ({"path": "x.csv", "k": 0}, ">= 1"),
        ({"path": "x.csv", "metric": "F1"}, "'F1'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("benchmarks", Part(use="pytest_compression.benchmarks.cloze:Cloze", options=options))


# Asking models.


@every_architecture
@pytest.mark.parametrize("metric", ["ranked", "P@1", "P@k", "MRR"])
def test_any_family_is_asked(facts: str, architecture: str, metric: vocabulary.Metric) -> None:
    k = 10 if metric == "ranked" else 2
    options = {"path": facts, "templates": TEMPLATES, "metric": metric, "k": k}
    part = Part(use="pytest_compression.benchmarks.cloze:Cloze", options=options)
    benchmark = build("benchmarks", part)
    model = tiny.model(architecture)
    found: Measurement = benchmark.measure(model)
    plain = vocabulary.measure(tiny.model(architecture), benchmark.survey().questions, metric, k=k)
    assert (found.scores, found.scoring, found.left_out) == (
        plain.scores,
        plain.scoring,
        plain.left_out,
    )
    assert len(found.questions) + sum(found.left_out.values()) == 6
    assert isinstance(benchmark, PartialBenchmark)
    ids = [question.id for question in found.questions][1:]
    part_of_it: Measurement = benchmark.measure_part(model, ids)
    assert part_of_it.scores == found.scores[1:]
    assert part_of_it.scoring == found.scoring
    with pytest.raises(ValueError, match="no question 'capital:no'"):
        benchmark.measure_part(model, ["capital:no"])


def test_a_data_set_with_these_columns_is_asked(
    facts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "mine"
    folder.mkdir()
    plain = [{key: row[key] for key in ("subject", "relation", "object")} for row in FACTS]
    write_jsonl(folder / "test.jsonl", plain)
    found = Cloze(dataset=str(folder), templates=TEMPLATES).survey()
    texts = {told(question) for question in found.questions}
    assert texts == {told(question) for question in asked(facts)}
    with pytest.raises(MeasurementError, match=r"dataset .* \(train\) could not be loaded"):
        Cloze(dataset=str(folder), split="train", templates=TEMPLATES).survey()


@pytest.mark.parametrize("metric", ["ranked", "P@1", "P@k", "MRR"])
def test_no_ids_are_a_measurement_of_nothing(facts: str, metric: vocabulary.Metric) -> None:
    found = Cloze(path=facts, templates=TEMPLATES, metric=metric).measure_part(
        tiny.model("bert"), []
    )
    assert (found.questions, found.scores, found.chance) == ((), (), ())
