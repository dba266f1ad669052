from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.scoring.means import MAJORITY, accuracy, majority
from pytest_compression.types import Measurement, Question


def measured(rows: list[tuple[str, str, bool]]) -> Measurement:
    questions = tuple(
        Question(
            id=str(number),
            subject="x",
            stem="",
            end="",
            answer=answer,
            candidates=("a", "b"),
            cluster=cluster,
        )
        for number, (cluster, answer, _) in enumerate(rows)
    )
    return Measurement(
        metric="ranked",
        questions=questions,
        margins=tuple(float(is_right) for *_, is_right in rows),
        given=tuple("a" for _ in rows),
        scoring="",
        left_out={},
    )


@given(st.lists(st.tuples(st.sampled_from("PQ"), st.sampled_from("ab"), st.booleans()), min_size=1))
def test_figures_are_of_relations(rows: list[tuple[str, str, bool]]) -> None:
    right = 0
    means = []
    for name in {cluster for cluster, *_ in rows}:
        mine = [row for row in rows if row[0] == name]
        means.append(sum(is_right for *_, is_right in mine) / len(mine))
        right += Counter(answer for _, answer, _ in mine).most_common(1)[0][1]
    assert accuracy(measured(rows)) == {
        "accuracy, mean over relations": pytest.approx(sum(means) / len(means)),
        MAJORITY: pytest.approx(right / len(rows)),
    }


def test_of_nothing_there_are_no_figures() -> None:
    assert accuracy(measured([])) == majority(()) == {}
