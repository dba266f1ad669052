import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.scoring.contenders import Contest, decide
from pytest_compression.scoring.reading import Readings
from pytest_compression.scoring.tokens import Tokens

BEGIN = 9


class Table:
    """An engine that has a log-probability for every token behind every beginning."""

    def __init__(self, seed: int, *, certain: float = 0.0) -> None:
        self.seed = seed
        self.certain = certain
        """The share of tokens that cost nothing."""
        self.rows: list[list[Tokens]] = []
        """What was run, round by round."""

    def value(self, beginning: Tokens, token: int) -> float:
        """Of a token; whole numbers, so that there are ties and no rounding."""
        draw = random.Random(repr((self.seed, beginning, token)))  # noqa: S311
        return 0.0 if draw.random() < self.certain else -float(draw.randint(1, 4))

    def score(
        self, sequences: Sequence[Tokens], wanted: Sequence[tuple[int, int, int]]
    ) -> Readings:
        self.rows.append(list(sequences))
        values = [self.value(sequences[s][: place + 1], token) for s, place, token in wanted]
        return Readings(torch.tensor(values), torch.zeros(len(values), dtype=torch.bool))

    def total(self, sequence: Tokens) -> float:
        """Of all tokens of a sequence behind its first."""
        return sum(self.value(sequence[:i], sequence[i]) for i in range(1, len(sequence)))


def by_hand(table: Table, sequences: Sequence[Tokens], right: int) -> tuple[float, int]:
    """Every statement scored."""
    totals = [table.total(tokens) if tokens else float("-inf") for tokens in sequences]
    other = max((i for i in range(len(totals)) if i != right), key=totals.__getitem__)
    margin = totals[right] - totals[other]
    return margin, right if margin > 0 else other


options = st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), min_size=2, max_size=25)


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[Tokens], int]:
    """Statements over few tokens: many begin others, some are equal, some cannot be said."""
    stem = (BEGIN, *draw(st.lists(st.integers(0, 2), max_size=3)))
    end = draw(st.sampled_from([(), (3,), (3, 0)]))
    sequences = [(*stem, *option, *end) for option in draw(options)]
    right = draw(st.integers(0, len(sequences) - 1))
    unsaid = draw(st.sets(st.integers(0, len(sequences) - 1))) - {right}
    if len(unsaid) == len(sequences) - 1:
        unsaid.pop()
    return [() if i in unsaid else tokens for i, tokens in enumerate(sequences)], right


@given(
    asked=st.lists(questions(), min_size=1, max_size=5),
    seed=st.integers(0, 9),
    certain=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_outcome_is_that_of_scoring_every_statement(
    asked: list[tuple[list[Tokens], int]], seed: int, certain: float
) -> None:
    table = Table(seed, certain=certain)
    found = decide(table, [Contest(sequences, right) for sequences, right in asked])
    assert found == [by_hand(table, sequences, right) for sequences, right in asked]


@given(asked=questions(), seed=st.integers(0, 9))
def test_nothing_is_followed_twice_and_no_statement_to_its_last_token(
    asked: tuple[list[Tokens], int], seed: int
) -> None:
    sequences, right = asked
    table = Table(seed)
    decide(table, [Contest(sequences, right)])
    (first,), *rounds = table.rows
    followed = [row for rows in rounds for row in rows]
    assert len(set(followed)) == len(followed)
    assert sequences[right][: len(first)] == first
    assert all(
        any(tokens[: len(row)] == row and len(tokens) > len(row) for tokens in sequences)
        for row in followed
    )


def test_what_cannot_win_is_not_followed() -> None:
    class Steep(Table):
        def value(self, beginning: Tokens, token: int) -> float:
            del beginning
            return -float(token)

    sequences = [(BEGIN, 5, token, 0) for token in range(5, 100)]
    table = Steep(0)
    (found,) = decide(table, [Contest([*sequences, (BEGIN, 7, 1, 0)], right=0)])
    assert found == (8.0 - 10.0, 95)
    followed = {row for rows in table.rows for row in rows}
    assert (BEGIN, 7, 1) in followed
    assert (BEGIN, 5, 50) not in followed


@pytest.mark.parametrize("count", [2, 60])
def test_all_questions_go_on_in_the_same_rounds(count: int) -> None:
    sequences = [(BEGIN, *divmod(number, 8), 3) for number in range(count)]
    alone, together = Table(0), Table(0)
    decide(alone, [Contest(sequences, 0)])
    decide(together, [Contest(sequences, 0) for _ in range(3)])
    assert [len(rows) for rows in together.rows] == [3 * len(rows) for rows in alone.rows]
