import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import paired
import pytest
import tiny

from pytest_compression.benchmarks.lama import (
    IN_NAME,
    LENGTHY,
    NO_BLANK,
    REJECTED,
    SECOND,
    SEVERAL,
    Lama,
)
from pytest_compression.benchmarks.survey import ALONE, IN_WORD, REPEATED, SEVERAL_ANSWERS
from pytest_compression.errors import MeasurementError
from pytest_compression.registry import build
from pytest_compression.scoring import vocabulary
from pytest_compression.scoring.cloze import MULTI_TOKEN, NOT_LAST
from pytest_compression.types import Part, PartialBenchmark, Question

Rows = list[dict[str, Any]]
every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))


def trex(key: str, subject: str, answer: str, *sentences: str, relation: str = "P901") -> Any:
    evidences = [
        {"sub_surface": subject, "obj_surface": f"{answer}n", "masked_sentence": sentence}
        for sentence in sentences or (f"{subject} and [MASK] .",)
    ]
    return {
        "uuid": key,
        "sub_uri": "Q1",
        "obj_uri": "Q2",
        "sub_label": subject,
        "obj_label": answer,
        "predicate_id": relation,
        "evidences": evidences,
    }


def google(key: str, subject: str, answer: str, *sentences: str, **options: Any) -> Any:
    said = options.get("judgments", ("yes", "yes", "no"))
    return {
        "pred": f"/people/person/{options.get('relation', 'place_of_birth')}",
        "sub": "/m/1",
        "obj": "/m/2",
        "evidences": [{"url": "u", "snippet": "s", "considered_sentences": ["c"]}],
        "judgments": [{"rater": "1", "judgment": judgment} for judgment in said],
        "sub_w": None,
        "sub_label": subject,
        "sub_aliases": [],
        "obj_w": None,
        "obj_label": answer,
        "obj_aliases": [],
        "uuid": key,
        "masked_sentences": list(sentences),
    }


P901: Rows = [
    trex("a1", "Ghana", "Accra", "[MASK] is in Ghana .", "Ghana has [MASK] ."),
    trex("a2", "Ghana", "Accra", "It is [MASK] ."),  # again, under another id
    trex("a3", "France", "Paris", "It is [MASK] ."),  # the sentence of another subject, too
    trex("a4", "France", "Lima", "In France is [MASK] ."),  # two objects
    trex("a5", "New Tokyo", "Tokyo", "The city of [MASK] is New Tokyo ."),  # in the name
    trex("a6", "Peru", "Lima", "Peru (capital [MASK]) is old ."),
]
P902: Rows = [
    trex("b1", "Accra", "Ghana", relation="P902"),
    trex("b2", "Paris", "France", relation="P902"),
]
BIRTH: Rows = [
    google("g1", "A Ghana", "Accra", "A Ghana was born .", "He was born in [MASK] ."),
    google("g2", "B Peru", "Lima", "B Peru was born in [MASK] and is [MASK] .", "He is [MASK] ."),
    google("g3", "C Chad", "Paris", "C Chad is old .", judgments=("yes", "no")),
    google("g4", "D Fiji", "Lima", "D is [MASK] .", judgments=("yes", "no", "skip")),
    google("g5", "E Iran", "Tokyo", "E is from the pre[MASK] city ."),
    google("g6", "F Cuba", "Accra", "It is " * 51 + "[MASK] ."),
]
DATES: Rows = [
    google("d1", "A Ghana", "1960", "A ([MASK]) is .", relation="date_of_birth"),
    google("d2", "B Peru", "1970", "B is from [MASK] .", relation="date_of_birth"),
]
SQUAD: Rows = [
    {"masked_sentences": ["The [MASK]ians are in [MASK] ."], "obj_label": "Peru", "id": "s1_0"},
    {"masked_sentences": ["The city is [MASK]."], "obj_label": "Lima", "id": "s2_0"},
]
CONCEPTNET: Rows = [
    {"sub": "alive", "obj": "think", "pred": "HasA", "masked_sentences": ["Lima has [MASK]."]},
    {"sub": "city", "obj": "x", "pred": "HasA", "masked_sentences": ["A city has [MASK]."]},
    {"sub": "lone", "obj": "y", "pred": "IsA", "masked_sentences": ["It is [MASK]."]},
]
for number, one in enumerate(CONCEPTNET):
    one |= {"obj_label": ("Paris", "Accra", "New")[number], "uuid": f"c{number}"}
