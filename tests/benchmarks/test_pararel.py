import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny

from pytest_compression.benchmarks.pararel import (
    REPEATED,
    UNFIT,
    UNTOLD,
    Pararel,
    article_fits,
)
from pytest_compression.benchmarks.survey import ALONE, IN_WORD
from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import of_questions
from pytest_compression.registry import build
from pytest_compression.types import Part, PartialBenchmark

USE = "pytest_compression.benchmarks.pararel:Pararel"
CAPITALS = [*tiny.CAPITALS.items()][:4]
TWINS = [("Lima", "Accra"), ("Lima", "Paris"), ("Accra", "Lima"), ("Lima", "Paris")]
"""A subject with two objects, a symmetric relation, and one pair twice."""
KINDS = [("Peru", "old"), ("Chad", "new"), ("Cuba", "arid")]
PATTERNS = {
    "P36": ["The capital of [X] is [Y] .", "[Y] is the capital of [X].", "[X]'s capital, [Y]"],
    "P190": ["[X] and [Y] are twins.", "[X] is a twin of [Y]."],
    "P279": ["[X] is a [Y].", "[X] is an [Y].", "[X] is [Y]."],
}
LAST = {"P36": 2, "P190": 1, "P279": 3}
"""How many patterns of each have the blank last."""


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def told(relation: str, facts: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"sub_label": subject, "obj_label": answer, "uuid": f"{relation}-{number}"}
        for number, (subject, answer) in enumerate(facts)
    ]


