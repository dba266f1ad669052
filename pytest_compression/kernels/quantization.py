"""Round-to-nearest weight quantization: grids, codes and packed codes.

``codes = clamp(round(x / scale) + zero_point, qmin, qmax)`` and
``x^ = scale * (codes - zero_point)``, rounding half to even. One (scale, zero_point) serves a
block: the whole tensor, an output channel (row), or a group of ``group_size`` consecutive
inputs of a row, of which the last may be shorter.

Affine: ``lo = min(0, min x)``, ``hi = max(0, max x)``, ``scale = (hi - lo) / (2^bits - 1)``,
codes 0 .. 2^bits - 1. Zero must lie inside the range, or blocks of one sign are cut off.
Symmetric: ``scale = absmax / (2^(bits-1) - 1)``, codes of both signs alike, ``Q(-x) = -Q(x)``.
In both the error is at most scale/2, and zero is exact, so a pruning mask survives.

Source of the formulas: Jacob et al. 2018, https://arxiv.org/abs/1712.05877; Nagel et al. 2021,
https://arxiv.org/abs/2106.08295.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["tensor", "channel", "group"]

BITS_A_BYTE = 8


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The values that quantized weights may take."""

    scale: Tensor
    """Float32, ``[rows, blocks a row]``; ``[1, 1]`` for a whole tensor."""
    zero_point: Tensor | None
    """Uint8 of the scale's shape, or None for a symmetric grid."""
    bits: int
    block: int
    """Consecutive values that share a scale."""

    @property
    def offset(self) -> int:
        """What is added to a symmetric code so that it is not negative."""
        return 0 if self.zero_point is not None else 2 ** (self.bits - 1) - 1

    @property
    def top(self) -> int:
        """The largest stored code."""
        return 2**self.bits - 1 if self.zero_point is not None else 2 * self.offset


def blocks(values: Tensor, granularity: Granularity, group_size: int | None) -> tuple[Tensor, int]:
    """The values as rows of blocks, ``[rows, blocks, block]``, and the block's length.

    A row that is no multiple of the block is filled up with zeros, which change no range,
    since every range includes zero.
    """
    rows = values.reshape(1, -1) if granularity == "tensor" else values
    block = rows.shape[1] if granularity != "group" or group_size is None else group_size
    block = max(1, block)
    missing = -rows.shape[1] % block
    return torch.nn.functional.pad(rows, (0, missing)).unflatten(1, (-1, block)), block


def fit_grid(
    weight: Tensor,
    *,
    bits: int,
    granularity: Granularity,
    group_size: int | None = None,
    symmetric: bool,
) -> Grid:
    """The min-max grid of a weight.

    Args:
        weight: ``[out_features, in_features]``, any floating dtype.
        bits: 2 to 8.
        granularity: what shares one scale.
        group_size: inputs a group, for granularity ``group``.
        symmetric: equal ranges on both sides of zero; otherwise affine.

    Raises:
        ValueError: bits out of range, a group size missing or not positive, a weight that is
            not a matrix, is empty, or holds NaN or infinities.
    """
    if not 2 <= bits <= BITS_A_BYTE:
        message = f"bits must be 2 to 8, got {bits}"
        raise ValueError(message)
    if granularity == "group" and (group_size is None or group_size < 1):
        message = f"granularity 'group' needs a positive group_size, got {group_size}"
        raise ValueError(message)
    if weight.dim() != 2 or weight.numel() == 0:
        message = f"expected a weight [out_features, in_features], got {list(weight.shape)}"
        raise ValueError(message)
    if not weight.isfinite().all():
        message = "the weight holds NaN or infinite values"
        raise ValueError(message)
    # In double precision: hi - lo may overflow, and a scale may underflow, in single.
    parts, block = blocks(weight.detach().double(), granularity, group_size)
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    if symmetric:
        span, steps = torch.maximum(high, -low), 2 ** (bits - 1) - 1
    else:
        span, steps = high - low, 2**bits - 1
    scale = (span / steps).float()
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny).where(span > 0, 1.0)
    zero_point = None
    if not symmetric:
        zero_point = (-low / scale).round().clamp(0, steps).to(torch.uint8)
    return Grid(scale=scale, zero_point=zero_point, bits=bits, block=block)


