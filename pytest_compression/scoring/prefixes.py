"""What to run once: sequences of tokens, arranged so that shared prefixes are shared.

Sorted sequences are a trie. Each *piece* of a plan is a part of that trie which is run in one go:
a trunk, whose keys and values are kept for all that follows it (a few-shot header over all
questions), or a row that holds several sequences as a tree, such as a question and its choices. A
token of a row sees its ancestors only, so that a common stem of two choices is in it once.

How to cut is decided by cost, counted in tokens: a row of ``n`` tokens behind ``d`` kept ones
costs ``n + n (d + n) / A``, for attention looks at ``d + n`` tokens. ``A`` depends on the
model, and what a trunk costs besides its tokens, on how it is run.
Nothing here depends on the tokenizer: prefixes are compared as tokens, wherever they end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from pytest_compression.scoring.tokens import Tokens

ROW = 2048
"""Tokens of a row at most, but for a single sequence that is longer."""
DEEPEST = 200
"""Levels of branching that are looked at; below, sequences are run one by one."""

ROOT = -1
"""The parent of a token that directly follows what is kept."""


class Prices(NamedTuple):
    """What running costs besides the tokens that are run, in tokens."""

    attention: float
    """The ``A`` of the cost: so many tokens that one token looks at cost as much as a token."""
    trunk: float
    """To run a trunk."""
    copied: float
    """To hand one kept token on to a row."""
    joined: float
    """To let one token that stands behind a trunk look at it separately."""


@dataclass(eq=False)
class Piece:
    """Tokens that are run together behind what its ancestors keep."""

    start: int
    """How many tokens stand before the first: those of its ancestors."""
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Of each token, which one stands before it, or :data:`ROOT`."""
    places: list[int] = field(default_factory=list)
    """Of each token, its position in its sequence."""
    below: list["Piece"] = field(default_factory=list)
    """What follows its last token; then all its tokens are one sequence."""

    @property
    def is_linear(self) -> bool:
        """Whether each token follows the one before."""
        return self.places == list(range(self.start, self.start + len(self.tokens)))

    def append(self, token: int, parent: int) -> int:
        """Add a token behind another one; where it stands in the row."""
        self.places.append(self.start if parent == ROOT else self.places[parent] + 1)
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1


Place = tuple[Piece, int]
"""A piece, and a token of it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How sequences are run."""

    pieces: list[Piece]
    """Those behind nothing."""
    paths: list[list[tuple[Piece, list[int]]]]
    """Of each sequence, in the order it was given: its pieces, and its tokens in each."""

    @property
    def tokens(self) -> int:
        """How many are run."""
        return sum(len(piece.tokens) for piece in self.walk())

    def walk(self) -> Iterator[Piece]:
        """All pieces, those above before those below."""
        due = list(self.pieces)
        while due:
            piece = due.pop()
            yield piece
            due += piece.below

    def place(self, sequence: int, position: int) -> Place:
        """Where a token of a sequence is run."""
        for piece, nodes in self.paths[sequence]:
            if position < piece.start + len(nodes):
                return piece, nodes[position - piece.start]
        message = f"sequence {sequence} has no position {position}"
        raise IndexError(message)


def common(one: Tokens, other: Tokens) -> int:
    """How many tokens two sequences share at their beginning."""
    shortest = min(len(one), len(other))
    if one[:shortest] == other[:shortest]:
        return shortest
    low, high = 0, shortest  # the first low tokens are equal, the first high are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def plan(sequences: Sequence[Tokens], prices: Prices, *, trees: bool, trunks: bool) -> Plan:
    """Arrange sequences so that little is run twice.

    Args:
        sequences: none of them empty; equal ones are run once.
        prices: of the model.
        trees: whether the model can run several sequences as one row.
        trunks: whether its keys and values can be kept.
    """
    ordered = sorted(set(sequences))
    planner = Planner(ordered, prices, trees=trees, trunks=trunks)
    _, cuts = planner.cut(0, len(ordered), 0, 0)
    paths: list[list[tuple[Piece, list[int]]]] = [[] for _ in ordered]
    pieces = [piece for cut in cuts for piece in planner.build(cut, paths)]
    place = {sequence: i for i, sequence in enumerate(ordered)}
    return Plan(pieces=pieces, paths=[paths[place[sequence]] for sequence in sequences])


