from typing import Any

import msgspec
import paired
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring.tokens import BLANK, Encoder, goes_on, lead, parted
from pytest_compression.types import Family, Question

UNKNOWN = "a character that the tokenizer does not know"
SAME = "another candidate has the same tokens"
FURTHER = "a further blank, which this model cannot read"
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


# What stands around a blank.

TEXT = st.text(st.sampled_from("ab 1.,(\"'«-/$"), max_size=12)


@given(TEXT, TEXT)
def test_a_parted_text_is_put_together_as_it_was(before: str, behind: str) -> None:
    found = parted(f"{before}{BLANK}{behind}", BLANK)
    if found is None:
        assert before[-1:].strip()  # nothing separates the blank from what stands before it
        return
    stem, end = found
    spaces = before[len(before.rstrip()) :]
    assert lead(stem) == before.rstrip() + (" " if spaces and before.strip() else "")
    assert end == behind


@pytest.mark.parametrize(
    ("stem", "led"),
    [
        ("", ""),
        ("born in", "born in "),
        ("Ghana (born", "Ghana (born "),
        ("it (", "it ("),
        ("it ( ", "it ( "),
        ("the so-called «", "the so-called «"),
        ('the "', 'the "'),
        ('the "city"', 'the "city" '),
        ("the '", "the '"),
        ("the cities'", "the cities' "),
        ("Anglo-", "Anglo-"),
        ("1990 -", "1990 - "),
        ("costs $", "costs $"),
    ],
)
def test_no_space_stands_behind_what_opens(stem: str, led: str) -> None:
    assert lead(stem) == led


def test_a_blank_within_a_word_is_no_question() -> None:
    assert parted(f"the anti{BLANK} people", BLANK) is None
    assert parted(f"the {BLANK}ians", BLANK) == ("the", "ians")


@pytest.mark.parametrize(
    ("end", "behind", "expected"),
    [
        (".", "", False),
        (" .", "", False),
        (").", "", False),
        ("", "", False),
        (" now.", "", True),
        ("ians", "", True),
        (" 1", "", True),
        (".", "It is.", True),
    ],
)
def test_words_behind_the_blank_go_on(end: str, behind: str, expected: bool) -> None:  # noqa: FBT001
    assert goes_on(question(end=end, behind=behind)) is expected


def test_a_causal_answer_behind_an_opening_bracket_has_no_space() -> None:
    (found,) = encoder("causal").encode([question(stem="The capital of Ghana (", end=")")])
    whole = tiny.tokenizer("causal")("The capital of Ghana (Accra")["input_ids"]
    assert list(found.before + found.answers[found.right]) == whole


def test_candidates_have_the_tokens_of_their_place() -> None:
    asked = encoder("causal")
    spaced, glued = asked.encode([question(), question(stem="The capital (")])
    assert spaced.answers != glued.answers
    assert asked.left_out == {}


def test_candidates_at_the_beginning_have_tokens_of_their_own() -> None:
    first, glued = question(stem="", end=" is here."), question(stem="Here (", end=" is here.")
    asked = encoder("causal")
    for one in (first, glued, first):
        (found,) = asked.encode([one])
        assert found.answers == encoder("causal").encode([one])[0].answers
    assert len(asked.sets) == 2


def test_causal_answers_in_mid_sentence_are_whole_endings() -> None:
    asked = question(stem="The city of", end=" is the capital of Ghana.")
    (found,) = encoder("causal").encode([asked])
    for candidate, tokens in zip(asked.candidates, found.answers, strict=True):
        whole = tiny.tokenizer("causal")(f"The city of {candidate} is the capital of Ghana.")
        assert list(found.before + tokens) == whole["input_ids"]


def test_endings_are_those_of_each_question() -> None:
    first, second = question(end=" is in Ghana."), question(end=" is in Peru.")
    one, other = encoder("causal").encode([first, second])
    assert one.answers != other.answers
    assert one.before == other.before


@every_family
def test_a_blank_may_begin_the_text(family: Family) -> None:
    tokenizer = tiny.tokenizer(family)
    (found,) = encoder(family).encode([question(stem="", end=" is the capital of Ghana.")])
    answer = found.answers[found.right]
    if family == "causal":
        assert found.before == (tokenizer.bos_token_id,)
        whole = tokenizer("Accra is the capital of Ghana.")["input_ids"]
        assert list(found.before + answer) == whole
    elif family == "masked":
        whole = tokenizer("Accra is the capital of Ghana.")["input_ids"]
        assert list(found.before + answer + found.after) == whole
    else:
        whole = tokenizer("<extra_id_0> is the capital of Ghana.")["input_ids"]
        assert list(found.before) == whole


