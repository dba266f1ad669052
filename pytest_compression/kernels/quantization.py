"""Round-to-nearest weight quantization, from a weight to packed codes and back.

The formulas are those of :mod:`~pytest_compression.kernels.grids`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pytest_compression.kernels.grids import (
    Granularity,
    Grid,
    blocks,
    decode,
    encode,
    fit_grid,
    spread,
)
from pytest_compression.kernels.packing import pack, unpack
from pytest_compression.kernels.straight_through import within

__all__ = [
    "Granularity",
    "Grid",
    "Quantized",
    "blocks",
    "decode",
    "encode",
    "fit_grid",
    "pack",
    "quantize",
    "spread",
    "unpack",
]


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A weight as it would be stored: packed codes and their grid."""

    packed: Tensor
    grid: Grid
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def on(cls, grid: Grid, weight: Tensor) -> "Quantized":
        """A weight rounded to the nearest values of a grid."""
        packed = pack(encode(weight, grid), grid.bits)
        return cls(packed=packed, grid=grid, shape=weight.shape, dtype=weight.dtype)

    @property
    def bits(self) -> int:
        """Of a code."""
        return self.grid.bits

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, the scales and the zero points."""
        return self.packed.nbytes + self.grid.nbytes

    def codes(self) -> Tensor:
        """Uint8 codes, ``[out_features, in_features]``."""
        return unpack(self.packed, self.grid.bits, self.shape)

    def dequantize(self) -> Tensor:
        """The weight in its own dtype, ``[out_features, in_features]``."""
        return decode(self.codes(), self.grid, self.dtype)

    def with_zeros(self, zero: Tensor) -> "Quantized | None":
        """The same weight with the codes for zero where ``zero`` (boolean) says so.

        None if zero lies between two codes in one of these blocks.
        """
        zero_point = self.grid.zero_point
        if zero_point is None:
            codes = self.codes().masked_fill_(zero, self.grid.offset)
        else:
            nearest = zero_point.round().clamp(0, self.grid.top)
            if (zero & spread(nearest != zero_point, self.grid, self.shape)).any():
                return None
            codes = spread(nearest.to(torch.uint8), self.grid, self.shape).where(zero, self.codes())
        return replace(self, packed=pack(codes, self.grid.bits))

    def with_values(self, values: Tensor) -> "Quantized":
        """The codes nearest to other values, on the same grid."""
        return replace(self, packed=pack(encode(values, self.grid), self.grid.bits))

    def nearest(self, values: Tensor) -> Tensor:
        """What these codes give back, ``[out_features, in_features]``."""
        return decode(encode(values, self.grid), self.grid, self.dtype)

    def reaches(self, values: Tensor) -> Tensor:
        """Where a value is rounded and not cut off: boolean, of its shape."""
        return within(values, self.grid)

    def kept(self, axis: int, places: Tensor) -> "Quantized":
        """Some of its rows (axis 0) or columns (axis 1), ascending; each value stays as it is."""
        codes = self.codes().index_select(axis, places)
        grid = self.grid.kept(axis, places, self.shape[1])
        return replace(self, packed=pack(codes, grid.bits), grid=grid, shape=codes.shape)


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
    return Quantized.on(grid, weight)