@dataclass(frozen=True)
class Cut:
    """A decision: sorted sequences ``first`` to ``last`` are run from ``start`` on."""

    first: int
    last: int
    start: int
    end: int = 0
    """A trunk runs up to here, and ``below`` is what follows; otherwise they are one row."""
    below: tuple["Cut", ...] = ()


class Planner:
    """Decides by cost, from the shared prefixes of sorted, different sequences."""

    def __init__(
        self, ordered: Sequence[Tokens], prices: Prices, *, trees: bool, trunks: bool
    ) -> None:
        self.ordered = ordered
        self.prices = prices
        self.trees = trees
        self.trunks = trunks
        self.shared = [0, *(common(one, other) for one, other in pairwise(ordered))]
        """Of each sequence, how many tokens it shares with the one before."""
        self.new = [len(s) - k for s, k in zip(ordered, self.shared, strict=True)]

    def cost(self, tokens: int, kept: int) -> float:
        """Of a row behind so many kept tokens."""
        return tokens + tokens * (kept + tokens) / self.prices.attention + kept * self.prices.copied

    def cut(
        self, first: int, last: int, kept: int, seen: int, level: int = 0
    ) -> tuple[float, list[Cut]]:
        """The cheapest way for sequences that share their first ``seen`` tokens.

        Args:
            first: of the sorted sequences.
            last: the one behind the last.
            kept: of the shared tokens, how many an ancestor keeps.
            seen: how many they share, at least.
            level: of the recursion.
        """
        total, cuts = 0.0, list[Cut]()
        for a, b in self.groups(first, last, seen):
            cost, found = self.group(a, b, kept, level)
            total += cost
            cuts += found
        return total, cuts

    def groups(self, first: int, last: int, seen: int) -> Iterator[tuple[int, int]]:
        """Runs of sequences that go on alike."""
        begin = first
        for i in range(first + 1, last):
            if self.shared[i] <= seen:
                yield begin, i
                begin = i
        yield begin, last

    def group(self, first: int, last: int, kept: int, level: int) -> tuple[float, list[Cut]]:
        """The cheapest way for one run: a row, a trunk with what follows, or rows by branches."""
        size = len(self.ordered[first]) - kept + sum(self.new[first + 1 : last])
        row = [Cut(first, last, kept)] if size else []
        if last - first == 1:
            return (self.cost(size, kept) if size else 0.0), row
        as_row = self.cost(size, kept) if self.trees and size <= ROW else float("inf")
        if as_row < size + self.prices.trunk or level == DEEPEST:
            return self.one_by_one(first, last, kept) if as_row == float("inf") else (as_row, row)
        fork = min(self.shared[first + 1 : last])
        branches = sum(1 for _ in self.groups(first, last, fork))
        again = (fork - kept) * (branches - 1) * (1 + kept / self.prices.attention)
        joined = (size - fork + kept) * self.prices.joined
        handed = (fork - kept) * branches * self.prices.copied
        if self.trunks and again > self.prices.trunk + joined + handed:
            cost, below = self.cut(first, last, fork, fork, level + 1)
            cost += self.cost(fork - kept, kept) + self.prices.trunk + joined
            cuts = [Cut(first, last, kept, fork, tuple(below))]
        else:
            cost, cuts = self.cut(first, last, kept, fork, level + 1)
        return (as_row, row) if as_row <= cost else (cost, cuts)

    def one_by_one(self, first: int, last: int, kept: int) -> tuple[float, list[Cut]]:
        """A row a sequence."""
        cuts = [Cut(i, i + 1, kept) for i in range(first, last)]
        return sum(self.cost(len(self.ordered[c.first]) - kept, kept) for c in cuts), cuts

    def build(self, cut: Cut, paths: list[list[tuple[Piece, list[int]]]]) -> Iterator[Piece]:
        """The pieces of a decision; notes where the tokens of each sequence are."""
        piece = Piece(cut.start)
        if cut.end:
            trunk = self.ordered[cut.first][cut.start : cut.end]
            nodes = [piece.append(token, i - 1) for i, token in enumerate(trunk)]
            for i in range(cut.first, cut.last):
                paths[i].append((piece, nodes))
            piece.below = [p for below in cut.below for p in self.build(below, paths)]
            yield piece
            return
        path: list[int] = []
        for i in range(cut.first, cut.last):
            same = 0 if i == cut.first else self.shared[i] - cut.start
            del path[max(0, same) :]
            for token in self.ordered[i][cut.start + len(path) :]:
                path.append(piece.append(token, path[-1] if path else ROOT))
            paths[i].append((piece, list(path)))
        yield piece