def without_beginning(**marks: str) -> Any:
    """A causal tokenizer that puts nothing before a text, as GPT-2's."""
    backend = Tokenizer.from_str(tiny.tokenizer("causal").backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **marks)


def test_a_text_that_begins_with_its_blank_is_given_a_mark_of_the_tokenizer() -> None:
    asked = question(stem="", end=" is the capital.")
    (found,) = Encoder(without_beginning(eos_token="</s>"), "causal").encode([asked])
    assert found.before == (2,)
    whole = without_beginning()("Accra is the capital.")["input_ids"]
    assert list(found.answers[found.right]) == whole
    bare = Encoder(without_beginning(), "causal")
    assert bare.question(asked) is None
    assert bare.left_out == {"nothing stands before the blank, nor can a mark of the tokenizer": 1}


def test_further_blanks_are_masked_too_and_only_the_first_is_asked() -> None:
    (found,) = encoder("masked").encode([question(end=f" and {BLANK} of {BLANK}.")])
    tokenizer = tiny.tokenizer("masked")
    whole = tokenizer("The capital of Ghana is [MASK] and [MASK] of [MASK].")["input_ids"]
    assert [*found.before, tokenizer.mask_token_id, *found.after] == whole
    assert found.after.count(tokenizer.mask_token_id) == 2
    plain = encoder("masked").encode([question()])
    assert found.answers == plain[0].answers


def test_further_blanks_are_further_sentinels() -> None:
    asked = encoder("seq2seq")
    (found,) = asked.encode([question(end=f" and {BLANK}.")])
    whole = tiny.tokenizer("seq2seq")("The capital of Ghana is <extra_id_0> and <extra_id_1>.")
    assert list(found.before) == whole["input_ids"]
    assert asked.question(question(end=f" and {BLANK} and {BLANK}.")) is None  # it has two
    assert asked.left_out == {FURTHER: 1}


def test_a_causal_model_reads_no_further_blank() -> None:
    asked = encoder("causal")
    assert asked.question(question(end=f" and {BLANK}.")) is None
    assert asked.question(question(behind=f"It is {BLANK}.")) is None
    assert asked.left_out == {FURTHER: 2}


def test_an_answer_within_a_word_has_the_tokens_of_a_word() -> None:
    tokenizer = tiny.tokenizer("masked")
    (found,) = encoder("masked").encode([question(end="ns.")])
    (plain,) = encoder("masked").encode([question()])
    assert found.answers == plain.answers
    whole = tokenizer("The capital of Ghana is [MASK]ns.")["input_ids"]
    assert [*found.before, tokenizer.mask_token_id, *found.after] == whole


@pytest.mark.parametrize(
    ("sides", "pair"),
    [
        ({"before": "Ghana is."}, ("Ghana is.", "The capital of Ghana is [MASK].")),
        ({"behind": "Ghana is."}, ("The capital of Ghana is [MASK].", "Ghana is.")),
        (
            {"behind": f"It is {BLANK}."},
            ("The capital of Ghana is [MASK].", "It is [MASK]."),
        ),
        (
            {"before": "Ghana is.", "behind": "It is."},
            ("Ghana is.", "The capital of Ghana is [MASK]. It is."),
        ),
    ],
)
def test_a_sentence_of_its_own_is_a_segment_of_its_own(
    sides: dict[str, str], pair: tuple[str, str]
) -> None:
    tokenizer = paired.tokenizer()
    (found,) = Encoder(tokenizer, "masked").encode([question(**sides)])
    whole = tokenizer(*pair)
    assert [*found.before, tokenizer.mask_token_id, *found.after] == whole["input_ids"]
    assert list(found.kinds) == whole["token_type_ids"]
    assert set(found.kinds) == {0, 1}
    assert found.answers == encoder("masked").encode([question()])[0].answers


@every_family
def test_who_knows_no_segments_reads_one_text(family: Family) -> None:
    apart = question(before="Ghana is.", behind="It is the capital.")
    joined = question(stem="Ghana is. The capital of Ghana is", end=". It is the capital.")
    ((one,), (other,)) = (encoder(family).encode([asked]) for asked in (apart, joined))
    assert (one.before, one.after, one.answers) == (other.before, other.after, other.answers)
    assert one.kinds == ()
    assert one.question == apart
