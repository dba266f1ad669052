"""How far the next-token distributions of a compressed model are from the dense model's.

The statistics are those of llama.cpp's ``--kl-divergence`` (ggml-org/llama.cpp,
tools/perplexity). With ``P`` the dense and ``Q`` the compressed distribution where token ``y``
follows::

    KLD = sum_v P(v) ln(P(v) / Q(v))
    delta p = Q(y) - P(y)
    same top: argmax P = argmax Q

``P`` is not kept whole. Of each position are kept: the ``TOP`` most probable tokens ``T``; the
mass ``r`` of the others; the negative entropy ``S = sum_{v not in T} P(v) ln P(v)``; and ``DRAWN``
tokens drawn from the others, one in each of as many parts of equal mass. ``Q`` is known whole, and
with ``R`` its mass outside ``T``::

    least = sum_{v in T} P(v) ln(P(v) / Q(v)) + r ln(r / R)
    most  = sum_{v in T} P(v) ln(P(v) / Q(v)) + S - r ln min_{v not in T} Q(v)
    KLD   = least + r E[x - 1 - ln x],   x = (Q(v) / R) / (P(v) / r),   v drawn from the others

**Bounds.** ``least <= KLD``: the log-sum inequality (Cover & Thomas, *Elements of Information
Theory*, 2006, 2.7.1) for the sum over the others. ``KLD <= most``: their part is ``S - sum P(v) ln
Q(v)``, and no ``ln Q(v)`` is below the least.

**Estimate.** The difference to ``least`` is ``r`` times the divergence of the two distributions
among the others, ``E[-ln x]``. As ``E[x] = 1``, ``x - 1 - ln x`` has the same mean; it is never
negative, and varies little where the two are alike (Schulman 2020,
http://joschu.net/blog/kl-approx.html). So the estimate is unbiased, at least ``least``, exact where
the models agree, and its standard error is known: from the sample variance of the draws, which is
no smaller, on average, than that of draws from separate parts (Cochran, *Sampling Techniques*,
1977, 5.6). It is stated beside every mean; ``most`` is certain, but far away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

TOP = 64
"""Most probable tokens that are kept of a position."""
DRAWN = 64
"""Tokens that are drawn from the others."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of the dense distributions at ``n`` positions, on the processor."""

    token: Tensor
    """Log-probability of the token that truly stands there, ``[n]``."""
    top: Tensor
    """Ids of the most probable tokens, ``[n, top]``, the best first."""
    top_values: Tensor
    """Their log-probabilities."""
    rest: Tensor
    """Logarithm of the mass of all others, ``[n]``; ``-inf`` if there are none."""
    negative_entropy: Tensor
    """Of all others: their sum of ``P ln P``, ``[n]``."""
    drawn: Tensor
    """Ids of tokens drawn from the others, ``[n, drawn]``."""
    drawn_values: Tensor
    """Their log-probabilities."""

    @property
    def size(self) -> int:
        """Bytes a position."""
        return sum(tensor[:1].numel() * tensor.element_size() for tensor in vars(self).values())

    def at(self, positions: Tensor) -> "Kept":
        """Of some positions."""
        return Kept(**{name: tensor[positions] for name, tensor in vars(self).items()})

    @classmethod
    def joined(cls, parts: Sequence["Kept"], order: Tensor) -> "Kept":
        """Of all positions, from parts in another order."""
        columns = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
        back = order.argsort()
        return cls(**{name: torch.cat(column)[back] for name, column in columns.items()})


def keep(values: Tensor, tokens: Tensor, lots: Tensor, top: int = TOP) -> Kept:
    """What is kept of log-probabilities.

    Args:
        values: ``[n, vocabulary]``.
        tokens: that truly stand there, ``[n]``.
        lots: uniform in [0, 1), ``[n, drawn]``; they decide what is drawn.
        top: how many of the most probable tokens to keep.
    """
    best, ids = values.topk(min(top, values.shape[1]))
    rest, others = remainder(values, ids)
    mass = others.double().exp()
    upto = mass.cumsum(1)
    whole = upto[:, -1:]
    parts = torch.arange(lots.shape[1], device=values.device)
    marks = (parts + lots.to(values.device, torch.float64)) / lots.shape[1] * whole
    marks = marks.minimum(whole.nextafter(torch.zeros_like(whole)))  # a part's end is the next's
    drawn = torch.searchsorted(upto, marks, right=True).clamp(max=values.shape[1] - 1)
    return Kept(
        token=values.gather(1, tokens.to(values.device).unsqueeze(1)).squeeze(1).cpu(),
        top=ids.int().cpu(),
        top_values=best.cpu(),
        rest=rest.cpu(),
        negative_entropy=(mass * others.clamp(min=torch.finfo(others.dtype).min))
        .sum(1)
        .float()
        .cpu(),
        drawn=drawn.int().cpu(),
        drawn_values=values.gather(1, drawn).cpu(),
    )


def remainder(values: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the mass of all but the ``top`` tokens, ``[n]``, and ``values`` without them."""
    others = values.scatter(1, top, -torch.inf)
    return others.logsumexp(1), others


class Distances(NamedTuple):
    """How far a model is from the dense one, position by position; ``[n]`` each, nats."""

    divergence: Array
    """The estimate of KLD."""
    least: Array
    most: Array
    variance: Array
    """Of the estimate, from what was drawn."""
    same_top: Array
    """1 where the dense model's best token is the best here, too, and 0 where it is not."""
    token: Array
    """Log-probability of the token that truly stands there."""
    dense_token: Array
    """The same by the dense model."""

    def at(self, positions: slice) -> "Distances":
        """Of some positions."""
        return Distances(*(column[positions] for column in self))

    @classmethod
    def joined(cls, parts: Sequence["Distances"], order: Tensor) -> "Distances":
        """Of all positions, from parts in another order."""
        back = order.argsort().numpy()
        return cls(*(np.concatenate(column)[back] for column in zip(*parts, strict=True)))


def compare(kept: Kept, values: Tensor, tokens: Tensor) -> Distances:
    """Distances of log-probabilities ``[n, vocabulary]`` from the dense ones at the same places."""
    top, drawn = kept.top.long().to(values.device), kept.drawn.long().to(values.device)
    rest, others = remainder(values, top)
    mine, picked = (values.gather(1, ids).cpu().double() for ids in (top, drawn))
    p, r = kept.top_values.double(), kept.rest.double()
    lump = torch.where(r > -torch.inf, r.exp() * (r - rest.cpu().double()), 0)
    shared = (p.exp() * (p - mine)).sum(1)
    # Where nothing is left of P, log x is of tokens that were not drawn.
    ratio = (picked - rest.cpu().double()[:, None]) - (kept.drawn_values.double() - r[:, None])
    ratio = torch.where(r[:, None] > -torch.inf, ratio, 0)
    excess = ratio.expm1() - ratio  # x - 1 - ln x
    lowest = others.masked_fill(others == -torch.inf, torch.inf).amin(1).cpu().double()
    farthest = torch.where(r > -torch.inf, kept.negative_entropy.double() - r.exp() * lowest, 0)
    least = (shared + lump).clamp(min=0)  # below only by rounding
    divergence = least + r.exp() * excess.mean(1)
    best = values.amax(1) == values.gather(1, top[:, :1]).squeeze(1)
    token = values.gather(1, tokens.to(values.device).unsqueeze(1)).squeeze(1)
    found = (
        divergence,
        least,
        (shared + farthest).maximum(least),
        (2 * r).exp() * excess.var(1) / excess.shape[1],
        best,
        token,
        kept.token,
    )
    return Distances(*(column.cpu().double().numpy() for column in found))
