"""Attention of many rows to what they share, without a copy of it for each.

Rows behind the same prefix have the same keys and values there. A usual attention wants them once a
row, and once a head where heads share keys; copying them takes longer than to attend. Here all
queries of all rows look at the one copy in a single product, then at their own row, and the two
results are joined by their weights: with ``z`` the log of the sum of exponentials of each part,

    out = out_own + sigmoid(z_prefix - z_own) (out_prefix - out_own)

which is the softmax over both (as in the online softmax of Milakov & Gimelshein 2018,
https://arxiv.org/abs/1805.02867). Heads that share keys are handled as further queries.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

Kept = Sequence[tuple[Tensor, Tensor]]
"""A layer's keys and values, ``[1, heads, tokens, size]``."""

NAME = "pytest_compression_shared_prefix"
"""Under which transformers finds it."""

UNKNOWN = ("cache", "position_bias", "s_aux", "sliding_window", "softcap")
"""What some models ask of an attention, and this one does not do."""

KEPT: ContextVar[Kept] = ContextVar("kept")


@contextmanager
def shared(module: Any, kept: Kept) -> Iterator[None]:
    """Let a model's rows attend to what is kept, and to their own tokens by the mask they bring.

    Args:
        module: a causal model; inside, it must be given a mask of its own tokens, and no cache.
        kept: of all layers; empty if nothing stands before the rows.
    """
    config = module.config.get_text_config()
    before = config._attn_implementation  # noqa: SLF001  # where transformers keeps the choice
    token = KEPT.set(kept)
    config._attn_implementation = NAME  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = before  # noqa: SLF001
        KEPT.reset(token)


def attend(  # noqa: PLR0913, PLR0917  # what transformers hands to every attention
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001  # nothing is trained here
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention to the prefix and to a row's own tokens.

    Args:
        module: the layer's attention, which knows its place.
        query: ``[rows, heads, tokens, size]``.
        key: ``[rows, shared heads, tokens, size]``.
        value: as the keys.
        attention_mask: to be added, ``[rows, 1, tokens, tokens]``.
        scaling: of the products; one over the root of the size if None.
        dropout: not done.
        others: what a model wants besides.

    Returns:
        ``[rows, tokens, heads, size]``, and no weights.

    Raises:
        TypeError: the model wants more than this.
    """
    if wanted := [name for name in UNKNOWN if others.get(name) is not None]:
        message = f"{NAME} has no {', '.join(wanted)}"
        raise TypeError(message)
    rows, heads, tokens, size = query.shape
    groups = key.shape[1]
    folded = query.reshape(rows, groups, heads // groups * tokens, size)
    mask = attention_mask.repeat(1, 1, heads // groups, 1)
    found, weight = flash(folded, key, value, mask, scaling)
    kept = KEPT.get()
    if kept:
        keys, values = kept[module.layer_idx]
        once = folded.transpose(0, 1).reshape(1, groups, -1, size)
        prefix, mass = (
            part.unflatten(2, (rows, -1)).squeeze(0).transpose(0, 1)
            for part in flash(once, keys, values, None, scaling)
        )
        share = torch.sigmoid(mass - weight).to(found.dtype).unsqueeze(-1)
        found = torch.lerp(found, prefix, share)
    return found.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None


def flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Attention, ``[rows, heads, queries, size]``, and the log of its sum, without the size."""
    # The public function keeps the sums to itself.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
    found: tuple[Tensor, Tensor] = attention(query, key, value, attn_mask=mask, scale=scaling)
    return found


AttentionInterface.register(NAME, attend)
