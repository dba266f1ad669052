"""What a causal model can be asked to do at once, found out by trying it on a few tokens.

Nothing is believed of a name or a class: a model can share what gives the logits that it gives
without sharing, up to rounding. What one cannot share is run again, which costs time only.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from pytest_compression.scoring.attention import packed
from pytest_compression.scoring.memory import halving, is_out_of_memory, release
from pytest_compression.scoring.packs import Pack
from pytest_compression.scoring.prefixes import ROOT, Piece
from pytest_compression.scoring.rows import ONLY, Kept, Rows, cache, kept_of

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

ALIKE = 1e-4
"""Logits are alike that differ by no more, relative to the largest: rounding makes a tenth of that
in 30 layers, and a token too much or a wrong position several hundred times as much."""
ROUNDED = 8
"""The same in units of rounding, for number formats that are coarser."""
BRANCHES = 8
"""How often the two sequences are in a row on trial."""
CANNOT = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, MemoryError)
"""What models raise at masks, positions or caches that they cannot take."""

Result = TypeVar("Result")


class Abilities:
    """What one model can do."""

    trunks: bool
    """Keep the keys and values of a prefix, which are all that what follows it needs."""
    trees: bool
    """Run several sequences as one row, by a mask and positions of our own."""
    packs: bool
    """Run rows and what stands before them as one row, told apart by an attention of our own."""
    kept: Kept
    """Keys and values of a prefix, if the model has trunks."""
    certain = True
    """Whether nothing was denied for want of memory, of which there may be more another time."""

    def __init__(self, module: Any, rows: Rows, *, alone: bool) -> None:
        self.module = module
        self.rows = rows
        if alone:
            self.trunks = self.trees = self.packs = False
            return
        vocabulary = module.config.get_text_config().vocab_size
        some = torch.arange(1, 11) * max(1, vocabulary // 11) % vocabulary
        *self.header, a, b, c, d = some.tolist()
        self.branches = [[a, b], [c, d]] * BRANCHES
        with torch.inference_mode():
            self.alone = torch.cat([rows for _, rows in halving(range(2), self.each_alone)])
            self.trunks = not rows.by_length and self.tried(self.behind_header)
            known = self.trunks and rows.windows is not None and not sees_by_index(module)
            plain = rows.windows == {ONLY: None} and rows.device.type == "cpu"
            self.packs = known and plain and self.tried(self.as_pack)
            self.trees = self.packs or (known and self.tried(self.as_tree))

    def tried(self, run: Callable[[], Tensor | None]) -> bool:
        """Whether two sequences, or several times the two, get the logits that each gets alone."""
        try:
            found = with_room(run)
        except CANNOT as error:
            self.certain &= not is_out_of_memory(error)
            return False
        if found is None:
            return False
        wanted = self.alone.repeat(len(found) // len(self.alone), 1)
        rounding = max(ALIKE, ROUNDED * torch.finfo(self.rows.dtype).eps)
        return bool((found.float() - wanted).abs().max() <= rounding * wanted.abs().max())

    def each_alone(self, which: Sequence[int]) -> Tensor:
        """The logits behind the last tokens of the two sequences, each a row of its own."""
        rows = [self.header + self.branches[one] for one in which]
        logits: Tensor = self.module(input_ids=torch.tensor(rows, device=self.rows.device)).logits
        return logits[:, -2:].flatten(0, 1).float()

    def behind_header(self) -> Tensor | None:
        """Both sequences as rows behind a prefix that was run once; None without plain caches."""
        ids = torch.tensor([self.header], device=self.rows.device)
        output = self.module(input_ids=ids, past_key_values=cache([], 1), use_cache=True)
        layers = output.past_key_values.layers
        if not layers or any(type(layer) is not DynamicLayer for layer in layers):
            return None
        self.kept = kept_of(output)
        ids = torch.tensor(self.branches[:2], device=self.rows.device)
        past = cache(self.kept, 2)
        logits: Tensor = self.module(input_ids=ids, past_key_values=past, use_cache=True).logits
        return logits.flatten(0, 1)

    def tree(self) -> Piece:
        """Both sequences many times as one row, where they stand far from their positions."""
        row = Piece(len(self.header))
        for first, second in self.branches:
            row.append(second, row.append(first, ROOT))
        return row

    def as_tree(self) -> Tensor:
        """The row behind the prefix."""
        inputs = self.rows.trees([self.tree()], self.kept)
        logits: Tensor = self.module(**inputs, use_cache=True).logits
        return logits[0]

    def as_pack(self) -> Tensor:
        """The row beside the prefix, and then each sequence as a trunk and what is below it."""
        pieces = [self.tree()]
        for first, second in self.branches[:2]:
            trunk, row = (Piece(len(self.header) + place) for place in range(2))
            trunk.append(first, ROOT)
            row.append(second, ROOT)
            trunk.below = [row]
            pieces.append(trunk)
        pack = Pack(pieces, self.rows, self.kept)
        with packed(self.module, pack.layout):
            logits: Tensor = self.module(**pack.inputs, use_cache=False).logits
        return logits[0]


def with_room(run: Callable[[], Result]) -> Result:
    """A pass, once more if memory ran out: others may have held it."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release()
    return run()


def sees_by_index(module: Any) -> bool:
    """Whether a model has masks of its own, which go by places in a row (GPT-Neo's)."""
    return any(buffer.dtype == torch.bool and buffer.dim() > 2 for buffer in module.buffers())


def abilities_of(model: "LanguageModel", rows: Rows) -> Abilities:
    """What a model can do; tried again if its modules have changed, or memory was short."""
    module = cast("Any", model.module)
    parts = tuple((name, type(part)) for name, part in module.named_modules())
    attention = module.config.get_text_config()._attn_implementation  # noqa: SLF001
    key = ("abilities", hash(parts), attention, rows.dtype, rows.device, model.alone)
    found = model.memo.get(key) or Abilities(module, rows, alone=model.alone)
    if found.certain:
        model.memo[key] = found
    return cast("Abilities", found)
