import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.scoring import statements
from pytest_compression.scoring.rows import Rows
from pytest_compression.scoring.spelling import Blank, Line, Pll, Speller, around
from pytest_compression.scoring.statements import (
    branching,
    chunks,
    hidden,
    later_in_word,
    measure,
    outcome,
    parted,
    prepared,
    totals_of,
)
from pytest_compression.types import Question

CLOSE = 1e-4
TYPICAL = sorted(tiny.TYPICAL.values())
every_family = pytest.mark.parametrize("architecture", TYPICAL)
VARIANTS: tuple[Pll, ...] = ("original", "within_word_l2r")
TEMPLATES = ("The capital of [X] is [Y].", "[Y] is the capital of [X].")
every_template = pytest.mark.parametrize("template", TEMPLATES)


def blank(template: str, country: str, *, capitalized: bool = False) -> Blank:
    before, after = around(template, country, "here")
    question = Question(
        id=f"capital:{country}",
        subject=country,
        stem=before.rstrip(),
        end=after,
        answer=tiny.CAPITALS[country],
        candidates=tuple(sorted(tiny.CAPITALS.values())),
        cluster="capital",
    )
    return Blank(question=question, before=before, after=after, capitalized=capitalized)


def blanks(template: str = TEMPLATES[0]) -> list[Blank]:
    return [blank(template, country) for country in tiny.CAPITALS]


def sums(model: LanguageModel, asked: Blank, pll: Pll) -> list[float]:
    return totals_of(model, Speller(model, pll).lines(asked), pll)


@torch.inference_mode()
def causal_sum(model: LanguageModel, text: str) -> float:
    """The plain way: the whole statement behind the begin mark."""
    ids = model.tokenizer(text)["input_ids"]
    if ids[0] != model.tokenizer.bos_token_id:
        ids = [model.tokenizer.bos_token_id, *ids]
    values = model.module(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(values[place, token]) for place, token in enumerate(ids[1:]))


@torch.inference_mode()
def masked_sum(model: LanguageModel, text: str, pll: Pll) -> float:
    """The plain way: one pass a token, with it and perhaps the rest of its word hidden."""
    encoding = model.tokenizer(text)
    ids, words = encoding["input_ids"], encoding.word_ids()
    places = range(1, len(ids) - 1)
    rows = torch.tensor([ids for _ in places])
    for row, place in zip(rows, places, strict=True):
        for later in range(place, len(ids)):
            if later == place or (pll == "within_word_l2r" and words[later] == words[place]):
                row[later] = model.tokenizer.mask_token_id
    values = model.module(input_ids=rows).logits.double().log_softmax(-1)
    return sum(float(values[row, place, ids[place]]) for row, place in enumerate(places))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "gpt_neox"])
@every_template
def test_a_causal_model_sums_the_whole_statement(architecture: str, template: str) -> None:
    model, asked = tiny.model(architecture), blank(template, "Chad")
    plain = [causal_sum(model, asked.filled(option)) for option in asked.question.candidates]
    assert sums(model, asked, "original") == pytest.approx(plain, abs=CLOSE)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("pll", VARIANTS)
@every_template
def test_a_masked_model_sums_one_pass_a_token(architecture: str, pll: Pll, template: str) -> None:
    model, asked = tiny.model(architecture), blank(template, "Fiji")
    plain = [masked_sum(model, asked.filled(option), pll) for option in asked.question.candidates]
    assert sums(model, asked, pll) == pytest.approx(plain, abs=CLOSE)


def test_the_variants_differ_where_words_have_several_tokens() -> None:
    model, asked = tiny.model("bert"), blank(TEMPLATES[0], "Chad")
    one, other = (sums(model, asked, pll) for pll in VARIANTS)
    assert one != pytest.approx(other, abs=0.01)


