"""Attention of sequences that stand one after the other in a single row, without padding.

A usual attention wants a rectangle of rows, and the keys and values of a shared prefix once a row;
filling rows up is work for nothing, and copying a prefix takes longer than to attend to it. Here
all tokens of a pass are one row, told apart by a :class:`Layout`: each run of tokens looks at
itself, then all that stand behind a prefix look at its one copy in a single product, and the
results are joined by their weights: with ``z`` the log of the sum of exponentials of each part,

    out = out_own + sigmoid(z_prefix - z_own) (out_prefix - out_own)

which is the softmax over both (as in the online softmax of Milakov & Gimelshein 2018,
https://arxiv.org/abs/1805.02867).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface

Kept = Sequence[tuple[Tensor, Tensor]]
"""A layer's keys and values, ``[1, heads, tokens, size]``."""

NAME = "pytest_compression_packed"
"""Under which transformers finds it."""

UNKNOWN = ("cache", "position_bias", "s_aux", "sliding_window", "softcap")
"""What some models ask of an attention, and this one does not do."""


class Own(NamedTuple):
    """Runs of equally many tokens, one after the other, that see nothing of each other."""

    start: int
    runs: int
    tokens: int
    """Of each."""
    mask: Tensor | None
    """What is added to scores, ``[runs, 1, tokens, tokens]``; None: all that stand before."""


class Prefix(NamedTuple):
    """Tokens ``start`` to ``end``, which those from ``end`` to ``stop`` see, too."""

    start: int
    end: int
    stop: int


class Layout(NamedTuple):
    """What the tokens of a pass see."""

    own: Sequence[Own]
    """One after the other, all tokens."""
    prefixes: Sequence[Prefix]
    kept: Kept
    """Of earlier passes, of all layers, which all tokens see; empty if there is nothing."""


LAYOUT: ContextVar[Layout] = ContextVar("layout")


@contextmanager
def packed(module: Any, layout: Layout) -> Iterator[None]:
    """Let the tokens of a model's only row see what a layout says.

    Args:
        module: a causal model; inside, it must be given one row, positions, and no cache.
        layout: of that row.
    """
    config = module.config.get_text_config()
    before = config._attn_implementation  # noqa: SLF001  # where transformers keeps the choice
    token = LAYOUT.set(layout)
    config._attn_implementation = NAME  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = before  # noqa: SLF001
        LAYOUT.reset(token)


def attend(  # noqa: PLR0913, PLR0917  # what transformers hands to every attention
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  # the layout says it
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001  # nothing is trained here
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention by the layout that is set.

    Args:
        module: the layer's attention, which knows its place.
        query: ``[1, heads, tokens, size]``.
        key: ``[1, shared heads, tokens, size]``.
        value: as the keys.
        attention_mask: not looked at.
        scaling: of the products; one over the root of the size if None.
        dropout: not done.
        others: what a model wants besides.

    Returns:
        ``[1, tokens, heads, size]``, and no weights.

    Raises:
        TypeError: the model wants more than this.
    """
    if wanted := [name for name in UNKNOWN if others.get(name) is not None]:
        message = f"{NAME} has no {', '.join(wanted)}"
        raise TypeError(message)
    layout = LAYOUT.get()
    results, sums = [], []
    for start, runs, tokens, mask in layout.own:
        mine = (
            part[0, :, start : start + runs * tokens].unflatten(1, (runs, tokens)).transpose(0, 1)
            for part in (query, key, value)
        )
        result, total = flash(*mine, mask=mask, causal=mask is None, scaling=scaling)
        results.append(result.transpose(1, 2).flatten(0, 1))
        sums.append(total.transpose(0, 1).flatten(1))
    found, mass = torch.cat(results), torch.cat(sums, 1)
    before = [
        (key[:, :, start:end], value[:, :, start:end], slice(end, stop))
        for start, end, stop in layout.prefixes
    ]
    if layout.kept:
        before.append((*layout.kept[module.layer_idx], slice(None)))
    for keys, values, behind in before:
        result, total = flash(query[:, :, behind], keys, values, scaling=scaling)
        share = torch.sigmoid(total[0] - mass[:, behind]).to(found.dtype)
        found[behind].lerp_(result[0].transpose(0, 1), share.T.unsqueeze(-1))
        mass[:, behind] = torch.logaddexp(mass[:, behind], total[0])
    return found.unsqueeze(0), None


def flash(  # noqa: PLR0913
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scaling: float | None,
) -> tuple[Tensor, Tensor]:
    """Attention, ``[rows, heads, queries, size]``, and the log of its sum, without the size."""
    # The public function keeps the sums to itself.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
    found: tuple[Tensor, Tensor] = attention(
        query, key, value, is_causal=causal, attn_mask=mask, scale=scaling
    )
    return found


AttentionInterface.register(NAME, attend)
