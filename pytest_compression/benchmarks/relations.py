"""The facts of a relation: what each is called, what it competes with, how some are drawn."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from pytest_compression.fingerprints import digest


def told_apart(keys: Sequence[str], contents: Sequence[str]) -> list[str]:
    """The keys; those that are empty or shared with the digests of the contents behind them.

    Args:
        keys: of all facts of a relation, drawn or not, so that a name is always the same.
        contents: what differs wherever facts do; parallel to the keys.
    """
    times = Counter(keys)
    return [
        key if key and times[key] == 1 else f"{key}#{digest([content.encode()])[:16]}"
        for key, content in zip(keys, contents, strict=True)
    ]


def right_answers(facts: Collection[tuple[str, str]]) -> dict[str, set[str]]:
    """The objects of each subject."""
    right: dict[str, set[str]] = {}
    for subject, answer in facts:
        right.setdefault(subject, set()).add(answer)
    return right


def candidates(
    facts: Collection[tuple[str, str]],
) -> Mapping[tuple[str, str], tuple[str, ...]]:
    """For each fact the relation's objects, without others that are right for its subject, too."""
    right = right_answers(facts)
    everything = tuple(sorted({answer for _, answer in facts}))
    return {
        (subject, answer): everything
        if len(right[subject]) == 1
        else tuple(o for o in everything if o == answer or o not in right[subject])
        for subject, answer in facts
    }
