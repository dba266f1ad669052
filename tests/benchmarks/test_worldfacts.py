import subprocess
import sys
from collections import Counter
from typing import Any

import msgspec
import pytest
import tiny

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.embedded.facts import phrasings, worldfacts
from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import of_questions
from pytest_compression.registry import build
from pytest_compression.types import Part, PartialBenchmark


def test_every_fact_is_asked_once_and_sorted_by_id() -> None:
    asked = WorldFacts().questions()
    assert len(asked) == len(worldfacts())
    ids = [question.id for question in asked]
    assert ids == sorted(set(ids))


def test_a_question_is_made_of_its_fact_and_phrasing() -> None:
    (accra,) = (q for q in WorldFacts().questions() if q.id == "capital:Ghana")
    assert accra.stem == "The capital of Ghana is"
    assert accra.end == "."
    assert accra.answer == "Accra"
    assert accra.subject == "Ghana"
    assert accra.cluster == "capital"


@pytest.mark.parametrize("phrasing", [0, 1, 2])
def test_every_phrasing_tells_the_fact_when_its_blank_is_filled(phrasing: int) -> None:
    facts = {f"{fact.relation}:{fact.subject}": fact for fact in worldfacts()}
    for question in WorldFacts(phrasing=phrasing).questions():
        fact, template = facts[question.id], phrasings()[question.cluster][phrasing]
        told = template.replace("[X]", fact.subject).replace("[Y]", fact.object)
        assert f"{question.stem} {question.answer}{question.end}" == told
        assert question.stem == question.stem.strip()


def test_another_phrasing_asks_the_same_facts_in_other_words() -> None:
    one, other = WorldFacts().questions(), WorldFacts(phrasing=1).questions()
    assert [q.id for q in one] == [q.id for q in other]
    assert not {q.stem for q in one} & {q.stem for q in other}
    assert of_questions(one) != of_questions(other)


def test_candidates_are_all_answers_of_the_relation() -> None:
    answers: dict[str, set[str]] = {}
    for fact in worldfacts():
        answers.setdefault(fact.relation, set()).add(fact.object)
    for question in WorldFacts(limit=3).questions():
        assert question.answer in question.candidates
        assert question.candidates == tuple(sorted(answers[question.cluster]))
        assert len(question.candidates) > 1


def test_only_the_relations_that_were_named_are_asked() -> None:
    asked = WorldFacts(relations=("symbol", "capital")).questions()
    assert {question.cluster for question in asked} == {"symbol", "capital"}
    everything = {q.id: q for q in WorldFacts().questions()}
    assert all(everything[question.id] == question for question in asked)


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_a_limit_draws_so_many_of_each_relation(limit: int) -> None:
    whole = Counter(question.cluster for question in WorldFacts().questions())
    drawn = Counter(question.cluster for question in WorldFacts(limit=limit).questions())
    assert drawn == {relation: min(limit, count) for relation, count in whole.items()}


def test_the_seed_decides_what_is_drawn() -> None:
    def drawn(**options: Any) -> set[str]:
        asked = WorldFacts(relations=("city-country",), **options).questions()
        return {question.id for question in asked}

    assert drawn(limit=50, seed=3) == drawn(limit=50, seed=3)
    assert len(drawn(limit=50) & drawn(limit=50, seed=1)) < 25
    assert drawn(limit=50, seed=-1) != drawn(limit=50, seed=1)
    assert drawn(limit=50, seed=3) < drawn(limit=80, seed=3)


def test_a_draw_leaves_the_candidates_as_they_are() -> None:
    everything = {q.id: q for q in WorldFacts().questions()}
    assert all(everything[q.id] == q for q in WorldFacts(limit=5, seed=9).questions())


def test_every_process_asks_the_same() -> None:
    code = (
        "from pytest_compression.benchmarks.worldfacts import WorldFacts; "
        "from pytest_compression.fingerprints import of_questions; "
        "print(of_questions(WorldFacts(limit=20, seed=4).questions()))"
    )
    found = {
        subprocess.run(  # noqa: S603
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert found == {of_questions(WorldFacts(limit=20, seed=4).questions())}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"relations": ["captial"]}, r"no relation 'captial'\. Did you mean 'capital'"),
        ({"relations": []}, "length >= 1"),
        ({"relations": "capital"}, "array"),
        ({"phrasing": 3}, r"phrasing 3: these relations have 0 to 2"),
        ({"phrasing": -1}, ">= 0"),
        ({"limit": 0}, ">= 1"),
        ({"metric": "P@5"}, "'P@5'"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("benchmarks", Part(use="worldfacts", options=options))


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_any_model_can_be_asked(architecture: str) -> None:
    benchmark = WorldFacts(relations=("capital",), limit=8)
    measured = benchmark.measure(tiny.model(architecture))
    assert measured.metric == "ranked"
    assert len(measured.questions) + sum(measured.left_out.values()) == 8
    assert {q.id for q in measured.questions} <= {q.id for q in benchmark.questions()}


def test_the_metric_is_handed_on() -> None:
    # The tiny tokenizer has no capital of this table as one token.
    with pytest.raises(MeasurementError, match="P@1 asks nothing"):
        WorldFacts(relations=("capital",), metric="P@1", limit=8).measure(tiny.model("llama"))


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_a_part_is_scored_as_in_the_whole(architecture: str) -> None:
    benchmark, model = WorldFacts(relations=("capital",), limit=60), tiny.model(architecture)
    whole = benchmark.measure(model)
    some = [question.id for question in whole.questions[::2]]
    part = benchmark.measure_part(model, some)
    assert [question.id for question in part.questions] == some
    assert part.margins == pytest.approx(whole.margins[::2], abs=1e-4)
    assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    assert 0 < part.tokens < whole.tokens
    assert isinstance(benchmark, PartialBenchmark)


def test_a_part_is_of_what_is_asked() -> None:
    benchmark = WorldFacts(relations=("capital",), limit=8)
    with pytest.raises(ValueError, match=r"no question 'symbol:gold' \(1 of 1 ids\)"):
        benchmark.measure_part(tiny.model("llama"), ["symbol:gold"])
