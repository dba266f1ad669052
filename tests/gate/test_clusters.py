"""Which clusters are units, and their sums."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.gate.clusters import ENOUGH, totals, units

names = st.lists(st.sampled_from([f"r{i}" for i in range(20)]), min_size=1, max_size=80)


@given(names)
def test_a_dozen_clusters_are_units_and_fewer_are_not(clusters: list[str]) -> None:
    unit = units(clusters)
    assert (unit is None) == (len(set(clusters)) < ENOUGH)


@given(names)
def test_two_questions_share_a_unit_exactly_if_they_share_a_cluster(clusters: list[str]) -> None:
    unit = units([*clusters, *(f"r{i}" for i in range(ENOUGH))])
    assert unit is not None
    assert sorted(set(unit.tolist())) == list(range(max(unit) + 1))
    for i, name in enumerate(clusters):
        assert [other == name for other in clusters] == (unit[: len(clusters)] == unit[i]).tolist()


@given(names, st.randoms(use_true_random=False))
def test_the_number_of_a_cluster_does_not_depend_on_the_order(
    clusters: list[str], random: object
) -> None:
    every = [*clusters, *(f"r{i}" for i in range(ENOUGH))]
    before = units(every)
    shuffled = list(every)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it so
    after = units(shuffled)
    assert before is not None
    assert after is not None
    assert dict(zip(every, before.tolist(), strict=True)) == dict(
        zip(shuffled, after.tolist(), strict=True)
    )


@given(st.lists(st.tuples(st.sampled_from("abcdefghijklmno"), st.integers(-9, 9)), min_size=1))
def test_totals_are_the_sums_of_the_clusters(rows: list[tuple[str, int]]) -> None:
    rows = [*rows, *((name, 1) for name in "abcdefghijklmno")]
    values = np.array([value for _, value in rows], dtype=np.float64)
    expected: dict[str, int] = {}
    for name, value in rows:
        expected[name] = expected.get(name, 0) + value
    unit = units([name for name, _ in rows])
    assert totals(values, unit).tolist() == [expected[name] for name in sorted(expected)]


def test_without_units_the_values_are_their_own_totals() -> None:
    values = np.array([0.5, -1.0])
    assert totals(values, None) is values


def test_eleven_and_twelve() -> None:
    assert units([str(i) for i in range(ENOUGH - 1)] * 3) is None
    unit = units([f"{i:02}" for i in range(ENOUGH)] * 3)
    assert unit is not None
    assert unit.tolist() == list(range(ENOUGH)) * 3
