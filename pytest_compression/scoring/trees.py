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
from pytest_compression.scoring.attention import packed
from pytest_compression.scoring.memory import halving, is_out_of_memory, release
from pytest_compression.scoring.packs import Pack, in_order
from pytest_compression.scoring.prefixes import Piece, Prices, plan
from pytest_compression.scoring.reading import ENOUGH, Readings, enough, in_parts, readings, run
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
PASS = 48
"""Tokens that a trunk costs, besides its own, which is a pass of its own."""
COPIED = 1 / 200
"""Tokens that it costs to hand one kept token on to a row, which gets a copy."""
JOINED = 1 / 40
"""Tokens that it costs to join what one token sees in a trunk and elsewhere, in a pack."""
WHOLE = 2 * ENOUGH
"""Tokens up to which a trunk and all that is below it are one pack."""
CALLS = 15e6
"""Floating-point operations of products in the time that a trunk costs in a pack: its calls of
attention, by layer."""


class Wanted(NamedTuple):
    """A token of a piece, and what is read behind it."""

    node: int
    token: int
    where: int
    """In the list of all results."""


class Load(NamedTuple):
    """What running pieces at once takes."""

    tokens: int
    logits: int
    mask: int
    """Entries of attention masks."""

    def plus(self, other: "Load") -> "Load":
        """Both together."""
        return Load(*map(sum, zip(self, other, strict=True)))


Reads = dict[int, list[Wanted]]
"""By the id of the piece."""


class CausalEngine:
    """Runs sequences through one causal model."""

    def __init__(self, model: "LanguageModel") -> None:
        self.model = model
        self.module = module = cast("Any", model.module)
        config = module.config.get_text_config()
        self.vocabulary: int = config.vocab_size
        self.rows = Rows(module)
        self.can = abilities_of(model, self.rows)
        # Weights are about 12 h^2 a layer, and attention runs at about half the rate of products.
        hidden = config.hidden_size
        self.prices = Prices(
            attention=3.0 * hidden,
            trunk=CALLS / (24 * hidden**2) if self.can.packs else PASS,
            copied=0 if self.can.packs else COPIED,
            joined=JOINED if self.can.packs else 0,
        )

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
        made = plan(sequences, self.prices, trees=trees, trunks=self.can.trunks)
        reads: Reads = {}
        for where, (sequence, position, token) in enumerate(wanted):
            piece, node = made.place(sequence, position)
            reads.setdefault(id(piece), []).append(Wanted(node, token, where))
        found = Readings(torch.zeros(len(wanted)), torch.zeros(len(wanted), dtype=torch.bool))
        with torch.inference_mode():
            if trees and self.can.packs:
                self.follow_packed(made.pieces, [], reads, found)
            else:
                self.follow(made.pieces, None, reads, found)
        return found

    def follow_packed(
        self, pieces: Sequence[Piece], kept: Kept, reads: Reads, found: Readings
    ) -> None:
        """Run pieces behind what is kept, and all below them, as few rows without padding."""

        def run_pack(some: list[Piece]) -> None:
            whole = some[0]
            if len(some) > 1 or not whole.below:
                self.run_pack(some, kept, reads, found)
                return
            try:
                self.run_pack(some, kept, reads, found)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return
            release()
            self.open(whole, kept, reads, found)

        for batch in self.packs(pieces, reads):
            if batch[0].below and not self.fits(self.load(batch[0], reads), WHOLE):
                self.open(batch[0], kept, reads, found)
            else:
                in_parts(self.model, batch, run_pack, enough(self.model))

    def open(self, piece: Piece, kept: Kept, reads: Reads, found: Readings) -> None:
        """Run a trunk by itself, and then what is below it."""
        behind = self.run_trunk(piece, kept, reads, found)
        self.follow_packed(piece.below, behind, reads, found)

    def packs(self, pieces: Sequence[Piece], reads: Reads) -> Iterator[list[Piece]]:
        """Pieces that fit into one row with all that is below them, or a single one."""
        batch: list[Piece] = []
        total = Load(0, 0, 0)
        for piece in sorted(pieces, key=lambda piece: -len(piece.tokens)):
            mine = self.load(piece, reads)
            total = total.plus(mine)
            if batch and not self.fits(total, ENOUGH):
                yield batch
                batch, total = [], mine
            batch.append(piece)
        if batch:
            yield batch

    def load(self, piece: Piece, reads: Reads) -> Load:
        """Of a piece with all that is below it."""
        rows = list(in_order([piece]))
        places = sum(len({read.node for read in reads.get(id(row), ())}) for row in rows)
        return Load(
            tokens=sum(len(row.tokens) for row in rows),
            logits=places * self.vocabulary,
            mask=sum(len(row.tokens) ** 2 for row in rows if not row.is_linear),
        )

    def fits(self, load: Load, tokens: int) -> bool:
        """Whether so much can be run at once, of so many tokens at most."""
        budget = self.model.budget
        tokens = min(budget.tokens, tokens)
        return load.tokens <= tokens and load.logits <= budget.logits and load.mask <= MASK

    def run_pack(self, pieces: Sequence[Piece], kept: Kept, reads: Reads, found: Readings) -> None:
        """Run pieces as one row, with all that is below them."""
        pack = Pack(pieces, self.rows, kept)
        with packed(self.module, pack.layout):
            self.read(pack.pieces, pack.starts, reads, found, pack.inputs)

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
        made = self.rows.sequences if linear else self.rows.trees
        starts = range(0, len(pieces) * longest, longest)
        self.read(pieces, starts, reads, found, made(pieces, kept))

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
            return kept_of(self.read([some], [0], {id(some): mine}, found, inputs))

        for _, longer in halving(range(len(piece.tokens)), extend):
            behind = longer
        return behind

    def read(
        self,
        pieces: Sequence[Piece],
        starts: Sequence[int],
        reads: Reads,
        found: Readings,
        inputs: dict[str, Any],
    ) -> Any:
        """One pass of pieces that begin at these places; all that the model returned."""
        self.model.tokens_run += sum(len(piece.tokens) for piece in pieces)
        wanted = [
            (start + read.node, read)
            for start, piece in zip(starts, pieces, strict=True)
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
