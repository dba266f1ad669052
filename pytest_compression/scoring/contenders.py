"""How far the right statement leads the best other one, exactly, without scoring them all.

The statements of a question are a tree of tokens. The log-probability of a beginning bounds all
that go on from it from above, so only the most promising beginnings are followed, a token at a
time, until none that is left can beat the best whole statement (uniform-cost search; Hart, Nilsson
& Raphael 1968, https://doi.org/10.1109/TSSC.1968.300136, with a zero heuristic). What all
statements of a question begin with cancels and is not scored.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from pytest_compression.scoring.prefixes import common
from pytest_compression.scoring.reading import Readings
from pytest_compression.scoring.tokens import Tokens

WIDTH = 4
"""Beginnings of a question that are followed in its first round; then twice as many each time."""


class Engine(Protocol):
    """What reads log-probabilities of tokens behind tokens."""

    def score(
        self, sequences: Sequence[Tokens], wanted: Sequence[tuple[int, int, int]]
    ) -> Readings:
        """Of a token behind a position of a sequence, each."""


class Beginning(NamedTuple):
    """Statements that begin alike and go on."""

    cost: float
    """Nats: minus the log-probability of what they begin with, behind what all begin with."""
    end: int
    """Tokens that they begin with."""
    statements: tuple[int, ...]


class Step(NamedTuple):
    """What is run, and what is read of it."""

    row: Tokens
    reads: list[tuple[int, int]]
    """Positions in the row, and the token that is read behind each."""


class Contest:
    """One question: what is open, and the best that is known exactly."""

    def __init__(self, sequences: Sequence[Tokens], right: int) -> None:
        """Begin with nothing known.

        Args:
            sequences: each statement with the special tokens before it, one at least; empty if it
                cannot be said.
            right: which of them is right; it can be said.
        """
        self.sequences = sequences
        self.right = right
        said = [i for i, tokens in enumerate(sequences) if tokens]
        ordered = sorted(sequences[i] for i in said)
        self.stem = common(ordered[0], ordered[-1])
        self.right_total = -math.inf
        self.best = -math.inf
        self.other = min((i for i in range(len(sequences)) if i != right), default=right)
        """The best other statement; of equals the first."""
        self.open: list[Beginning] = []
        """Of the other statements: a heap."""
        self.width = WIDTH
        self.admit(0.0, self.stem, [i for i in said if i != right])

    def admit(self, cost: float, end: int, statements: Sequence[int]) -> None:
        """Take in what statements that begin alike cost up to a token; some may end there."""
        longer = tuple(i for i in statements if len(self.sequences[i]) > end)
        if longer:
            heapq.heappush(self.open, Beginning(cost, end, longer))
        for i in statements:
            if len(self.sequences[i]) == end and (-cost, -i) > (self.best, -self.other):
                self.best, self.other = -cost, i

    def due(self) -> Iterator[Beginning]:
        """The beginnings to follow next; none when the question is decided."""
        for _ in range(self.width):
            if not self.open or -self.open[0].cost < self.best:
                return
            yield heapq.heappop(self.open)
        self.width *= 2

    def after(self, beginning: Beginning) -> dict[int, list[int]]:
        """The statements by the next token."""
        found: dict[int, list[int]] = {}
        for i in beginning.statements:
            found.setdefault(self.sequences[i][beginning.end], []).append(i)
        return found

    def follow(self, beginning: Beginning) -> Step:
        """What tells where a beginning leads."""
        row = self.sequences[beginning.statements[0]][: beginning.end]
        return Step(row, [(beginning.end - 1, token) for token in self.after(beginning)])

    def take(self, beginning: Beginning, values: Iterable[float]) -> None:
        """Take in the log-probabilities that a step has read."""
        for value, statements in zip(values, self.after(beginning).values(), strict=True):
            self.admit(beginning.cost - value, beginning.end + 1, statements)

    def first(self) -> Step:
        """What tells the sum of the right statement, and how the others go on at first."""
        row = self.sequences[self.right]
        reads = [(place - 1, row[place]) for place in range(self.stem, len(row))]
        for beginning in self.open:
            reads += self.follow(beginning).reads
        return Step(row[: max(self.stem, len(row) - 1)], reads)

    def take_first(self, values: Sequence[float]) -> None:
        """Take in the log-probabilities that the first step has read."""
        mine = len(self.sequences[self.right]) - self.stem
        self.right_total = math.fsum(values[:mine])
        if self.open:
            self.take(self.open.pop(), values[mine:])

    @property
    def outcome(self) -> tuple[float, int]:
        """Nats by which the right statement leads, and which one won; not it if they tie."""
        margin = self.right_total - self.best
        return margin, self.right if margin > 0 else self.other


def decide(engine: Engine, contests: Sequence[Contest]) -> list[tuple[float, int]]:
    """The outcomes of questions that go on together, a round at a time.

    Raises:
        MeasurementError: the model computes NaN or infinities.
    """
    steps = [contest.first() for contest in contests]
    for contest, values in zip(contests, read(engine, steps), strict=True):
        contest.take_first(values)
    while due := [(contest, beginning) for contest in contests for beginning in contest.due()]:
        found = read(engine, [contest.follow(beginning) for contest, beginning in due])
        for (contest, beginning), values in zip(due, found, strict=True):
            contest.take(beginning, values)
    return [contest.outcome for contest in contests]


def read(engine: Engine, steps: Sequence[Step]) -> list[list[float]]:
    """The log-probabilities that steps read, all at once."""
    wanted = [(i, place, token) for i, step in enumerate(steps) for place, token in step.reads]
    values = engine.score([step.row for step in steps], wanted).values.tolist()
    ends = list(accumulate(len(step.reads) for step in steps))
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
