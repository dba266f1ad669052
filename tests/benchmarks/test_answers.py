from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.benchmarks.answers import (
    SetScore,
    has_substring,
    has_words,
    normal,
    set_score,
)

words = st.text("aAbBçÇßé'\u2019-. 0W", max_size=8)
names = st.sampled_from(["a", "b", "c", "d", "E"])


@given(words)
def test_what_is_normal_stays_so(text: str) -> None:
    assert normal(normal(text)) == normal(text)


def test_spellings_of_the_same_are_the_same() -> None:
    for one, other in [
        ("  New\u00a0 York\n", "new york"),
        ("O\u2019Neill \u201cTip\u201d", 'o\'neill "tip"'),
        ("STRASSE", "Straße"),
        ("Zu\u0308rich", "ZÜRICH"),
    ]:
        assert normal(one) == normal(other)
    assert normal("Zürich") != normal("Zurich")


@given(words, words, words)
def test_an_answer_between_spaces_is_found_as_words(before: str, answer: str, behind: str) -> None:
    if normal(answer):
        assert has_words(f"{before} {answer} {behind}", [answer])
        assert has_words(answer.upper(), [answer.lower()])


@given(words, st.lists(words, max_size=3))
def test_whole_words_are_found_anywhere_too(text: str, answers: list[str]) -> None:
    plain = [normal(answer) for answer in answers]
    if has_words(text, answers):
        assert has_substring(normal(text), plain)


@pytest.mark.parametrize(
    ("text", "answer", "words_match", "substring"),
    [
        (" a politician.", "politician", True, True),
        (" a politician.", "pol", False, True),  # a short alias inside another word
        (" a pol.", "pol", True, True),
        ("Welder", "W", False, True),
        ("born in W, they say", "W", True, True),
        ("the DJ", "dj", True, False),  # the paper's rule never makes capitals small in the text
        ("the dj", "DJ", True, True),
        ("A Polit. of note", "polit.", True, True),
        ("NEW YORK", "New York", True, False),
        ("New\nYork", "New York", True, False),
        ("C++", "C", True, True),
        ("the (novel)", "(novel)", True, True),
        ("nothing", "", False, False),
        ("", "x", False, False),
    ],
)
def test_words_and_substrings(
    text: str, answer: str, *, words_match: bool, substring: bool
) -> None:
    assert has_words(text, [answer]) is words_match
    assert has_substring(text, [answer]) is substring


def test_any_answer_will_do() -> None:
    assert has_words("It is red", ["blue", "red"])
    assert has_substring("It is red", ["blue", "re"])
    assert not has_words("It is red", [])


@given(
    st.lists(names | st.just(""), max_size=5),
    st.lists(st.lists(names, min_size=1, max_size=3), max_size=4),
)
def test_hits_are_the_most_pairs_that_there_can_be(
    given_: list[str], wanted: list[list[str]]
) -> None:
    score = set_score(given_, wanted)
    answers = sorted({name.lower() for name in given_} - {""})
    sets = [{name.lower() for name in one} for one in wanted]
    padded = [*answers, *[""] * len(sets)]
    most = max(
        sum(answer in one for answer, one in zip(order, sets, strict=False))
        for order in permutations(padded, len(sets))
    )
    assert score == SetScore(hits=most, given=len(answers), wanted=len(sets))
    assert 0 <= score.precision <= 1
    assert 0 <= score.recall <= 1
    both = score.precision + score.recall
    assert score.f1 == pytest.approx(2 * score.precision * score.recall / both if both else 0)


def test_parts_are_stripped_and_aliases_count_once() -> None:
    wanted = [["Francia", "FR"], ["Italia"]]
    assert set_score(["francia", " Italia "], wanted).f1 == 1
    assert set_score(["FR", "Francia"], wanted) == SetScore(hits=1, given=2, wanted=2)
    assert set_score(["FR", "fr", " "], wanted) == SetScore(hits=1, given=1, wanted=2)
    assert set_score([""], wanted).f1 == set_score([], wanted).precision == 0


def test_a_shared_name_leaves_the_other_name_its_own_answer() -> None:
    # "b" could be taken for either; "a" for the first only.
    assert set_score(["b", "a"], [["a", "b"], ["b"]]).hits == 2
    assert set_score(["a", "b"], [["b", "a"], ["a"]]).hits == 2