def spread(values: Tensor, grid: Grid, shape: torch.Size) -> Tensor:
    """One value a block, repeated for each weight: ``[rows, blocks]`` to ``shape``."""
    rows = values.shape[0]
    width = shape.numel() // rows
    return values.repeat_interleave(grid.block, dim=1)[:, :width].reshape(shape)


def encode(weight: Tensor, grid: Grid) -> Tensor:
    """Codes of a weight on a grid: uint8 ``[out_features, in_features]``, 0 .. grid.top."""
    scale = spread(grid.scale, grid, weight.shape)
    codes = (weight.detach().float() / scale).round()
    if grid.zero_point is None:
        codes = codes + grid.offset
    else:
        codes = codes + spread(grid.zero_point, grid, weight.shape)
    return codes.clamp(0, grid.top).to(torch.uint8)


def decode(codes: Tensor, grid: Grid) -> Tensor:
    """The float32 weight that codes stand for, ``[out_features, in_features]``."""
    scale = spread(grid.scale, grid, codes.shape)
    if grid.zero_point is None:
        return (codes.float() - grid.offset) * scale
    return (codes.float() - spread(grid.zero_point, grid, codes.shape).float()) * scale


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes as a stream of bits, least significant first, in whole bytes.

    Args:
        codes: uint8 of any shape, each below ``2 ** bits``.
        bits: 1 to 8.

    Returns:
        Uint8 ``[ceil(numel * bits / 8)]``.
    """
    flat = codes.reshape(-1)
    if bits == BITS_A_BYTE:
        return flat.clone()
    shifts = torch.arange(bits, dtype=torch.uint8, device=flat.device)
    stream = ((flat.unsqueeze(1) >> shifts) & 1).reshape(-1)
    stream = torch.nn.functional.pad(stream, (0, -stream.numel() % BITS_A_BYTE))
    places = torch.arange(BITS_A_BYTE, dtype=torch.uint8, device=flat.device)
    return (stream.reshape(-1, BITS_A_BYTE) << places).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, shape: torch.Size) -> Tensor:
    """The inverse of :func:`pack`."""
    if bits == BITS_A_BYTE:
        return packed.reshape(shape).clone()
    places = torch.arange(BITS_A_BYTE, dtype=torch.uint8, device=packed.device)
    stream = ((packed.unsqueeze(1) >> places) & 1).reshape(-1)[: shape.numel() * bits]
    shifts = torch.arange(bits, dtype=torch.uint8, device=packed.device)
    return (stream.reshape(-1, bits) << shifts).sum(1, dtype=torch.uint8).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A weight as it would be stored: packed codes and their grid."""

    packed: Tensor
    grid: Grid
    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, the scales and the zero points."""
        zero_point = self.grid.zero_point
        return (
            self.packed.nbytes
            + self.grid.scale.nbytes
            + (0 if zero_point is None else zero_point.nbytes)
        )

    def codes(self) -> Tensor:
        """Uint8 codes, ``[out_features, in_features]``."""
        return unpack(self.packed, self.grid.bits, self.shape)

    def dequantize(self) -> Tensor:
        """The weight in its own dtype, ``[out_features, in_features]``."""
        return decode(self.codes(), self.grid).to(self.dtype)

    def with_zeros(self, zero: Tensor) -> "Quantized":
        """The same weight with the codes for zero where ``zero`` (boolean) says so."""
        nothing = encode(torch.zeros(self.shape, device=self.packed.device), self.grid)
        codes = nothing.where(zero, self.codes())
        return replace(self, packed=pack(codes, self.grid.bits))


def quantize(
    weight: Tensor,
    *,
    bits: int,
    granularity: Granularity,
    group_size: int | None = None,
    symmetric: bool,
) -> Quantized:
    """Round a weight to the nearest values of its min-max grid.

    Arguments and errors as :func:`fit_grid`.
    """
    grid = fit_grid(
        weight, bits=bits, granularity=granularity, group_size=group_size, symmetric=symmetric
    )
    packed = pack(encode(weight, grid), bits)
    return Quantized(packed=packed, grid=grid, shape=weight.shape, dtype=weight.dtype)
