"""Material: what is drawn from a text or from facts, and what a model is given of it."""

import random
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.embedded.batches import IGNORED
from pytest_compression.embedded.facts import worldfacts
from pytest_compression.embedded.facts.sentences import sentences
from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.rows import HIDDEN, corrupted, hidden
from pytest_compression.types import Family

FAMILIES = get_args(Family)


@pytest.fixture(scope="module")
def models() -> dict[str, LanguageModel]:
    return {family: Embedded(family=family).load() for family in FAMILIES}  # type: ignore[misc]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    lines = (sentence.text for told in sentences({"capital"}) for sentence in told)
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def read(tokenizer: Any, ids: torch.Tensor) -> str:
    return str(tokenizer.decode([int(i) for i in ids if int(i) != IGNORED]))


@pytest.mark.parametrize("options", [{}, {"text": "a.txt", "facts": ("capital",)}])
def test_exactly_one_origin(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of 'text' and 'facts' is needed"):
        Material(**options)


def test_the_relation_that_was_probably_meant_is_named() -> None:
    with pytest.raises(ValueError, match=r"no relation 'capitol'\. Did you mean 'capital'"):
        Material(facts=("capitol",))


def test_options_are_read_from_a_mapping() -> None:
    found = msgspec.convert({"facts": ["capital", "period"], "samples": 3}, Material)
    assert found == Material(facts=("capital", "period"), samples=3)
    for wrong in ("samples", "sample"):
        with pytest.raises(msgspec.ValidationError, match=wrong):
            msgspec.convert({"facts": ["capital"], wrong: 0}, Material)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("origin", ["facts", "text"])
def test_batches_are_what_the_model_takes(
    family: str, origin: str, models: dict[str, LanguageModel], text: Path
) -> None:
    material = (
        Material(text=str(text), samples=9)
        if origin == "text"
        else Material(facts=("language",), samples=21)
    )
    model = models[family]
    batches = material.batches(model, size=4)
    rows = [len(batch["input_ids"]) for batch in batches]
    assert max(rows) == rows[0] == 4
    assert sum(rows) == material.samples
    for batch in batches:
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}
        assert (batch["labels"] != IGNORED).any(1).all()
        assert model.module(**batch).loss.isfinite()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_is_always_the_same_and_another_with_another_seed(
    family: str, models: dict[str, LanguageModel]
) -> None:
    def ids(seed: int) -> list[list[int]]:
        material = Material(facts=("capital",), samples=30, seed=seed)
        batches = material.batches(models[family], size=30)
        return [row.tolist() for batch in batches for row in (*batch["input_ids"],)]

    before = torch.get_rng_state()
    assert ids(0) == ids(0) != ids(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_fact_comes_once_before_any_comes_again() -> None:
    facts = {fact for fact in worldfacts() if fact.relation == "period"}
    rng = random.Random(0)  # noqa: S311
    drawn = Material(facts=("period",), samples=2 * len(facts))._drawn(rng)
    first, second = drawn[: len(facts)], drawn[len(facts) :]
    for part in (first, second):
        said = [sum(fact.subject in sentence.text.split() for fact in facts) for sentence in part]
        assert said == [1] * len(facts)
    assert len({sentence.text for sentence in drawn}) == len(drawn)


def test_all_is_taken_where_there_is_less() -> None:
    rng = random.Random(0)  # noqa: S311
    drawn = Material(facts=("period",), samples=10_000)._drawn(rng)
    told = [sentence for told in sentences({"period"}) for sentence in told]
    assert sorted(map(str, drawn)) == sorted(map(str, told))


def test_only_the_answer_of_a_fact_is_learned(models: dict[str, LanguageModel]) -> None:
    model = models["causal"]
    material = Material(facts=("capital",), samples=40)
    answers = {told[0].answer for told in sentences({"capital"})}
    for batch in material.batches(model):
        for labels in batch["labels"]:
            assert read(model.tokenizer, labels).strip().removesuffix(".") in answers


def test_a_text_is_learned_token_by_token(models: dict[str, LanguageModel], text: Path) -> None:
    model = models["causal"]
    (batch,) = Material(text=str(text), samples=1, length=32).batches(model)
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert ids.shape == (32,)
    assert int(ids[0]) == model.tokenizer.bos_token_id
    assert int(labels[0]) == IGNORED
    assert labels[1:].tolist() == ids[1:].tolist()
    assert read(model.tokenizer, ids[1:]) in text.read_text(encoding="utf-8")


def test_rows_are_no_longer_than_the_model_reads(
    models: dict[str, LanguageModel], text: Path
) -> None:
    for family, longest in {"causal": 64, "masked": 64}.items():
        batches = Material(text=str(text), length=256).batches(models[family])
        assert max(batch["input_ids"].shape[1] for batch in batches) == longest


def test_roberta_reads_less_than_it_has_positions(text: Path) -> None:
    batches = Material(text=str(text)).batches(tiny.model("roberta"))
    assert max(batch["input_ids"].shape[1] for batch in batches) == 64 - 1


@given(st.lists(st.integers(10, 99), min_size=4, max_size=80), st.integers(0, 9))
def test_what_masks_hide_is_what_is_learned(run: list[int], seed: int) -> None:
    ids, labels = hidden(run, 1, random.Random(seed))  # noqa: S311
    assert [a if b == IGNORED else b for a, b in zip(ids, labels, strict=True)] == run
    assert all((a == 1) == (b != IGNORED) for a, b in zip(ids, labels, strict=True))
    assert ids.count(1) == max(1, round(HIDDEN * len(run)))


@given(st.lists(st.integers(10, 99), min_size=4, max_size=80), st.integers(2, 8), st.integers(0, 9))
def test_spans_put_back_give_the_text(run: list[int], marks: int, seed: int) -> None:
    names = list(range(marks))
    ids, wanted = corrupted(run, names, random.Random(seed))  # noqa: S311
    used = [token for token in ids if token in names]
    assert [token for token in wanted if token in names] == names[: len(used) + 1]
    assert wanted[-1] == len(used)
    whole = list[int]()
    for token in ids:
        if token in names:
            whole += wanted[wanted.index(token) + 1 : wanted.index(token + 1)]
        else:
            whole.append(token)
    assert whole == run
    assert len(wanted) - len(used) - 1 == max(1, round(HIDDEN * len(run)))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b" \n\n ", "is empty"), (b"a\nb\n\xff", r"is not UTF-8 \(line 3\)")],
)
def test_a_text_that_says_nothing_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=words):
        Material(text=str(path)).read()