for one in SQUAD:
    one["sub_label"] = "Squad"
RELATIONS: Rows = [
    {"relation": "P901", "template": "The capital of [X] is [Y] .", "label": "l", "type": "N-1"},
    {"relation": "P902", "template": "[Y] is [X]'s country .", "label": "l", "type": "N-1"},
    {"relation": "P903", "template": "[X] is [Y] .", "label": "no file", "type": "N-1"},
]
FILES = {
    "TREx/P901.jsonl": P901,
    "TREx/P902.jsonl": P902,
    "Google_RE/place_of_birth_test.jsonl": BIRTH,
    "Google_RE/date_of_birth_test.jsonl": DATES,
    "Squad/test.jsonl": SQUAD,
    "ConceptNet/test.jsonl": CONCEPTNET,
    "relations.jsonl": RELATIONS,
}


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in FILES.items():
        write(tmp_path / name, rows)
    (tmp_path / "TREx" / "P901.graph").write_bytes(b"a pickle that nobody opens")
    return tmp_path


def asked(data: Path, **options: Any) -> dict[str, Question]:
    return {q.id: q for q in Lama(path=str(data), **options).survey().questions}


def told(question: Question) -> str:
    """The statement, as a reader sees it."""
    space = "" if question.stem[-1:] in (" ", "(", "") else " "
    own = f"{question.stem}{space}{question.answer}{question.end}"
    return " | ".join(part for part in (question.before, own, question.behind) if part)


def test_with_templates_each_subject_and_object_is_asked_once(data: Path) -> None:
    found = asked(data, corpora=("T-REx", "Google-RE"))
    assert {key: told(question) for key, question in found.items()} == {
        "P901:a1": "The capital of Ghana is Accra .",
        "P901:a3": "The capital of France is Paris .",
        "P901:a4": "The capital of France is Lima .",
        "P901:a5": "The capital of New Tokyo is Tokyo .",
        "P901:a6": "The capital of Peru is Lima .",
        "P902:b1": "Ghana is Accra's country .",
        "P902:b2": "France is Paris's country .",
        "date_of_birth:d1": "A Ghana (born 1960).",
        "date_of_birth:d2": "B Peru (born 1970).",
        "place_of_birth:g1": "A Ghana was born in Accra .",
        "place_of_birth:g2": "B Peru was born in Lima .",
        "place_of_birth:g3": "C Chad was born in Paris .",
        "place_of_birth:g5": "E Iran was born in Tokyo .",
        "place_of_birth:g6": "F Cuba was born in Accra .",
    }
    assert {question.cluster for question in found.values()} == {
        key.partition(":")[0] for key in found
    }


def test_with_sentences_the_first_blank_of_the_first_evidence_is_asked(data: Path) -> None:
    found = asked(data, prompts="sentence")
    assert {key: told(question) for key, question in found.items()} == {
        "P901:a1": "Accra is in Ghana .",
        "P901:a2": "It is Accra .",
        "P901:a3": "It is Paris .",
        "P901:a4": "In France is Lima .",
        "P901:a5": "The city of Tokyo is New Tokyo .",
        "P901:a6": "Peru (capital Lima) is old .",
        "P902:b1": "Accra and Ghana .",
        "P902:b2": "Paris and France .",
        "date_of_birth:d1": "A (1960) is .",
        "date_of_birth:d2": "B is from 1970 .",
        "place_of_birth:g1": "A Ghana was born . | He was born in Accra .",
        "place_of_birth:g2": "B Peru was born in Lima and is [MASK] . | He is [MASK] .",
        "Squad:s1_0": "The Peruians are in [MASK] .",
        "Squad:s2_0": "The city is Lima.",
        "HasA:c0": "Lima has Paris.",
        "HasA:c1": "A city has Accra.",
    }
    assert found["place_of_birth:g1"].before == "A Ghana was born ."
    assert found["place_of_birth:g2"].behind == "He is [MASK] ."
    assert found["Squad:s1_0"].subject == "The ... ians are in [MASK] ."
    assert found["HasA:c0"].subject == "alive"


