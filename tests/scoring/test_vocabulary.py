from typing import Any

import msgspec
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.scoring import cloze
from pytest_compression.scoring.cloze import MULTI_TOKEN, NOT_LAST
from pytest_compression.scoring.tokens import Encoded
from pytest_compression.scoring.vocabulary import OUTSIDE, Metric, guessing, measure, stand
from pytest_compression.types import Question

ARCHITECTURES = ["albert", "bart", "bert", "gpt2", "llama", "roberta", "t5"]
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_family = pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
OPEN: tuple[Metric, ...] = ("P@1", "P@k", "MRR")
open_metrics = pytest.mark.parametrize("metric", OPEN)
WORDS = ("Accra", "Paris", "Tokyo", "Lima", "New", "capital", "New Town", "Conakry")


def questions() -> list[Question]:
    """Those of the capitals, one candidate each, in two relations."""
    return [
        msgspec.structs.replace(
            asked, candidates=(asked.answer,), cluster="few" if asked.answer == "Lima" else "many"
        )
        for asked in tiny.questions()
    ]


@torch.inference_mode()
def distribution(model: LanguageModel, item: Encoded) -> torch.Tensor:
    """What plain transformers says of the first token of an answer."""
    module: Any = model.module
    if model.family == "causal":
        logits = module(torch.tensor([item.before])).logits[0, -1]
    elif model.family == "masked":
        ids = (*item.before, model.tokenizer.mask_token_id, *item.after)
        logits = module(torch.tensor([ids])).logits[0, len(item.before)]
    else:
        start = module.config.decoder_start_token_id
        sentinel = model.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        logits = module(
            input_ids=torch.tensor([item.before]),
            decoder_input_ids=torch.tensor([[start, sentinel]]),
        ).logits[0, -1]
    return torch.log_softmax(logits.double(), -1)


def single_tokens(model: LanguageModel, words: tuple[str, ...]) -> set[int]:
    """Tokens of words that are one, behind a space."""
    found = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    return {tokens[-1] for tokens in found if len(tokens) == 1}


@every_architecture
@pytest.mark.parametrize("words", [(), WORDS])
def test_ranks_are_those_of_sorting_what_transformers_computes(
    architecture: str, words: tuple[str, ...]
) -> None:
    model = tiny.model(architecture)
    encoded, _, _ = cloze.prepared(model, questions(), "P@1")
    first, third, inverse = (
        measure(model, questions(), metric, k=3, words=words) for metric in OPEN
    )
    inside = single_tokens(model, words) if words else None
    encoded = [i for i in encoded if inside is None or i.answers[i.right][0] in inside]
    assert [q.id for q in first.questions] == [item.question.id for item in encoded]
    for i, item in enumerate(encoded):
        values = distribution(model, item)
        right = item.answers[item.right][0]
        competing = range(len(values)) if inside is None else inside
        others = sorted((float(values[t]) for t in competing if t != right), reverse=True)
        mine = float(values[right])
        rank = 1 + sum(other >= mine for other in others)
        assert inverse.values[i] == pytest.approx(1 / rank)
        assert first.margins[i] == pytest.approx(mine - others[0], abs=1e-4)
        assert third.margins[i] == pytest.approx(mine - others[2], abs=1e-4)
        assert (first.scores[i], third.scores[i]) == (rank == 1, rank <= 3)
        best = max(competing, key=lambda t: float(values[t]))
        assert first.given[i] == third.given[i] == model.tokenizer.decode([best]).strip()


@every_family
def test_p_at_1_over_the_vocabulary_is_that_of_cloze_questions(architecture: str) -> None:
    model = tiny.model(architecture)
    mine, plain = (
        measure(model, questions(), "P@1"),
        cloze.measure(model, questions(), "P@1"),
    )
    assert (mine.margins, mine.given, mine.questions) == (
        plain.margins,
        plain.given,
        plain.questions,
    )
    assert (mine.left_out, mine.tokens, mine.metric) == (plain.left_out, plain.tokens, "P@1")
    assert mine.chance == plain.chance == (0.0,) * 6


@every_family
def test_ranked_is_that_of_cloze_questions_with_figures(architecture: str) -> None:
    model = tiny.model(architecture)
    mine = measure(model, tiny.questions(), "ranked")
    plain = cloze.measure(model, tiny.questions(), "ranked")
    assert msgspec.structs.replace(mine, figures={}) == plain
    assert mine.figures == pytest.approx(
        {
            "ranked": sum(plain.scores) / 9,
            "ranked macro": sum(plain.scores) / 9,
            "majority answer": 1 / 9,
        }
    )


@given(st.data())
def test_a_place_is_one_more_than_how_many_others_are_not_less(data: st.DataObject) -> None:
    columns = data.draw(st.integers(2, 8))
    each = st.one_of(st.sampled_from([-1.0, -2.0]), st.floats(-9, 0, width=32))
    values = data.draw(st.lists(each, min_size=columns, max_size=columns))
    right = data.draw(st.integers(0, columns - 1))
    place = data.draw(st.integers(1, columns - 1))
    (found,) = stand(torch.tensor([values]).double(), torch.tensor([right]), place)
    others = sorted(values[:right] + values[right + 1 :], reverse=True)
    assert found.rank == 1 + sum(other >= values[right] for other in others)
    assert found.margin == values[right] - others[place - 1]
    assert (found.margin > 0) == (found.rank <= place)
    assert values[found.first] == max(values)
    assert (found.first == right) == (found.rank == 1)


