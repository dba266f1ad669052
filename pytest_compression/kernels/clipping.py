"""Ranges that leave the largest weights out, where that makes the rest more exact.

A min-max grid follows the largest weight of a block, however far from the others. A smaller range
cuts that weight off and lays the steps closer. For each block the range is shrunk by a few dozen
factors, and the one of least squared error is kept; 1 is among them, so no block gets worse. Both
ends shrink alike and zero stays a code (as GPTQ's search does, by another norm: Frantar et al.
2022, https://arxiv.org/abs/2210.17323).
"""

import torch
from torch import Tensor

from pytest_compression.kernels.grids import (
    Granularity,
    Grid,
    distances,
    grid_over,
    in_blocks,
    nearest_codes,
    ranges,
)

FACTORS = tuple(1 - step / 25 for step in range(20))
"""1 down to 0.24: two bits a weight want about a third of a long block's range."""


def errors(weight: Tensor, grid: Grid) -> Tensor:
    """Euclidean length of the error of each block: float64, of the scale's shape."""
    found = torch.zeros_like(grid.scale, dtype=torch.float64)
    block = min(grid.block, weight.shape[1])
    for rows, scale, zero in grid.slabs(weight.shape):
        parts = in_blocks(weight[rows].detach().float(), block)
        codes = nearest_codes(parts, scale, zero, grid.top)
        lengths = distances(codes, parts, scale, zero, weight.dtype)
        if len(found) > 1:
            found[rows] = lengths
        else:  # several rows share a block
            found = found.hypot(torch.linalg.vector_norm(lengths, dim=0))
    return found


def fit_clipped_grid(
    weight: Tensor,
    *,
    bits: int,
    granularity: Granularity,
    group_size: int | None = None,
    symmetric: bool,
) -> Grid:
    """The shrunk min-max grid of least squared error, block by block.

    Weights beyond its ends get the outermost codes. Of equal errors the wider range is kept.

    Arguments and errors as :func:`pytest_compression.kernels.grids.fit_grid`.
    """
    low, high, block = ranges(weight, granularity, group_size)
    best = torch.full_like(low, torch.inf)
    chosen = torch.ones_like(low)
    for factor in FACTORS:
        grid = grid_over(low * factor, high * factor, bits=bits, block=block, symmetric=symmetric)
        found = errors(weight, grid)
        chosen = chosen.where(found >= best, factor)
        best = torch.minimum(found, best)
    return grid_over(low * chosen, high * chosen, bits=bits, block=block, symmetric=symmetric)
