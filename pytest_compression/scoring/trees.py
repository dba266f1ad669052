"""Causal models on plans: trunks whose keys and values are kept, rows that are trees.

A token of a tree sees what is kept and its ancestors, at the position that it has in its own
sequence; so it gets what it would get if its sequence were run alone. A model whose attention
cannot be told so runs each sequence as a row of its own, and one whose cache is more than keys and
values (recurrent states) runs every sequence from its beginning.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring.abilities import abilities_of
from pytest_compression.scoring.attention import shared
from pytest_compression.scoring.memory import halving, is_out_of_memory
from pytest_compression.scoring.prefixes import Piece, plan
from pytest_compression.scoring.reading import Readings, in_parts, readings, run
from pytest_compression.scoring.rows import Kept, Rows, kept_of
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

MASK = 2**24
"""Entries of an attention mask that are made at once."""
PADDED = 0.8
"""A row that is shorter than this share of the longest in a batch begins another batch."""
FULL = 512
"""Tokens from which on a batch need not take shorter rows."""


class Wanted(NamedTuple):
    """A token of a piece, and what is read behind it."""

    node: int
    token: int
    where: int
    """In the list of all results."""


Reads = dict[int, list[Wanted]]
"""By the id of the piece."""


class CausalEngine:
    """Runs sequences through one causal model."""

    def __init__(self, model: "LanguageModel") -> None:
        self.model = model
        self.module = module = cast("Any", model.module)
        config = module.config.get_text_config()
        self.attention = 6.0 * config.hidden_size  # weights are about 12 h^2 a layer
        self.vocabulary: int = config.vocab_size
        self.rows = Rows(module)
        self.can = abilities_of(model, self.rows)

    def score(
        self, sequences: Sequence[Tokens], wanted: Sequence[tuple[int, int, int]]
    ) -> Readings:
        """Log-probabilities of tokens behind tokens.

        Args:
            sequences: none of them empty.
            wanted: sequence, position in it, and the token whose log-probability is read behind
                that position.

        Raises:
            MeasurementError: the model computes NaN or infinities.
        """
        try:
            return self.planned(sequences, wanted, trees=self.can.trees)
        except MeasurementError as error:  # a row of several sequences may be too much
            if not (self.can.trees and is_out_of_memory(error.__cause__)):
                raise
        return self.planned(sequences, wanted, trees=False)

    def planned(
        self, sequences: Sequence[Tokens], wanted: Sequence[tuple[int, int, int]], *, trees: bool
    ) -> Readings:
        """The same by one plan, whose rows are trees or not."""
        made = plan(sequences, self.attention, trees=trees, trunks=self.can.trunks)
        reads: Reads = {}
        for where, (sequence, position, token) in enumerate(wanted):
            piece, node = made.place(sequence, position)
            reads.setdefault(id(piece), []).append(Wanted(node, token, where))
        found = Readings(torch.zeros(len(wanted)), torch.zeros(len(wanted), dtype=torch.bool))
        with torch.inference_mode():
            self.follow(made.pieces, None, reads, found)
        return found

    def follow(
        self, pieces: Sequence[Piece], kept: Kept | None, reads: Reads, found: Readings
    ) -> None:
        """Run pieces behind what is kept, and all that follows them."""
        rows = [piece for piece in pieces if not piece.below]
        for batch in self.batches(rows, reads):
            run_rows = partial(self.run_rows, kept=kept, reads=reads, found=found)
            in_parts(self.model, batch, run_rows, self.model.budget)
        for piece in pieces:
            if piece.below:
                behind = self.run_trunk(piece, kept, reads, found)
                self.follow(piece.below, behind, reads, found)

    def batches(self, pieces: Sequence[Piece], reads: Reads) -> Iterator[list[Piece]]:
        """Rows of about equal lengths, the longest first: if memory is short, it shows at once."""
        batch: list[Piece] = []
        longest = logits = 0
        for piece in sorted(pieces, key=lambda piece: -len(piece.tokens)):
            size, budget = len(piece.tokens), self.model.budget
            mine = len({read.node for read in reads.get(id(piece), ())}) * self.vocabulary
            rows = len(batch) + 1
            full = (
                rows * longest > budget.tokens
                or rows > budget.rows
                or logits + mine > budget.logits
                or rows * longest * (piece.start + longest) > MASK
                or (size < PADDED * longest and (rows - 1) * longest > FULL)
                or (self.rows.by_length and size != longest)
            )
            if batch and full:
                yield batch
                batch, logits = [], 0
            longest = len(batch[0].tokens) if batch else size
            batch.append(piece)
            logits += mine
        if batch:
            yield batch

    def run_rows(
        self, pieces: Sequence[Piece], kept: Kept | None, reads: Reads, found: Readings
    ) -> None:
        """Run rows together behind what is kept."""
        longest = max(len(piece.tokens) for piece in pieces)
        linear = all(piece.is_linear for piece in pieces)
        if self.can.shares and (kept or not linear):
            with shared(self.module, kept or []):
                self.read(pieces, longest, reads, found, self.rows.own(pieces))
            return
        made = self.rows.sequences if linear else self.rows.trees
        self.read(pieces, longest, reads, found, made(pieces, kept))

    def run_trunk(self, piece: Piece, kept: Kept | None, reads: Reads, found: Readings) -> Kept:
        """Run what stands before others; its keys and values behind those that are kept.

        If memory is short, it is run a part after the other.
        """
        behind = kept or []

        def extend(part: list[int]) -> Kept:
            some = Piece(piece.start + part[0], [piece.tokens[node] for node in part])
            mine = [w._replace(node=w.node - part[0]) for w in reads.get(id(piece), ())]
            mine = [one for one in mine if 0 <= one.node < len(part)]
            inputs = self.rows.sequences([some], behind)
            return kept_of(self.read([some], len(part), {id(some): mine}, found, inputs))

        for _, longer in halving(range(len(piece.tokens)), extend):
            behind = longer
        return behind

    def read(
        self,
        pieces: Sequence[Piece],
        longest: int,
        reads: Reads,
        found: Readings,
        inputs: dict[str, Any],
    ) -> Any:
        """One pass, and what is read of it; all that the model returned."""
        self.model.tokens_run += sum(len(piece.tokens) for piece in pieces)
        wanted = [
            (row * longest + read.node, read)
            for row, piece in enumerate(pieces)
            for read in reads.get(id(piece), ())
        ]
        places = sorted({place for place, _ in wanted}) or [0]  # some heads refuse nothing
        index = torch.tensor(places)
        use_cache = "past_key_values" in inputs
        logits, output = run(self.model, index, use_cache=use_cache, **inputs)
        if wanted:
            at = {place: i for i, place in enumerate(places)}
            rows = [at[place] for place, _ in wanted]
            said = readings(logits, rows, [read.token for _, read in wanted])
            where = torch.tensor([read.where for _, read in wanted])
            found.values[where], found.best[where] = said.values, said.best
        return output