@every_template
@torch.inference_mode()
def test_a_seq2seq_model_is_asked_for_the_option_and_its_end(template: str) -> None:
    model, asked = tiny.model("t5"), blank(template, "Iran")
    tokenizer, module = model.tokenizer, model.module
    text = asked.filled("<extra_id_0>")
    plain = []
    for option in asked.question.candidates:
        answer = tokenizer(f"<extra_id_0> {option}<extra_id_1>", add_special_tokens=False)
        decoder = [0, *answer["input_ids"]]
        logits = module(
            input_ids=torch.tensor([tokenizer(text)["input_ids"]]),
            decoder_input_ids=torch.tensor([decoder]),
        ).logits[0]
        values = logits.double().log_softmax(-1)
        scored = list(enumerate(decoder[1:]))[1:]  # not the opening sentinel
        plain.append(sum(float(values[place, token]) for place, token in scored))
    assert sums(model, asked, "original") == pytest.approx(plain, abs=CLOSE)


@pytest.mark.parametrize("architecture", ["bart", "marian"])
def test_a_seq2seq_model_without_sentinels_is_refused(architecture: str) -> None:
    model = tiny.model(architecture)
    model.tokenizer = tiny.tokenizer("causal")
    with pytest.raises(MeasurementError, match="no sentinel <extra_id_0>"):
        measure(model, blanks())


class Renamed:
    """A tokenizer with some attributes replaced."""

    def __init__(self, tokenizer: Any, **changed: Any) -> None:
        self.tokenizer = tokenizer
        self.__dict__ |= changed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.tokenizer(*arguments, **options)


