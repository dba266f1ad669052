import math
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_compression.errors import MeasurementError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.scoring import windows
from pytest_compression.scoring.windows import (
    Cutter,
    Document,
    Hiding,
    Passage,
    boundaries,
    centred,
    context_length,
    documents,
    extent,
    hidden,
    identity,
    nats,
    sliding,
    surroundings,
)

SENTENCES = " ".join(
    f"The capital of {country} is {city}." for country, city in tiny.CAPITALS.items()
)
both_families = pytest.mark.parametrize("architecture", ["llama", "bert"])


kept = cache(tiny.model)


def cut(model: LanguageModel, text: str, window: int, stride: int) -> list[Passage]:
    found = Cutter(model, window, stride).passages([Document(text, 1)])
    return [passage for passage in found if passage is not None]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_every_token_is_scored_once_with_as_much_before_it_as_the_stride_leaves(
    length: int, window: int, stride: int
) -> None:
    assume(stride <= window)
    found = list(sliding(length, window, stride))
    assert [t for w in found for t in range(w.begin, w.end)] == list(range(length))
    for one in found:
        assert one.last - one.first <= window
        assert one.first == 0 or one.begin - one.first == window - stride
        assert one.end == one.last


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_a_masked_model_reads_on_both_sides_of_what_is_scored(
    length: int, window: int, stride: int
) -> None:
    assume(stride <= window)
    found = list(centred(length, window, stride))
    assert [t for w in found for t in range(w.begin, w.end)] == list(range(length))
    for one in found:
        assert 0 <= one.first <= one.begin < one.end <= one.last <= length
        assert one.last - one.first == min(window, length)
        assert one.first == 0 or one.begin - one.first >= (window - stride) // 2
        assert one.last == length or one.last - one.end >= (window - stride) // 2


@given(st.text(alphabet="ab \t\n\r", max_size=40))
def test_a_whole_text_is_as_it_stands_and_paragraphs_are_between_blank_lines(text: str) -> None:
    whole = documents(text, apart=False)
    assert [document.text for document in whole] == ([text] if text.strip() else [])
    apart = documents(text, apart=True)
    assert "".join("".join(d.text for d in apart).split()) == "".join(text.split())
    lines = text.split("\n")
    for document in apart:
        assert document.text.strip()
        inside = document.text.strip("\n").split("\n")
        assert all(line.strip() for line in inside[1:])
        assert lines[document.line - 1].startswith(document.text.split("\n")[0])


def test_paragraphs_know_their_lines() -> None:
    text = "one\ntwo\r\n \r\n\nthree\n\n\n\nfour"
    assert documents(text, apart=True) == [
        Document("one\ntwo", 1),
        Document("three", 5),
        Document("four", 9),
    ]


def test_each_character_is_counted_once_whatever_tokens_share_it() -> None:
    # "a", a space that is dropped, a character of two tokens, "b" and a space behind all.
    assert boundaries([(0, 1), (2, 3), (2, 3), (3, 4)], 5) == [0, 1, 3, 3, 5]
    assert boundaries([], 0) == [0, 0]


@both_families
@given(
    text=st.text(alphabet="The capital of Ghana\n é漢😀", min_size=1, max_size=80),
    window=st.integers(6, 30),
    data=st.data(),
)
def test_passages_cover_the_text_byte_for_byte(
    architecture: str, text: str, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window - 3))
    model = kept(architecture)
    found = cut(model, text, window, stride)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    odd = {*model.tokenizer.all_special_ids, model.tokenizer.unk_token_id}
    assert [t for one in found for t in one.tokens] == [t for t in ids if t not in odd]
    assert sum(one.unscored for one in found) <= len(ids) - sum(len(o.places) for o in found)
    assert all(len(one.row) <= window for one in found)
    if not odd & set(ids) and ids:
        assert "".join(one.text for one in found) == text
        assert sum(one.size for one in found) == len(text.encode())
        assert sum(one.words for one in found) == len(text.split())


