import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny

from pytest_compression.benchmarks.lre import ALONE, FEWER, REPEATED, Lre
from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import of_questions
from pytest_compression.registry import build
from pytest_compression.types import Part, PartialBenchmark

USE = "pytest_compression.benchmarks.lre:Lre"
CAPITALS = [*tiny.CAPITALS.items()][:5]
YEARS = [("Mo {} Lim", "1900"), ("Pa Tok", "1901"), ("Mo {} Lim", "1900")]
"""Numbers as text, a subject with braces, and one row twice."""
MAKERS = [("Japan", "Tokyo"), ("Japan", "Lima"), ("Peru", "Lima"), ("Chad", "Paris")]
"""A subject with two objects."""


def write(folder: Path, category: str, name: str, samples: Any, **about: Any) -> None:
    whole = {
        "name": name.replace("_", " "),
        "prompt_templates": ["The capital of {} is", "{}'s capital is"],
        "prompt_templates_zs": ["What is the capital of {}? It is"],
        "properties": {"relation_type": category, "symmetric": False},
        "samples": samples,
    }
    (folder / category).mkdir(parents=True, exist_ok=True)
    text = json.dumps(whole | about)
    (folder / category / f"{name}.json").write_text(text, encoding="utf-8")


def told(facts: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"subject": subject, "object": answer} for subject, answer in facts]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path, "factual", "capitals", told(CAPITALS))
    write(tmp_path, "factual", "years", told(YEARS), prompt_templates=["{} was born in"])
    write(tmp_path, "linguistic", "makers", told(MAKERS))
    write(tmp_path, "bias", "stereotypes", told([("a", "b"), ("c", "d")]))
    return tmp_path


def test_bias_is_asked_only_when_it_is_named(data: Path) -> None:
    usual = {q.cluster for q in Lre(path=str(data)).questions()}
    assert usual == {"capitals", "years", "makers"}
    named = {q.cluster for q in Lre(path=str(data), categories=("bias",)).questions()}
    assert named == {"stereotypes"}


def test_relations_are_chosen_by_name(data: Path) -> None:
    asked = Lre(path=str(data), relations=("makers", "years")).questions()
    assert {q.cluster for q in asked} == {"years", "makers"}


def test_a_prompt_holds_its_subject_whatever_it_is_called(data: Path) -> None:
    asked = {q.subject: q for q in Lre(path=str(data), relations=("years",)).questions()}
    assert asked["Mo {} Lim"].stem == "Mo {} Lim was born in"
    assert asked["Mo {} Lim"].answer == "1900"


@pytest.mark.parametrize(
    ("options", "stem"),
    [
        ({}, "The capital of Peru is"),
        ({"template": 1}, "Peru's capital is"),
        ({"zero_shot": True}, "What is the capital of Peru? It is"),
    ],
)
def test_the_prompt_is_chosen(data: Path, options: dict[str, Any], stem: str) -> None:
    asked = Lre(path=str(data), relations=("capitals",), **options).questions()
    assert stem in {q.stem for q in asked}
    assert {q.end for q in asked} == {"."}


def test_objects_compete_but_not_those_that_are_right_too(data: Path) -> None:
    asked = Lre(path=str(data), relations=("makers",)).questions()
    candidates = {(q.subject, q.answer): q.candidates for q in asked}
    assert candidates == {
        ("Japan", "Tokyo"): ("Paris", "Tokyo"),
        ("Japan", "Lima"): ("Lima", "Paris"),
        ("Peru", "Lima"): ("Lima", "Paris", "Tokyo"),
        ("Chad", "Paris"): ("Lima", "Paris", "Tokyo"),
    }
    assert len({q.id for q in asked}) == 4


def test_what_is_left_out_is_counted_by_reason(data: Path) -> None:
    write(data, "factual", "only", told([("Peru", "Lima"), ("Chad", "Lima")]))
    model = tiny.model("llama")
    measured = Lre(path=str(data), categories=("factual",), template=1).measure(model)
    assert measured.left_out == {REPEATED: 1, FEWER: 2, ALONE: 2}
    assert len(measured.questions) == len(CAPITALS)


