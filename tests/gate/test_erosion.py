"""What is laxer, worse or less is found and named; a slide counts from the first acceptance."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_strategies import gates, grades, pasts, shares
from msgspec.structs import replace

from pytest_compression.gate.erosion import (
    LAXER,
    Erosion,
    Slide,
    Terms,
    changed,
    loosened,
    shrunk,
    slid,
    slide,
    worse,
)
from pytest_compression.types import Gate, Past

terms = st.builds(Terms, gates, st.sampled_from(["pass", "fail"]))

# Terms


@given(terms, terms)
def test_what_is_laxer_is_a_part_of_what_has_changed(then: Terms, now: Terms) -> None:
    said = changed(then, now)
    assert [words for words in said if words in loosened(then, now)] == loosened(then, now)
    meant = [
        Terms(replace(one.gate, inconclusive=one.gate.on_inconclusive), one.expect)
        for one in (then, now)
    ]
    assert (said == []) == (meant[0] == meant[1])
    assert changed(then, then) == []


@given(terms, terms)
def test_each_change_reads_backwards_and_is_laxer_one_way_at_least(then: Terms, now: Terms) -> None:
    there, back = changed(then, now), changed(now, then)
    assert [words.split(" -> ")[0].rsplit(" ", 1) for words in there] == [
        [words.split(" -> ")[0].rsplit(" ", 1)[0], words.split(" -> ")[1]] for words in back
    ]
    for forth, reverse in zip(there, back, strict=True):
        laxer = (forth in loosened(then, now), reverse in loosened(now, then))
        if forth.startswith("power "):
            assert laxer == (False, False)
        elif then.gate.assurance == now.gate.assurance == "proven" and forth.startswith("alpha "):
            assert laxer == (True, True)
        else:
            assert sorted(laxer) == [False, True]


def test_every_key_of_a_gate_has_a_rule() -> None:
    assert {*LAXER, "relation_floors"} == set(Gate.__struct_fields__)


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ({}, {"min_retention": 0.9}, "min_retention 0.95 -> 0.9"),
        ({"min_retention": 0.9}, {"min_retention": 0.8999999999}, "0.9 -> 0.8999999999"),
        ({"min_retention": 1.0}, {"min_retention": 0.0}, "min_retention 1 -> 0"),
        ({"relation_floors": {"capital": 0.9}}, {}, "relation floor capital 0.9 -> none"),
        (
            {"relation_floors": {"capital": 0.9}},
            {"relation_floors": {"capital": 0.5}},
            "relation floor capital 0.9 -> 0.5",
        ),
        ({"max_forgotten": 0.05}, {}, "max_forgotten 0.05 -> none"),
        ({"max_forgotten": 0.05}, {"max_forgotten": 0.1}, "max_forgotten 0.05 -> 0.1"),
        (
            {"assurance": "proven", "inconclusive": "warn"},
            {"inconclusive": "warn"},
            "assurance proven -> point",
        ),
        ({}, {"margin": 0.02}, "margin 0.01 -> 0.02"),
        ({}, {"alpha": 0.01}, "alpha 0.05 -> 0.01"),
        (
            {"assurance": "proven"},
            {"assurance": "proven", "alpha": 0.2},
            "alpha 0.05 -> 0.2",
        ),
        ({"inconclusive": "fail"}, {}, "inconclusive fail -> warn"),
        ({}, {"inconclusive": "pass"}, "inconclusive warn -> pass"),
        ({"improvement": "accept"}, {}, "improvement accept -> report"),
        ({}, {"near_tie": 0.02}, "near_tie 0.01 -> 0.02"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_laxer_gate_is_named_and_a_stricter_one_is_only_a_change(
    then: dict[str, Any], now: dict[str, Any], said: str
) -> None:
    accepted, lax = Terms(Gate(**then)), Terms(Gate(**now))
    (words,) = loosened(accepted, lax)
    assert words.endswith(said)
    assert changed(accepted, lax) == [words]
    assert len(changed(lax, accepted)) == 1
    two_sided = {"alpha 0.05 -> 0.2"}  # the limit comes nearer, or regressions must be surer
    assert len(loosened(lax, accepted)) == (said in two_sided)


def test_a_trial_that_is_expected_to_fail_from_now_on_is_laxer_whatever_its_gate() -> None:
    meant, control = Terms(Gate()), Terms(Gate(min_retention=1.0), "fail")
    assert changed(meant, control) == ["expect pass -> fail", "min_retention 0.95 -> 1"]
    assert loosened(meant, control) == ["expect pass -> fail"]
    assert loosened(control, meant) == ["min_retention 1 -> 0.95"]
    assert loosened(control, Terms(Gate(min_retention=1.0))) == []


def test_proof_that_is_no_longer_needed_takes_its_consequence_along() -> None:
    assert loosened(Terms(Gate(assurance="proven")), Terms(Gate())) == [
        "assurance proven -> point",
        "inconclusive fail -> warn",
    ]
    assert loosened(Terms(Gate()), Terms(Gate(assurance="proven", alpha=0.2))) == []


def test_what_says_the_same_in_other_words_is_no_change() -> None:
    proven = Gate(assurance="proven")
    assert changed(Terms(Gate()), Terms(Gate(inconclusive="warn"))) == []
    assert changed(Terms(proven), Terms(replace(proven, inconclusive="fail"))) == []


def test_power_is_a_change_that_lets_nothing_pass() -> None:
    assert changed(Terms(Gate()), Terms(Gate(power=0.9))) == ["power 0.8 -> 0.9"]
    assert loosened(Terms(Gate()), Terms(Gate(power=0.5))) == []


def test_all_differences_are_told() -> None:
    then = Terms(Gate(relation_floors={"b": 0.5, "a": 0.5}, margin=0.02))
    now = Terms(Gate(relation_floors={"a": 0.25, "c": 0.5}, min_retention=0.5))
    assert changed(then, now) == [
        "min_retention 0.95 -> 0.5",
        "margin 0.02 -> 0.01",
        "relation floor a 0.5 -> 0.25",
        "relation floor b 0.5 -> none",
        "relation floor c none -> 0.5",
    ]
    assert loosened(then, now) == [
        "min_retention 0.95 -> 0.5",
        "relation floor a 0.5 -> 0.25",
        "relation floor b 0.5 -> none",
    ]


# Results and questions


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=60))
def test_a_net_loss_is_what_was_forgotten_less_what_was_learned(
    pairs: list[tuple[int, int]],
) -> None:
    accepted, now = [then for then, _ in pairs], [now for _, now in pairs]
    forgotten, learned = pairs.count((1, 0)), pairs.count((0, 1))
    assert worse(accepted, now) == forgotten - learned == -worse(now, accepted)


@given(st.lists(grades, max_size=30), st.randoms(use_true_random=False))
def test_graded_scores_that_only_change_places_are_no_loss(scores: list[float], lots: Any) -> None:
    others = list(scores)
    lots.shuffle(others)
    assert worse(scores, others) == 0


def test_the_smallest_loss_is_one_and_other_questions_are_refused() -> None:
    assert worse([1e16, 1.0], [1e16, 0.0]) == 1
    assert worse([0.1, 0.2, 0.3], [0.3, 0.2, 0.1 - 2**-54]) > 0
    with pytest.raises(ValueError, match="longer"):
        worse([1], [1, 0])


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)), st.data())
def test_each_cluster_that_lost_questions_is_named(
    then: dict[str, int], data: st.DataObject
) -> None:
    now = data.draw(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)))
    names = [words.split()[0] for words in shrunk(then, now)]
    assert names == [name for name in "abcd" if now.get(name, 0) < then.get(name, 0)]


def test_shrinking_reads_as_a_change() -> None:
    then = {"language": 134, "capital": 203, "area": 5}
    now = {"capital": 150, "area": 6, "new": 1}
    assert shrunk(then, now) == ["capital 203 -> 150", "language 134 -> 0"]


# Slides


@given(st.lists(pasts, min_size=1, max_size=5), shares, st.integers(0, 1000), shares)
def test_a_slide_counts_from_the_first_whatever_came_between(
    history: list[Past], score: float, questions: int, floor: float
) -> None:
    first = history[0]
    assert slide(history, score, questions, floor) == Slide(
        since=first.date,
        times=len(history),
        score=score - first.score,
        questions=questions - first.questions,
        floor=floor - first.floor,
    )


def test_without_a_history_there_is_no_slide() -> None:
    assert slide([], 0.5, 10, 0.9) is None
    assert slid({}) is None
    assert slid({"a": None, "b": None}) is None


def test_small_concessions_add_up() -> None:
    past = [
        Past(date=f"2026-0{i}-01", reason="", score=score, questions=n, floor=floor, recipe=[])
        for i, (score, n, floor) in enumerate([(0.9, 100, 0.95), (0.89, 90, 0.94)], start=1)
    ]
    found = slide(past, 0.88, 80, 0.93)
    assert found is not None
    assert (found.since, found.times, found.questions) == ("2026-01-01", 2, -20)
    assert found.score == pytest.approx(-0.02)
    assert found.floor == pytest.approx(-0.02)


def moved(score: float, questions: int = 0, floor: float = 0.0) -> Slide:
    return Slide(since="2026-01-01", times=1, score=score, questions=questions, floor=floor)


def test_slides_are_summed_up_over_the_trials_that_have_a_history() -> None:
    slides = {
        "a": moved(-0.25, questions=-5),
        "b": moved(-0.5, floor=-0.05),
        "c": moved(0.25, questions=10, floor=0.05),
        "d": None,
        "e": moved(0.0, questions=-2),
    }
    assert slid(slides) == Erosion(
        trials=4,
        lower=2,
        worst="b",
        worst_score=-0.5,
        mean_score=-0.125,
        floors=1,
        questions=7,
    )


@given(
    st.dictionaries(st.text(max_size=3), st.builds(moved, shares.map(lambda x: x - 0.5))),
    st.randoms(use_true_random=False),
)
def test_a_summary_does_not_depend_on_the_order_of_the_trials(
    slides: dict[str, Slide], lots: Any
) -> None:
    pairs = list(slides.items())
    lots.shuffle(pairs)
    assert slid(dict(pairs)) == slid(slides)