class Unmarked(Renamed):
    """A tokenizer that puts nothing around a text, as GPT-2's."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.tokenizer(*arguments, **options | {"add_special_tokens": False})


def test_a_begin_mark_is_put_where_the_tokenizer_puts_none() -> None:
    asked, model = blank(TEMPLATES[1], "Chad"), tiny.model("llama")
    usual = sums(model, asked, "original")
    model.tokenizer = Unmarked(tiny.tokenizer("causal"))
    assert sums(model, asked, "original") == pytest.approx(usual, abs=CLOSE)


def test_without_a_begin_mark_the_end_mark_stands_there() -> None:
    asked, model = blank(TEMPLATES[1], "Chad"), tiny.model("llama")
    model.tokenizer = Unmarked(tiny.tokenizer("causal"), bos_token_id=None)
    ends = {line.before for line in Speller(model, "original").lines(asked)}
    assert ends == {(model.tokenizer.eos_token_id,)}


def test_a_causal_tokenizer_without_marks_is_refused() -> None:
    model = tiny.model("llama")
    model.tokenizer = Unmarked(tiny.tokenizer("causal"), bos_token_id=None, eos_token_id=None)
    with pytest.raises(MeasurementError, match="neither a begin nor an end mark"):
        measure(model, blanks())


def test_words_need_a_tokenizer_that_tells_them() -> None:
    model = tiny.model("bert")
    model.tokenizer = Renamed(tiny.tokenizer("masked"), is_fast=False)
    with pytest.raises(MeasurementError, match="ask with pll: original"):
        measure(model, blanks())
    assert measure(model, blanks(), pll="original").questions


@every_family
@every_template
def test_the_option_whose_statement_is_most_probable_is_given(
    architecture: str, template: str
) -> None:
    model = tiny.model(architecture)
    measured = measure(model, blanks(template))
    assert measured.metric == "ranked"
    assert [q.id for q in measured.questions] == sorted(q.id for q in measured.questions)
    for question, margin, answer in zip(
        measured.questions, measured.margins, measured.given, strict=True
    ):
        totals = sums(model, blank(template, question.subject), "within_word_l2r")
        of = dict(zip(question.candidates, totals, strict=True))
        assert answer == max(of, key=of.__getitem__)
        best = max(total for option, total in of.items() if option != question.answer)
        assert margin == pytest.approx(of[question.answer] - best, abs=CLOSE)


def mixed(count: int, draw: random.Random) -> tuple[str, ...]:
    """Options of one to three words; some begin others."""
    words = ["New", "Town", "North", "Lima", "Paris", "Accra", "Tokyo"]
    return tuple({" ".join(draw.choices(words, k=draw.randint(1, 3))): 0 for _ in range(count)})


@pytest.mark.parametrize("architecture", sorted(tiny.CAUSAL))
@pytest.mark.parametrize("template", [TEMPLATES[0], "[X] has [Y] for a capital.", "in [X]: [Y]"])
def test_what_is_not_run_would_change_nothing(
    architecture: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, draw = tiny.model(architecture), random.Random(template)  # noqa: S311
    asked = []
    for country in list(tiny.CAPITALS)[:4]:
        plain = blank(template, country)
        candidates = tuple(dict.fromkeys((*mixed(20, draw), plain.question.answer)))
        asked.append(with_candidates(plain, candidates))
    quick = measure(model, asked)
    monkeypatch.setattr(statements, "TOGETHER", 3)
    parts = measure(model, asked)
    monkeypatch.setattr(statements, "branching", lambda _: None)
    whole = measure(model, asked)
    for measured in (quick, parts):
        assert measured.margins == pytest.approx(whole.margins, abs=CLOSE)
        assert (measured.given, measured.scoring) == (whole.given, whole.scoring)
    assert quick.tokens < whole.tokens


def test_every_statement_is_scored_where_the_option_comes_first() -> None:
    first, last = (blank(template, "Chad") for template in reversed(TEMPLATES))
    assert parted([first, last, first], search=True) == {False: [0, 2], True: [1]}
    assert parted([first, last, first], search=False) == {False: [0, 1, 2]}


def test_both_kinds_of_questions_can_be_asked_at_once() -> None:
    model = tiny.model("llama")
    one, other = (blank(template, "Chad") for template in TEMPLATES)
    alone = [measure(model, [asked]) for asked in (one, other)]
    renamed = with_id(other, "second")
    together = measure(model, [one, renamed])
    assert together.margins == pytest.approx([m.margins[0] for m in alone], abs=CLOSE)
    assert together.given == tuple(m.given[0] for m in alone)


def test_a_model_that_cannot_run_trees_scores_every_statement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = measure(tiny.model("llama"), blanks())
    monkeypatch.setattr(Rows, "mask", refuse)
    model = tiny.model("llama")
    assert branching(model) is None
    found = measure(model, blanks())
    assert found.margins == pytest.approx(usual.margins, abs=CLOSE)
    assert found.given == usual.given


def refuse(*_: Any) -> Any:
    """A model that takes no masks."""
    message = "no mask is taken"
    raise ValueError(message)


@given(
    totals=st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=6),
    data=st.data(),
)
def test_an_outcome_is_the_lead_and_a_tie_is_lost(totals: list[float], data: st.DataObject) -> None:
    right = data.draw(st.integers(0, len(totals) - 1))
    margin, winner = outcome(totals, right)
    others = totals[:right] + totals[right + 1 :]
    assert margin == totals[right] - max(others)
    assert (winner == right) == (totals[right] > max(others))
    assert totals[winner] == max(totals)


@given(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=1, max_size=8))
def test_a_pass_hides_a_token_and_what_follows_it_in_its_word(words: list[int | None]) -> None:
    tokens = tuple(range(10, 10 + len(words)))
    line = Line((1,), tokens, (2,), tuple(words))
    for place, row in enumerate(hidden(line, 99, "within_word_l2r")):
        masks = [i for i, token in enumerate(row.row[1:-1]) if token == 99]
        expected = [place]
        while (
            words[place] is not None
            and expected[-1] + 1 < len(words)
            and words[expected[-1] + 1] == words[place]
        ):
            expected.append(expected[-1] + 1)
        assert masks == expected
        assert len(masks) == 1 + later_in_word(words, place)
        assert row.places == (1 + place,)
        assert row.tokens == (tokens[place],)
        kept = [token for token in row.row[1:-1] if token != 99]
        assert kept == [token for i, token in enumerate(tokens) if i not in expected]
    for place, row in enumerate(hidden(line, 99, "original")):
        assert row.row == (1, *tokens[:place], 99, *tokens[place + 1 :], 2)


@given(st.lists(st.integers(1, 5), max_size=9), st.integers(1, 7))
def test_chunks_are_all_questions_in_order_and_bounded(sizes: list[int], most: int) -> None:
    asked = [sized(number, size) for number, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "CHUNK", most)
        found = list(chunks(asked))
    assert [one for chunk in found for one in chunk] == asked
    for chunk in found:
        together = sum(len(one.question.candidates) for one in chunk)
        assert len(chunk) == 1 or together <= most
    for one, other in pairwise(found):  # none could have been longer
        together = sum(len(b.question.candidates) for b in one)
        assert together + len(other[0].question.candidates) > most


def sized(number: int, size: int) -> Blank:
    question = Question(
        id=str(number),
        subject="",
        stem="",
        end="",
        answer="0",
        candidates=tuple(map(str, range(size))),
        cluster="",
    )
    return Blank(question=question, before="", after="")


@every_family
def test_chunks_and_what_is_kept_change_no_score(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(architecture)
    usual = measure(model, blanks())
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    monkeypatch.setattr(statements, "CHUNK", 20)
    monkeypatch.setattr(statements, "KEPT", 0)
    model.memo.clear()
    again = measure(model, blanks())
    assert again.margins == pytest.approx(usual.margins, abs=CLOSE)
    assert (again.scoring, again.given) == (usual.scoring, usual.given)
    count = len(usual.questions)
    assert told == [(done, count) for done in (*range(2, count, 2), count)]


@every_family
def test_a_part_is_scored_as_in_the_whole(architecture: str) -> None:
    model = tiny.model(architecture)
    whole = measure(model, blanks())
    some = [question.id for question in whole.questions[::2]]
    part = measure(model, blanks(), ids=some)
    assert [question.id for question in part.questions] == some
    assert part.margins == pytest.approx(whole.margins[::2], abs=CLOSE)
    assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    assert 0 < part.tokens < whole.tokens


def test_a_part_is_of_what_is_asked() -> None:
    with pytest.raises(ValueError, match=r"no question 'x' \(1 of 2 ids\)"):
        measure(tiny.model("llama"), blanks(), ids=["x", "capital:Chad"])


def test_tokens_are_made_once_a_model() -> None:
    model = tiny.model("llama")
    first = prepared(model, blanks(), "original")
    assert prepared(model, blanks(), "original") is first
    assert prepared(model, blanks()[1:], "original") is not first


def scoring(model: LanguageModel, asked: Sequence[Blank], pll: Pll = "original") -> str:
    return prepared(model, asked, pll).scoring


def test_the_fingerprint_tells_template_variant_and_capital() -> None:
    masked, causal = tiny.model("bert"), tiny.model("llama")
    lower = [blank("the capital of [X] is [Y].", c) for c in tiny.CAPITALS]
    upper = [blank("the capital of [X] is [Y].", c, capitalized=True) for c in tiny.CAPITALS]
    assert scoring(masked, blanks()) != scoring(masked, blanks(), "within_word_l2r")
    assert scoring(causal, blanks()) == scoring(causal, blanks(), "within_word_l2r")
    assert scoring(causal, blanks()) != scoring(causal, blanks(TEMPLATES[1]))
    assert scoring(causal, lower) != scoring(causal, upper)
    assert scoring(causal, blanks()) == scoring(causal, list(reversed(blanks())))


@settings(max_examples=50)
@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_a_capital_changes_the_first_letter_only(before: str, option: str, after: str) -> None:
    plain = Blank(question=tiny.questions()[0], before=before, after=after)
    capital = Blank(question=plain.question, before=before, after=after, capitalized=True)
    text = before + option + after
    assert plain.filled(option) == text
    assert capital.filled(option) == text[:1].upper() + text[1:]


def test_for_seq2seq_an_option_that_comes_first_has_the_capital() -> None:
    model = tiny.model("t5")
    asked = blank("[Y] is in [X].", "Chad", capitalized=True)
    small = Question(
        **{
            **{name: getattr(asked.question, name) for name in asked.question.__struct_fields__},
            "candidates": ("accra", "lima"),
            "answer": "lima",
        }
    )
    lower = Blank(question=small, before=asked.before, after=asked.after)
    upper = Blank(question=small, before=asked.before, after=asked.after, capitalized=True)
    big = model.tokenizer("<extra_id_0> Lima", add_special_tokens=False)["input_ids"]
    speller = Speller(model, "original")
    assert list(speller.lines(upper)[1].tokens[:-1]) == big
    assert speller.lines(upper)[1] != speller.lines(lower)[1]


def test_what_cannot_be_asked_is_counted_by_reason() -> None:
    model = tiny.model("bert")
    unknown = blank("☃ [X] is [Y].", "Chad")
    usual = blank(TEMPLATES[0], "Peru")
    twins = with_candidates(blank(TEMPLATES[0], "Cuba"), ("New", "new", "Lima"))
    alone = with_candidates(blank(TEMPLATES[0], "Fiji"), ("New Town North", "☃"))
    ready = prepared(model, [unknown, usual, twins, alone], "original")
    assert [one.question.subject for one in ready.blanks] == ["Peru"]
    assert ready.left_out == {
        "a character that the tokenizer does not know": 1,
        "another candidate has the same tokens": 1,
        "no other candidate can be said": 1,
    }


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5"])
def test_a_statement_that_is_too_long_for_the_model_is_counted(architecture: str) -> None:
    template = f"The capital of {'Chad ' * 30}[X] is [Y]."
    model, asked = tiny.model(architecture), [blank(template, "Peru"), blank(TEMPLATES[0], "Fiji")]
    ready = prepared(model, asked, "original")
    expected = {} if architecture == "t5" else {"more tokens than the model's context": 1}
    assert ready.left_out == expected
    assert len(ready.blanks) == 2 - len(expected)


def with_candidates(asked: Blank, candidates: tuple[str, ...]) -> Blank:
    question = structs.replace(asked.question, candidates=candidates)
    return Blank(question=question, before=asked.before, after=asked.after)


def with_id(asked: Blank, name: str) -> Blank:
    question = structs.replace(asked.question, id=name)
    return Blank(question=question, before=asked.before, after=asked.after)


def test_an_option_that_cannot_be_said_does_not_compete() -> None:
    model = tiny.model("bert")
    usual = with_candidates(blank(TEMPLATES[0], "Peru"), ("Lima", "Tokyo"))
    more = with_candidates(usual, ("Lima", "☃", "Tokyo"))
    one, other = measure(model, [usual]), measure(model, [more])
    assert one.margins == pytest.approx(other.margins, abs=CLOSE)
    assert one.given == other.given


def test_nothing_to_ask_is_an_error_with_its_reasons() -> None:
    with pytest.raises(MeasurementError, match=r"does not know \(1\)"):
        measure(tiny.model("bert"), [blank("☃ [X] is [Y].", "Chad")])
    with pytest.raises(MeasurementError, match="there are none"):
        measure(tiny.model("bert"), [])


@pytest.mark.parametrize("template", ["[Y] alone", "[X] alone", "[X] [Y] [Y]"])
def test_a_template_without_its_marks_is_refused(template: str) -> None:
    with pytest.raises(MeasurementError, match=r"P36: the template .* must contain \[X\]"):
        around(template, "Chad", "P36")


def test_a_subject_may_look_like_a_mark() -> None:
    assert around("[X] is [Y] of [X].", "a [Y] {}", "here") == ("a [Y] {} is ", " of a [Y] {}.")
