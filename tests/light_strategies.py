"""Strategies of the light half: scores, measurements and baselines. No torch."""

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pytest_compression.store.baselines import Baseline, Packed, pack_bits
from pytest_compression.types import Acceptance, Fingerprint, Footprint, Measurement, Question

words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8
)
"""Also accents, other scripts and emoji: facts have them."""

shares = st.floats(0, 1)
counts = st.integers(0, 2**40)
texts = st.dictionaries(words, words, max_size=3)

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
            candidates=("a", "b"),
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
    )


@st.composite
def packed(draw: st.DrawFn) -> Packed:
    """The scores of a cluster."""
    scores = draw(st.lists(st.integers(0, 1), max_size=40))
    return Packed(questions=len(scores), right=sum(scores), bits=pack_bits(scores))


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

options = st.dictionaries(words, st.one_of(words, counts, shares, st.booleans()), max_size=3)

baselines = st.builds(
    Baseline,
    trial=words,
    recipe=st.lists(options, max_size=3),
    metric=words,
    scores=st.dictionaries(words, packed(), max_size=3),
    near_ties=st.dictionaries(words, margins, max_size=3),
    near_tie=shares,
    floor=shares,
    left_out=st.dictionaries(words, counts, max_size=2),
    fingerprint=st.builds(Fingerprint, weights=words, questions=words, scoring=words),
    footprint=footprints,
    environment=texts,
    accepted=st.builds(
        Acceptance, date=words, reason=words, previous=st.one_of(st.none(), options)
    ),
)
