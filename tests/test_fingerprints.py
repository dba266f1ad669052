"""Digests change with content and boundaries, and with nothing else."""

from hypothesis import given
from hypothesis import strategies as st
from light_strategies import measurements
from msgspec.structs import replace

from pytest_compression.fingerprints import digest, of_questions
from pytest_compression.types import Measurement


@given(st.lists(st.binary(max_size=4), max_size=5), st.lists(st.binary(max_size=4), max_size=5))
def test_digests_are_equal_for_equal_parts_only(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_a_digest_is_the_same_on_every_machine() -> None:
    assert digest([]) == "cae66941d9efbd404e4d88758ea67670"
    assert digest([b"ab", memoryview(b"c")]) == digest([b"ab", b"c"])
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])


@given(measurements(), st.data())
def test_everything_that_is_asked_counts_and_the_order_does_not(
    measured: Measurement, data: st.DataObject
) -> None:
    questions = list(measured.questions)
    known = of_questions(questions)
    assert of_questions(data.draw(st.permutations(questions))) == known
    assert of_questions(questions[1:]) != known
    first = questions[0]
    for change in (
        {"id": first.id + "x"},
        {"stem": first.stem + " "},
        {"end": "!"},
        {"answer": "b"},
        {"candidates": ("a", "b", "c")},
        {"candidates": ("b", "a")},
        {"cluster": first.cluster + "x"},
    ):
        assert of_questions([replace(first, **change), *questions[1:]]) != known
    assert of_questions([replace(first, subject="shown only"), *questions[1:]]) == known