def test_what_is_not_asked_is_counted_by_reason(data: Path) -> None:
    with_templates = Lama(path=str(data)).survey()
    assert with_templates.left_out == {REPEATED: 1, REJECTED: 1, ALONE: 1}
    assert with_templates.figures == {"rows": 21, SEVERAL: 1, SECOND: 0, SEVERAL_ANSWERS: 1}
    sentences = Lama(path=str(data), prompts="sentence").survey()
    assert sentences.left_out == {NO_BLANK: 1, REJECTED: 1, IN_WORD: 1, LENGTHY: 1, ALONE: 1}
    assert sentences.figures == {"rows": 21, SEVERAL: 2, SECOND: 1, SEVERAL_ANSWERS: 1}
    for made in (with_templates, sentences):
        assert len(made.questions) + sum(made.left_out.values()) == 21
    assert Lama(path=str(data), metric="P@1").survey().left_out == {REPEATED: 1, REJECTED: 1}


def test_an_answer_in_the_subjects_name_is_left_out_on_demand(data: Path) -> None:
    everything, some = asked(data), asked(data, uhn=True)
    assert everything.keys() - some.keys() == {"P901:a5"}
    assert all(everything[key] == question for key, question in some.items())
    assert Lama(path=str(data), uhn=True).survey().left_out[IN_NAME] == 1


def test_candidates_are_the_relations_objects_but_other_right_answers(data: Path) -> None:
    found = asked(data)
    assert found["P901:a1"].candidates == ("Accra", "Lima", "Paris", "Tokyo")
    assert found["P901:a3"].candidates == ("Accra", "Paris", "Tokyo")
    assert found["P901:a4"].candidates == ("Accra", "Lima", "Tokyo")
    assert found["P901:a1"].candidates is found["P901:a5"].candidates
    assert asked(data, metric="MRR")["P901:a1"].candidates == ("Accra",)
    # Which are asked decides nothing.
    limited = asked(data, limit=1)
    assert all(found[key] == question for key, question in limited.items())


def test_the_order_of_rows_and_files_changes_nothing(data: Path) -> None:
    before = [Lama(path=str(data), prompts=p, limit=3).survey() for p in ("template", "sentence")]
    rng = random.Random(1)  # noqa: S311
    for name, rows in FILES.items():
        write(data / name, rng.sample(rows, len(rows)))
    (data / "TREx" / "P901.jsonl").rename(data / "TREx" / "P999.jsonl")
    after = [Lama(path=str(data), prompts=p, limit=3).survey() for p in ("template", "sentence")]
    assert after == before


def test_a_limit_draws_of_each_relation(data: Path) -> None:
    whole = Counter(question.cluster for question in asked(data).values())
    for seed in (0, -1, 5):
        drawn = asked(data, limit=2, seed=seed)
        assert Counter(q.cluster for q in drawn.values()) == {
            r: min(2, n) for r, n in whole.items()
        }
    assert asked(data, limit=2, seed=0).keys() != asked(data, limit=2, seed=5).keys()


def test_one_id_for_several_contents_is_told_apart(data: Path) -> None:
    write(data / "TREx" / "P901.jsonl", [one | {"uuid": 7} for one in P901])
    found = [key for key in asked(data, corpora=("T-REx",)) if key.startswith("P901")]
    assert len(found) == 5
    assert all(key.startswith("P901:7#") for key in found)
    write(data / "TREx" / "P901.jsonl", [one | {"uuid": 7} for one in P901[::-1]])
    again = [key for key in asked(data, corpora=("T-REx",)) if key.startswith("P901")]
    assert again == found


