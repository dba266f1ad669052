"""Scores and chance of a cluster come back as they were, or are refused in words."""

import random
import re
from operator import attrgetter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_strategies import grades, measurements, shares

from pytest_compression.errors import BaselineError
from pytest_compression.store.packing import (
    Packed,
    by_cluster,
    pack,
    pack_bits,
    pack_chance,
    unpack,
    unpack_bits,
    unpack_chance,
)
from pytest_compression.types import Measurement

# Bits


@given(st.lists(st.integers(0, 1), max_size=300))
def test_unpacking_bits_is_the_inverse_of_packing_them(scores: list[int]) -> None:
    digits = pack_bits(scores)
    assert len(digits) == -(-len(scores) // 4)
    assert unpack_bits(digits, len(scores)) == scores


def test_the_first_question_is_the_most_significant_bit() -> None:
    assert pack_bits([1, 0, 0, 0, 1]) == "88"
    assert pack_bits([0, 1, 1]) == "6"
    assert pack_bits([]) == ""


@pytest.mark.parametrize(("digits", "count"), [("f", 5), ("ff", 4), ("", 1), ("x", 4), ("f", 0)])
def test_other_digits_are_refused(digits: str, count: int) -> None:
    with pytest.raises(ValueError, match=r"cannot hold|invalid literal"):
        unpack_bits(digits, count)


# Scores


@given(st.lists(st.integers(0, 1), max_size=60))
def test_right_and_wrong_come_back_from_bits(scores: list[int]) -> None:
    part = pack(scores, graded=False)
    assert part.values is None
    assert part.questions == len(scores)
    assert part.total == part.right == sum(scores)
    assert list(unpack("r", part)) == scores


@given(st.lists(st.one_of(grades, st.integers(0, 1)), max_size=60))
def test_graded_scores_come_back_to_the_last_digit(scores: list[float]) -> None:
    part = pack(scores, graded=True)
    assert (part.right, part.bits) == (None, None)
    assert part.questions == len(scores)
    assert part.total == pytest.approx(sum(scores), abs=1e-6)
    encoded = msgspec.json.encode(part)
    read = msgspec.json.decode(encoded, type=Packed)
    assert list(unpack("r", read)) == scores
    assert msgspec.json.encode(read) == encoded  # an integral score, too, is written one way only


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"right": 1},
        {"bits": "8"},
        {"values": [1.0], "bits": "8"},
        {"values": [1.0], "right": 1},
        {"values": [1.0], "right": 1, "bits": "8"},
    ],
    ids=" ".join,
)
def test_scores_are_of_one_kind(keys: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"either `right` with `bits`, or `values`"):
        msgspec.convert({"questions": 1, **keys}, Packed)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Packed(questions=3, right=2, bits="8"), "'r' has 1 right answers in its bits but says 2"),
        (Packed(questions=9, right=1, bits="8"), "the bits of 'r' are damaged: 1 digits cannot"),
        (Packed(questions=1, right=1, bits="?"), "the bits of 'r' are damaged: invalid literal"),
        (Packed(questions=2, values=[0.5]), "'r' has 1 values but says 2"),
    ],
)
def test_scores_that_contradict_themselves_are_refused(part: Packed, said: str) -> None:
    with pytest.raises(BaselineError, match=re.escape(said)):
        unpack("r", part)


# Chance


@given(st.lists(shares, min_size=1, max_size=20))
def test_chance_comes_back_and_is_one_number_where_it_is_the_same(each: list[float]) -> None:
    kept = pack_chance(each)
    assert isinstance(kept, float) == (len(set(each)) == 1)
    assert unpack_chance("r", kept, len(each)) == each


def test_chance_that_is_missing_or_of_other_questions_is_refused() -> None:
    with pytest.raises(BaselineError, match="does not say what guessing gets on 'r'"):
        unpack_chance("r", None, 3)
    with pytest.raises(BaselineError, match="'r' has 2 chances for 3 questions"):
        unpack_chance("r", [0.5, 0.25], 3)


# Order


@given(measurements(), st.randoms(use_true_random=False))
def test_a_cluster_is_in_the_order_of_the_ids_however_the_questions_are(
    measured: Measurement, lots: random.Random
) -> None:
    questions = list(measured.questions)
    lots.shuffle(questions)
    found = [(name, [questions[i].id for i in some]) for name, some in by_cluster(questions)]
    in_order = sorted(questions, key=attrgetter("cluster", "id"))
    names = sorted({question.cluster for question in questions})
    assert found == [(name, [q.id for q in in_order if q.cluster == name]) for name in names]
