"""Pieces of a plan as one row of a causal model: a prefix first, then all that stands behind it.

What follows a trunk is run in the same pass as the trunk, for in each layer its keys and values are
there before anything looks at them. So a header, the questions behind it and their choices are one
row without padding, and each product of the model is as large as the budget allows.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any

from pytest_compression.scoring.attention import Kept, Layout, Own, Prefix
from pytest_compression.scoring.prefixes import Piece
from pytest_compression.scoring.rows import Rows


class Pack:
    """Pieces that are run as one row, with all that is below them."""

    def __init__(self, pieces: Sequence[Piece], rows: Rows, kept: Kept) -> None:
        self.pieces = list(in_order(pieces))
        lengths = [len(piece.tokens) for piece in self.pieces]
        self.starts = [0, *accumulate(lengths[:-1])]
        """Where each piece begins in the row."""
        self.layout = Layout(
            own=list(self.own(rows)),
            prefixes=[
                Prefix(start, start + len(piece.tokens), start + size_of(piece))
                for piece, start in zip(self.pieces, self.starts, strict=True)
                if piece.below
            ],
            kept=kept,
        )
        self.inputs: dict[str, Any] = {
            "input_ids": rows.tokens([[t for piece in self.pieces for t in piece.tokens]]),
            "position_ids": rows.tokens([[p for piece in self.pieces for p in piece.places]]),
            "attention_mask": rows.nothing(),
        }

    def own(self, rows: Rows) -> Iterator[Own]:
        """Pieces of one kind and length that stand one after the other, at once."""
        placed = zip(self.pieces, self.starts, strict=True)
        for (linear, tokens), some in groupby(placed, key=lambda at: kind(at[0])):
            alike = list(some)
            mask = None if linear else rows.mask([piece for piece, _ in alike], 0)
            yield Own(alike[0][1], len(alike), tokens, mask)


def kind(piece: Piece) -> tuple[bool, int]:
    """What pieces have in common whose tokens are handled at once."""
    return piece.is_linear, len(piece.tokens)


def in_order(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """All pieces, each trunk directly before what is below it, and of the rows alike ones."""
    yield from sorted((piece for piece in pieces if not piece.below), key=kind)
    for piece in pieces:
        if piece.below:
            yield piece
            yield from in_order(piece.below)


def size_of(piece: Piece) -> int:
    """Tokens of a piece and of all below it."""
    return sum(len(one.tokens) for one in in_order([piece]))
