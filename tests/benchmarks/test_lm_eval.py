"""lm-eval's tasks: small local ones of every kind, against lm-eval's own evaluation."""

import copy
import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import msgspec
import pytest
import tiny
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from pytest_compression.benchmarks import harness_tasks
from pytest_compression.benchmarks.harness_names import unknown
from pytest_compression.benchmarks.harness_questions import answer_shown
from pytest_compression.benchmarks.lm_eval import LmEval
from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.store import keys
from pytest_compression.types import Measurement, PartialBenchmark

CHOICES = ["Accra", "Conakry", "New Town", "Lima"]
WRONG = {city: [one for one in CHOICES if one != city][:3] for city in tiny.CAPITALS.values()}
PLACES = [
    {"country": country, "choices": [*WRONG[city][:i], city, *WRONG[city][i:]], "gold": i}
    for i, (country, city) in zip([0, 1, 2, 3] * 3, tiny.CAPITALS.items(), strict=False)
]
EXAMPLES = [{"country": f"Land {i}", "choices": CHOICES, "gold": i % 4} for i in range(6)]
FACTS = [{"country": country, "city": city} for country, city in tiny.CAPITALS.items()]
LONG = "In Ghana, it is Accra. Of Peru, Lima; not Chad! " * 5
TEXTS = [{"text": "Accra is the capital of Ghana."}, {"text": LONG}, {"text": "Paris."}]
COREFERENCES = [
    {
        "first": f"{a} and {b} met.",
        "second": f"{b} and {a} met.",
        "rest": f"{a} was there.",
        "gold": i,
    }
    for i, (a, b) in enumerate([("Accra", "Lima"), ("Chad", "Japan")])
]
MULTIPLE = {
    "output_type": "multiple_choice",
    "doc_to_text": "The capital of {{country}} is",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ],
}
TASKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "places": (PLACES, MULTIPLE),
    "chosen": (COREFERENCES, {
        **MULTIPLE,
        "doc_to_text": "gold",
        "doc_to_choice": "{{[first, second]}}",
        "doc_to_target": "rest",
    }),
    "shots": (PLACES, {**MULTIPLE, "fewshot_split": "train", "num_fewshot": 1}),
    "zero": (PLACES, {**MULTIPLE, "num_fewshot": 0}),
    "unsafe": (PLACES, {**MULTIPLE, "unsafe_code": True}),
    "pictures": (PLACES, {**MULTIPLE, "doc_to_image": "country"}),
    "facts": (FACTS, {
        "output_type": "loglikelihood",
        "doc_to_text": "The capital of {{country}} is",
        "doc_to_target": " {{city}}",
    }),
    "texts": (TEXTS, {
        "output_type": "loglikelihood_rolling", "doc_to_target": "text", "doc_to_text": "",
    }),
    "said": (FACTS, {
        "output_type": "generate_until",
        "doc_to_text": "The capital of {{country}} is",
        "doc_to_target": "{{city}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {"name": "whole", "filter": [{"function": "take_first"}]},
            {"name": "letter", "filter": [
                {"function": "regex", "regex_pattern": "([A-Z])"}, {"function": "take_first"},
            ]},
        ],
    }),
}  # fmt: skip
GROUPS = {
    "both": {
        "group": "both",
        "task": ["places", "chosen"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    },
    "plain": {"group": "plain", "task": ["places", "chosen"]},
    "apart": {
        "group": "apart",
        "task": [
            "places",
            {"group": "part", "task": ["chosen"], "aggregate_metric_list": {"metric": "acc"}},
        ],
        "aggregate_metric_list": [{"metric": "acc_norm"}],
    },
    "outer": {
        "group": "outer",
        "task": [
            {"group": "inner", "task": ["chosen"], "aggregate_metric_list": [{"metric": "acc"}]},
            {"group": "bare", "task": [{"group": "inmost", "task": ["places"]}]},
        ],
        "aggregate_metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "mixed": {"group": "mixed", "task": ["places", "said"]},
    "broken": {"group": "broken", "task": ["places", "nowhere-to-be-found"]},
}
Write = Callable[..., Path]


def written(
    folder: Path, name: str, rows: list[dict[str, Any]], options: dict[str, Any], **more: Any
) -> None:
    """A task as a YAML file over JSON Lines."""
    for split, some in (("test", rows), ("train", EXAMPLES)):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}-{split}.jsonl").write_text(lines, encoding="utf-8")
    splits = ["test", "train"] if "fewshot_split" in options else ["test"]
    data = {split: str(folder / f"{name}-{split}.jsonl") for split in splits}
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": data, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        **options,
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a task of each kind."""
    path = tmp_path_factory.mktemp("tasks")
    for name, (rows, options) in TASKS.items():
        written(path, name, rows, options)
    for name, group in GROUPS.items():
        (path / f"{name}.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny.model("llama")


def evaluated(model: LanguageModel, folder: str, task: str, shots: int = 0, **options: Any) -> Any:
    """What lm-eval itself says, with its own model class on a copy."""
    module: Any = copy.deepcopy(model.module)
    manager = TaskManager(include_path=folder, include_defaults=False)
    tasks = manager.load([task])
    for one in tasks["tasks"].values():
        one.set_config(key="num_fewshot", value=shots)
        one.set_fewshot_seed(seed=1234)
    lm = HFLM(pretrained=module, tokenizer=model.tokenizer, batch_size=4)
    return lm_eval.evaluate(lm=lm, task_dict=tasks, bootstrap_iters=10, **options)


def by_id(measured: Measurement, values: Any) -> dict[str, Any]:
    return dict(zip((question.id for question in measured.questions), values, strict=True))


# Each kind of task, against lm-eval's evaluation of the same


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
@pytest.mark.parametrize(
    ("task", "shots"), [("places", 0), ("shots", 1), ("shots", 2), ("chosen", 0)]
)
def test_choices_are_taken_as_by_lm_eval(
    folder: str, architecture: str, task: str, shots: int, metric: str
) -> None:
    model = tiny.model(architecture)
    measured = LmEval(
        task=task, include_path=folder, num_fewshot=shots or None, metric=metric
    ).measure(model)
    theirs = evaluated(model, folder, task, shots)
    samples = {
        f"{task}:{harness_tasks.content_key(one['doc'])}": one for one in theirs["samples"][task]
    }
    assert [question.id for question in measured.questions] == sorted(samples)
    for question, margin, given in zip(
        measured.questions, measured.margins, measured.given, strict=True
    ):
        sample = samples[question.id]
        totals = [total for total, _ in sample["filtered_resps"]]
        if metric == "acc_norm":
            totals = [t / len(c) for t, c in zip(totals, question.candidates, strict=True)]
        gold = question.candidates.index(question.answer)
        other = max(t for i, t in enumerate(totals) if i != gold)
        assert margin == pytest.approx(totals[gold] - other, abs=2e-4)
        assert (margin > 0) == (sample[metric] == 1)
        assert question.candidates[totals.index(max(totals))] == given
        assert question.cluster == task
    assert measured.metric == metric
    assert measured.figures[f"lm-eval {metric}"] == pytest.approx(
        theirs["results"][task][f"{metric},none"]
    )
    assert measured.figures[f"lm-eval {metric} stderr"] == pytest.approx(
        theirs["results"][task][f"{metric}_stderr,none"]
    )
    assert measured.chance == tuple(1 / len(q.candidates) for q in measured.questions)
    assert measured.left_out == {}


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_single_continuations_are_right_if_they_are_the_greedy_ones(
    folder: str, architecture: str
) -> None:
    model = tiny.model(architecture)
    benchmark = LmEval(task="facts", include_path=folder)
    measured = benchmark.measure(model)
    theirs = evaluated(model, folder, "facts")
    samples = {
        f"facts:{harness_tasks.content_key(one['doc'])}": one for one in theirs["samples"]["facts"]
    }
    assert measured.metric == "acc"
    assert by_id(measured, measured.values) == {key: one["acc"] for key, one in samples.items()}
    assert (measured.margins, set(measured.chance)) == ((), {0.0})
    for question, value, said in zip(
        measured.questions, measured.values, measured.given, strict=True
    ):
        assert said == (question.answer.strip() if value else "something else")
    likely = LmEval(task="facts", include_path=folder, metric="perplexity").measure(model)
    for key, value in by_id(likely, likely.values).items():
        assert math.log(value) == pytest.approx(samples[key]["perplexity"], abs=1e-4)
    assert likely.figures["lm-eval perplexity"] == pytest.approx(
        theirs["results"]["facts"]["perplexity,none"], rel=1e-4
    )
    assert likely.figures["lm-eval perplexity stderr"] > 0


@pytest.mark.parametrize("metric", [None, "byte_perplexity", "word_perplexity"])
def test_texts_are_graded_by_the_probability_of_a_byte_or_word(
    folder: str, model: LanguageModel, metric: str | None
) -> None:
    measured = LmEval(task="texts", include_path=folder, metric=metric).measure(model)
    chosen = metric or "bits_per_byte"
    theirs = evaluated(model, folder, "texts")
    assert measured.metric == chosen
    for one in theirs["samples"]["texts"]:
        total, count = one[chosen]
        value = by_id(measured, measured.values)[f"texts:{harness_tasks.content_key(one['doc'])}"]
        assert value == pytest.approx(math.exp(total / count), abs=1e-4)
    assert measured.figures[f"lm-eval {chosen}"] == pytest.approx(
        theirs["results"]["texts"][f"{chosen},none"], rel=1e-4
    )
    assert len(measured.values) == len(TEXTS)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (" Rome", " Rome"),  # wrong by white space alone, as an exact match counts it
        ("Rome\n", "Rome\n"),
        (" Rome, \n Italy", "Rome, Italy"),
        ("a " * 40, "a " * 29 + "a…"),
    ],
)
def test_what_is_written_is_shown_in_one_line_if_words_tell_it_from_the_answer(
    given: str, shown: str
) -> None:
    assert answer_shown(given, "Rome") == shown


@pytest.mark.parametrize(("metric", "chosen"), [(None, "whole"), ("exact_match,letter", "letter")])
def test_generated_answers_are_graded_by_their_metric_and_filter(
    folder: str, model: LanguageModel, metric: str | None, chosen: str
) -> None:
    measured = LmEval(task="said", include_path=folder, metric=metric).measure(model)
    theirs = evaluated(model, folder, "said")
    samples = [one for one in theirs["samples"]["said"] if one["filter"] == chosen]
    expected = {f"said:{harness_tasks.content_key(one['doc'])}": one for one in samples}
    assert by_id(measured, measured.values) == {
        k: one["exact_match"] for k, one in expected.items()
    }
    for key, given in by_id(measured, measured.given).items():
        assert given.split() == expected[key]["filtered_resps"][0].split()
    for name in ("whole", "letter"):
        assert measured.figures[f"lm-eval exact_match ({name})"] == pytest.approx(
            theirs["results"]["said"][f"exact_match,{name}"]
        )
    assert {question.answer for question in measured.questions} == set(tiny.CAPITALS.values())


def test_a_group_asks_its_tasks_which_are_its_clusters(folder: str, model: LanguageModel) -> None:
    measured = LmEval(task="both", include_path=folder, metric="acc").measure(model)
    single = [
        LmEval(task=t, include_path=folder, metric="acc").measure(model)
        for t in ("chosen", "places")
    ]
    assert [q.id for q in measured.questions] == [q.id for one in single for q in one.questions]
    assert measured.margins == pytest.approx([m for one in single for m in one.margins], abs=1e-5)
    assert set(measured.clusters) == {"chosen", "places"}
    theirs = evaluated(model, folder, "both")["results"]
    for name in ("both", "chosen", "places"):
        assert measured.figures[f"lm-eval {name} acc"] == pytest.approx(theirs[name]["acc,none"])
    assert set(measured.figures) == {
        f"lm-eval {name} acc{end}"
        for name in ("both", "chosen", "places")
        for end in ("", " stderr")
    }


def test_a_tie_counts_against_the_model(folder: str) -> None:
    model = tiny.model("gpt2", tie_word_embeddings=False)
    module: Any = model.module
    module.lm_head.weight.zero_()
    measured = LmEval(task="chosen", include_path=folder, metric="acc").measure(model)
    assert measured.margins == (0.0, 0.0)
    assert sum(measured.scores) == 0
    assert measured.figures["lm-eval acc"] == 0.5  # lm-eval lets the first choice win


# Which documents are asked


def test_the_default_metric_is_the_preferred_one_that_all_tasks_have(
    folder: str, model: LanguageModel
) -> None:
    assert LmEval(task="places", include_path=folder).measure(model).metric == "acc_norm"
    assert LmEval(task="plain", include_path=folder).measure(model).metric == "acc_norm"
    assert LmEval(task="apart", include_path=folder).measure(model).metric == "acc_norm"


@pytest.mark.parametrize("group", ["both", "outer"])
def test_a_group_is_judged_by_a_metric_that_it_shows(
    folder: str, model: LanguageModel, group: str
) -> None:
    measured = LmEval(task=group, include_path=folder).measure(model)
    assert measured.metric == "acc"
    assert {f"lm-eval {name} acc" for name in (group, "chosen", "places")} <= set(measured.figures)
    named = LmEval(task=group, include_path=folder, metric="acc_norm").measure(model)
    assert named.metric == "acc_norm"


@pytest.mark.parametrize("limit", [1, 4, 100])
def test_a_limit_draws_documents_by_their_content(
    folder: str, tmp_path: Path, model: LanguageModel, limit: int
) -> None:
    whole = LmEval(task="places", include_path=folder).measure(model)
    drawn = LmEval(task="places", include_path=folder, limit=limit).measure(model)
    assert len(drawn.questions) == min(limit, len(PLACES))
    margins = by_id(whole, whole.margins)
    assert drawn.margins == pytest.approx([margins[q.id] for q in drawn.questions], abs=1e-5)
    written(tmp_path, "places", PLACES[::-1], MULTIPLE)
    turned = LmEval(task="places", include_path=str(tmp_path), limit=limit).measure(model)
    assert turned.questions == drawn.questions
    others = LmEval(task="places", include_path=folder, limit=limit, seed=6).measure(model)
    assert (others.questions != drawn.questions) == (limit < 100)


@pytest.mark.parametrize("task", ["places", "shots", "facts", "texts", "said", "both"])
def test_a_part_is_scored_as_in_the_whole(folder: str, task: str) -> None:
    model = tiny.model("llama")
    benchmark = LmEval(task=task, include_path=folder)
    whole = benchmark.measure(model)
    ids = [question.id for question in whole.questions][::2]
    part = benchmark.measure_part(model, ids)
    assert [question.id for question in part.questions] == ids
    for mine, all_ in ((part.margins, whole.margins), (part.values, whole.values)):
        assert mine == pytest.approx(all_[::2], abs=1e-5)
    assert (part.given, part.chance) == (whole.given[::2], whole.chance[::2])
    assert (part.scoring, part.left_out, part.metric) == (
        whole.scoring, whole.left_out, whole.metric,
    )  # fmt: skip
    assert 0 < part.tokens < whole.tokens
    assert isinstance(benchmark, PartialBenchmark)
    with pytest.raises(ValueError, match=r"no question 'x' \(1 of 2 ids\)"):
        benchmark.measure_part(model, [ids[0], "x"])


def test_what_cannot_be_asked_is_counted_by_reason(tmp_path: Path, model: LanguageModel) -> None:
    odd = [
        PLACES[0],
        PLACES[0],
        {"country": "Oz", "choices": CHOICES, "gold": 7},
        {"country": "Oz", "choices": [*CHOICES[:3], ""], "gold": 1},
        {"country": "Oz", "choices": [*CHOICES[:3], CHOICES[1]], "gold": 1},
    ]
    written(tmp_path, "odd", odd, MULTIPLE)
    measured = LmEval(task="odd", include_path=str(tmp_path)).measure(model)
    assert len(measured.questions) == 1
    assert measured.left_out == {
        "the same document again": 1,
        "the right answer is none of the choices": 1,
        "a choice without text has no length": 1,
        "a wrong choice is the same as a right one": 1,
    }
    written(tmp_path, "gaps", [{"text": "Accra."}, {"text": ""}], TASKS["texts"][1])
    gaps = LmEval(task="gaps", include_path=str(tmp_path)).measure(model)
    assert (len(gaps.questions), gaps.left_out) == (1, {"a document without text": 1})
    written(tmp_path, "none", [{**PLACES[0], "gold": [0, 1, 2, 3]}], MULTIPLE)
    with pytest.raises(MeasurementError, match="'none' has no document that can be asked: every"):
        LmEval(task="none", include_path=str(tmp_path)).measure(model)


def test_several_right_choices_count_as_one(tmp_path: Path, model: LanguageModel) -> None:
    rows = [{**row, "gold": [row["gold"], 0]} for row in PLACES[1:4]]
    written(tmp_path, "several", rows, MULTIPLE)
    measured = LmEval(task="several", include_path=str(tmp_path), metric="acc").measure(model)
    theirs = evaluated(model, str(tmp_path), "several")
    assert measured.figures["lm-eval acc"] == theirs["results"]["several"]["acc,none"]
    assert sum(measured.scores) / 3 == theirs["results"]["several"]["acc,none"]
    assert set(measured.chance) == {0.5}


def test_prompts_that_are_too_long_are_reported_or_refused(
    tmp_path: Path, model: LanguageModel
) -> None:
    rows = [{**PLACES[0], "country": LONG}, *PLACES[1:3]]
    written(tmp_path, "long", rows, MULTIPLE)
    measured = LmEval(task="long", include_path=str(tmp_path)).measure(model)
    assert measured.figures["truncated"] == 1
    strict = LmEval(task="long", include_path=str(tmp_path), overlong="refuse")
    with pytest.raises(MeasurementError, match="task 'long': a prompt of"):
        strict.measure(model)


# Fingerprints, and what is kept for other recipes


def test_the_scoring_tells_how_the_same_questions_are_scored(folder: str) -> None:
    model = tiny.model("llama")
    one = LmEval(task="shots", include_path=folder).measure(model)
    assert (
        LmEval(task="shots", include_path=folder).measure(tiny.model("gpt2")).scoring == one.scoring
    )
    options: list[dict[str, Any]] = [{"num_fewshot": 2}, {"metric": "acc"}, {"overlong": "refuse"}]
    others = [LmEval(task="shots", include_path=folder, **some).measure(model) for some in options]
    assert all(other.questions == one.questions for other in others)
    assert len({one.scoring, *(other.scoring for other in others)}) == 4


def inherited(folder: Path, pattern: str, code: str, data: str = "said") -> LmEval:
    """A task whose answers are read as a file says that lies elsewhere."""
    written(folder, data, FACTS, TASKS["said"][1])
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    options = yaml.safe_load((folder / f"{data}.yaml").read_text(encoding="utf-8"))
    options["filter_list"][1]["filter"][0]["regex_pattern"] = pattern
    process = "process_results: !function reads.process\n" if code else ""
    (folder / "above.yaml").write_text(yaml.safe_dump(options) + process, encoding="utf-8")
    (folder / "reads.py").write_text(
        "def share(text): return 1.0 * bool(text)\n"
        f"def process(doc, results): return {{'exact_match': {code or 0}}}\n",
        encoding="utf-8",
    )
    (tasks / "child.yaml").write_text("include: ../above.yaml\ntask: child\n", encoding="utf-8")
    return LmEval(task="child", include_path=str(tasks), metric="exact_match,letter")


def test_how_answers_are_read_is_part_of_the_scoring_wherever_it_stands(tmp_path: Path) -> None:
    ways = [("([A-Z])", ""), ("(.*)", ""), ("(.*)", "share(results[0])"), ("(.*)", "1.0")]
    found = []
    for number, way in enumerate([*ways, *ways]):  # the same in two places of one machine
        folder = tmp_path / str(number)
        folder.mkdir()
        model, benchmark = tiny.model("llama"), inherited(folder, *way, data=f"d{number}")
        key = keys.of_benchmark(benchmark, model, math.inf)
        found.append((benchmark.measure(model).scoring, key["content"]))
    assert found[: len(ways)] == found[len(ways) :]
    assert len(set(found)) == len({key for _, key in found}) == len(ways)


def test_code_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(MeasurementError, match="the code of <built-in function len> cannot be rea"):
        harness_tasks.code(len)


def test_tasks_are_loaded_and_tokenized_once_a_model(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("llama")
    benchmark = LmEval(task="both", include_path=folder)
    one = benchmark.measure(model)
    monkeypatch.setattr(harness_tasks, "load", None)
    model.tokenizer = copy.copy(model.tokenizer)
    monkeypatch.setattr(type(model.tokenizer), "__call__", None)
    assert benchmark.measure(model) == one


def test_progress_is_told_as_documents_are_asked(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("llama")
    whole = LmEval(task="places", include_path=folder).measure(model)
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    monkeypatch.setattr("pytest_compression.benchmarks.lm_eval.TOGETHER", 5)
    sliced = LmEval(task="places", include_path=folder).measure(model)
    assert told == [(0, 9), (5, 9), (9, 9)]
    assert sliced.margins == pytest.approx(whole.margins, abs=1e-5)
    assert (sliced.questions, sliced.scoring) == (whole.questions, whole.scoring)


def test_a_conversation_is_asked_with_the_template_of_the_tokenizer(folder: str) -> None:
    model = tiny.model("llama")
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.chat_template = (
        "{% for m in messages %}({{ m.role }}){{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}(assistant){% endif %}"
    )
    plain = LmEval(task="shots", include_path=folder).measure(model)
    talk = LmEval(task="shots", include_path=folder, apply_chat_template=True).measure(model)
    theirs = evaluated(
        model, folder, "shots", 1, apply_chat_template=True, fewshot_as_multiturn=True
    )
    assert talk.questions == plain.questions
    assert talk.scoring != plain.scoring
    assert talk.figures["lm-eval acc"] == theirs["results"]["shots"]["acc,none"]
    for one in theirs["samples"]["shots"]:
        assert one["arguments"][0][0].count("(user)") == 2


def test_nothing_is_printed_or_logged(
    folder: str,
    model: LanguageModel,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    model.memo.clear()
    for task in ("both", "texts", "said", "facts"):
        LmEval(task=task, include_path=folder, metric=None).measure(model)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("lm_eval")] == []


# Runners


def hf(**options: Any) -> dict[str, Any]:
    arguments = {"pretrained": "{model}", "device": "cpu", "dtype": "float32", "batch_size": 4}
    return {"runner": "hf", "runner_args": arguments} | options


@pytest.mark.parametrize("task", ["places", "texts"])
def test_a_runner_judges_the_weights_of_the_trial(folder: str, task: str) -> None:
    model = tiny.model("llama", tie_word_embeddings=True)
    for compressed in (False, True):
        if compressed:
            for weight in model.weights("feed-forward"):
                weight.write(weight.values * 0)
        ours = LmEval(task=task, include_path=folder).measure(model)
        theirs = LmEval(task=task, include_path=folder, **hf()).measure(model)
        assert theirs.questions == ours.questions
        assert theirs.margins == pytest.approx(ours.margins, abs=1e-4)
        assert theirs.values == pytest.approx(ours.values, abs=1e-4)
        assert theirs.scoring != ours.scoring
        assert (theirs.tokens, "served" in theirs.figures) == (0, False)


def test_a_served_release_is_judged_whatever_the_recipe(folder: str, tmp_path: Path) -> None:
    released, model = tiny.model("llama"), tiny.model("llama", seed=3)
    module: Any = released.module
    module.save_pretrained(tmp_path)
    released.tokenizer.save_pretrained(tmp_path)
    arguments = {**hf()["runner_args"], "pretrained": str(tmp_path)}
    benchmark = LmEval(task="places", include_path=folder, **hf(runner_args=arguments, served=True))
    measured = benchmark.measure(model)
    expected = LmEval(task="places", include_path=folder).measure(released)
    assert measured.margins == pytest.approx(expected.margins, abs=1e-4)
    assert measured.figures["served"] == 1


def test_what_would_be_loaded_as_another_model_is_not_given_to_a_runner(folder: str) -> None:
    model = tiny.model("gpt2")
    module: Any = model.module
    module.lm_head.weight = type(module.lm_head.weight)(module.lm_head.weight.clone())
    with pytest.raises(MeasurementError, match="untied modules"):
        LmEval(task="places", include_path=folder, **hf()).measure(model)


def test_runners_that_cannot_be_had_are_refused(folder: str, model: LanguageModel) -> None:
    for runner, arguments, words in (
        ("hff", {"pretrained": "{model}"}, r"no backend 'hff'\. Did you mean 'hf'"),
        ("vllm", {"pretrained": "{model}"}, "backend 'vllm' could not be started: "),
        ("hf", {"pretrained": "{model}/no"}, "backend 'hf' could not be started: "),
    ):
        benchmark = LmEval(task="places", include_path=folder, runner=runner, runner_args=arguments)
        with pytest.raises(MeasurementError, match=words):
            benchmark.measure(model)


def test_a_runner_that_fails_while_it_answers_is_named(
    folder: str, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        message = "connection refused\nby 127.0.0.1"
        raise ConnectionError(message)

    monkeypatch.setattr(HFLM, "loglikelihood", refuse)
    with pytest.raises(MeasurementError, match="'hf' failed while it answered: connection refused"):
        LmEval(task="places", include_path=folder, **hf()).measure(model)
    monkeypatch.setattr("pytest_compression.scoring.harness.HarnessLM.loglikelihood", refuse)
    with pytest.raises(ConnectionError):  # a bug of our own engine stays one
        LmEval(task="places", include_path=folder).measure(model)


# Refusals


@pytest.mark.parametrize("architecture", sorted(tiny.MASKED))
def test_masked_models_are_refused_through_whatever_runner(folder: str, architecture: str) -> None:
    options: list[dict[str, Any]] = [{}, hf()]
    for some in options:
        with pytest.raises(MeasurementError, match="its figures would mean nothing"):
            LmEval(task="places", include_path=folder, **some).measure(tiny.model(architecture))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "missing required field `task`"),
        ({"task": ""}, "length >= 1"),
        ({"task": "t", "limit": 0}, ">= 1"),
        ({"task": "t", "num_fewshot": -1}, ">= 0"),
        ({"task": "t", "overlong": "drop"}, "'drop'"),
        ({"task": "t", "runner_args": {"a": 1}}, "need a runner"),
        ({"task": "t", "served": True}, "need a runner"),
        ({"task": "t", "runner": "hf", "runner_args": {"pretrained": "x"}}, "write served: true"),
        (
            {"task": "t", "runner": "hf", "runner_args": {"pretrained": "{model}"}, "served": True},
            "a release of its own, but runner_args name {model}",
        ),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(options, LmEval)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "place"}, r"lm-eval knows no task 'place'\. Did you mean 'places'"),
        ({"task": "xyz"}, r"no task 'xyz'\. The directory has apart, both, broken, chosen, facts"),
        *(
            ({"task": name}, f"'{name[-5:]}' is defined inside lm-eval's group 'outer' and cannot")
            for name in ("inner", "outer::inner")
        ),
        ({"task": "inmost"}, r"'inmost' is defined .*: write 'outer', or give 'inmost' a file of"),
        ({"task": "broken"}, "task 'broken' could not be loaded by lm-eval: "),
        (
            {"task": "places", "metric": "f1"},
            "task 'places' has no metric 'f1'; it has acc, acc_norm",
        ),
        ({"task": "said", "metric": "exact_match,no"}, "no filter 'no'; it has whole, letter"),
        ({"task": "mixed"}, "no metric is common to all of places, said: ask them apart"),
        ({"task": "texts", "num_fewshot": 2}, "task 'texts' takes no examples"),
        ({"task": "zero", "num_fewshot": 1}, "task 'zero' takes no examples"),
        ({"task": "unsafe"}, "task 'unsafe' runs code that the model writes"),
        ({"task": "pictures"}, "task 'pictures' shows pictures"),
        ({"task": "places", "include_path": "nowhere"}, "there is no directory 'nowhere'"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused(
    folder: str,
    model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    words: str,
) -> None:
    class Few(TaskManager):  # type: ignore[misc]  # lm-eval has no types
        """Without the thousands that come with lm-eval, whose names take seconds to read."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options | {"include_defaults": False})

    monkeypatch.setattr(harness_tasks, "TaskManager", Few)
    with pytest.raises(MeasurementError, match=words):
        LmEval(**{"include_path": folder} | options).measure(model)


@pytest.mark.parametrize(
    ("name", "own", "words"),
    [
        ("winogrand", ["winogrande_mine"], "Did you mean 'winogrande_mine'"),
        ("winogrand", ["places"], "Did you mean 'winogrande'"),
        ("qqqqqqqq", [], "listed by: lm-eval ls tasks"),
        ("qqqqqqqq", ["b", "a"], "The directory has a, b."),
    ],
)
def test_names_of_the_user_s_directory_are_meant_first(
    name: str, own: list[str], words: str
) -> None:
    class Known:
        all_groups: tuple[str, ...] = ()
        all_tasks = ("winogrande", *own)

    assert words in unknown(name, Known(), own)


def test_metrics_that_give_a_document_no_score_are_refused(
    tmp_path: Path, model: LanguageModel
) -> None:
    listed = [
        {"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False},
        {"metric": "f1", "aggregation": "f1", "higher_is_better": True},
    ]
    written(tmp_path, "odd", PLACES, MULTIPLE, metric_list=listed)
    for metric, words in (
        ("brier_score", "a lower 'brier_score' is better"),
        ("f1", r"'f1' gives a document \(.*, and no score from 0 to 1"),
    ):
        with pytest.raises(MeasurementError, match=words):
            LmEval(task="odd", include_path=str(tmp_path), metric=metric).measure(model)


def test_without_the_hub_one_sentence_says_so(
    tmp_path: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(**_options: Any) -> None:
        message = "Couldn't reach 'someone/facts' on the Hub (OfflineModeIsEnabled)"
        raise ConnectionError(message)

    monkeypatch.setattr("datasets.load_dataset", offline)
    written(tmp_path, "away", PLACES, MULTIPLE, dataset_path="someone/facts")
    with pytest.raises(MeasurementError, match="could not be fetched from the hub nor found"):
        LmEval(task="away", include_path=str(tmp_path)).measure(model)


def test_a_task_of_the_package_is_found_by_name(
    folder: str, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = TaskManager(include_path=folder, include_defaults=False)
    monkeypatch.setattr(harness_tasks, "packaged", lambda: manager)
    assert LmEval(task="places").measure(model).metric == "acc_norm"


def test_without_lm_eval_the_message_says_what_to_install(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pytest_compression.scoring.harness", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(MeasurementError, match=r"pip install 'pytest-compression\[lm-eval\]'"):
        LmEval(task="places").measure(model)


def test_importing_the_benchmark_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import pytest_compression.benchmarks.lm_eval\n"
        "print({'torch', 'transformers', 'lm_eval', 'datasets', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
