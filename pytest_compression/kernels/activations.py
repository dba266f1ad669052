"""Activations rounded to a few bits, as a product of integers would take them.

``codes = clamp(round(x / scale) + zero_point, qmin, qmax)`` and
``x^ = scale * (codes - zero_point)``, rounding half to even, on the grid of a range ``[lo, hi]``
that holds zero. Affine: ``scale = (hi - lo) / (2^bits - 1)``, ``zero_point = round(-lo / scale)``,
codes 0 .. 2^bits - 1. Symmetric: ``scale = max(hi, -lo) / (2^(bits-1) - 1)``, codes of both signs
alike. Inside the range the error is at most scale/2, and zero is exact; outside it is cut off.

A *dynamic* range is that of the activations themselves: of each token (Dettmers et al. 2022,
https://arxiv.org/abs/2208.07339; Yao et al. 2022, https://arxiv.org/abs/2206.01861), or of all
that are run together, which then depend on each other. A *static* one was seen in calibration
(Jacob et al. 2018, https://arxiv.org/abs/1712.05877).
"""

from typing import Literal

import torch
from torch import Tensor

from pytest_compression.kernels.straight_through import straight_through

Granularity = Literal["token", "tensor"]


def extent(inputs: Tensor, granularity: Granularity) -> tuple[Tensor, Tensor]:
    """The range of activations, made to hold zero.

    Args:
        inputs: ``[..., in_features]``, not empty.
        granularity: what has a range of its own.

    Returns:
        The lower end and the upper, each ``[..., 1]`` for ``token`` and ``[]`` for ``tensor``;
        NaN where the inputs hold NaN.
    """
    if granularity == "token":
        low, high = inputs.aminmax(dim=-1, keepdim=True)
    else:
        low, high = inputs.aminmax()
    return low.clamp(max=0), high.clamp(min=0)


def widened(seen: Tensor | None, inputs: Tensor) -> Tensor:
    """A range that holds an earlier one and the inputs: float32 ``[2]``, lower end first.

    NaN stays NaN.
    """
    ends = torch.stack(extent(inputs.float(), "tensor"))
    if seen is None:
        return ends
    return torch.stack((torch.minimum(seen[0], ends[0]), torch.maximum(seen[1], ends[1])))


def round_inputs(
    inputs: Tensor, low: Tensor, high: Tensor, *, bits: int, symmetric: bool
) -> Tensor:
    """Activations on the nearest values of a range's grid.

    NaN and infinities are never rounded away: each stays what it is, and makes what shares its
    dynamic range NaN. Gradients go straight through to the inputs, but for those that are cut off,
    and none to the range.

    Args:
        inputs: ``[..., in_features]``, any floating dtype.
        low: the lower end of the range, at most 0; broadcasts to the inputs.
        high: the upper end, at least 0; likewise.
        bits: 2 to 8.
        symmetric: a range that is equal on both sides of zero; otherwise affine.

    Returns:
        A tensor of the inputs' shape and dtype.

    Raises:
        ValueError: bits out of range.
    """
    if not 2 <= bits <= 8:
        message = f"bits must be 2 to 8, got {bits}"
        raise ValueError(message)
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    given = inputs.detach()
    # In double precision, for in single high - low may overflow.
    low, high = low.detach().double(), high.detach().double()
    steps = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    span = torch.maximum(high, -low) if symmetric else high - low
    scale = (span / steps).to(dtype).clamp(min=torch.finfo(dtype).tiny).where(span != 0, 1)
    codes = (given.to(dtype) / scale).round()
    if symmetric:
        kept = codes.clamp(-steps, steps)
    else:
        zero_point = (-low / scale).round().clamp(0, steps).to(dtype)
        kept = (codes + zero_point).clamp(0, steps) - zero_point
    largest = torch.finfo(given.dtype).max  # an end may be rounded half a step outwards
    rounded = (kept * scale).clamp(-largest, largest).to(given.dtype)
    found: Tensor = rounded.where(given.isfinite(), given)
    if not inputs.requires_grad:
        return found
    # An end that lies between two codes may be moved half a step, which does not cut it off.
    inside = (kept == codes) | ((given >= low) & (given <= high))
    return straight_through(inputs, found, inside)