def test_a_limit_draws_so_many_of_each_relation_whatever_their_order(data: Path) -> None:
    asked = Lre(path=str(data), limit=2, seed=3).questions()
    assert Counter(q.cluster for q in asked) == {"capitals": 2, "years": 2, "makers": 2}
    write(data, "factual", "capitals", told(CAPITALS[::-1]))
    assert of_questions(Lre(path=str(data), limit=2, seed=3).questions()) == of_questions(asked)


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_any_model_can_be_asked(data: Path, architecture: str) -> None:
    benchmark = Lre(path=str(data), relations=("capitals",))
    model = tiny.model(architecture)
    whole = benchmark.measure(model)
    assert len(whole.questions) + sum(whole.left_out.values()) == len(CAPITALS)
    mean = sum(whole.scores) / len(whole.scores)
    assert whole.figures == {
        "accuracy, mean over relations": pytest.approx(mean),
        "majority answer": pytest.approx(1 / len(whole.questions)),
        "prompts with several answers": 0,
    }
    some = [q.id for q in whole.questions[:2]]
    part = benchmark.measure_part(model, some)
    assert [q.id for q in part.questions] == some
    assert part.margins == pytest.approx(whole.margins[:2], abs=1e-4)
    assert isinstance(benchmark, PartialBenchmark)


def test_p_at_1_asks_for_single_tokens(data: Path) -> None:
    benchmark = Lre(path=str(data), relations=("capitals",), metric="P@1")
    measured = benchmark.measure(tiny.model("bert"))
    assert measured.open_vocabulary
    assert {q.candidates for q in benchmark.questions()} == {(city,) for _, city in CAPITALS}


def test_nothing_to_ask_is_an_error_with_its_reasons(data: Path) -> None:
    benchmark = Lre(path=str(data), relations=("years",), template=1)
    with pytest.raises(MeasurementError, match=r"fewer templates \(2\)"):
        benchmark.measure(tiny.model("llama"))


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(MeasurementError) as caught:
        Lre(path=str(folder), **options).questions()
    return str(caught.value)


def test_what_is_not_there_is_refused(data: Path) -> None:
    assert "there is no directory" in refused(data / "nowhere")
    assert "there is no directory" in refused(data, categories=("commonsense",))
    assert "has no directory factual" in refused(data / "factual")
    assert "Did you mean 'capitals'?" in refused(data, relations=("capital",))
    write(data, "linguistic", "capitals", told(CAPITALS))
    assert "the relation 'capitals' is in" in refused(data)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"samples": 3}, "'samples' is 3"),
        ({"samples": ["x"]}, "sample 0: an object with 'subject' and 'object'"),
        ({"samples": [{"subject": "x"}]}, "sample 0: the row has no key 'object'"),
        ({"samples": [{"subject": "x", "object": " "}]}, "sample 0: 'object' is empty"),
        ({"samples": [{"subject": "", "object": "x"}]}, "sample 0: 'subject' is empty"),
        ({"prompt_templates": None}, "'prompt_templates' is None"),
        ({"prompt_templates": ["no mark"]}, "has no {} for the subject"),
    ],
)
def test_a_bad_file_is_named(data: Path, about: dict[str, Any], words: str) -> None:
    write(data, "factual", "capitals", **{"samples": told(CAPITALS)} | about)
    message = refused(data)
    assert "capitals.json" in message
    assert words in message


def test_a_file_that_is_no_object_is_named(data: Path) -> None:
    (data / "factual" / "capitals.json").write_text("[]", encoding="utf-8")
    assert "capitals.json: a JSON object is expected" in refused(data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": -1}, ">= 0"),
        ({"categories": ["fact"]}, "'fact'"),
        ({"metric": "P@5"}, "'P@5'"),
        ({"seed": -(2**63) - 1}, ">= -9223372036854775808"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("benchmarks", Part(use=USE, options={"path": "x"} | options))


def test_facts_that_would_share_an_id_are_told_apart_by_content(data: Path) -> None:
    facts = [("Ava|Bo", "Lima"), ("Ava", "Bo|Lima"), ("Peru", "Paris")]

    def ids(facts: list[tuple[str, str]]) -> dict[str, str]:
        write(data, "factual", "capitals", told(facts))
        asked = Lre(path=str(data), relations=("capitals",)).questions()
        return {q.subject: q.id for q in asked}

    found = ids(facts)
    assert len(set(found.values())) == 3
    assert found["Peru"] == "capitals:Peru|Paris"
    assert ids(facts[::-1]) == found


def test_a_relation_that_is_named_twice_is_asked_once(data: Path) -> None:
    once = Lre(path=str(data), relations=("makers",)).questions()
    assert Lre(path=str(data), relations=("makers", "makers")).questions() == once


@pytest.mark.parametrize("metric", ["ranked", "P@1"])
def test_prompts_with_several_answers_are_counted(data: Path, metric: Any) -> None:
    measured = Lre(path=str(data), metric=metric).measure(tiny.model("bert"))
    assert measured.figures["prompts with several answers"] == 1


def test_a_part_may_be_empty(data: Path) -> None:
    measured = Lre(path=str(data)).measure_part(tiny.model("llama"), [])
    assert (measured.questions, measured.margins) == ((), ())
    assert set(measured.figures) <= {"prompts with several answers"}