def shaped(patterns: list[str]) -> list[dict[str, str]]:
    return [
        {"pattern": pattern, "lemma": "?", "extended_lemma": "?", "tense": "-"}
        for pattern in patterns
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for relation, facts in (("P36", CAPITALS), ("P190", TWINS), ("P279", KINDS)):
        write(tmp_path / f"trex_lms_vocab/{relation}.jsonl", told(relation, facts))
        where = tmp_path / f"pattern_data/graphs_json/{relation}.jsonl"
        write(where, shaped(PATTERNS[relation]))
        pickled = tmp_path / f"pattern_data/graphs/{relation}.graph"
        pickled.parent.mkdir(exist_ok=True)
        pickled.write_bytes(b"no pickle at all: it must never be opened")
    write(tmp_path / "trex_lms_vocab/P31.jsonl", told("P31", CAPITALS))
    return tmp_path


def test_a_fact_is_a_subject_with_an_object(data: Path) -> None:
    asked = Pararel(path=str(data), relations=("P190",)).questions()
    assert {(q.subject, q.answer) for q in asked} == set(TWINS)
    ids = [q.id for q in asked]
    assert ids == sorted(set(ids))
    assert {(q.subject, q.answer): q.candidates for q in asked} == {
        ("Accra", "Lima"): ("Accra", "Lima", "Paris"),
        ("Lima", "Accra"): ("Accra", "Lima"),
        ("Lima", "Paris"): ("Lima", "Paris"),
    }


def test_the_first_pattern_is_judged_and_may_have_its_blank_anywhere(data: Path) -> None:
    asked = Pararel(path=str(data), relations=("P36",)).questions()
    assert {(q.stem, q.end) for q in asked if q.subject == "Ghana"} == {
        ("The capital of Ghana is", " .")
    }
    second = Pararel(path=str(data), relations=("P36",), pattern=1).questions()
    assert {(q.stem, q.end) for q in second if q.subject == "Ghana"} == {
        ("", " is the capital of Ghana.")
    }
    assert [q.id for q in asked] == [q.id for q in second]


def test_causal_models_are_asked_what_ends_with_the_blank(data: Path) -> None:
    def stems(**options: Any) -> set[str]:
        asked = Pararel(path=str(data), relations=("P190",), **options).questions("causal")
        return {q.stem for q in asked if q.subject == "Accra"}

    assert stems() == {"Accra is a twin of"}
    assert stems(blank_last=False) == {"Accra and"}


def test_an_article_must_suit_the_answer(data: Path) -> None:
    asked = {q.subject: q for q in Pararel(path=str(data), relations=("P279",)).questions()}
    assert {name: q.stem for name, q in asked.items()} == {
        "Peru": "Peru is an",
        "Chad": "Chad is a",
        "Cuba": "Cuba is an",
    }


@pytest.mark.parametrize(
    ("pattern", "answer", "fits"),
    [
        ("[X] is a [Y].", "town", True),
        ("[X] is a [Y].", "Arab town", False),
        ("[X] is an [Y].", "Arab town", True),
        ("[X] is an [Y].", "town", False),
        ("A [Y] is [X].", "iron", False),
        ("[X] is in Java [Y].", "iron", True),
        ("[X], a town, is [Y].", "iron", True),
    ],
)
def test_articles(pattern: str, answer: str, *, fits: bool) -> None:
    assert article_fits(pattern, answer) == fits


@pytest.mark.parametrize("last", [True, False])
def test_consistency_compares_all_patterns_that_fit(data: Path, *, last: bool) -> None:
    benchmark = Pararel(path=str(data), metric="consistency", blank_last=last)
    asked, left_out, _ = benchmark._asked("masked")
    for wordings in asked:
        relation = wordings[0].cluster
        fitting = LAST[relation] if last else len(PATTERNS[relation])
        fitting -= relation == "P279"  # one of two articles
        assert len(wordings) == fitting
        assert len({q.id for q in wordings}) == fitting
        assert len({(q.stem, q.end) for q in wordings}) == fitting
        assert len({(q.subject, q.answer) for q in wordings}) == 1
    expected = {UNTOLD: len(CAPITALS), REPEATED: 1}
    assert left_out == expected | ({UNFIT: 3} if last else {})


@pytest.mark.parametrize("metric", ["accuracy", "consistency", "consistent-and-right"])
@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_any_model_can_be_asked(data: Path, architecture: str, metric: Any) -> None:
    benchmark = Pararel(path=str(data), metric=metric, relations=("P36",))
    model = tiny.model(architecture)
    whole = benchmark.measure(model)
    assert len(whole.questions) + sum(whole.left_out.values()) == len(CAPITALS)
    assert whole.questions
    assert "accuracy, mean over relations" in whole.figures
    assert whole.figures["majority answer"] == pytest.approx(1 / len(whole.questions))
    assert bool(whole.values) == (metric != "accuracy")
    some = [q.id for q in whole.questions[:2]]
    part = benchmark.measure_part(model, some)
    assert [q.id for q in part.questions] == some
    assert part.scores == whole.scores[:2]
    assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    assert isinstance(benchmark, PartialBenchmark)


def test_what_is_left_out_is_counted_by_reason(data: Path) -> None:
    measured = Pararel(path=str(data)).measure(tiny.model("llama"))
    assert measured.left_out.pop(UNTOLD) == len(CAPITALS)
    assert measured.left_out.pop(REPEATED) == 1
    asked = len(CAPITALS) + len(set(TWINS)) + len(KINDS)
    assert len(measured.questions) + sum(measured.left_out.values()) == asked


def test_a_relation_with_one_pattern_has_no_consistency(data: Path) -> None:
    benchmark = Pararel(path=str(data), metric="consistency", relations=("P190",))
    with pytest.raises(MeasurementError, match=r"too few patterns fit \(3\)"):
        benchmark.measure(tiny.model("llama"))


def test_a_limit_draws_so_many_whatever_their_order(data: Path) -> None:
    options: dict[str, Any] = {"path": str(data), "limit": 2, "seed": 4}
    asked = Pararel(**options).questions()
    assert Counter(q.cluster for q in asked) == dict.fromkeys(PATTERNS, 2)
    for relation, facts in (("P36", CAPITALS), ("P190", TWINS)):
        rows = told(relation, facts)[::-1]
        write(data / f"trex_lms_vocab/{relation}.jsonl", rows)
    assert of_questions(Pararel(**options).questions()) == of_questions(asked)
    assert of_questions(Pararel(**options | {"seed": 5}).questions()) != of_questions(asked)


def refused(data: Path, **options: Any) -> str:
    with pytest.raises(MeasurementError) as caught:
        Pararel(path=str(data), **options).questions()
    return str(caught.value)


def test_what_is_not_there_is_refused(data: Path) -> None:
    assert "there is no directory" in refused(data / "nowhere")
    assert "there is no directory" in refused(data / "trex_lms_vocab")
    assert "no facts with patterns of 'P37'. Did you mean" in refused(data, relations=("P37",))
    assert "no facts with patterns of 'P31'" in refused(data, relations=("P31",))


@pytest.mark.parametrize("pattern", ["[X] is", "[Y] is", "[X] [Y] [Y]"])
def test_a_bad_pattern_is_named(data: Path, pattern: str) -> None:
    write(data / "pattern_data/graphs_json/P36.jsonl", shaped(["[X] [Y]", pattern]))
    assert "P36.jsonl:2: the pattern" in refused(data)


def test_a_bad_row_is_named(data: Path) -> None:
    write(data / "trex_lms_vocab/P36.jsonl", [{"sub_label": "Peru", "obj_label": "Lima"}])
    assert "P36.jsonl:1: the row has no key 'uuid'" in refused(data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": -1}, ">= 0"),
        ({"metric": "P@1"}, "'P@1'"),
        ({"limit": 0}, ">= 1"),
        ({"seed": 2**63}, "<= 9223372036854775807"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("benchmarks", Part(use=USE, options={"path": "x"} | options))


@pytest.mark.parametrize("metric", ["accuracy", "consistent-and-right", "consistency"])
def test_another_right_answer_competes_only_where_agreement_is_asked_for(
    data: Path, metric: Any
) -> None:
    benchmark = Pararel(path=str(data), relations=("P190",), metric=metric)
    asked = benchmark._asked("masked").facts
    for question in (q for wordings in asked for q in wordings if q.subject == "Lima"):
        (other,) = {"Accra", "Paris"} - {question.answer}
        assert (other in question.candidates) == (metric == "consistency")


def test_a_fact_without_another_answer_is_counted(data: Path) -> None:
    write(data / "trex_lms_vocab/P36.jsonl", told("P36", [("Peru", "Lima"), ("Chad", "Lima")]))
    left_out = Pararel(path=str(data), relations=("P36",))._asked("masked").left_out
    assert left_out == {ALONE: 2}


@pytest.mark.parametrize("uuid", ["", "shared"])
def test_facts_with_one_uuid_or_none_are_told_apart_by_content(data: Path, uuid: str) -> None:
    def ids(rows: list[dict[str, str]], **options: Any) -> dict[str, str]:
        write(data / "trex_lms_vocab/P36.jsonl", rows)
        benchmark = Pararel(path=str(data), relations=("P36",), **options)
        return {q.subject: q.id for q in benchmark.questions()}

    rows = told("P36", CAPITALS)
    rows = [row | {"uuid": uuid} for row in rows[:3]] + rows[3:]
    whole = ids(rows)
    assert len(set(whole.values())) == len(CAPITALS)
    assert all(whole[country].startswith(f"P36:{uuid}#") for country, _ in CAPITALS[:3])
    assert whole[CAPITALS[3][0]] == "P36:P36-3"
    assert ids(rows[::-1]) == whole
    drawn = ids(rows, limit=1)
    assert drawn.items() <= whole.items()


def test_a_relation_that_is_named_twice_is_asked_once(data: Path) -> None:
    once = Pararel(path=str(data), relations=("P36",)).questions()
    assert Pararel(path=str(data), relations=("P36", "P36")).questions() == once


@pytest.mark.parametrize("key", ["sub_label", "obj_label"])
def test_an_empty_field_is_no_fact(data: Path, key: str) -> None:
    rows = told("P36", CAPITALS)
    write(data / "trex_lms_vocab/P36.jsonl", [rows[0], rows[1] | {key: " "}])
    assert f"P36.jsonl:2: '{key}' is empty" in refused(data)


def test_a_blank_that_ends_a_word_is_counted_not_asked(data: Path) -> None:
    patterns = ["The capital of [X] is new[Y].", "The capital of [X] is [Y].", "[X], [Y]"]
    write(data / "pattern_data/graphs_json/P36.jsonl", shaped(patterns))
    options: dict[str, Any] = {"path": str(data), "relations": ("P36",)}
    asked, left_out, _ = Pararel(**options)._asked("masked")
    assert (asked, left_out) == ([], {IN_WORD: len(CAPITALS)})
    asked, left_out, glued = Pararel(**options, pattern=1, metric="consistency")._asked("masked")
    assert [len(wordings) for wordings in asked] == [2] * len(CAPITALS)
    assert (left_out, glued) == ({}, len(CAPITALS))
    measured = Pararel(**options, pattern=1, metric="consistency").measure(tiny.model("llama"))
    assert measured.left_out == {}
    assert measured.figures[f"a further wording: {IN_WORD}"] == len(CAPITALS)


def test_a_bracket_before_the_blank_stays_on_it(data: Path) -> None:
    patterns = ["The capital of [X] ([Y]).", "The capital of [X] ( [Y])."]
    write(data / "pattern_data/graphs_json/P36.jsonl", shaped(patterns))
    stems = [
        {
            q.stem
            for q in Pararel(path=str(data), relations=("P36",), pattern=i).questions()
            if q.subject == "Ghana"
        }
        for i in (0, 1)
    ]
    assert stems == [{"The capital of Ghana ("}, {"The capital of Ghana ( "}]
