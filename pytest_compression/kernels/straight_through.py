"""Rounding that gradients pass through: a straight-through estimator.

Forward the rounded weight is used. Backward the gradient is handed to the weight that was rounded,
as if nothing had been, and is zero where the weight lies beyond its grid and was clipped (Bengio
et al. 2013, https://arxiv.org/abs/1308.3432; Jacob et al. 2018, https://arxiv.org/abs/1712.05877).
"""

from typing import Any

import torch
from torch import Tensor

from pytest_compression.kernels.grids import Grid, spread


class StraightThrough(torch.autograd.Function):
    """The value of one tensor, the gradient of another."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor, inside: Tensor | None) -> Tensor:
        """``rounded``, whatever ``weight`` is."""
        ctx.inside = inside
        return rounded.to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """For ``weight`` alone, and only where it is ``inside``."""
        (gradient,) = gradients
        return (gradient if ctx.inside is None else gradient * ctx.inside), None, None


def straight_through(weight: Tensor, rounded: Tensor, inside: Tensor | None = None) -> Tensor:
    """A rounded weight through which gradients pass.

    Args:
        weight: takes the gradient.
        rounded: the value, of the same shape.
        inside: True where the gradient passes; everywhere if not given.
    """
    found: Tensor = StraightThrough.apply(weight, rounded, inside)  # type: ignore[no-untyped-call]
    return found


def within(weight: Tensor, grid: Grid) -> Tensor:
    """Where a weight rounds to a code of a grid without being clipped.

    Args:
        weight: ``[out_features, in_features]``.
        grid: of its blocks.

    Returns:
        Boolean, of the weight's shape.
    """
    codes = weight.detach().float() / spread(grid.scale, grid, weight.shape)
    if grid.zero_point is None:
        return codes.round_().abs_() <= grid.offset
    zero = spread(grid.zero_point, grid, weight.shape)
    codes = codes.add_(zero).round_() if grid.is_real else codes.round_().add_(zero)
    return (codes >= 0) & (codes <= grid.top)
