import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny

from pytest_compression.benchmarks.bear import REPEATED, Bear
from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import of_questions
from pytest_compression.registry import build
from pytest_compression.types import Part, PartialBenchmark

CAPITALS = dict(list(tiny.CAPITALS.items())[:6])
PLACES = {"Ghana": "Africa", "Peru": "America", "new town": "Africa", "Japan": "Asia"}
TEMPLATES = {
    "P36": ["The capital of [X] is [Y].", "[Y] is the capital of [X].", "[X]: [Y]"],
    "P30": ["[X] is in [Y] of places.", "[X] is in [Y].", " [Y] has [X]."],
}
"""One with the answer inside, one without a full stop, one with a space before it."""
USE = "pytest_compression.benchmarks.bear:Bear"


def rows(facts: dict[str, str], answers: list[str] | None) -> list[dict[str, Any]]:
    return [
        {
            "sub_id": f"Q{number}",
            "sub_label": subject,
            "sub_aliases": [],
            "obj_id": f"Q9{sorted(set(facts.values())).index(answer)}",
            "obj_label": answer,
            **({"answer_idx": answers.index(answer)} if answers else {}),
            "unheard": "ignored",
        }
        for number, (subject, answer) in enumerate(facts.items())
    ]


def write(folder: Path, relation: str, found: list[dict[str, Any]]) -> None:
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in found)
    (folder / f"{relation}.jsonl").write_text(f"{text}\n\n", encoding="utf-8")


