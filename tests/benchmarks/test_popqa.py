import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.benchmarks.popqa import PopQA, strata
from pytest_compression.benchmarks.popqa_editions import WORDINGS, recognised
from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.registry import build
from pytest_compression.scoring import generation
from pytest_compression.types import Part, PartialBenchmark

USE = "pytest_compression.benchmarks.popqa:PopQA"


def record(
    number: int, relation: str, subject: str, *names: str, views: int = 50
) -> dict[str, Any]:
    """One made-up row, as the published table has it (not all of its columns)."""
    return {
        "id": number,
        "subj": subject,
        "prop": relation,
        "obj": names[0],
        "s_aliases": "[]",
        "s_pop": views,
        "question": WORDINGS[relation].format(subject),
        "possible_answers": json.dumps(names),
    }


RECORDS = [
    *(record(i, "occupation", f"Ann {i}", "tinker", "W", views=10**i) for i in range(6)),
    *(record(10 + i, "capital", f"Country{i}", f"Town{i}", views=0) for i in range(4)),
    record(20, "sport", 'The "Reds"', "foot\tball", "soccer"),
]


@pytest.fixture
def table(tmp_path: Path) -> str:
    return write_table(tmp_path / "popQA.tsv", RECORDS)


def write_table(path: Path, records: list[dict[str, Any]]) -> str:
    """Tab-separated, and quoted as spreadsheets do."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return str(path)


class Teller:
    """Stands for generation: tells each prompt, and writes what it is told to."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.prompts: list[str] = []
        self.calls: list[dict[str, Any]] = []

    def __call__(self, model: LanguageModel, prompts: list[Any], **options: Any) -> list[str]:
        texts = [model.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        self.prompts += texts
        self.calls.append(options)
        return [self.answer(text) for text in texts]


@pytest.fixture
def model() -> LanguageModel:
    loaded: Any = tiny.model("llama", max_position_embeddings=4096)
    return loaded  # type: ignore[no-any-return]


def told(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], str]) -> Teller:
    teller = Teller(answer)
    monkeypatch.setattr(generation, "generate", teller)
    return teller


