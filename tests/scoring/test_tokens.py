from typing import Any

import msgspec
import pytest
import tiny
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring.tokens import Encoder
from pytest_compression.types import Family, Question

UNKNOWN = "a character that the tokenizer does not know"
SAME = "another candidate has the same tokens"
MERGED = "the tokenizer merges the answer with its surroundings"
every_family = pytest.mark.parametrize("family", ["causal", "masked", "seq2seq"])


def question(**changes: Any) -> Question:
    asked = Question(
        id="capital:Ghana",
        subject="Ghana",
        stem="The capital of Ghana is",
        end=".",
        answer="Accra",
        candidates=("Accra", "New", "New Town", "Paris"),
        cluster="capital",
    )
    return msgspec.structs.replace(asked, **changes)


def encoder(family: Family) -> Encoder:
    return Encoder(tiny.tokenizer(family), family)


@every_family
def test_prompt_and_answer_are_the_tokens_of_the_whole_sentence(family: Family) -> None:
    tokenizer = tiny.tokenizer(family)
    for asked in tiny.questions():
        (found,) = encoder(family).encode([asked])
        answer = found.answers[found.right]
        if family == "causal":
            whole = tokenizer(f"{asked.stem} {asked.answer}")["input_ids"]
            assert list(found.before + answer) == whole
            assert found.before[0] == tokenizer.bos_token_id
        elif family == "masked":
            whole = tokenizer(f"{asked.stem} {asked.answer}.")["input_ids"]
            assert list(found.before + answer + found.after) == whole
            assert (found.before[0], found.after[-1]) == (
                tokenizer.cls_token_id,
                tokenizer.sep_token_id,
            )
        else:
            whole = tokenizer(f"{asked.stem} <extra_id_0>.")["input_ids"]
            assert list(found.before) == whole
            assert found.before[-1] == tokenizer.eos_token_id
            sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
            spoken = tokenizer(f"<extra_id_0> {asked.answer}", add_special_tokens=False)
            assert [sentinel, *answer] == spoken["input_ids"]
        assert tokenizer.decode(answer).strip().lower() == asked.answer.lower()
        assert asked.candidates[found.right] == asked.answer


@every_family
def test_candidates_that_begin_others_have_their_tokens(family: Family) -> None:
    (found,) = encoder(family).encode([question()])
    new, town = found.answers[1], found.answers[2]
    assert town[: len(new)] == new
    assert len(town) > len(new)


def test_an_end_mark_that_a_causal_tokenizer_appends_is_taken_away() -> None:
    plain = tiny.tokenizer("causal")
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    ending = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    assert ending("x")["input_ids"][-1] == 2
    assert Encoder(ending, "causal").encode([question()]) == encoder("causal").encode([question()])


@pytest.mark.parametrize("family", ["masked", "seq2seq"])
@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "The capital of Ж is"},
        {"answer": "Ж", "candidates": ("Accra", "Ж")},
        {"end": "Ж"},
    ],
    ids=["stem", "answer", "end"],
)
def test_questions_with_unknown_characters_are_left_out_and_counted(
    family: Family, changes: dict[str, Any]
) -> None:
    asked = encoder(family)
    assert asked.encode([question(), question(**changes)]) == encoder(family).encode([question()])
    assert asked.left_out == {UNKNOWN: 1}


def test_a_byte_level_tokenizer_knows_every_character() -> None:
    asked = encoder("causal")
    asked.encode([question(stem="Ж is", answer="Ж", candidates=("Ж", "Accra"))])
    assert asked.left_out == {}


@pytest.mark.parametrize("family", ["masked", "seq2seq"])
def test_a_wrong_candidate_that_cannot_be_said_has_no_tokens(family: Family) -> None:
    asked = encoder(family)
    (found,) = asked.encode([question(candidates=("Accra", "Ж", "Paris"))])
    assert [bool(tokens) for tokens in found.answers] == [True, False, True]
    assert asked.left_out == {}


def test_candidates_of_equal_tokens_leave_the_question_out() -> None:
    # This tokenizer writes all in lower case and without accents.
    asked = encoder("masked")
    twins = ("Accra", "Paris", "París")
    found = asked.encode([question(candidates=twins), question(answer="Paris", candidates=twins)])
    assert [item.question.answer for item in found] == ["Accra"]
    assert asked.left_out == {SAME: 1}


def merging() -> Any:
    """A tokenizer that merges the end of a prompt with the beginning of one answer."""
    vocabulary = {"<unk>": 0, "s": 1, " ": 2, "P": 3, "Q": 4, "s ": 5, "s P": 6, " Q": 7}
    bpe = models.BPE(
        vocab=vocabulary, merges=[(" ", "Q"), ("s", " "), ("s ", "P")], unk_token="<unk>"
    )
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(bpe), unk_token="<unk>")


def test_answers_that_merge_with_the_prompt_leave_the_question_out() -> None:
    asked = Encoder(merging(), "causal")
    both = {"stem": "s", "candidates": ("P", "Q")}
    (found,) = asked.encode([question(answer="P", **both), question(answer="Q", **both)])
    assert found.question.answer == "Q"
    assert found.answers == ((), (7,))
    assert asked.left_out == {MERGED: 1}


def test_answers_that_merge_with_a_later_prompt_only_leave_that_question_out() -> None:
    asked = Encoder(merging(), "causal")
    both = {"answer": "P", "candidates": ("P", "Q")}
    found = asked.encode([question(stem="Q", **both), question(stem="s", **both)])
    assert [item.question.stem for item in found] == ["Q"]
    assert asked.left_out == {MERGED: 1}


def test_no_question_that_can_be_asked_is_an_error_with_the_reasons() -> None:
    with pytest.raises(MeasurementError, match=rf"no question can be asked.*{UNKNOWN} \(1\)"):
        encoder("masked").encode([question(stem="Ж")])
    with pytest.raises(MeasurementError, match="there are none"):
        encoder("masked").encode([])


def test_a_masked_model_without_mask_token_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="no mask token"):
        Encoder(tiny.tokenizer("causal"), "masked")


def test_a_seq2seq_model_without_sentinel_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="no sentinel <extra_id_0>"):
        Encoder(tiny.tokenizer("masked"), "seq2seq")
