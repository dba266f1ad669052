import dataclasses
from typing import Any

import pytest
import tiny

from pytest_compression.benchmarks.generated import Asked, Task, lot, measure, prepared
from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.types import Question

FACTS = {"Peru": "Lima", "Ghana": "Accra", "Japan": "Tokyo", "Cuba": "Havana"}


def asked(country: str, answer: str, header: str = "") -> Asked:
    question = Question(
        id=country,
        subject=country,
        stem=f"The capital of {country} is",
        end="",
        answer=answer,
        candidates=(answer,),
        cluster="capital",
    )
    return Asked(question, header)


def task(**changes: Any) -> Task:
    made = Task(
        metric="answered",
        asked=[asked(*fact) for fact in FACTS.items()],
        left_out={},
        stop=(".",),
        max_new_tokens=6,
        score=lambda one, text: float(text.strip() == one.question.answer),
        figures=lambda some, texts: {"written": float(len(texts)), "asked": float(len(some))},
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def embedded() -> dict[str, LanguageModel]:
    return {family: Embedded(family=family).load() for family in ("causal", "seq2seq")}  # type: ignore[misc]


def test_a_real_model_is_asked_and_its_texts_are_scored(embedded: dict[str, LanguageModel]) -> None:
    model = embedded["causal"]
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    measured = measure(model, "real", task)
    assert [question.id for question in measured.questions] == sorted(FACTS)
    assert measured.given == tuple(FACTS[question.id] for question in measured.questions)
    assert measured.values == (1, 1, 1, 1)
    assert measured.figures == {"written": 4, "asked": 4}
    assert measured.tokens > 0
    assert told == [(4, 4)]


def test_a_seq2seq_model_reads_the_prompt_in_its_encoder() -> None:
    model: Any = tiny.model("t5")
    measured = measure(model, "seq2seq", lambda: task(asked=[asked("Peru", "Lima")]))
    assert len(measured.given) == 1
    ids = model.tokenizer("The capital of Peru is")["input_ids"]
    assert measured.tokens >= len(ids) + 1


def test_a_header_stands_before_its_questions(embedded: dict[str, LanguageModel]) -> None:
    some = [asked("Peru", "Lima", "The capital of Ghana is Accra.\n"), asked("Cuba", "Havana")]
    model = embedded["causal"]
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    measure(model, "headed", lambda: task(asked=some))
    assert told == [(1, 2), (2, 2)]
    cuba, peru = model.memo["headed"].prompts
    whole = "The capital of Ghana is Accra.\nThe capital of Peru is"
    assert peru == tuple(model.tokenizer(whole)["input_ids"])
    assert len(cuba) < len(peru)


def test_a_part_is_of_what_is_asked(embedded: dict[str, LanguageModel]) -> None:
    model = embedded["causal"]
    whole = measure(model, "part", task)
    part = measure(model, "part", task, ["Peru", "Cuba"])
    assert part.given == ("Havana", "Lima")
    assert part.scoring == whole.scoring
    with pytest.raises(ValueError, match=r"no question 'Atlantis' \(1 of 2 ids\)"):
        measure(model, "part", task, ["Peru", "Atlantis"])


def test_a_task_is_read_once_a_model(embedded: dict[str, LanguageModel]) -> None:
    read: list[int] = []

    def reading() -> Task:
        read.append(1)
        return task()

    first = measure(embedded["causal"], "once", reading)
    assert measure(embedded["causal"], "once", reading) == first
    assert read == [1]


def test_everything_that_decides_a_score_is_in_the_fingerprint(
    embedded: dict[str, LanguageModel],
) -> None:
    model = embedded["causal"]
    kinds = [
        task(),
        task(metric="other"),
        task(stop=("!",)),
        task(max_new_tokens=5),
        task(asked=[asked("Peru", "Lima")]),
        task(asked=[asked("Peru", "Lima")._replace(wanted=(("Lima",),))]),
        task(asked=[asked("Peru", "Lima", "A: b\n")]),
    ]
    found = set()
    for number, kind in enumerate(kinds):
        model.memo[f"kind {number}"] = prepared(model, kind)
        found.add(measure(model, f"kind {number}", task).scoring)
    assert len(found) == len(kinds)


def test_a_question_that_does_not_fit_is_left_out_and_counted(
    embedded: dict[str, LanguageModel],
) -> None:
    long = asked("Peru", "Lima", "The capital of Ghana is Accra. " * 20)
    model = embedded["causal"]
    measured = measure(
        model, "long", lambda: task(asked=[long, asked("Cuba", "Havana")], left_out={"old": 2})
    )
    assert [question.id for question in measured.questions] == ["Cuba"]
    assert measured.left_out == {"old": 2, "longer than the model's context, with its examples": 1}
    with pytest.raises(MeasurementError, match=r"no question .*examples \(1\)\. .* fewer shots"):
        measure(model, "too long", lambda: task(asked=[long]))


def test_what_the_tokenizer_does_not_know_is_left_out_and_counted(
    embedded: dict[str, LanguageModel],
) -> None:
    model = embedded["seq2seq"]
    some = [asked("Peru", "Lima"), asked("日本", "Tokyo"), asked("Ghana", "日本")]
    measured = measure(model, "unknown", lambda: task(asked=some))
    assert [question.id for question in measured.questions] == ["Peru"]
    assert measured.left_out == {"a character that the tokenizer does not know": 2}


def test_a_masked_model_is_refused() -> None:
    model: Any = tiny.model("bert")
    with pytest.raises(
        MeasurementError, match=r"a masked model writes no answers.* a suite file of its own"
    ):
        measure(model, "masked", task)


def test_lots_are_of_name_and_seed() -> None:
    assert lot("a", 1) == lot("a", 1)
    assert len({lot(name, seed) for name in "ab" for seed in (-1, 0, 1)}) == 6


class Counting(list[str]):
    """Ids, and how often all of them were looked through."""

    looks = 0

    def __iter__(self) -> Any:
        self.looks += 1
        return super().__iter__()


def test_ids_are_looked_through_a_few_times_however_many_there_are(
    embedded: dict[str, LanguageModel],
) -> None:
    some = [asked(f"Peru{i}", "Lima") for i in range(20)]
    ids = Counting(["Peru3"])
    measure(embedded["causal"], "many", lambda: task(asked=some), ids)
    assert ids.looks <= 2
