"""Integer grids in the format ``pack-quantized`` of compressed-tensors, byte for byte.

For each layer ``[out, in]`` a file holds, in place of its weight: ``weight_packed``, the codes of
each row as a stream of bits, the lowest first, filled up to words of 32 bits; ``weight_scale``,
``[out, blocks]``; ``weight_zero_point``, packed alike but down its columns; and ``weight_shape``.
All widths of 1 to 8 bits are packed without gaps.

Source: the package compressed-tensors, https://github.com/vllm-project/compressed-tensors (2024).
"""

from typing import Any

import torch
from torch import Tensor, nn

from pytest_compression.kernels.packing import pack
from pytest_compression.kernels.quantization import Quantized

FORMAT = "pack-quantized"
WORD = 32
"""Codes are filled up to a multiple of these, so that each row ends with a whole word."""


def strategy_of(stored: Quantized) -> str:
    """What shares a scale: ``tensor``, ``channel`` or ``group``."""
    grid, (rows, columns) = stored.grid, stored.shape
    if len(grid.scale) == 1 and rows > 1:
        return "tensor"
    return "group" if grid.block < columns else "channel"


def unfit(stored: Quantized) -> str:
    """Why the format cannot hold a weight; nothing if it can."""
    grid, (rows, columns) = stored.grid, stored.shape
    strategy = strategy_of(stored)
    if grid.is_real:
        return "no common format holds zero points that are no whole numbers"
    if grid.lengths is not None:
        return "its groups were cut to differing lengths"
    if strategy == "group" and columns % grid.block:
        return f"its groups of {grid.block} do not divide rows of {columns}"
    if grid.zero_point is not None and rows * grid.bits <= WORD:
        # The reader (0.20.0) takes them for no column at all.
        return f"compressed-tensors cannot read zero points of {rows} rows in {grid.bits} bits"
    return ""


def described(stored: Quantized) -> dict[str, Any]:
    """How a configuration describes the grid of a weight that fits."""
    strategy = strategy_of(stored)
    return {
        "num_bits": stored.grid.bits,
        "type": "int",
        "symmetric": stored.grid.zero_point is None,
        "strategy": strategy,
        "group_size": stored.grid.block if strategy == "group" else None,
        "dynamic": False,
    }


def tensors_of(stored: Quantized) -> dict[str, Tensor]:
    """What a file holds in place of a layer's weight, by the last part of its name."""
    grid, codes = stored.grid, stored.codes()
    whole = strategy_of(stored) == "tensor"
    # Stored codes count from -2^(bits-1); ours of a symmetric grid from one above.
    tensors = {
        "weight_packed": words(codes if grid.zero_point is not None else codes + 1, grid.bits),
        "weight_scale": grid.scale.reshape(-1) if whole else grid.scale,
        "weight_shape": torch.tensor(stored.shape),
    }
    if grid.zero_point is not None:
        zeros = grid.zero_point
        tensors["weight_zero_point"] = (
            (zeros.to(torch.int16) - 2 ** (grid.bits - 1)).to(torch.int8).reshape(-1)
            if whole
            else words(zeros.t(), grid.bits).t().contiguous()
        )
    return tensors


def words(codes: Tensor, bits: int) -> Tensor:
    """Uint8 codes ``[rows, columns]`` as int32 ``[rows, ceil(columns * bits / 32)]``."""
    rows, columns = codes.shape
    filled = nn.functional.pad(codes, (0, -columns % WORD)).contiguous()
    streams = pack(filled, bits).view(torch.int32).view(rows, -1)
    return streams[:, : -(-columns * bits // WORD)].contiguous()
