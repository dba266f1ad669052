"""Pieces of a plan as what a causal model is handed: tokens, positions, masks and caches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from pytest_compression.scoring.prefixes import ROOT, Piece

Kept = list[tuple[Tensor, Tensor]]
"""A layer's keys and values, ``[1, heads, tokens, size]``."""

PADDING = 0
"""The token that fills rows; nothing sees it."""

ONLY = "all layers"


class Rows:
    """What one model is handed."""

    def __init__(self, module: Any) -> None:
        self.dtype: torch.dtype = module.dtype
        self.device: torch.device = next(module.parameters()).device
        config = module.config.get_text_config()
        self.windows = windows_of(config)
        self.by_length = depends_on_length(config.to_dict())
        """Whether what a token gets depends on how long the longest row beside it is."""

    def tokens(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Token ids or positions, filled up to the longest, ``[rows, tokens]``."""
        longest = max(len(row) for row in rows)
        filled = [[*row, *[PADDING] * (longest - len(row))] for row in rows]
        return torch.tensor(filled, device=self.device)

    def sequences(self, pieces: Sequence[Piece], kept: Kept | None) -> dict[str, Any]:
        """Rows that are one sequence each, so that no mask and no position need be told."""
        found: dict[str, Any] = {"input_ids": self.tokens([piece.tokens for piece in pieces])}
        if kept is not None:
            found["past_key_values"] = cache(kept, len(pieces))
        return found

    def trees(self, pieces: Sequence[Piece], kept: Kept | None) -> dict[str, Any]:
        """Rows that are trees, each with what is kept before it."""
        start = pieces[0].start
        return self.sequences(pieces, kept) | {
            "position_ids": self.tokens([piece.places for piece in pieces]),
            "attention_mask": self.mask(pieces, start),
        }

    def nothing(self) -> Tensor:
        """A mask that masks nothing, so that a model makes none of its own, ``[1, 1, 1, 1]``."""
        return torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=self.device)

    def mask(self, pieces: Sequence[Piece], start: int) -> Any:
        """What each token sees: what is kept, its ancestors and itself.

        Args:
            pieces: the rows.
            start: how many tokens are kept before them and are in the mask.

        Returns:
            To be added to attention scores, ``[rows, 1, tokens, start + tokens]``; by kind of
            layer where there are several.
        """
        longest = max(len(piece.tokens) for piece in pieces)
        seen = torch.zeros(len(pieces), longest, start + longest, dtype=torch.bool)
        seen[:, :, :start] = True
        for row, piece in zip(seen[:, :, start:].numpy(), pieces, strict=True):
            for node, parent in enumerate(piece.parents):
                if parent != ROOT:
                    row[node] = row[parent]
                row[node, node] = True
            for node in range(len(piece.tokens), longest):
                row[node, node] = True  # a row that sees nothing would be NaN
        behind = self.tokens([piece.places for piece in pieces]).cpu()
        ahead = torch.cat([torch.arange(start).expand(len(pieces), -1), behind], dim=1)
        return self.of_layers(seen, behind, ahead)

    def of_layers(self, seen: Tensor, behind: Tensor, ahead: Tensor) -> Any:
        """A mask for each kind of layer, or for all.

        Args:
            seen: what is seen where a layer looks back all the way, ``[rows, tokens, seen]``.
            behind: positions of the tokens, ``[rows, tokens]``.
            ahead: of those that they may see, ``[rows, seen]``.
        """
        masks = {}
        for kind, window in (self.windows or {}).items():
            near = seen
            if window is not None:
                near = seen & (behind.unsqueeze(2) - ahead.unsqueeze(1) < window)
            masks[kind] = self.added(near)
        return masks.get(ONLY, masks)

    def added(self, seen: Tensor) -> Tensor:
        """What is added to attention scores so that only what is seen counts."""
        lowest = torch.finfo(self.dtype).min
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, lowest)
        return mask.unsqueeze(1).to(self.device)


def cache(kept: Kept, rows: int) -> DynamicCache:
    """What is kept, for so many rows; not copied before it is used."""
    made = DynamicCache()
    for keys, values in kept:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
        made.layers.append(layer)
    return made


def kept_of(output: Any) -> Kept:
    """The keys and values that a pass leaves."""
    return [(layer.keys, layer.values) for layer in output.past_key_values.layers]


def windows_of(config: Any) -> dict[str, int | None] | None:
    """How far each kind of attention layer looks back, in tokens; None is all the way.

    A token sees itself and those less than a window before it. One kind is named :data:`ONLY`.

    Returns:
        None if there is a kind whose mask is not known.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return {ONLY: window}
    if kinds == {"full_attention"}:
        return {ONLY: None}
    known = {"full_attention": None, "sliding_attention": window}
    return {kind: known[kind] for kind in sorted(kinds)} if kinds <= known.keys() else None


def depends_on_length(settings: object) -> bool:
    """Whether rotary frequencies follow the longest position of a pass."""
    if not isinstance(settings, dict):
        return False
    if settings.get("rope_type") in ("dynamic", "longrope"):
        return True
    return any(depends_on_length(one) for one in settings.values())
