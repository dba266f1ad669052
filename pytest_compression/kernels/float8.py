"""Weights in 8-bit floating point: e4m3 and e5m2 with a scale.

``x^ = scale * cast(clamp(x / scale))`` with ``scale = absmax / largest``, so that the largest
weight becomes the largest finite number of the format: 448 for e4m3 (no infinities), 57,344 for
e5m2. The cast rounds to nearest, half to even. A plain cast makes NaN or infinity of what is out of
range; here the range is kept. Zero is exact, so a pruning mask survives.

Source: Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pytest_compression.kernels.grids import check_finite, check_matrix, slabs

Float8Format = Literal["e4m3", "e5m2"]
Float8Granularity = Literal["tensor", "channel"]

BITS = 8
DTYPES: dict[Float8Format, torch.dtype] = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}


@dataclass(frozen=True, kw_only=True)
class Float8:
    """A weight as it would be stored: 8-bit floats and their scales."""

    values: Tensor
    """``[out_features, in_features]``, of an 8-bit float dtype."""
    scale: Tensor
    """Float32, ``[out_features, 1]`` or ``[1, 1]``."""
    dtype: torch.dtype

    @property
    def bits(self) -> int:
        """Of a code."""
        return BITS

    @property
    def nbytes(self) -> int:
        """Bytes of the values and the scales."""
        return self.values.nbytes + self.scale.nbytes

    def dequantize(self) -> Tensor:
        """The weight in its own dtype, ``[out_features, in_features]``."""
        weight = torch.empty(self.values.shape, dtype=self.dtype, device=self.values.device)
        for rows in slabs(self.values.shape):
            scale = self.scale[rows] if len(self.scale) > 1 else self.scale
            weight[rows] = self.values[rows].float().mul_(scale)
        return weight

    def with_zeros(self, zero: Tensor) -> "Float8":
        """The same weight with zeros where ``zero`` (boolean) says so."""
        codes = self.values.view(torch.uint8).masked_fill(zero, 0)
        return replace(self, values=codes.view(self.values.dtype))

    def with_values(self, values: Tensor) -> "Float8":
        """The numbers nearest to other values, on the same scales."""
        return replace(self, values=divided(values.detach(), self.scale, self.values.dtype))

    def nearest(self, values: Tensor) -> Tensor:
        """What these numbers give back, ``[out_features, in_features]``."""
        return self.with_values(values).dequantize()

    def reaches(self, values: Tensor) -> Tensor:
        """Where a value is rounded and not cut off: boolean, of its shape."""
        form = torch.finfo(self.values.dtype)
        half_a_step = form.eps / 2 * 2 ** math.floor(math.log2(form.max))
        inside: Tensor = (values.detach().float() / self.scale).abs_() <= form.max + half_a_step
        return inside

    def kept(self, axis: int, places: Tensor) -> "Float8":
        """Some of its rows (axis 0) or columns (axis 1), ascending; each value stays as it is."""
        codes = self.values.view(torch.uint8).index_select(axis, places)
        by_row = axis == 0 and len(self.scale) > 1
        scale = self.scale.index_select(0, places) if by_row else self.scale
        return replace(self, values=codes.view(self.values.dtype), scale=scale)


def divided(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight over its scales in an 8-bit float dtype; what is out of range is cut off."""
    largest = torch.finfo(dtype).max
    values = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    for part in slabs(weight.shape):
        here = scale[part] if len(scale) > 1 else scale
        values[part] = (weight[part].float() / here).clamp_(-largest, largest)
    return values


def quantize_float8(
    weight: Tensor, *, form: Float8Format, granularity: Float8Granularity
) -> Float8:
    """Round a weight to scaled 8-bit floats.

    Args:
        weight: ``[out_features, in_features]``, any floating dtype.
        form: bits of exponent and fraction.
        granularity: what shares one scale.

    Raises:
        ValueError: the weight is not a matrix, is empty, or holds NaN or infinities.
    """
    check_matrix(weight)
    dense = weight.detach()
    rows = dense.reshape(1, -1) if granularity == "tensor" else dense
    absmax = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).float()
    check_finite(absmax)
    largest = torch.finfo(DTYPES[form]).max
    scale = (absmax / largest).clamp(min=torch.finfo(torch.float32).tiny).where(absmax > 0, 1.0)
    values = divided(dense, scale, DTYPES[form])
    return Float8(values=values, scale=scale, dtype=weight.dtype)