def test_a_question_is_asked_after_an_example_of_each_other_relation(
    table: str, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller = told(monkeypatch, lambda _: " tinker, they say")
    measured = PopQA(path=table, shots=2).measure(model)
    by_end = {text.rpartition("\n\n")[2]: text for text in teller.prompts}
    text = by_end["Q: What is the capital of Country3? A:"]
    first, second, own = text.split("\n\n")
    assert {example.split("Q: ")[1][:6] for example in (first, second)} == {"What i", "What s"}
    assert any(e == 'Q: What sport does The "Reds" play? A: foot\tball' for e in (first, second))
    assert any(
        e.startswith("Q: What is Ann ") and e.endswith(" A: tinker") for e in text.split("\n\n")
    )
    assert own == "Q: What is the capital of Country3? A:"
    assert {(call["stop"], call["max_new_tokens"]) for call in teller.calls} == {(("\n",), 15)}
    assert [q.id for q in measured.questions] == sorted(str(r["id"]) for r in RECORDS)
    scores = dict(zip([q.subject for q in measured.questions], measured.values, strict=True))
    assert scores == {r["subj"]: float(r["prop"] == "occupation") for r in RECORDS}
    assert measured.open_vocabulary
    assert (measured.margins, measured.chance) == ((), (0.0,) * 11)
    assert set(measured.given) == {"tinker, they say"}
    assert measured.clusters.count("capital") == 4


def test_questions_have_their_names_and_relation(table: str) -> None:
    found = {question.id: question for question in PopQA(path=table, shots=2).questions()}
    assert len(found) == len(RECORDS)
    sport = found["20"]
    assert (sport.subject, sport.cluster) == ('The "Reds"', "sport")
    assert (sport.answer, sport.accepted) == ("foot\tball", ("soccer",))
    assert sport.stem == 'Q: What sport does The "Reds" play? A:'


@pytest.mark.parametrize(
    ("text", "scores"),
    [(" a Tinker.", (1, 1)), (" TINKER", (1, 0)), (" Who knows", (0, 1)), (" none", (0, 0))],
)
def test_whole_words_count_or_any_substring(
    table: str,
    model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    scores: tuple[int, int],
) -> None:
    told(monkeypatch, lambda _: text)
    scorings = set()
    for match, score in zip(("words", "substring"), scores, strict=True):
        options = {"path": table, "match": match, "shots": 0, "relations": ["occupation"]}
        measured = build("benchmarks", Part(use=USE, options=options)).measure(model)
        assert measured.values == (float(score),) * 6
        scorings.add(measured.scoring)
    assert len(scorings) == 2


def test_figures_are_by_popularity(
    table: str, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ("Ann 1's", "Ann 5's", "Country0?", "Country2?")
    told(
        monkeypatch, lambda prompt: " tinker Town0 Town2" if any(r in prompt for r in right) else ""
    )
    measured = PopQA(path=table, shots=0).measure(model)
    assert measured.figures == {
        "s_pop 0": 0.5,
        "s_pop 0, questions": 4,
        "s_pop 1e0-1e1": 0,
        "s_pop 1e0-1e1, questions": 1,
        "s_pop 1e1-1e2": 0.5,
        "s_pop 1e1-1e2, questions": 2,
        "s_pop 1e2-1e3": 0,
        "s_pop 1e2-1e3, questions": 1,
        "s_pop 1e3-1e4": 0,
        "s_pop 1e3-1e4, questions": 1,
        "s_pop 1e4-1e5": 0,
        "s_pop 1e4-1e5, questions": 1,
        "s_pop 1e5-1e6": 1,
        "s_pop 1e5-1e6, questions": 1,
    }


@given(st.lists(st.tuples(st.integers(0, 10**8), st.sampled_from([0.0, 1.0])), min_size=1))
def test_strata_hold_every_question_once(pairs: list[tuple[int, float]]) -> None:
    found = strata(*zip(*pairs, strict=True))
    counts = {name: found[f"{name}, questions"] for name in found if "questions" not in name}
    assert sum(counts.values()) == len(pairs)
    right = sum(found[name] * count for name, count in counts.items())
    assert right == pytest.approx(sum(score for _, score in pairs))
    for views, _ in pairs:
        (name,) = [n for n in counts if n != "s_pop 0" and within(views, n)] or ["s_pop 0"]
        assert name in counts


def within(views: int, name: str) -> bool:
    low, high = name.removeprefix("s_pop ").split("-")
    return float(low) <= views < float(high)


def editions(path: Path) -> dict[str, str]:
    """The same rows in each form that is read."""
    few = [
        {
            "input": r["question"],
            "output": r["possible_answers"],
            "id": r["id"],
            "s_pop": r["s_pop"],
        }
        for r in RECORDS
    ]
    nested = [
        {
            "id": str(r["id"]),
            "question": r["question"],
            "golden_answers": json.loads(r["possible_answers"]),
            "metadata": {k: v for k, v in r.items() if k not in ("id", "question")},
        }
        for r in RECORDS
    ]
    listed = [r | {"possible_answers": json.loads(r["possible_answers"])} for r in RECORDS]
    found = {"tsv": write_table(path / "x.tsv", RECORDS)}
    for name, rows in [("few", few), ("nested", nested), ("listed", listed), ("plain", RECORDS)]:
        (path / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        (path / f"{name}.jsonl").write_text(
            "\n\n".join(json.dumps(row | {"paragraphs": []}) for row in rows), encoding="utf-8"
        )
        found |= {name: str(path / f"{name}.json"), f"{name} lines": str(path / f"{name}.jsonl")}
    return found


def test_all_editions_ask_the_same(tmp_path: Path) -> None:
    asked = {
        name: PopQA(path=path, shots=2).questions() for name, path in editions(tmp_path).items()
    }
    assert len(asked) == 9
    assert all(questions == asked["tsv"] for questions in asked.values())


def test_every_wording_is_recognised() -> None:
    for relation, wording in WORDINGS.items():
        for subject in ("X", "The City of Y", "Is it? (film)", "O'Neill's"):
            assert recognised(wording.format(subject), "here") == (relation, subject)
    assert recognised("In what country is Foo ?", "here") == ("country", "Foo")


def test_the_order_of_the_file_does_not_matter(tmp_path: Path, table: str) -> None:
    turned = write_table(tmp_path / "turned.tsv", RECORDS[::-1])
    options: dict[str, Any] = {"shots": 2, "limit": 3, "seed": 5}
    one, other = PopQA(path=table, **options), PopQA(path=turned, **options)
    assert one.questions() == other.questions()
    assert {a.header for a in one._task().asked} == {a.header for a in other._task().asked}


def test_a_limit_draws_from_each_relation_and_changes_no_example(table: str) -> None:
    whole = {a.question.id: a.header for a in PopQA(path=table, shots=2)._task().asked}
    drawn = set()
    for seed in range(8):
        some = PopQA(path=table, shots=0, limit=3, seed=seed).questions()
        assert sorted(q.cluster for q in some) == ["capital"] * 3 + ["occupation"] * 3 + ["sport"]
        drawn.add(tuple(q.id for q in some))
    assert len(drawn) > 1
    for asked in PopQA(path=table, shots=2, limit=1, relations=("capital",))._task().asked:
        assert asked.header == whole[asked.question.id]


def test_another_seed_draws_other_examples(table: str) -> None:
    found = {
        asked.header
        for seed in range(8)
        for asked in PopQA(path=table, shots=1, seed=seed, relations=("sport",))._task().asked
    }
    assert len(found) > 2


def test_a_part_is_asked_and_scored_as_in_the_whole(table: str) -> None:
    loaded: Any = Embedded(family="causal").load()
    loaded.module.config.max_position_embeddings = 512  # rotary: it can read on, if not well
    benchmark = PopQA(path=table, shots=1)
    whole = benchmark.measure(loaded)
    some = [question.id for question in whole.questions[::3]]
    part = benchmark.measure_part(loaded, some)
    assert [question.id for question in part.questions] == some
    assert (part.given, part.values) == (whole.given[::3], whole.values[::3])
    assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    assert 0 < part.tokens < whole.tokens
    assert isinstance(benchmark, PartialBenchmark)


def test_more_examples_than_relations_are_refused_saying_how_many_there_are(
    table: str, model: LanguageModel
) -> None:
    with pytest.raises(MeasurementError, match=r"15 examples .* 'occupation', .* 'shots: 2'"):
        PopQA(path=table).measure(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"possible_answers": "tinker"}, "'possible_answers' is no list of texts: 'tinker'"),
        ({"possible_answers": "[1]"}, "'possible_answers' is no list of texts"),
        ({"s_pop": "many"}, "'s_pop' is 'many', but a count"),
        ({"s_pop": "-1"}, "a count is expected"),
        ({"obj": "", "possible_answers": "[]"}, "answer is empty"),
        ({"id": " "}, "'id' is empty"),
        ({"id": "10"}, "another row has the id '10', too"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(
    tmp_path: Path, change: dict[str, str], words: str
) -> None:
    path = write_table(tmp_path / "x.tsv", [*RECORDS, RECORDS[0] | {"id": 99} | change])
    with pytest.raises(MeasurementError, match=words) as caught:
        PopQA(path=path, shots=0).questions()
    assert str(caught.value).startswith(f"{path}:13")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", '{"id": 1}', "an array of objects is expected"),
        ("x.json", "[1]", r"item 0: an object is expected"),
        (
            "x.jsonl",
            '{"question": "q", "possible_answers": []}',
            "follows none of PopQA's wordings",
        ),
        ("x.tsv", "id\tsubj\n", "has no rows"),
        ("x.tsv", "id\n1\n", r"x\.tsv:2: the row has no key 'input'"),
        ("x.txt", "", r"must end in \.tsv"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(MeasurementError, match=words):
        PopQA(path=str(tmp_path / name), shots=0).questions()


def test_a_row_that_stands_there_twice_is_asked_once_and_counted(
    tmp_path: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, lambda _: "")
    path = write_table(tmp_path / "x.tsv", [*RECORDS, RECORDS[3]])
    measured = PopQA(path=path, shots=0).measure(model)
    assert measured.left_out == {"the same question again": 1}
    assert len(measured.questions) == len(RECORDS)


def test_unknown_relations_are_refused_with_the_nearest(table: str) -> None:
    with pytest.raises(MeasurementError, match=r"no relation 'capitol'\. Did you mean 'capital'"):
        PopQA(path=table, relations=("capitol",)).questions()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either 'path'"),
        ({"path": "x", "dataset": "y"}, "either 'path'"),
        ({"path": "x", "shots": -1}, ">= 0"),
        ({"path": "x", "limit": 0}, ">= 1"),
        ({"path": "x", "match": "fuzzy"}, "'fuzzy'"),
        ({"path": "x", "revision": "main"}, "'revision' is for 'dataset'"),
        ({"path": "x", "split": "train"}, "'split' is for 'dataset'"),
        ({"path": "x", "seed": 2**63}, "<= 9223372036854775807"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("benchmarks", Part(use=USE, options=options))


def test_a_data_set_is_read_as_the_file_is(
    tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "made").mkdir()
    lines = "\n".join(json.dumps(record) for record in RECORDS)
    (tmp_path / "made" / "test.jsonl").write_text(lines, encoding="utf-8")
    benchmark = PopQA(dataset=str(tmp_path / "made"), shots=2)
    assert benchmark.questions() == PopQA(path=table, shots=2).questions()


def test_a_relation_that_is_named_twice_is_asked_once(table: str) -> None:
    once = PopQA(path=table, shots=0, relations=("capital",)).questions()
    assert PopQA(path=table, shots=0, relations=("capital", "capital")).questions() == once


def test_a_part_may_be_empty(table: str, model: LanguageModel) -> None:
    measured = PopQA(path=table, shots=0).measure_part(model, [])
    assert (measured.questions, measured.values, measured.figures) == ((), (), {})


def test_the_split_is_test_if_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def none(_: str, *, split: str, **others: Any) -> list[Any]:
        asked.append(split)
        return list(filter(None, others.values()))

    monkeypatch.setattr("pytest_compression.benchmarks.popqa.hub", none)
    for split in (None, "dev"):
        with pytest.raises(MeasurementError, match="has no rows"):
            PopQA(dataset="some/where", split=split).questions()
    assert asked == ["test", "dev"]