def describe(folder: Path, about: Any) -> None:
    (folder / "metadata_relations.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """BEAR: answers in the metadata, in an order of their own."""
    folder = tmp_path / "BEAR"
    folder.mkdir()
    about = {}
    for relation, facts in (("P36", CAPITALS), ("P30", PLACES)):
        answers = sorted(set(facts.values()), reverse=True)
        write(folder, relation, rows(facts, answers))
        about[relation] = {
            "templates": TEMPLATES[relation],
            "answer_space_labels": answers,
            "answer_space_ids": [f"Q{i}" for i in range(len(answers))],
        }
    describe(folder, about)
    return folder


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """BEAR-big: templates only, and one relation without a file."""
    folder = tmp_path / "BEAR-big"
    folder.mkdir()
    write(folder, "P36", rows(CAPITALS, None))
    write(folder, "P30", rows(PLACES, None))
    describe(folder, {r: {"templates": t} for r, t in (*TEMPLATES.items(), ("P414", ["x"]))})
    return folder


def test_every_fact_is_asked_once_and_sorted_by_id(small: Path) -> None:
    asked = Bear(path=str(small)).questions()
    ids = [question.id for question in asked]
    assert ids == sorted(set(ids))
    assert Counter(q.cluster for q in asked) == {"P36": len(CAPITALS), "P30": len(PLACES)}
    assert {(q.subject, q.answer) for q in asked} == {*CAPITALS.items(), *PLACES.items()}


def test_options_are_the_metadatas_in_their_order(small: Path) -> None:
    for question in Bear(path=str(small)).questions():
        facts = CAPITALS if question.cluster == "P36" else PLACES
        assert question.candidates == tuple(sorted(set(facts.values()), reverse=True))


def test_without_metadata_all_objects_are_the_options(big: Path) -> None:
    for question in Bear(path=str(big), limit=2).questions():
        facts = CAPITALS if question.cluster == "P36" else PLACES
        assert question.candidates == tuple(sorted(set(facts.values())))


@pytest.mark.parametrize("template", [0, 1, 2])
def test_a_question_is_made_of_its_template(small: Path, template: int) -> None:
    blanks, _ = Bear(path=str(small), template=template, capitalize=False).blanks()
    for blank in blanks:
        question = blank.question
        told = TEMPLATES[question.cluster][template]
        filled = told.replace("[X]", question.subject).replace("[Y]", question.answer)
        assert blank.filled(question.answer) == filled
        assert (question.stem, question.end) == (blank.before.rstrip(), blank.after)


def test_statements_begin_with_a_capital_unless_told_otherwise(small: Path) -> None:
    def stem(**options: Any) -> str:
        asked = Bear(path=str(small), relations=("P30",), template=1, **options).questions()
        (found,) = (q.stem for q in asked if q.subject == "new town")
        return found

    assert stem() == "New town is in"
    assert stem(capitalize=False) == "new town is in"


def test_another_order_of_rows_asks_the_same(small: Path) -> None:
    first = Bear(path=str(small), limit=3, seed=5).questions()
    path = small / "P36.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(reversed(lines)), encoding="utf-8")
    assert of_questions(Bear(path=str(small), limit=3, seed=5).questions()) == of_questions(first)


def test_a_limit_draws_so_many_of_each_relation(small: Path) -> None:
    asked = Bear(path=str(small), limit=3).questions()
    assert Counter(q.cluster for q in asked) == {"P36": 3, "P30": 3}
    assert {q.id for q in asked} != {
        q.id for q in Bear(path=str(small), limit=3, seed=1).questions()
    }


def test_a_row_that_is_there_already_is_counted(small: Path) -> None:
    facts = rows(CAPITALS, None)
    write(small, "P36", [*facts, facts[0]])
    measured = Bear(path=str(small), relations=("P36",)).measure(tiny.model("llama"))
    assert measured.left_out == {REPEATED: 1}
    assert len(measured.questions) == len(CAPITALS)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_relations_count_alike_in_the_figure(small: Path, architecture: str) -> None:
    measured = Bear(path=str(small), template=1).measure(tiny.model(architecture))
    by: dict[str, list[float]] = {}
    for question, score in zip(measured.questions, measured.scores, strict=True):
        by.setdefault(question.cluster, []).append(score)
    mean = sum(sum(scores) / len(scores) for scores in by.values()) / len(by)
    assert measured.figures["accuracy, mean over relations"] == pytest.approx(mean)
    common = sum(max(Counter(facts.values()).values()) for facts in (CAPITALS, PLACES))
    assert measured.figures["majority answer"] == common / len(measured.questions)


def test_a_part_is_scored_as_in_the_whole(small: Path) -> None:
    benchmark, model = Bear(path=str(small), relations=("P36",)), tiny.model("llama")
    whole = benchmark.measure(model)
    some = [question.id for question in whole.questions[1:3]]
    part = benchmark.measure_part(model, some)
    assert [question.id for question in part.questions] == some
    assert part.margins == pytest.approx(whole.margins[1:3], abs=1e-4)
    assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    assert isinstance(benchmark, PartialBenchmark)


def test_the_variant_is_handed_on(small: Path) -> None:
    options: dict[str, Any] = {"path": str(small), "relations": ("P36",), "template": 1}
    model = tiny.model("bert")
    words = Bear(**options).measure(model)
    original = Bear(**options, pll="original").measure(model)
    assert words.scoring != original.scoring
    assert words.margins != original.margins


def test_the_directory_above_is_not_taken_for_it(small: Path, big: Path) -> None:
    with pytest.raises(MeasurementError, match="There is one in BEAR and BEAR-big"):
        Bear(path=str(small.parent)).questions()
    with pytest.raises(MeasurementError, match="there is no directory"):
        Bear(path=str(big / "nowhere")).questions()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sub_id": None}, r"P36\.jsonl:1: 'sub_id' is None"),
        ({"sub_id": ""}, r"P36\.jsonl:1: 'sub_id' is empty"),
        ({"obj_id": " "}, r"P36\.jsonl:1: 'obj_id' is empty"),
        ({"sub_label": ""}, r"P36\.jsonl:1: 'sub_label' is empty"),
        ({"obj_label": ""}, r"P36\.jsonl:1: 'obj_label' is empty"),
        ({"obj_label": "Nowhere"}, r"P36\.jsonl:1: the object 'Nowhere' is none of the"),
    ],
)
def test_a_bad_row_is_named(small: Path, change: dict[str, Any], words: str) -> None:
    first, *rest = rows(CAPITALS, None)
    write(small, "P36", [first | change, *rest])
    with pytest.raises(MeasurementError, match=words):
        Bear(path=str(small)).questions()


def test_a_row_without_its_key_is_named(small: Path) -> None:
    first, *rest = rows(CAPITALS, None)
    del first["obj_id"]
    write(small, "P36", [first, *rest])
    with pytest.raises(MeasurementError, match=r"P36\.jsonl:1: the row has no key 'obj_id'"):
        Bear(path=str(small)).questions()


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ([], "an object of relations is expected"),
        ({"P36": {"templates": ["x"]}}, "nothing is said of the relations P30"),
        ({"P36": {}, "P30": {}}, "has no key 'templates'"),
        ({"P36": 3, "P30": {}}, "'P36' is 3, but dict is expected"),
        ({r: {"templates": []} for r in TEMPLATES}, "no template 0; it has 0"),
        (
            {r: {"templates": ["[X] [Y]"], "answer_space_labels": ["x", " "]} for r in TEMPLATES},
            "P36: an answer in 'answer_space_labels' is empty",
        ),
        ({r: {"templates": ["[X]."]} for r in TEMPLATES}, r"must contain \[X\], and \[Y\] once"),
    ],
)
def test_bad_metadata_are_named(small: Path, about: Any, words: str) -> None:
    describe(small, about)
    with pytest.raises(MeasurementError, match=words):
        Bear(path=str(small)).questions()


def test_a_relation_that_is_not_there_is_refused_with_the_nearest(big: Path) -> None:
    with pytest.raises(MeasurementError, match=r"no relation 'P37'. Did you mean 'P36'\?"):
        Bear(path=str(big), relations=("P37",)).questions()
    with pytest.raises(MeasurementError, match="has no relation 'P414'"):
        Bear(path=str(big), relations=("P414",)).questions()


def test_a_template_that_is_not_there_is_refused(small: Path) -> None:
    with pytest.raises(MeasurementError, match="no template 3; it has 3, counted from 0"):
        Bear(path=str(small), template=3).questions()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": -1}, ">= 0"),
        ({"limit": 0}, ">= 1"),
        ({"pll": "sentence_l2r"}, "'sentence_l2r'"),
        ({"relations": []}, "length >= 1"),
        ({"seed": 2**63}, "<= 9223372036854775807"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("benchmarks", Part(use=USE, options={"path": "x"} | options))


def test_importing_it_needs_no_torch() -> None:
    names = "bear", "lre", "pararel"
    lines = "; ".join(f"import pytest_compression.benchmarks.{name}" for name in names)
    code = f"import sys; {lines}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)  # noqa: S603
    assert found.stdout.strip() == b"False"


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_a_part_may_be_empty(small: Path, architecture: str) -> None:
    measured = Bear(path=str(small)).measure_part(tiny.model(architecture), [])
    assert (measured.questions, measured.margins, measured.figures) == ((), (), {})


def test_a_relation_that_is_named_twice_is_asked_once(small: Path) -> None:
    once = Bear(path=str(small), relations=("P36",)).questions()
    assert Bear(path=str(small), relations=("P36", "P36")).questions() == once