@pytest.mark.parametrize(
    ("options", "relations"),
    [
        ({"corpora": ["SQuAD"]}, {"Squad"}),
        ({"corpora": ["ConceptNet", "Google-RE"]}, {"HasA", "place_of_birth", "date_of_birth"}),
        ({"relations": ["P902", "HasA"]}, {"P902", "HasA"}),
    ],
)
def test_corpora_and_relations_are_chosen(
    data: Path, options: dict[str, Any], relations: set[str]
) -> None:
    part = Part(
        use="pytest_compression.benchmarks.lama:Lama", options={"path": str(data)} | options
    )
    made = build("benchmarks", part).survey()
    assert {question.cluster for question in made.questions} == relations


@pytest.mark.parametrize("inside", ["TREx", "TREx/P901.jsonl", "Squad", "ConceptNet/test.jsonl"])
def test_a_corpus_or_a_file_is_found_with_the_templates_above_it(data: Path, inside: str) -> None:
    whole, some = asked(data), asked(data / inside)
    assert some
    assert some.items() <= whole.items()


@pytest.mark.parametrize("name", ["GoogleRE", "google_re", "GOOGLE_RE"])
def test_folders_are_known_however_they_are_spelled(data: Path, name: str) -> None:
    before = asked(data)
    (data / "Google_RE").rename(data / name)
    assert asked(data) == before


def test_folders_that_are_not_known_are_refused(data: Path) -> None:
    (data / "empty").mkdir()
    (data / "Squad").rename(data / "Quizzes")
    with pytest.raises(MeasurementError, match=r"folders that are none of LAMA's: Quizzes\."):
        asked(data)
    (data / "Quizzes" / "test.jsonl").unlink()
    assert asked(data)


def test_corpora_may_be_in_one_file(data: Path) -> None:
    path = write(data / "all.jsonl", [*SQUAD, *CONCEPTNET, *SQUAD, *P902])
    found = asked(path, corpora=("ConceptNet", "T-REx"))
    assert {question.cluster for question in found.values()} == {"HasA", "P902"}


def test_rows_that_are_not_asked_keep_their_object_as_a_candidate(data: Path) -> None:
    found = asked(data, prompts="sentence")
    objects = {"Accra", "Lima", "Paris", "Tokyo"}  # g1, g4 and g2, g3 (rejected), g5 (in a word)
    assert set(found["place_of_birth:g1"].candidates) == objects
    found = asked(data)
    assert set(found["place_of_birth:g1"].candidates) == objects


def test_what_raters_rejected_competes(data: Path) -> None:
    rows = [*BIRTH, google("g7", "A Ghana", "Fiji", judgments=("no", "no"))]
    write(data / "Google_RE" / "place_of_birth_test.jsonl", rows)
    assert "Fiji" in asked(data)["place_of_birth:g1"].candidates


def test_a_fact_that_raters_rejected_once_only_is_asked(data: Path) -> None:
    rows = [google("g0", "A Ghana", "Accra", judgments=("no", "no")), *BIRTH]
    write(data / "Google_RE" / "place_of_birth_test.jsonl", rows)
    made = Lama(path=str(data)).survey()
    assert "place_of_birth:g1" in {question.id for question in made.questions}
    assert made.left_out[REJECTED] == 2


def test_sources_are_told_of_files_that_are_not_there(data: Path) -> None:
    assert set(Lama(path=str(data)).sources()) >= {data / "relations.jsonl"}
    assert list(Lama(path="nowhere").sources()) == [Path("nowhere")]
    missing = Lama(path="nowhere", templates="t.jsonl")
    assert list(missing.sources()) == [Path("nowhere"), Path("t.jsonl")]
    with pytest.raises(MeasurementError, match=r"there is no file of templates 't\.jsonl'"):
        asked(data, templates="t.jsonl")


