"""Sixteen levels for each block of a weight: NF4 and FP4, with the codes of bitsandbytes.

The flattened weight is cut into blocks (the last may be shorter), each is divided by its absmax,
and every value takes the nearest level of the codebook; one that lies exactly between two takes the
lower. Both codebooks hold zero, so a pruning mask survives.

NF4's levels are quantiles of a normal distribution (Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314); FP4 has a sign, two bits of exponent and one of fraction.
bitsandbytes multiplies a full block by the inverse of its absmax, and divides a shorter one: so do
we, for values between two levels hang on the last digit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from pytest_compression.kernels.absmax import DoubleQuantized
from pytest_compression.kernels.grids import SLAB, check_finite, check_matrix
from pytest_compression.kernels.packing import in_runs, pack, unpack
from pytest_compression.kernels.ragged import block_of_each, left_of

Codebook = Literal["nf4", "fp4"]

BITS = 4
LEAST_ABSMAX = 1e-38
"""Blocks are divided by no less, whose inverse would be infinite."""

# fmt: off
LEVELS: dict[Codebook, tuple[float, ...]] = {
    "nf4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    "fp4": tuple(
        sign * level / 12 or 0.0  # both zeros without a sign
        for sign in (1, -1)
        for level in (0, 1 / 16, 8, 12, 4, 6, 2, 3)
    ),
}
# fmt: on
"""By code."""


@cache
def levels_of(codebook: Codebook, device: torch.device) -> Tensor:
    """The level of each code, float32."""
    return torch.tensor(LEVELS[codebook], device=device)


@cache
def midpoints_of(codebook: Codebook) -> tuple[float, ...]:
    """Those between neighbouring levels, in rising order; what float32 makes of them."""
    rising = levels_of(codebook, torch.device("cpu")).sort().values
    return tuple(((rising[:-1] + rising[1:]) / 2).tolist())


@cache
def ends_of(codebook: Codebook) -> tuple[float, float]:
    """How far a scaled value may lie: half a step beyond the first level, and the last."""
    rising = sorted(LEVELS[codebook])
    return 1.5 * rising[0] - 0.5 * rising[1], 1.5 * rising[-1] - 0.5 * rising[-2]


@cache
def order_of(codebook: Codebook, device: torch.device) -> Tensor:
    """The codes in the order of their levels, uint8.

    FP4 has two for zero: zero itself gets code 0, what is rounded down to it code 8.
    """
    levels = LEVELS[codebook]
    order = sorted(range(len(levels)), key=lambda code: (levels[code], code))
    return torch.tensor(order, dtype=torch.uint8, device=device)


@dataclass(frozen=True, kw_only=True)
class BlockCoded:
    """A weight as it would be stored: packed codes, and the absmax of each block."""

    packed: Tensor
    absmax: Tensor | DoubleQuantized
    """Float32, one a block, or these in 8 bits."""
    codebook: Codebook
    block: int
    """Consecutive values of the flattened weight that share an absmax; the most, where their
    number differs."""
    shape: torch.Size
    dtype: torch.dtype
    lengths: Tensor | None = None
    """How many values each block has, of an integer dtype, where a cut left differing ones."""

    @property
    def bits(self) -> int:
        """Of a code."""
        return BITS

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the scales; the codebook belongs to the format."""
        lengths = 0 if self.lengths is None else self.lengths.nbytes
        return self.packed.nbytes + self.absmax.nbytes + lengths

    def codes(self) -> Tensor:
        """Uint8 codes, ``[out_features, in_features]``."""
        return unpack(self.packed, BITS, self.shape)

    def scales(self) -> tuple[Tensor, int]:
        """Absmax of runs of one length, float32 ``[runs]``, and that length."""
        absmax = self.absmax if isinstance(self.absmax, Tensor) else self.absmax.dequantize()
        if self.lengths is None:
            return absmax, self.block
        return absmax.repeat_interleave(self.lengths.long()), 1

    def dequantize(self) -> Tensor:
        """The weight in its own dtype, ``[out_features, in_features]``."""
        absmax, run = self.scales()
        levels = levels_of(self.codebook, self.packed.device)
        codes = self.codes().view(-1)
        weight = torch.empty(codes.shape, dtype=self.dtype, device=codes.device)
        for part, scales in runs(codes.numel(), run, absmax):
            found = in_runs(levels[codes[part].int()], run).mul_(scales)
            weight[part] = found.view(-1)[: part.stop - part.start]
        return weight.view(self.shape)

    def with_zeros(self, zero: Tensor) -> "BlockCoded":
        """The same weight with the code for zero where ``zero`` (boolean) says so."""
        codes = self.codes().masked_fill_(zero, LEVELS[self.codebook].index(0))
        return replace(self, packed=pack(codes, BITS))

    def scaled(self, values: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Other values, flat, over the scales that there are; some at a time."""
        absmax, run = self.scales()
        flat = values.detach().reshape(-1)
        # Divided, for the inverse of a very small scale is infinite; one of zero gives zero anyway.
        for part, scales in runs(flat.numel(), run, absmax.where(absmax != 0, 1)):
            found = in_runs(flat[part].float(), run) / scales
            yield part, found.view(-1)[: part.stop - part.start]

    def with_values(self, values: Tensor) -> "BlockCoded":
        """The codes nearest to other values, on the same scales."""
        codes = torch.empty(values.numel(), dtype=torch.uint8, device=values.device)
        for part, scaled in self.scaled(values):
            codes[part] = nearest_levels(scaled, self.codebook)
        return replace(self, packed=pack(codes, BITS))

    def nearest(self, values: Tensor) -> Tensor:
        """What these codes give back, ``[out_features, in_features]``."""
        return self.with_values(values).dequantize()

    def reaches(self, values: Tensor) -> Tensor:
        """Where a value is rounded and not cut off: boolean, of its shape."""
        low, high = ends_of(self.codebook)
        inside = torch.empty(values.numel(), dtype=torch.bool, device=values.device)
        for part, scaled in self.scaled(values):
            inside[part] = (scaled >= low) & (scaled <= high)
        return inside.view(values.shape)

    def kept(self, axis: int, places: Tensor) -> "BlockCoded":
        """Some of its rows (axis 0) or columns (axis 1), ascending; each value stays as it is."""
        codes = self.codes().index_select(axis, places)
        of_each = block_of_each(self.shape.numel(), self.block, self.lengths, places.device)
        stay = of_each.view(self.shape).index_select(axis, places).view(-1)
        left = left_of(stay, self.block)
        whole = self.absmax
        return replace(
            self,
            packed=pack(codes, BITS),
            absmax=whole[left.blocks] if isinstance(whole, Tensor) else whole.kept(left.blocks),
            block=left.block,
            lengths=left.lengths,
            shape=codes.shape,
        )


def runs(count: int, block: int, scales: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Runs of whole blocks of a flat tensor, about ``SLAB`` values each, and their scales.

    The scales are ``[blocks, 1]``.
    """
    step = max(1, SLAB // block)
    for first in range(0, len(scales), step):
        part = slice(first * block, min((first + step) * block, count))
        yield part, scales[first : first + step].unsqueeze(1)


def nearest_levels(scaled: Tensor, codebook: Codebook) -> Tensor:
    """Codes of values in [-1, 1], uint8: each midpoint below a value moves it one level up."""
    above = torch.zeros(scaled.shape, dtype=torch.uint8, device=scaled.device)
    for midpoint in midpoints_of(codebook):
        above += (scaled > midpoint).view(torch.uint8)
    if codebook == "nf4":  # its codes are in the order of its levels
        return above
    return order_of(codebook, scaled.device)[above.int()]


def quantize_blocks(
    weight: Tensor, *, codebook: Codebook, block: int, double_quant: bool = False
) -> BlockCoded:
    """Round each block of a weight to the levels of a codebook.

    Args:
        weight: ``[out_features, in_features]``, any floating dtype.
        codebook: which 16 levels.
        block: consecutive values that share an absmax, at least 1.
        double_quant: keep each absmax in 8 bits; codes are those of the exact one.

    Raises:
        ValueError: the weight is not a matrix, is empty, or holds NaN or infinities.
    """
    check_matrix(weight)
    flat = weight.detach().reshape(-1)
    rows = in_runs(flat, block)
    absmax = torch.maximum(rows.amax(1), -rows.amin(1)).float()
    check_finite(absmax)
    codes = torch.empty(flat.shape, dtype=torch.uint8, device=flat.device)
    for part, scales in runs(flat.numel(), block, absmax.clamp(min=LEAST_ABSMAX)):
        scaled = in_runs(flat[part].float(), block) * (1 / scales)
        if (part.stop - part.start) % block:
            scaled[-1] = rows[-1].float() / scales[-1]
        codes[part] = nearest_levels(scaled, codebook).view(-1)[: part.stop - part.start]
    return BlockCoded(
        packed=pack(codes, BITS),
        absmax=DoubleQuantized.of(absmax) if double_quant else absmax,
        codebook=codebook,
        block=block,
        shape=weight.shape,
        dtype=weight.dtype,
    )