def test_as_many_places_as_tokens_are_refused() -> None:
    with pytest.raises(MeasurementError, match="only 3 tokens compete, so every answer"):
        stand(torch.zeros(1, 3), torch.tensor([0]), 3)
    with pytest.raises(MeasurementError, match=r"only \d+ tokens compete.*smaller k"):
        measure(tiny.model("bert"), questions(), "P@k", k=40, words=WORDS)


@every_family
def test_figures_are_means_over_questions_and_over_relations(architecture: str) -> None:
    model = tiny.model(architecture)
    found = measure(model, questions(), "MRR", k=100)
    few = [v for v, q in zip(found.values, found.questions, strict=True) if q.cluster == "few"]
    many = [v for v, q in zip(found.values, found.questions, strict=True) if q.cluster == "many"]
    assert len(few) == 1
    assert found.figures["MRR"] == pytest.approx(sum(found.values) / 6)
    assert found.figures["MRR macro"] == pytest.approx((few[0] + sum(many) / 5) / 2)
    assert found.figures["P@1"] == sum(value == 1 for value in found.values) / 6
    assert found.figures["P@100"] == pytest.approx(sum(v >= 1 / 100 for v in found.values) / 6)
    assert found.figures["majority answer"] == pytest.approx(2 / 6)
    assert found.figures["P@1"] <= found.figures["MRR"] <= 1
    scores = [sum(measure(model, questions(), "P@k", k=k).scores) for k in (1, 2, 20, 300)]
    assert scores == sorted(scores)


@every_family
def test_answers_outside_a_common_vocabulary_are_counted(architecture: str) -> None:
    model = tiny.model(architecture)
    found = measure(model, questions(), "P@1", words=("Accra", "Paris", "New Town", "Tokyo"))
    assert {question.answer for question in found.questions} == {"Accra", "Paris", "Tokyo"}
    assert found.left_out == {MULTI_TOKEN: 3, OUTSIDE: 3}
    assert found.figures["common words of several tokens"] == 1
    assert set(found.given) <= {"accra", "paris", "tokyo", "Accra", "Paris", "Tokyo"}
    assert found.chance == pytest.approx([1 / 3] * 3)


def test_a_vocabulary_without_any_answer_is_an_error() -> None:
    with pytest.raises(MeasurementError, match=r"no answer is in the common vocabulary.*6 tried"):
        measure(tiny.model("bert"), questions(), "P@1", words=("capital", "of"))


@pytest.mark.parametrize(("metric", "k"), [("P@1", 1), ("P@k", 3), ("MRR", 1)])
def test_guessing_gets_the_mean_over_all_places(metric: Metric, k: int) -> None:
    scores = {
        "P@1": lambda rank: rank == 1,
        "P@k": lambda rank: rank <= k,
        "MRR": lambda rank: 1 / rank,
    }
    for size in (3, 7):
        mean = sum(map(scores[metric], range(1, size + 1))) / size
        assert guessing(metric, size, k) == pytest.approx(mean)


def test_a_causal_model_is_asked_where_the_blank_is_last_only() -> None:
    model = tiny.model("llama")
    first, *others = questions()
    inside = msgspec.structs.replace(first, end=" is the capital.")
    found = measure(model, [inside, *others], "MRR")
    assert found.left_out == {MULTI_TOKEN: 3, NOT_LAST: 1}
    assert first.id not in {question.id for question in found.questions}
    with pytest.raises(MeasurementError, match=r"no question can be asked.*blank.*\(1\)"):
        measure(model, [inside], "MRR")


@every_family
@open_metrics
@pytest.mark.parametrize("words", [(), WORDS])
def test_parts_together_are_the_whole(
    architecture: str, metric: Metric, words: tuple[str, ...]
) -> None:
    model = tiny.model(architecture)
    whole = measure(model, questions(), metric, k=2, words=words)
    ids = [question.id for question in whole.questions]
    for start in (0, 1):
        part = measure(model, questions(), metric, k=2, words=words, ids=ids[start::2])
        assert part.questions == whole.questions[start::2]
        assert part.scores == whole.scores[start::2]
        assert part.margins == pytest.approx(whole.margins[start::2], abs=1e-4)
        assert part.chance == whole.chance[start::2]
        assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    with pytest.raises(ValueError, match="no question 'capital:Atlantis'"):
        measure(model, questions(), metric, ids=["capital:Atlantis"])
    nothing = measure(model, questions(), metric, ids=[])
    assert (nothing.questions, nothing.scores, nothing.figures) == ((), (), {})


@every_family
def test_the_fingerprint_of_scoring_knows_what_decides_a_score(architecture: str) -> None:
    model = tiny.model(architecture)
    ways: list[dict[str, Any]] = [
        {"metric": "P@1"},
        {"metric": "P@k", "k": 2},
        {"metric": "P@k", "k": 3},
        {"metric": "MRR"},
        {"metric": "MRR", "words": WORDS},
        {"metric": "MRR", "words": WORDS[:-1]},
    ]
    found = {measure(model, questions(), **way).scoring for way in ways}
    assert len(found) == len(ways)
    backwards = measure(model, questions()[::-1], "MRR", words=WORDS)
    model.compress([RoundToNearest(bits=2)])
    compressed = measure(model, questions(), "MRR", words=WORDS)
    assert compressed.scoring == backwards.scoring
    assert compressed.values != backwards.values


def test_progress_is_told() -> None:
    model = tiny.model("t5")
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    measure(model, questions(), "MRR")
    assert told[-1] == (6, 6)
    assert told == sorted(told)
