from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.benchmarks.relations import candidates, told_apart

facts = st.sets(st.tuples(st.sampled_from("ABC"), st.sampled_from("wxyz")), min_size=1).map(list)


@given(facts)
def test_other_right_answers_do_not_compete(facts: list[tuple[str, str]]) -> None:
    objects = {answer for _, answer in facts}
    found = candidates(facts)
    assert set(found) == set(facts)
    for (subject, answer), mine in found.items():
        wrong = {o for o in objects if (subject, o) not in facts}
        assert mine == tuple(sorted(wrong | {answer}))


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.text()), unique=True))
def test_names_are_unique_and_kept_where_they_were(rows: list[tuple[str, str]]) -> None:
    keys, contents = [key for key, _ in rows], [content for _, content in rows]
    found = told_apart(keys, contents)
    assert len(set(found)) == len(rows)
    for name, key in zip(found, keys, strict=True):
        assert (name == key) == (key != "" and keys.count(key) == 1)
        assert name.startswith(key)
    turned = told_apart(keys[::-1], contents[::-1])
    assert turned[::-1] == found