def test_a_missing_text_is_refused_with_the_place_it_was_looked_for() -> None:
    with pytest.raises(RecipeError, match=r"'nowhere.txt' cannot be read .* pytest was started"):
        Material(text="nowhere.txt").read()


def test_a_text_too_short_for_a_row_is_refused(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("Accra", encoding="utf-8")
    with pytest.raises(RecipeError, match="at least 4 are needed"):
        Material(text=str(tmp_path / "text.txt")).batches(models["causal"])


def test_a_tokenizer_without_marks_is_refused(text: Path) -> None:
    causal = tiny.tokenizer("causal")
    for origin in (Material(text=str(text)), Material(facts=("capital",))):
        masked = LanguageModel(module=tiny.network("bert"), tokenizer=causal, family="masked")
        seq2seq = LanguageModel(module=tiny.network("t5"), tokenizer=causal, family="seq2seq")
        with pytest.raises(RecipeError, match="no mask token"):
            origin.batches(masked)
        with pytest.raises(RecipeError, match="no sentinels"):
            origin.batches(seq2seq)


def test_a_fact_longer_than_the_model_reads_is_refused() -> None:
    model = tiny.model("llama", max_position_embeddings=8)
    with pytest.raises(RecipeError, match="tokens long, and this model reads 8"):
        Material(facts=("capital",)).batches(model)


def test_passages_are_all_that_it_says(text: Path) -> None:
    of_text = list(Material(text=str(text), samples=1).passages())
    of_facts = list(Material(facts=("capital",), samples=1).passages())
    assert of_text == [text.read_text(encoding="utf-8")]
    assert "The capital of Ghana is Accra." in of_facts
