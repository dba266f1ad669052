"""Sequences that grow a few tokens at a time, all in one row; what they share is run once.

Keys and values of every token stay. A new token sees its own ancestors only, at the position that
it has in its own sequence, so it gets what it would get if its sequence were run alone. Nothing is
padded, and nothing is copied for each sequence; the price is that attention looks at the tokens of
other sequences, too, only to weigh them with nothing. So a row that has become long is given up,
and what is still needed of it is run again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_compression.scoring.prefixes import ROOT, Piece
from pytest_compression.scoring.reading import Readings, in_parts, readings, run
from pytest_compression.scoring.rows import cache
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from pytest_compression.scoring.trees import CausalEngine

Asked = tuple[int, list[tuple[int, int, int]]]
"""A sequence; positions in it, the tokens read behind them, and their places among all results."""

LONGEST = 2048
"""A row that would have more tokens is begun again. What must be run at once can make it longer,
as a single sequence or tokens that are read a second time."""


class Forest:
    """One growing row of a causal model that can run trees."""

    def __init__(self, engine: "CausalEngine") -> None:
        self.engine = engine
        self.model = engine.model
        self.clear()

    def clear(self) -> None:
        """Begin again with nothing."""
        self.row = Piece(0)
        self.nodes: dict[tuple[int, int], int] = {}
        """Where a token stands behind another one."""
        self.past: Any = cache([], 1)

    def score(
        self, sequences: Sequence[Tokens], wanted: Sequence[tuple[int, int, int]]
    ) -> Readings:
        """Log-probabilities of tokens behind tokens, as :meth:`CausalEngine.score` gives them.

        Raises:
            MeasurementError: the model computes NaN or infinities.
        """
        found = Readings(torch.zeros(len(wanted)), torch.zeros(len(wanted), dtype=torch.bool))
        reads: dict[int, list[tuple[int, int, int]]] = {}
        for where, (sequence, position, token) in enumerate(wanted):
            reads.setdefault(sequence, []).append((position, token, where))
        due = list(reads.items())
        with torch.inference_mode():
            while due:
                some = self.fitting(sequences, due)
                due = due[len(some) :]
                budget = self.model.budget
                in_parts(self.model, some, lambda part: self.grow(sequences, part, found), budget)
        return found

    def fitting(self, sequences: Sequence[Tokens], due: Sequence[Asked]) -> Sequence[Asked]:
        """The first sequences that can be run together, one at least."""
        budget = self.model.budget
        tokens = places = 0
        for count, (sequence, reads) in enumerate(due):
            read = len({position for position, _, _ in reads})
            tokens += max(read, self.missing(sequences[sequence]))
            places += read
            full = (
                tokens > min(budget.tokens, LONGEST)
                or places * self.engine.vocabulary > budget.logits
                or count == budget.rows
            )
            if count and full:
                return due[:count]
        return due

    def missing(self, sequence: Tokens) -> int:
        """How many of its tokens are not in the row."""
        node = ROOT
        for position, token in enumerate(sequence):
            if (node, token) not in self.nodes:
                return len(sequence) - position
            node = self.nodes[node, token]
        return 0

    def grow(self, sequences: Sequence[Tokens], asked: Sequence[Asked], found: Readings) -> None:
        """Run the tokens that are not in the row, and those that are read."""
        new = sum(self.missing(sequences[sequence]) for sequence, _ in asked)
        if len(self.row.tokens) + new > LONGEST:
            self.clear()
        first = len(self.row.tokens)
        reads = [
            (path[position] - first, token, where)
            for sequence, mine in asked
            for path in [self.append(sequences[sequence], first, {read[0] for read in mine})]
            for position, token, where in mine
        ]
        places = sorted({place for place, _, _ in reads})
        try:
            logits = self.run(first, places)
        except BaseException:
            self.clear()  # what was appended has no keys and values
            raise
        at = {place: i for i, place in enumerate(places)}
        rows = [at[place] for place, _, _ in reads]
        said = readings(logits, rows, [token for _, token, _ in reads])
        index = torch.tensor([where for _, _, where in reads])
        found.values[index], found.best[index] = said.values, said.best

    def append(self, sequence: Tokens, first: int, read: set[int]) -> list[int]:
        """Put a sequence into the row, with the positions that are read among the new tokens.

        Returns:
            Where its tokens are.
        """
        path: list[int] = []
        parent = ROOT
        for position, token in enumerate(sequence):
            node = self.nodes.get((parent, token), ROOT)
            if node == ROOT or (position in read and node < first):
                node = self.nodes[parent, token] = self.row.append(token, parent)
            path.append(node)
            parent = node
        return path

    def run(self, first: int, places: Sequence[int]) -> Tensor:
        """Run the tokens from one on; logits ``[places, vocabulary]``."""
        row, rows = self.row, self.engine.rows
        self.model.tokens_run += len(row.tokens) - first
        logits, output = run(
            self.model,
            torch.tensor(places),
            input_ids=rows.tokens([row.tokens[first:]]),
            position_ids=rows.tokens([row.places[first:]]),
            attention_mask=self.mask(first),
            past_key_values=self.past,
            use_cache=True,
        )
        self.past = output.past_key_values
        return logits

    def mask(self, first: int) -> Any:
        """What each new token sees: its ancestors and itself, ``[1, 1, new, all]``."""
        places = torch.tensor(self.row.places)
        seen = torch.zeros(1, len(places) - first, len(places), dtype=torch.bool)
        for sees, start in zip(seen[0].numpy(), range(first, len(places)), strict=True):
            node = start
            while node != ROOT:
                sees[node] = True
                node = self.row.parents[node]
        behind = places[first:].unsqueeze(0)
        return self.engine.rows.of_layers(seen, behind, places.unsqueeze(0))
