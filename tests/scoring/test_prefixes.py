"""Plans: each sequence is found again, along one path, and little is run twice."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.scoring.prefixes import ROOT, ROW, Piece, Plan, Prices, common, plan

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple)
SEQUENCES = st.lists(TOKENS, min_size=1, max_size=30)
CAN = st.fixed_dictionaries({"trees": st.booleans(), "trunks": st.booleans()})
HEADERS = st.lists(st.integers(0, 2), max_size=120).map(tuple)


@st.composite
def headed(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Sequences behind one of a few long headers, and without one."""
    headers = [*draw(st.lists(HEADERS, max_size=3)), ()]
    return [draw(st.sampled_from(headers)) + draw(TOKENS) for _ in range(draw(st.integers(1, 12)))]


def priced(attention: float = 3456) -> Prices:
    """As of a model that is handed copies of what is kept."""
    return Prices(attention=attention, trunk=48, copied=1 / 200, joined=0)


def read(made: Plan, sequence: int, length: int) -> list[int]:
    """The tokens that a plan runs for a sequence."""
    found = []
    for position in range(length):
        piece, node = made.place(sequence, position)
        found.append(piece.tokens[node])
    return found


def ancestors(piece: Piece, node: int) -> list[int]:
    """The tokens of a piece that one of its tokens sees, in order, itself the last."""
    seen = []
    while node != ROOT:
        seen.append(node)
        node = piece.parents[node]
    return seen[::-1]


@given(st.one_of(SEQUENCES, headed()), CAN, st.floats(1, 1e5))
def test_each_sequence_is_run_along_one_path(
    sequences: list[tuple[int, ...]], can: dict[str, bool], attention: float
) -> None:
    made = plan(sequences, priced(attention), **can)
    for i, sequence in enumerate(sequences):
        assert read(made, i, len(sequence)) == list(sequence)
        for (above, nodes), (below, _) in pairwise(made.paths[i]):
            assert below in above.below
            assert len(nodes) == len(above.tokens)
            assert below.start == above.start + len(above.tokens)
        for piece, nodes in made.paths[i]:
            assert ancestors(piece, nodes[-1]) == nodes
            assert [piece.places[n] for n in nodes] == list(
                range(piece.start, piece.start + len(nodes))
            )


@given(st.one_of(SEQUENCES, headed()), CAN, st.floats(1, 1e5))
def test_what_the_model_cannot_do_is_not_asked(
    sequences: list[tuple[int, ...]], can: dict[str, bool], attention: float
) -> None:
    made = plan(sequences, priced(attention), **can)
    if not can["trees"]:
        assert all(piece.is_linear for piece in made.walk())
    if not can["trunks"]:
        assert not any(piece.below for piece in made.walk())
    for piece in made.walk():
        assert piece.tokens
        assert piece.is_linear or len(piece.tokens) <= ROW
        assert piece.is_linear or not piece.below


@given(headed(), CAN, st.floats(1, 1e5))
def test_never_more_is_run_than_one_by_one_and_never_less_than_the_trie(
    sequences: list[tuple[int, ...]], can: dict[str, bool], attention: float
) -> None:
    made = plan(sequences, priced(attention), **can)
    prefixes = {s[: i + 1] for s in sequences for i in range(len(s))}
    assert len(prefixes) <= made.tokens <= sum(map(len, set(sequences)))


@given(SEQUENCES)
def test_small_tries_are_run_as_one_row_a_beginning(sequences: list[tuple[int, ...]]) -> None:
    made = plan(sequences, priced(1e9), trees=True, trunks=True)
    assert len(made.pieces) == len({s[0] for s in sequences})
    assert made.tokens == len({s[: i + 1] for s in sequences for i in range(len(s))})


def test_a_header_over_many_questions_is_run_once_and_choices_share_their_stem() -> None:
    header = tuple(range(400))
    questions = [(1000 + q, *range(2000, 2060)) for q in range(100)]
    choices = [(50, 51, 60 + c, *range(70, 80)) for c in range(4)]
    made = plan(
        [header + q + c for q in questions for c in choices], priced(), trees=True, trunks=True
    )
    (trunk,) = made.pieces
    assert trunk.tokens == list(header)
    assert len(trunk.below) == len(questions)
    assert {len(row.tokens) for row in trunk.below} == {61 + 2 + 4 * 11}


def test_two_headers_are_two_trunks() -> None:
    headers = [(0, *range(100, 400)), (0, *range(500, 800))]
    made = plan(
        [h + (1000 + q,) * 100 for h in headers for q in range(40)],
        priced(),
        trees=True,
        trunks=True,
    )
    assert [len(piece.tokens) for piece in made.pieces] == [301, 301]
    assert [len(piece.below) for piece in made.pieces] == [40, 40]


def test_a_long_passage_with_its_choices_is_one_row() -> None:
    passage = tuple(range(600))
    made = plan([(*passage, 700 + c) for c in range(4)], priced(), trees=True, trunks=True)
    (row,) = made.pieces
    assert len(row.tokens) == 604


def test_many_nested_sequences_do_not_exhaust_the_stack() -> None:
    whole = tuple(range(2200))
    sequences = [whole[: i + 1] for i in range(0, 2200, 2)]
    for trees, trunks in ((True, True), (False, True), (False, False)):
        made = plan(sequences, priced(), trees=trees, trunks=trunks)
        assert read(made, 700, 1401) == list(range(1401))


@given(TOKENS, TOKENS)
def test_the_common_prefix_is_the_longest(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    found = common(one, other)
    assert one[:found] == other[:found]
    assert found == min(len(one), len(other)) or one[found] != other[found]


def test_a_position_behind_the_end_is_refused() -> None:
    made = plan([(1, 2)], priced(100), trees=True, trunks=True)
    with pytest.raises(IndexError, match="position 2"):
        made.place(0, 2)
