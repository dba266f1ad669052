from typing import Any

import msgspec
import paired
import pytest
import tiny
import torch

from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.scoring.cloze import (
    ALONE,
    MULTI_TOKEN,
    NOT_LAST,
    TOO_LONG,
    Metric,
    context,
    measure,
    prepared,
)
from pytest_compression.scoring.tokens import Encoder
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


# Words behind the blank.


def in_mid_sentence() -> list[Question]:
    return [
        msgspec.structs.replace(asked, stem="The city of", end=f" is in {asked.subject}.")
        for asked in tiny.questions()
    ]


@torch.inference_mode()
def likelihood(model: LanguageModel, before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """The log-probability of tokens after others."""
    module: Any = model.module
    values = module(torch.tensor([before + after])).logits[0].double().log_softmax(-1)
    return sum(float(values[len(before) + i - 1, token]) for i, token in enumerate(after))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_causal_models_rank_whole_sentences_where_words_follow(architecture: str) -> None:
    model = tiny.model(architecture)
    measured = measure(model, in_mid_sentence(), "ranked")
    assert len(measured.questions) == 9
    for asked, margin, given in zip(
        measured.questions, measured.margins, measured.given, strict=True
    ):
        stem = tuple(model.tokenizer(asked.stem)["input_ids"])
        scores = {}
        for candidate in asked.candidates:
            whole = tuple(model.tokenizer(f"{asked.stem} {candidate}{asked.end}")["input_ids"])
            assert whole[: len(stem)] == stem
            scores[candidate] = likelihood(model, stem, whole[len(stem) :])
        others = [score for c, score in scores.items() if c != asked.answer]
        assert margin == pytest.approx(scores[asked.answer] - max(others), abs=1e-3)
        assert given == max(scores, key=scores.__getitem__)


@every_family
def test_sentences_of_both_kinds_are_scored_as_they_are_alone(architecture: str) -> None:
    model = tiny.model(architecture)
    there, last = in_mid_sentence()[::2], tiny.questions()[1::2]
    mixed = measure(model, [*there, *last], "ranked")
    alone = {
        q.id: (margin, given)
        for part in (there, last)
        for found in [measure(model, part, "ranked")]
        for q, margin, given in zip(found.questions, found.margins, found.given, strict=True)
    }
    assert len(mixed.questions) == 9
    for q, margin, given in zip(mixed.questions, mixed.margins, mixed.given, strict=True):
        assert margin == pytest.approx(alone[q.id][0], abs=2 * CLOSE)
        assert given == alone[q.id][1]


def test_many_candidates_are_asked_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(tiny.model("llama"), in_mid_sentence(), "ranked")
    monkeypatch.setattr("pytest_compression.scoring.cloze.TOGETHER", 20)
    model = tiny.model("llama")
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    sliced = measure(model, in_mid_sentence(), "ranked")
    assert sliced.margins == pytest.approx(whole.margins, abs=2 * CLOSE)
    assert (sliced.given, sliced.scoring) == (whole.given, whole.scoring)
    assert told == [(3, 9), (6, 9), (9, 9)]


def test_a_causal_model_names_no_token_before_other_words() -> None:
    model = tiny.model("llama")
    first, *others = tiny.questions()
    inside = msgspec.structs.replace(first, end=" is the capital.")
    found = measure(model, [inside, *others], "P@1")
    assert found.left_out == {MULTI_TOKEN: 3, NOT_LAST: 1}
    assert first.id not in {question.id for question in found.questions}


@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_a_candidate_without_any_that_can_be_said_beside_it_is_left_out(architecture: str) -> None:
    asked = [msgspec.structs.replace(q, candidates=(q.answer, "Ж")) for q in tiny.questions()]
    with pytest.raises(MeasurementError, match=rf"no question can be asked.*{ALONE} \(9\)"):
        measure(tiny.model(architecture), asked, "ranked")


@every_family
def test_chance_is_among_the_candidates_that_can_be_said(architecture: str) -> None:
    model = tiny.model(architecture)
    plain = measure(model, tiny.questions(), "ranked")
    assert plain.expected == ()
    first, *others = tiny.questions()
    wider = msgspec.structs.replace(first, candidates=(*first.candidates, "Ж", "Ж Ж"))
    found = measure(model, [wider, *others], "ranked")
    encoded, _, _ = prepared(model, [wider, *others], "ranked")
    said = [len(set(item.answers) - {()}) for item in encoded]
    assert found.chance == tuple(1 / count for count in said)
    at = [question.id for question in found.questions].index(first.id)
    assert (said[at] < len(wider.candidates)) == (architecture != "llama")  # which knows all bytes
    part = measure(model, [wider, *others], "ranked", [first.id])
    assert part.chance == (1 / said[at],)


# The model's context.


@pytest.mark.parametrize(("architecture", "room"), [("bert", 64), ("roberta", 63), ("llama", 64)])
@both_metrics
def test_what_the_model_has_no_positions_for_is_left_out(
    architecture: str, room: int, metric: Any
) -> None:
    model = tiny.model(architecture)
    assert context(model) == room
    first, second, *others = tiny.questions()
    encoder = Encoder(model.tokenizer, model.family)
    longest = 1 if metric == "P@1" else max(map(len, encoder.encode([first])[0].answers))

    def filled_up(asked: Question, tokens: int) -> Question:
        for times in range(1, 80):
            made = msgspec.structs.replace(asked, stem="New " * times + asked.stem)
            (found,) = encoder.encode([made])
            if len(found.before) + longest + len(found.after) == tokens:
                return made
        raise AssertionError

    fits, exceeds = filled_up(first, room), filled_up(second, room + 1)
    found = measure(model, [fits, exceeds, *others], metric)
    assert found.left_out[TOO_LONG] == 1
    ids = {question.id for question in found.questions}
    assert fits.id in ids
    assert exceeds.id not in ids


def test_relative_positions_have_no_end() -> None:
    assert context(tiny.model("t5")) is None


# Two segments.


def apart() -> list[Question]:
    """Some in two segments, some in one."""
    found = tiny.questions()
    for i, asked in enumerate(found):
        if i % 3:
            side = {"before" if i % 2 else "behind": "Accra is the capital of Ghana."}
            found[i] = msgspec.structs.replace(asked, **side)
    return found


@pytest.mark.parametrize("architecture", ["bert", "albert", "distilbert"])
@torch.inference_mode()
def test_segments_are_told_apart_where_the_model_knows_them(architecture: str) -> None:
    model = tiny.model(architecture)
    model.tokenizer = paired.tokenizer()
    module: Any = model.module
    measured = measure(model, apart(), "ranked")
    assert len(measured.questions) == 9
    for asked, margin in zip(measured.questions, measured.margins, strict=True):
        scores = {}
        for candidate in asked.candidates:
            tokens = model.tokenizer(f" {candidate}", add_special_tokens=False)["input_ids"]
            blank = " ".join(["[MASK]"] * len(tokens))
            texts = (asked.before, f"{asked.stem} {blank}{asked.end}", asked.behind)
            given = model.tokenizer(*filter(None, texts), return_tensors="pt")
            if architecture == "distilbert":
                del given["token_type_ids"]
            values = module(**given).logits[0].double().log_softmax(-1)
            places = (given["input_ids"][0] == 4).nonzero().flatten().tolist()
            scores[candidate] = sum(
                float(values[place, token]) for place, token in zip(places, tokens, strict=True)
            )
        others = [score for c, score in scores.items() if c != asked.answer]
        assert margin == pytest.approx(scores[asked.answer] - max(others), abs=1e-4)


def test_token_types_decide_scores_and_are_in_their_fingerprint() -> None:
    typed, plain = tiny.model("bert"), tiny.model("bert")
    typed.tokenizer = paired.tokenizer()
    plain.tokenizer = paired.tokenizer(types=False)
    one, other = measure(typed, apart(), "P@1"), measure(plain, apart(), "P@1")
    assert one.tokens == other.tokens
    assert one.scoring != other.scoring
    assert one.margins != pytest.approx(other.margins, abs=1e-3)
    single = tiny.model("bert", type_vocab_size=1)
    single.tokenizer = typed.tokenizer
    assert len(measure(single, apart(), "P@1").questions) == 6
