"""Scales that are quantized themselves: double quantization (Dettmers et al. 2023).

One float32 for each 64 weights is half a bit a weight. In double quantization
(https://arxiv.org/abs/2305.14314) the mean is taken off, and what is left is kept in 8 bits, in
blocks of 256 with a float32 each: an eighth of a bit. The 256 levels are those of the dynamic data
type (Dettmers 2016, https://arxiv.org/abs/1511.04561): 0, 1, and for each exponent e = 0 .. 6 the
middles of ``2^e`` equal parts of ``[0.1, 1] * 10^(e - 6)``, of both signs.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from pytest_compression.kernels.packing import in_runs
from pytest_compression.kernels.ragged import block_of_each, left_of

BLOCK = 256
EXPONENTS = 7


@cache
def dynamic_levels(device: torch.device) -> Tensor:
    """The 256 levels in rising order, float32; those of bitsandbytes, bit for bit."""
    found = [torch.zeros(1), torch.ones(1)]
    for exponent in range(EXPONENTS):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - EXPONENTS + 1)
        found += [middles, -middles]
    return torch.cat(found).sort().values.to(device)


@dataclass(frozen=True, kw_only=True)
class DoubleQuantized:
    """Scales in 8 bits each."""

    codes: Tensor
    """Uint8, one a scale."""
    absmax: Tensor
    """Float32, one a block."""
    offset: Tensor
    """Float32, the mean of all scales."""
    block: int = BLOCK
    """Consecutive scales that share an absmax; the most, where their number differs."""
    lengths: Tensor | None = None
    """How many scales each block has, of an integer dtype, where a cut left differing ones."""

    @classmethod
    def of(cls, scales: Tensor) -> "DoubleQuantized":
        """Float32 scales, ``[count]``, each as the nearest level of its block."""
        # In double precision: the same mean with any number of threads, and no overflow.
        offset = scales.mean(dtype=torch.float64).float()
        rest = in_runs(scales - offset, BLOCK)
        absmax = rest.abs().amax(1)
        levels = dynamic_levels(scales.device)
        midpoints = (levels[1:] + levels[:-1]) / 2
        scaled = rest / absmax.where(absmax > 0, 1.0).unsqueeze(1)
        codes = torch.bucketize(scaled, midpoints)
        flat = codes.to(torch.uint8).view(-1)[: scales.numel()].clone()
        return cls(codes=flat, absmax=absmax, offset=offset)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        tensors = (self.codes, self.absmax, self.offset, self.lengths)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def dequantize(self) -> Tensor:
        """The float32 scales, ``[count]``; a very small one may come back below zero."""
        levels = dynamic_levels(self.codes.device)[self.codes.int()]
        if self.lengths is not None:
            return levels * self.absmax.repeat_interleave(self.lengths.long()) + self.offset
        rest = in_runs(levels, self.block) * self.absmax.unsqueeze(1)
        return rest.view(-1)[: self.codes.numel()] + self.offset

    def kept(self, places: Tensor) -> "DoubleQuantized":
        """Some of the scales, at ascending places; each stays as it is."""
        of_each = block_of_each(self.codes.numel(), self.block, self.lengths, places.device)
        left = left_of(of_each[places], self.block)
        return replace(
            self,
            codes=self.codes[places],
            absmax=self.absmax[left.blocks],
            block=left.block,
            lengths=left.lengths,
        )