def test_templates_may_lie_elsewhere(data: Path, tmp_path: Path) -> None:
    (data / "relations.jsonl").unlink()
    with pytest.raises(MeasurementError, match=r"P901\.jsonl:1: relation 'P901' has no template"):
        asked(data)
    assert asked(data, prompts="sentence")
    assert asked(data / "Google_RE")["place_of_birth:g2"].stem == "B Peru was born in"
    elsewhere = write(tmp_path / "other" / "mine.jsonl", RELATIONS[:1])
    for path in (data, data / "TREx" / "P901.jsonl"):
        found = asked(path, templates=str(elsewhere), relations=("P901",))
        assert found["P901:a1"].stem == "The capital of Ghana is"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"uuid": "x"}, r"P901\.jsonl:1: this is no row of T-REx, Google-RE, SQuAD, ConceptNet"),
        ({"predicate_id": "P901"}, r"P901\.jsonl:1: the row has no key 'sub'"),
        (trex("a", "", "Accra"), r"'sub_label' is empty"),
        (trex("a", "Ghana", " "), r"'obj_label' is empty"),
        (trex("a", "Ghana", "Accra") | {"uuid": None}, "'uuid' is None"),
        (trex("a", "Ghana", "Accra", relation="P9"), "relation 'P9' has no template"),
        (trex("a", "Ghana", "Accra") | {"evidences": ["x"]}, "'evidences' holds 'x'"),
        (SQUAD[0] | {"masked_sentences": ["a [MASK]"] * 3}, "one sentence or two"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(data: Path, row: dict[str, Any], words: str) -> None:
    write(data / "TREx" / "P901.jsonl", [row])
    prompts = "sentence" if "evidences' holds" in words else "template"
    with pytest.raises(MeasurementError, match=words):
        asked(data, prompts=prompts)


@pytest.mark.parametrize("template", ["[X] is", "[Y] is [Y] of [X]", "it is [Y]"])
def test_a_template_needs_subject_and_object(data: Path, template: str) -> None:
    write(data / "relations.jsonl", [{"relation": "P901", "template": template}])
    with pytest.raises(MeasurementError, match=r"relations\.jsonl:1: .* needs \[X\], and \[Y\]"):
        asked(data)


def test_what_is_not_there_is_said(data: Path) -> None:
    with pytest.raises(MeasurementError, match="there is no file or directory 'nowhere'"):
        asked(Path("nowhere"))
    with pytest.raises(MeasurementError, match=r"no relation 'P91'\. Did you mean 'P901'"):
        asked(data, relations=("P91",))
    (data / "empty").mkdir()
    with pytest.raises(MeasurementError, match=r"none of LAMA's files: a folder TREx, Google_RE"):
        asked(data / "empty")
    with pytest.raises(MeasurementError, match="no rows of these corpora"):
        asked(data / "Squad", corpora=("T-REx",))
    write(data / "Squad" / "test.jsonl", [SQUAD[0] | {"masked_sentences": ["None ."]}])
    with pytest.raises(MeasurementError, match=r"no question: no \[MASK\] in the row \(1\)"):
        asked(data / "Squad")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocabulary": "words.txt"}, "a vocabulary is for P@1, P@k and MRR"),
        ({"k": 5}, "'k' is for P@1, P@k and MRR"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"prompts": "sentence", "templates": "t.jsonl"}, "templates are not read"),
        ({"corpora": ["TREx"]}, "'TREx'"),
        ({"corpora": []}, "length >= 1"),
        ({"relations": []}, "length >= 1"),
        ({"metric": "P@5"}, "'P@5'"),
        ({"k": 0}, ">= 1"),
        ({"limit": 0}, ">= 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    part = Part(use="pytest_compression.benchmarks.lama:Lama", options={"path": "x"} | options)
    with pytest.raises(msgspec.ValidationError, match=words):
        build("benchmarks", part)


# Asking models.


@every_architecture
@pytest.mark.parametrize("metric", ["ranked", "P@1", "P@k", "MRR"])
def test_any_family_is_asked_and_all_counts_are_kept(
    data: Path, architecture: str, metric: vocabulary.Metric
) -> None:
    model = tiny.model(architecture)
    k = 10 if metric == "ranked" else 3
    benchmark = Lama(path=str(data / "TREx"), metric=metric, k=k)
    made, found = benchmark.survey(), benchmark.measure(model)
    plain = vocabulary.measure(tiny.model(architecture), made.questions, metric, k=k)
    assert (found.scores, found.scoring, found.given) == (plain.scores, plain.scoring, plain.given)
    assert found.figures == plain.figures | made.figures
    assert found.left_out == Counter(made.left_out) + Counter(plain.left_out)
    assert len(found.questions) + sum(found.left_out.values()) == 8
    assert found.metric == ("P@3" if metric == "P@k" else metric)
    if metric != "ranked" and model.family == "causal":
        assert found.left_out[NOT_LAST] == 2  # P902 begins with its object
    assert isinstance(benchmark, PartialBenchmark)


@every_architecture
def test_a_part_is_scored_as_in_the_whole(data: Path, architecture: str) -> None:
    model = tiny.model(architecture)
    benchmark = Lama(path=str(data), prompts="sentence")
    whole = benchmark.measure(model)
    (data / "TREx" / "P901.jsonl").unlink()  # read once a model
    ids = [question.id for question in whole.questions][::2]
    part = benchmark.measure_part(model, ids)
    assert [question.id for question in part.questions] == ids
    assert part.margins == pytest.approx(whole.margins[::2], abs=1e-4)
    assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    with pytest.raises(ValueError, match="no question 'P1:x'"):
        benchmark.measure_part(model, ["P1:x"])


def test_two_sentences_are_two_segments_and_further_blanks_masked(data: Path) -> None:
    model = tiny.model("bert")
    model.tokenizer = paired.tokenizer()
    sentence = "The capital of Ghana is [MASK] ."
    rows = [
        google("g1", "A", "Accra", "Ghana is .", sentence),
        google("g2", "B", "Paris", sentence, "Ghana is [MASK] ."),
    ]
    write(data / "Google_RE" / "place_of_birth_test.jsonl", rows)
    benchmark = Lama(path=str(data), relations=("place_of_birth",), prompts="sentence")
    found = benchmark.measure(model)
    texts = {"g1": ("Ghana is .", sentence), "g2": (sentence, "Ghana is [MASK] .")}
    for question, margin in zip(found.questions, found.margins, strict=True):
        given = model.tokenizer(*texts[question.id.partition(":")[2]], return_tensors="pt")
        values = model.module(**given).logits[0]
        blank = given["input_ids"][0].tolist().index(model.tokenizer.mask_token_id)
        right, wrong = (
            model.tokenizer.convert_tokens_to_ids(text.lower())
            for text in (question.answer, {"Accra", "Paris"}.difference([question.answer]).pop())
        )
        assert margin == pytest.approx(float(values[blank, right] - values[blank, wrong]), abs=1e-4)
    assert len(found.questions) == 2


@every_architecture
def test_a_common_vocabulary_restricts_what_competes(data: Path, architecture: str) -> None:
    words = data / "common.txt"
    words.write_text("Accra\n\nParis\nAccra\nNew Town\n", encoding="utf-8")
    benchmark = Lama(path=str(data), relations=("P901",), metric="MRR", vocabulary=str(words), k=1)
    found = benchmark.measure(tiny.model(architecture))
    assert [question.answer for question in found.questions] == ["Accra", "Paris"]
    assert set(found.values) <= {1.0, 0.5}
    assert found.left_out[vocabulary.OUTSIDE] == 3
    assert found.left_out.get(MULTI_TOKEN, 0) == 0
    assert found.chance == (0.75, 0.75)
    words.write_text("\n", encoding="utf-8")
    with pytest.raises(MeasurementError, match="holds no word"):
        benchmark.measure(tiny.model(architecture))


@pytest.mark.parametrize("metric", ["ranked", "P@1", "P@k", "MRR"])
def test_no_ids_are_a_measurement_of_nothing(data: Path, metric: vocabulary.Metric) -> None:
    found = Lama(path=str(data), metric=metric).measure_part(tiny.model("bert"), [])
    assert (found.questions, found.scores, found.chance) == ((), (), ())
