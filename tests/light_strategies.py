"""Strategies of the light half: scores, measurements and baselines. No torch."""

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pytest_compression.store.baselines import Baseline, Stored
from pytest_compression.store.packing import Chance, Packed, pack, pack_chance
from pytest_compression.types import (
    Acceptance,
    Cost,
    Fingerprint,
    Footprint,
    Gate,
    Measurement,
    Noise,
    Past,
    Question,
)

words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8
)
"""Also accents, other scripts and emoji: facts have them."""

shares = st.floats(0, 1)
counts = st.integers(0, 2**40)
texts = st.dictionaries(words, words, max_size=3)
grades = st.floats(-1e6, 1e6)

margins = st.one_of(
    st.sampled_from([0.0, 0.004, -0.004, 0.01, -0.01, 0.02, -0.02, 1.0, -1.0]),
    st.floats(-20, 20),
)
"""Half of them at the edges of near ties."""


def pairs() -> SearchStrategy[list[tuple[int, int, float]]]:
    """For each question a dense score, a compressed one, and what guessing gets."""
    chance = st.sampled_from([0.0, 0.5, 1 / 3, 0.25, 0.1])
    return st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), chance), min_size=1, max_size=60
    )


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    """A few questions in up to three clusters."""
    ids = sorted(draw(st.sets(words, min_size=1, max_size=25)))
    clusters = draw(st.lists(words, min_size=1, max_size=3))
    questions = tuple(
        Question(
            id=name,
            subject=name,
            stem=f"{name} is",
            end=".",
            answer="a",
            candidates=draw(st.sampled_from([("a", "b"), ("a", "b", "d"), tuple("abdefghijk")])),
            cluster=draw(st.sampled_from(clusters)),
        )
        for name in ids
    )
    found = draw(st.lists(margins, min_size=len(ids), max_size=len(ids)))
    return Measurement(
        metric="ranked",
        questions=questions,
        margins=tuple(found),
        given=tuple("a" if margin > 0 else "b" for margin in found),
        scoring=draw(words),
        left_out=draw(st.dictionaries(words, counts, max_size=2)),
        open_vocabulary=draw(st.booleans()),
    )


@st.composite
def graded_measurements(draw: st.DrawFn) -> Measurement:
    """The same of a benchmark that has no right and wrong."""
    measured = draw(measurements())
    n = len(measured.questions)
    values = tuple(draw(st.lists(grades, min_size=n, max_size=n)))
    return msgspec.structs.replace(measured, values=values, margins=(), given=())


@st.composite
def packed(draw: st.DrawFn) -> Packed:
    """The scores of a cluster."""
    if draw(st.booleans()):
        return pack(draw(st.lists(grades, max_size=20)), graded=True)
    return pack(draw(st.lists(st.integers(0, 1), max_size=40)), graded=False)


def chances(count: int) -> SearchStrategy[Chance]:
    """What guessing gets on the questions of a cluster: of all of them, or of each."""
    each = st.lists(shares, min_size=max(1, count), max_size=max(1, count))
    return st.one_of(shares, each.map(pack_chance))


gates = st.builds(
    Gate,
    min_retention=shares,
    relation_floors=st.dictionaries(words, shares, max_size=2),
    max_forgotten=st.one_of(st.none(), shares),
    assurance=st.sampled_from(["point", "proven"]),
    margin=shares,
    alpha=shares,
    power=shares,
    inconclusive=st.sampled_from([None, "pass", "fail", "warn"]),
    improvement=st.sampled_from(["report", "accept"]),
    near_tie=shares,
)

footprints = st.builds(
    Footprint,
    bytes=counts,
    dense_bytes=counts,
    parameters=counts,
    zeros=counts,
    modules_touched=counts,
    modules=counts,
    sparsity=shares,
    bits=st.floats(0, 32),
    weight_error=st.floats(0, 10),
)

noises = st.builds(
    Noise,
    near_tie=shares,
    shifts=st.dictionaries(words, shares, max_size=2),
    flips=st.dictionaries(words, counts, max_size=2),
    false_red=shares,
    date=words,
)

costs = st.builds(Cost, tokens=counts, seconds=st.floats(0, 1e6, allow_subnormal=False))

options = st.dictionaries(words, st.one_of(words, counts, shares, st.booleans()), max_size=3)
recipes = st.lists(options, max_size=3)

pasts = st.builds(
    Past,
    date=words,
    reason=words,
    score=shares,
    questions=st.integers(0, 1000),
    floor=shares,
    recipe=recipes,
)


@st.composite
def baselines(draw: st.DrawFn) -> Baseline:
    """One record."""
    scores = draw(st.dictionaries(words, packed(), max_size=3))
    return Baseline(
        recipe=draw(recipes),
        metric=draw(words),
        scores=scores,
        chance={name: draw(chances(part.questions)) for name, part in scores.items()},
        near_ties=draw(st.dictionaries(words, margins, max_size=3)),
        near_tie=draw(shares),
        gate=draw(gates),
        left_out=draw(st.dictionaries(words, counts, max_size=2)),
        fingerprint=draw(st.builds(Fingerprint, weights=words, questions=words, scoring=words)),
        footprint=draw(footprints),
        cost=draw(costs),
        environment=draw(texts),
        accepted=draw(
            st.builds(Acceptance, date=words, reason=words, history=st.lists(pasts, max_size=2))
        ),
        noise=draw(st.one_of(st.none(), noises)),
    )


@st.composite
def stored(draw: st.DrawFn) -> Stored:
    """A file of one or two records."""
    records = draw(st.dictionaries(words, baselines(), min_size=1, max_size=2))
    return Stored(
        trial=draw(words), fallback=draw(st.sampled_from(sorted(records))), hardware=records
    )
