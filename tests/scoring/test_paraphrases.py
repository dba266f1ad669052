from itertools import permutations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring.means import over_relations
from pytest_compression.scoring.paraphrases import FEW, FURTHER, Answers, figures, measure
from pytest_compression.types import Question

UNKNOWN = "a character that the tokenizer does not know"
FORMS = ("The capital of {} is", "{} is the capital of", "In {}, the capital is")


def wordings(country: str, forms: tuple[str, ...] = FORMS) -> list[Question]:
    return [
        Question(
            id=f"{country}{i or ''}",
            subject=country,
            stem=form.format(country),
            end=".",
            answer=tiny.CAPITALS[country],
            candidates=tuple(sorted(tiny.CAPITALS.values())),
            cluster=country[0],
        )
        for i, form in enumerate(forms)
    ]


def answers(given: list[str]) -> Answers:
    asked = wordings("Peru")[0]
    return Answers(asked, tuple(given))


choices = st.lists(st.sampled_from(["Lima", "Paris", "Accra"]), min_size=2, max_size=7)


@given(choices)
def test_shares_are_those_of_ordered_pairs(given: list[str]) -> None:
    found, pairs = answers(given), list(permutations(given, 2))
    assert found.consistency == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    both = sum(a == b == "Lima" for a, b in pairs) / len(pairs)
    assert found.both_right == pytest.approx(both)
    assert found.both_right <= found.consistency
    assert found.is_constant == (found.consistency == 1)


@given(choices, st.randoms())
def test_the_order_of_the_wordings_does_not_matter(given: list[str], random: object) -> None:
    shuffled = sorted(given, key=lambda _: random.random())  # type: ignore[attr-defined]
    one, other = answers(given), answers(shuffled)
    assert one.consistency == other.consistency
    assert one.both_right == other.both_right


def test_figures_are_means_over_facts_and_over_relations() -> None:
    asked = {name: wordings(name)[0] for name in ("Ghana", "Guinea", "Peru")}
    found = figures(
        [
            Answers(asked["Ghana"], ("Accra", "Accra")),
            Answers(asked["Guinea"], ("Lima", "Lima")),
            Answers(asked["Peru"], ("Paris", "Lima", "Lima")),
        ]
    )
    assert found == pytest.approx(
        {
            "accuracy": 1 / 3,
            "consistency": (1 + 1 + 1 / 3) / 3,
            "consistent-and-right": (1 + 0 + 1 / 3) / 3,
            "right in every wording": 1 / 3,
            "accuracy, mean over relations": (1 / 2 + 0) / 2,
            "consistency, mean over relations": (1 + 1 / 3) / 2,
            "consistent-and-right, mean over relations": (1 / 2 + 1 / 3) / 2,
            "right in every wording, mean over relations": 1 / 4,
            "majority answer": 2 / 3,
            "wrong alike in every wording": 1 / 3,
            "consistency where some wording is right": (1 + 1 / 3) / 2,
            "consistency where none is right": 1.0,
        }
    )


def test_a_group_without_facts_has_no_figure() -> None:
    found = figures([answers(["Lima", "Lima"])])
    assert "consistency where none is right" not in found


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), min_size=1, max_size=9))
def test_relations_count_alike(rows: list[tuple[str, float]]) -> None:
    clusters, values = zip(*rows, strict=True)
    means = []
    for name in set(clusters):
        mine = [value for cluster, value in rows if cluster == name]
        means.append(sum(mine) / len(mine))
    assert over_relations(clusters, values) == pytest.approx(sum(means) / len(means))


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_values_are_the_shares_of_the_answers_to_each_wording(architecture: str) -> None:
    model = tiny.model(architecture)
    facts = [wordings(country) for country in tiny.CAPITALS]
    alike = measure(model, facts, "consistency")
    right = measure(model, facts, "consistent-and-right")
    assert alike.margins == right.margins == ()
    assert alike.chance == tuple(1 / 9 for _ in alike.questions)
    assert right.chance == tuple(1 / 81 for _ in right.questions)
    assert alike.figures == right.figures
    assert alike.scoring != right.scoring
    assert alike.figures["consistency"] == pytest.approx(sum(alike.values) / len(alike.values))
    mean = sum(right.values) / len(right.values)
    assert right.figures["consistent-and-right"] == pytest.approx(mean)
    assert all(one >= other for one, other in zip(alike.values, right.values, strict=True))


def test_a_part_is_scored_as_in_the_whole() -> None:
    model = tiny.model("llama")
    facts = [wordings(country) for country in tiny.CAPITALS]
    whole = measure(model, facts, "consistency")
    some = [question.id for question in whole.questions[::2]]
    part = measure(model, facts, "consistency", some)
    assert [question.id for question in part.questions] == some
    assert part.values == whole.values[::2]
    assert (part.scoring, part.left_out) == (whole.scoring, whole.left_out)
    with pytest.raises(ValueError, match="no question 'Peru1'"):
        measure(model, facts, "consistency", ["Peru1"])


def test_a_fact_in_one_wording_only_is_counted() -> None:
    model = tiny.model("bert")
    facts = [wordings("Peru", FORMS[:2]), wordings("Chad", ("The capital of {} is", "☃ {} is"))]
    measured = measure(model, facts, "consistency")
    assert [question.subject for question in measured.questions] == ["Peru"]
    assert measured.left_out == {FEW: 1}
    assert measured.figures[f"{FURTHER}: {UNKNOWN}"] == 1
    with pytest.raises(MeasurementError, match=r"no further wording .* does not know \(1\)"):
        measure(model, [facts[1]], "consistency")
    with pytest.raises(MeasurementError, match="no fact can be asked in two wordings") as caught:
        measure(model, [facts[1], wordings("Fiji", ("☃ {}", "{} is"))], "consistency")
    assert f"{FURTHER}: {UNKNOWN} (1)" in str(caught.value)


def test_a_fact_whose_judged_wording_cannot_be_read_is_counted_as_such() -> None:
    facts = [wordings("Peru", FORMS[:2]), wordings("Chad", ("☃ {} is", *FORMS[:2]))]
    measured = measure(tiny.model("bert"), facts, "consistency")
    assert [question.subject for question in measured.questions] == ["Peru"]
    assert measured.left_out == {UNKNOWN: 1}


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_a_part_may_be_empty(architecture: str) -> None:
    facts = [wordings(country, FORMS[:2]) for country in tiny.CAPITALS]
    measured = measure(tiny.model(architecture), facts, "consistency", [])
    assert (measured.questions, measured.values, measured.figures) == ((), (), {})
