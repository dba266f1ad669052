from typing import Any

import msgspec
import pytest
import tiny
import torch

from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.scoring.cloze import MULTI_TOKEN, Metric, measure, prepared
from pytest_compression.types import Question

CLOSE = 1e-5
TYPICAL = sorted(tiny.TYPICAL.values())
every_family = pytest.mark.parametrize("architecture", TYPICAL)
METRICS: tuple[Metric, ...] = ("ranked", "P@1")
both_metrics = pytest.mark.parametrize("metric", METRICS)


@torch.inference_mode()
def masked_score(model: LanguageModel, asked: Question, candidate: str) -> float:
    """The plain way: as many masks as tokens, and the sum at their places."""
    tokenizer, module = model.tokenizer, model.module
    tokens = tokenizer(f" {candidate}", add_special_tokens=False)["input_ids"]
    blank = " ".join([tokenizer.mask_token] * len(tokens))
    ids = torch.tensor([tokenizer(f"{asked.stem} {blank}{asked.end}")["input_ids"]])
    values = module(input_ids=ids).logits[0].double().log_softmax(-1)
    places = (ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    return sum(float(values[place, token]) for place, token in zip(places, tokens, strict=True))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_masked_margins_are_those_of_scoring_every_candidate_plainly(architecture: str) -> None:
    model = tiny.model(architecture)
    measured = measure(model, tiny.questions(), "ranked")
    for asked, margin, given in zip(
        measured.questions, measured.margins, measured.given, strict=True
    ):
        scores = {c: masked_score(model, asked, c) for c in asked.candidates}
        others = {c: score for c, score in scores.items() if c != asked.answer}
        assert margin == pytest.approx(scores[asked.answer] - max(others.values()), abs=1e-4)
        assert given == max(scores, key=scores.__getitem__)


@every_family
@torch.inference_mode()
def test_p_at_1_is_the_lead_over_the_whole_vocabulary(architecture: str) -> None:
    model = tiny.model(architecture)
    module: Any = model.module
    measured = measure(model, tiny.questions(), "P@1")
    encoded, left_out, _ = prepared(model, tiny.questions(), "P@1")
    assert measured.open_vocabulary
    assert left_out == measured.left_out == {MULTI_TOKEN: 3}
    assert measured.chance == (0.0,) * 6
    for item, margin, given in zip(encoded, measured.margins, measured.given, strict=True):
        if model.family == "causal":
            logits = module(torch.tensor([item.before])).logits[0, -1]
        elif model.family == "masked":
            mask = model.tokenizer.mask_token_id
            ids = torch.tensor([(*item.before, mask, *item.after)])
            logits = module(ids).logits[0, len(item.before)]
        else:
            sentinel = model.tokenizer.convert_tokens_to_ids("<extra_id_0>")
            logits = module(
                input_ids=torch.tensor([item.before]),
                decoder_input_ids=torch.tensor([[0, sentinel]]),
            ).logits[0, -1]
        (right,) = item.answers[item.right]
        others = logits.clone()
        others[right] = -torch.inf
        assert margin == pytest.approx(float(logits[right] - others.max()), abs=1e-4)
        winner = right if margin > 0 else int(others.argmax())
        assert given == model.tokenizer.decode([winner]).strip()


@every_family
def test_the_answer_that_leads_scores_and_the_others_do_not(architecture: str) -> None:
    model = tiny.model(architecture)
    measured = measure(model, tiny.questions(), "ranked")
    right = tuple(
        int(given == asked.answer)
        for given, asked in zip(measured.given, measured.questions, strict=True)
    )
    assert measured.scores == right
    assert measured.chance == (1 / 9,) * 9
    assert measured.metric == "ranked"


@every_family
@both_metrics
def test_the_order_of_questions_changes_nothing(architecture: str, metric: Any) -> None:
    forwards = measure(tiny.model(architecture), tiny.questions(), metric)
    backwards = measure(tiny.model(architecture), tiny.questions()[::-1], metric)
    assert forwards == backwards
    ids = [asked.id for asked in forwards.questions]
    assert ids == sorted(ids)


@every_family
@both_metrics
def test_a_question_alone_scores_as_among_others(architecture: str, metric: Any) -> None:
    model = tiny.model(architecture)
    measured = measure(model, tiny.questions(), metric)
    for asked, margin in zip(measured.questions, measured.margins, strict=True):
        assert measure(model, [asked], metric).margins == pytest.approx((margin,), abs=2 * CLOSE)


@every_family
@both_metrics
def test_measuring_twice_gives_identical_figures(architecture: str, metric: Any) -> None:
    model = tiny.model(architecture)
    assert measure(model, tiny.questions(), metric) == measure(model, tiny.questions(), metric)
    assert measure(tiny.model(architecture), tiny.questions(), metric) == measure(
        model, tiny.questions(), metric
    )


@every_family
def test_compression_moves_margins_but_not_the_fingerprint_of_scoring(architecture: str) -> None:
    model = tiny.model(architecture)
    dense = measure(model, tiny.questions(), "ranked")
    model.compress([RoundToNearest(bits=2)])
    compressed = measure(model, tiny.questions(), "ranked")
    assert compressed.scoring == dense.scoring
    assert compressed.margins != dense.margins
    assert model.restore()
    assert measure(model, tiny.questions(), "ranked") == dense


def test_the_fingerprint_of_scoring_knows_metric_family_and_tokens() -> None:
    found = {
        measure(tiny.model(architecture), tiny.questions(), metric).scoring
        for architecture in TYPICAL
        for metric in METRICS
    }
    shorter = measure(tiny.model("llama"), tiny.questions()[1:], "ranked").scoring
    assert len(found | {shorter}) == 7


@every_family
@both_metrics
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_model_that_computes_nonsense_is_an_error(
    architecture: str, metric: Any, bad: float
) -> None:
    model = tiny.model(architecture)
    model.weights("all")[-1].values[0, 0] = bad
    with pytest.raises(MeasurementError, match="NaN or infinite logits"):
        measure(model, tiny.questions(), metric)


@pytest.mark.parametrize("architecture", ["bert", "t5"])
@both_metrics
def test_questions_that_cannot_be_asked_are_left_out_and_counted(
    architecture: str, metric: Any
) -> None:
    model = tiny.model(architecture)
    first, *others = tiny.questions()
    strange = msgspec.structs.replace(first, id="capital:Ж", stem="The capital of Ж is")
    with_it = measure(model, [first, strange, *others], metric)
    without = measure(model, [first, *others], metric)
    assert with_it.questions == without.questions
    assert with_it.margins == without.margins
    assert sum(with_it.left_out.values()) == sum(without.left_out.values()) + 1


def test_candidates_of_equal_tokens_are_left_out_and_counted() -> None:
    asked = [
        msgspec.structs.replace(q, candidates=(*q.candidates, "ACCRA")) for q in tiny.questions()
    ]
    measured = measure(tiny.model("bert"), asked, "ranked")
    assert measured.left_out == {"another candidate has the same tokens": 1}
    assert "capital:Ghana" not in {q.id for q in measured.questions}


@every_family
def test_p_at_1_without_answers_of_one_token_is_an_error(architecture: str) -> None:
    asked = [q for q in tiny.questions() if q.answer == "New Tokyo"]
    with pytest.raises(MeasurementError, match="no answer is a single token"):
        measure(tiny.model(architecture), asked, "P@1")


def test_no_questions_at_all_are_an_error() -> None:
    with pytest.raises(MeasurementError, match="no question can be asked"):
        measure(tiny.model("llama"), [], "ranked")


# Forward tokens.


@every_family
@both_metrics
def test_every_token_that_the_model_is_given_is_counted(
    architecture: str, metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(architecture)
    given: list[int] = []
    plain = torch.nn.Embedding.forward
    words: Any = model.module.get_input_embeddings()  # type: ignore[operator]

    def counted(self: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if self.weight is words.weight:  # not of positions; T5's encoder and decoder share it
            given.append(ids.numel())
        return plain(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", counted)
    assert measure(model, tiny.questions(), metric).tokens == sum(given) > 0
    assert model.tokens_run == sum(given)


def test_tokens_of_single_answers_are_those_of_the_prompts() -> None:
    for architecture, masks_or_start in {"llama": 0, "bert": 1, "t5": 2}.items():
        model = tiny.model(architecture)
        encoded, _, _ = prepared(model, tiny.questions(), "P@1")
        prompts = sum(len(item.before) + len(item.after) + masks_or_start for item in encoded)
        assert measure(model, tiny.questions(), "P@1").tokens == prompts


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_tokens_of_masked_models_are_each_prompt_with_each_number_of_masks(
    architecture: str,
) -> None:
    model = tiny.model(architecture)
    encoded, _, _ = prepared(model, tiny.questions(), "ranked")
    expected = sum(
        len(item.before) + masks + len(item.after)
        for item in encoded
        for masks in {len(tokens) for tokens in item.answers}
    )
    assert measure(model, tiny.questions(), "ranked").tokens == expected


# A part of the questions.


@pytest.mark.parametrize("architecture", [*TYPICAL, "gpt2", "roberta", "bart"])
@both_metrics
def test_parts_together_are_the_whole(architecture: str, metric: Any) -> None:
    model = tiny.model(architecture)
    whole = measure(model, tiny.questions(), metric)
    ids = [question.id for question in whole.questions]
    parts = [measure(model, tiny.questions(), metric, chosen) for chosen in (ids[::2], ids[1::2])]
    for part, start in zip(parts, (0, 1), strict=True):
        assert part.questions == whole.questions[start::2]
        assert part.margins == pytest.approx(whole.margins[start::2], abs=2 * CLOSE)
        assert part.given == whole.given[start::2]
        assert part.scores == whole.scores[start::2]
        assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
        assert (part.metric, part.open_vocabulary) == (whole.metric, whole.open_vocabulary)
    assert sum(part.tokens for part in parts) == whole.tokens


@every_family
def test_all_ids_in_any_order_are_the_whole(architecture: str) -> None:
    model = tiny.model(architecture)
    ids = {question.id for question in tiny.questions()}
    whole = measure(model, tiny.questions(), "ranked")
    assert measure(model, tiny.questions(), "ranked", sorted(ids, reverse=True)) == whole
    assert measure(model, tiny.questions(), "ranked", ids) == whole


@every_family
@both_metrics
def test_no_ids_ask_nothing(architecture: str, metric: Any) -> None:
    found = measure(tiny.model(architecture), tiny.questions(), metric, [])
    assert (found.questions, found.margins, found.given, found.tokens) == ((), (), (), 0)


def test_a_part_is_not_tokenized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    measure(model, tiny.questions(), "ranked")
    monkeypatch.setattr(model, "tokenizer", None)
    assert len(measure(model, tiny.questions(), "ranked", ["capital:Chad"]).questions) == 1


def test_a_question_that_is_left_out_is_not_asked_in_part_either() -> None:
    model = tiny.model("llama")
    found = measure(model, tiny.questions(), "P@1", ["capital:Chad", "capital:Ghana"])
    assert [question.id for question in found.questions] == ["capital:Ghana"]
    assert found.left_out == {MULTI_TOKEN: 3}


def test_ids_that_there_are_not_are_refused() -> None:
    model = tiny.model("llama")
    with pytest.raises(ValueError, match=r"no question 'capital:Atlantis' \(1 of 2 ids\)"):
        measure(model, tiny.questions(), "ranked", ["capital:Ghana", "capital:Atlantis"])
