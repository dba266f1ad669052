"""Grids of evenly spaced values, and what lies nearest on them.

``codes = clamp(round(x / scale) + zero_point, 0, top)`` and
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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pytest_compression.kernels.ragged import block_of_each, left_of

Granularity = Literal["tensor", "channel", "group"]

MOST_BITS = 8
SLAB = 2**17
"""Values worked on at once: what is computed between stays in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The values that quantized weights may take."""

    scale: Tensor
    """Float32, ``[rows, blocks a row]``; ``[1, 1]`` for a whole tensor."""
    zero_point: Tensor | None
    """Of the scale's shape: uint8; float32 where zero may lie between two codes; None for a
    symmetric grid."""
    bits: int
    block: int
    """Consecutive values that share a scale; the most, where their number differs."""
    lengths: Tensor | None = None
    """How many values each block of a row has, ``[blocks a row]`` of an integer dtype, where a cut
    left them of differing lengths."""

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        tensors = (self.scale, self.zero_point, self.lengths)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def offset(self) -> int:
        """What is added to a symmetric code so that it is not negative."""
        return 0 if self.zero_point is not None else 2 ** (self.bits - 1) - 1

    @property
    def top(self) -> int:
        """The largest stored code."""
        return 2**self.bits - 1 if self.zero_point is not None else 2 * self.offset

    @property
    def is_real(self) -> bool:
        """Whether zero may lie between two codes."""
        return self.zero_point is not None and self.zero_point.is_floating_point()

    def run(self, columns: int) -> int:
        """How many values of a row of so many are under each scale that ``slabs`` gives."""
        return 1 if self.lengths is not None else min(self.block, columns)

    def slabs(self, shape: torch.Size) -> Iterator[tuple[slice, Tensor, Tensor | int]]:
        """Runs of rows of a weight, each with its scales and zero points.

        Scales and zero points are ``[rows or 1, blocks a row, 1]``, where blocks differ in length
        ``[rows or 1, columns, 1]``; where there are no zero points, the offset stands for them.
        """
        for rows in slabs(shape):
            here = rows if len(self.scale) > 1 else slice(None)
            zero = self.offset if self.zero_point is None else self.of_runs(self.zero_point[here])
            yield rows, self.of_runs(self.scale[here]), zero

    def of_runs(self, values: Tensor) -> Tensor:
        """One value a block, ``[rows, blocks a row]``, as ``slabs`` gives them."""
        if self.lengths is not None:
            values = values.repeat_interleave(self.lengths.long(), dim=1)
        return values.unsqueeze(-1)

    def kept(self, axis: int, places: Tensor, columns: int) -> "Grid":
        """The grid of some of the rows (axis 0) or columns (axis 1) of a weight.

        Each value keeps its scale. ``places`` ascend; ``columns`` is how many there were.
        """
        if self.scale.shape[axis] == 1:  # one block for the whole axis
            return self
        block, lengths = self.block, self.lengths
        if axis == 1:
            of_each = block_of_each(columns, block, lengths, places.device)
            places, block, lengths = left_of(of_each[places], block)
        zero = self.zero_point
        return replace(
            self,
            scale=self.scale.index_select(axis, places),
            zero_point=None if zero is None else zero.index_select(axis, places),
            block=block,
            lengths=lengths,
        )


def slabs(shape: torch.Size) -> Iterator[slice]:
    """Runs of whole rows of a matrix, about ``SLAB`` values each."""
    rows, columns = shape
    count = max(1, SLAB // max(1, columns))
    return (slice(first, min(first + count, rows)) for first in range(0, rows, count))


def in_blocks(rows: Tensor, block: int) -> Tensor:
    """Rows as ``[rows, blocks, block]``, filled up with zeros at the end of each row."""
    missing = -rows.shape[1] % block
    if missing:
        rows = torch.nn.functional.pad(rows, (0, missing))
    found: Tensor = rows.unflatten(1, (-1, block))
    return found


def blocks(values: Tensor, granularity: Granularity, group_size: int | None) -> tuple[Tensor, int]:
    """The values as rows of blocks, ``[rows, blocks, block]``, and the block's length.

    A row that is no multiple of the block is filled up with zeros, which change no range,
    since every range includes zero.
    """
    rows = values.reshape(1, -1) if granularity == "tensor" else values
    block = rows.shape[1] if granularity != "group" or group_size is None else group_size
    block = max(1, block)
    return in_blocks(rows, block), block


def check_matrix(weight: Tensor) -> None:
    """Refuse what is no weight.

    Raises:
        ValueError: it is no matrix, or is empty.
    """
    if weight.dim() != 2 or weight.numel() == 0:
        message = f"expected a weight [out_features, in_features], got {list(weight.shape)}"
        raise ValueError(message)


def check_finite(*extremes: Tensor) -> None:
    """Refuse a weight by the extremes of its blocks, into which NaN and infinities carry.

    Raises:
        ValueError: there are some.
    """
    if not all(found.amax().isfinite() for found in extremes):  # it carries both
        message = "the weight holds NaN or infinite values"
        raise ValueError(message)


def ranges(
    weight: Tensor, granularity: Granularity, group_size: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """Least and greatest value of each block, zero among them, and the block's length.

    Returns:
        Two tensors ``[rows, blocks]`` in double precision, where ``hi - lo`` cannot overflow.

    Raises:
        ValueError: a group size is missing or not positive, or the weight is not a matrix, is
            empty, or holds NaN or infinities.
    """
    if granularity == "group" and (group_size is None or group_size < 1):
        message = f"granularity 'group' needs a positive group_size, got {group_size}"
        raise ValueError(message)
    check_matrix(weight)
    parts, block = blocks(weight.detach(), granularity, group_size)
    low, high = parts.amin(-1).double(), parts.amax(-1).double()
    check_finite(high - low)
    return low.clamp_(max=0), high.clamp_(min=0), block


def grid_over(low: Tensor, high: Tensor, *, bits: int, block: int, symmetric: bool) -> Grid:
    """The grid of so many bits that spans the ranges, which hold zero.

    Args:
        low: least value of each block, ``[rows, blocks]``, float64.
        high: greatest value of each block.
        bits: 2 to 8.
        block: consecutive values that share a scale.
        symmetric: equal ranges on both sides of zero; otherwise affine.

    Raises:
        ValueError: bits out of range.
    """
    if not 2 <= bits <= MOST_BITS:
        message = f"bits must be 2 to 8, got {bits}"
        raise ValueError(message)
    if symmetric:
        span, steps = torch.maximum(high, -low), 2 ** (bits - 1) - 1
    else:
        span, steps = high - low, 2**bits - 1
    scale = span.div(steps).float().clamp_(min=torch.finfo(torch.float32).tiny)
    scale.masked_fill_(span == 0, 1.0)
    zero_point = None
    if not symmetric:
        zero_point = low.neg().div_(scale).round_().clamp_(0, steps).to(torch.uint8)
    return Grid(scale=scale, zero_point=zero_point, bits=bits, block=block)


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
    low, high, block = ranges(weight, granularity, group_size)
    return grid_over(low, high, bits=bits, block=block, symmetric=symmetric)


def spread(values: Tensor, grid: Grid, shape: torch.Size) -> Tensor:
    """One value a block, repeated for each weight: ``[rows, blocks]`` to ``shape``."""
    rows, count = values.shape
    width = shape.numel() // rows
    if grid.lengths is not None:
        return grid.of_runs(values).view(shape)
    repeated = values.unsqueeze(-1).expand(rows, count, min(grid.block, width))
    return repeated.reshape(rows, -1)[:, :width].reshape(shape)


def nearest_codes(parts: Tensor, scale: Tensor, zero: Tensor | int, top: int) -> Tensor:
    """Codes in float32; scales and zero points as :meth:`Grid.slabs` gives them.

    What lies between two codes of a zero point is added before rounding, and whole codes after it,
    so that ``Q(-x) = -Q(x)`` also where a quotient is a half.
    """
    found = parts / scale
    if isinstance(zero, Tensor) and zero.is_floating_point():
        whole = zero.round()
        found.add_(zero - whole)
        zero = whole
    return found.round_().add_(zero).clamp_(0, top)


def distances(
    codes: Tensor, parts: Tensor, scale: Tensor, zero: Tensor | int, dtype: torch.dtype
) -> Tensor:
    """Euclidean distance of each block from what its codes stand for, once written in a dtype.

    Args:
        codes: float32, ``[..., block]``.
        parts: the dense values, float32, of the same shape.
        scale: of each block, ``[..., 1]``.
        zero: zero points of the scale's shape, or one for all.
        dtype: of the weight.

    Returns:
        Float64 ``[...]``.
    """
    written = codes.sub(zero).mul_(scale).to(dtype)
    lengths: Tensor = torch.linalg.vector_norm(written.double().sub_(parts), dim=-1)
    return lengths


def encode(weight: Tensor, grid: Grid) -> Tensor:
    """Codes of a weight on a grid: uint8 ``[out_features, in_features]``, 0 .. grid.top."""
    codes = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    block = grid.run(weight.shape[1])
    for rows, scale, zero in grid.slabs(weight.shape):
        parts = in_blocks(weight[rows].detach().float(), block)
        found = nearest_codes(parts, scale, zero, grid.top)
        found = found.to(torch.int16)  # torch has vector instructions for each step, not for both
        codes[rows] = found.flatten(1)[:, : weight.shape[1]]
    return codes


def decode(codes: Tensor, grid: Grid, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight that codes stand for, ``[out_features, in_features]``, computed in float32."""
    weight = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    block = grid.run(codes.shape[1])
    for rows, scale, zero in grid.slabs(codes.shape):
        found = in_blocks(codes[rows].float(), block).sub_(zero).mul_(scale)
        weight[rows] = found.flatten(1)[:, : codes.shape[1]]
    return weight