@both_families
def test_every_window_has_what_the_tokenizer_puts_around_texts(architecture: str) -> None:
    model = tiny.model(architecture)
    before, after = surroundings(model.tokenizer, masked=architecture == "bert")
    whole = tuple(model.tokenizer(SENTENCES)["input_ids"])
    assert before == whole[:1]
    assert after == (whole[-1:] if architecture == "bert" else ())
    found = cut(model, SENTENCES, 20, 7)
    assert len(found) > 5
    for one in found:
        assert one.row[:1] == before
        assert not after or one.row[-1:] == after


def without_bos() -> LanguageModel:
    """A causal model whose tokenizer puts nothing before a text, as GPT-2's."""
    made = tiny.model("gpt2")
    made.tokenizer = Bare(made.tokenizer)
    return made


class Bare:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, text: str, **options: Any) -> Any:
        return self.inner(text, **{**options, "add_special_tokens": False})


def test_the_first_token_is_not_scored_if_nothing_stands_before_it() -> None:
    model = without_bos()
    ids = tuple(model.tokenizer(SENTENCES)["input_ids"])
    found = cut(model, SENTENCES, 20, 7)
    assert tuple(t for one in found for t in one.tokens) == ids[1:]
    assert [one.unscored for one in found] == [1] + [0] * (len(found) - 1)
    first = model.tokenizer.inner.decode([ids[0]])
    assert sum(one.size for one in found) == len(SENTENCES) - len(first)


def test_unknown_and_special_tokens_are_read_but_not_scored() -> None:
    model = tiny.model("bert")
    text = "The capital of 漢 is [MASK]."
    (passage,) = cut(model, text, 40, 20)
    tokenizer = model.tokenizer
    assert passage.row == tuple(tokenizer(text)["input_ids"])
    assert not {tokenizer.unk_token_id, tokenizer.mask_token_id} & set(passage.tokens)
    assert passage.unscored == len(passage.row) - 2 - len(passage.places) == 2
    assert passage.size == len(text.encode()) - len(" 漢 [MASK]".encode())
    assert passage.words == 4


def test_what_cannot_be_scored_gives_none() -> None:
    found = list(Cutter(tiny.model("bert"), 10, 4).passages([Document("漢", 1)]))
    assert found == [None]


@pytest.mark.parametrize("hiding", ["original", "within-word"])
def test_one_token_is_hidden_and_within_a_word_the_later_ones(hiding: Hiding) -> None:
    model = tiny.model("bert")
    (passage,) = cut(model, "The capital of Peru is Conakry.", 60, 30)
    mask = model.tokenizer.mask_token_id
    rows = list(hidden(passage, mask, hiding))
    assert tuple(row.tokens[0] for row in rows) == passage.tokens == passage.row[1:-1]
    several = False
    for row in rows:
        (place,) = row.places
        same = [
            t
            for t in range(place, len(passage.row))
            if passage.words_of[t] == passage.words_of[place]
        ]
        masked = same if hiding == "within-word" else [place]
        several |= len(masked) > 1
        assert [t for t, token in enumerate(row.row) if token == mask] == masked
        assert all(row.row[t] == passage.row[t] for t in range(len(row.row)) if t not in masked)
    assert several == (hiding == "within-word")


@pytest.mark.parametrize("architecture", [*tiny.CAUSAL, *tiny.MASKED])
def test_the_default_window_is_what_the_model_can_read(architecture: str) -> None:
    model = tiny.model(architecture)
    # RoBERTa's positions begin behind that of padding, which is 0 here.
    expected = 63 if architecture == "roberta" else 64
    assert context_length(model) == expected
    window, stride = extent(model, None, None)
    assert (window, stride) == (expected, expected // 2)
    ids = torch.ones((1, window), dtype=torch.long)
    assert model.module(input_ids=ids).logits.isfinite().all()
    with pytest.raises(MeasurementError, match=f"window 65 is longer than the {expected} tokens"):
        extent(model, 65, None)


def test_a_long_context_is_not_used_whole_unless_asked_for() -> None:
    assert extent(tiny.model("llama", max_position_embeddings=4096), None, None) == (1024, 512)
    assert extent(tiny.model("llama", max_position_embeddings=4096), 4096, None) == (4096, 2048)
    assert extent(tiny.model("bert", max_position_embeddings=512), None, 10) == (128, 10)


def test_windows_that_do_not_overlap_are_refused_if_tokens_would_follow_nothing() -> None:
    assert Cutter(tiny.model("llama"), 20, 19).window == 19  # BOS is part of the window
    with pytest.raises(MeasurementError, match="stride 20 is too long for a window of 20 tokens"):
        Cutter(tiny.model("llama"), 20, 20)
    with pytest.raises(MeasurementError, match="stride 20 is too long"):
        Cutter(without_bos(), 20, 20)
    assert Cutter(without_bos(), 20, 19).window == 20


def test_a_tokenizer_without_offsets_is_refused() -> None:
    model = tiny.model("llama")
    model.tokenizer = object()
    with pytest.raises(MeasurementError, match="does not tell which characters"):
        Cutter(model, None, None)


@pytest.mark.parametrize("architecture", [*tiny.CAUSAL, "bare"])
@pytest.mark.parametrize(("window", "stride"), [(64, 32), (20, 7), (20, 18)])
def test_the_likelihood_is_that_of_the_strided_loop_of_hugging_face(
    architecture: str, window: int, stride: int
) -> None:
    model = without_bos() if architecture == "bare" else tiny.model(architecture)
    before = [] if architecture == "bare" else [model.tokenizer.bos_token_id]
    ids = model.tokenizer(SENTENCES, add_special_tokens=False)["input_ids"]
    size = window - len(before)
    total, scored, end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        last, end = end, min(begin + size, len(ids))
        row = torch.tensor([before + ids[begin:end]])
        labels = row.clone()
        labels[:, : row.shape[1] - (end - last)] = -100
        count = int((labels[:, 1:] != -100).sum())  # a model shifts labels by one
        total += float(model.module(input_ids=row, labels=labels).loss) * count
        scored += count
        if end == len(ids):
            break
    found = cut(model, SENTENCES, window, stride)
    assert sum(len(one.places) for one in found) == scored
    assert -math.fsum(nats(model, found, "original")) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("hiding", ["original", "within-word"])
def test_the_pseudo_likelihood_is_that_of_one_masked_sentence_a_token(
    architecture: str, hiding: Hiding
) -> None:
    model = tiny.model(architecture)
    text = SENTENCES[:70]
    encoding = model.tokenizer(text)
    ids, words = encoding["input_ids"], encoding.word_ids()
    assert len(ids) < 60
    total = 0.0
    for t, token in enumerate(ids):
        if words[t] is None:
            continue
        row = torch.tensor([ids])
        later = [u for u in range(t, len(ids)) if words[u] == words[t]]
        row[0, later if hiding == "within-word" else [t]] = model.tokenizer.mask_token_id
        total += float(model.module(input_ids=row).logits[0, t].log_softmax(-1)[token])
    found = cut(model, text, 63, 62 - 2)
    assert math.fsum(nats(model, found, hiding)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_passages_are_asked_in_slices_and_progress_is_told(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(architecture)
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    found = cut(model, SENTENCES, 20, 7)
    whole = nats(model, found, "original")
    assert told == [(len(found), len(found))]
    told.clear()
    monkeypatch.setattr(windows, "TOGETHER", 30)
    assert nats(model, found, "original") == pytest.approx(whole, rel=1e-5)
    assert told == sorted(told)
    assert len(told) > 3
    assert told[-1] == (len(found), len(found))
    assert nats(model, [], "original") == []


def test_equal_texts_get_different_ids_that_do_not_depend_on_others() -> None:
    taken = set[str]()
    first, second = identity("x.txt", "a", taken), identity("x.txt", "a", taken)
    assert first != second
    assert taken == {first, second}
    assert identity("x.txt", "a", {identity("x.txt", "b", set())}) == first
