"""Codes of 1 to 8 bits as a stream of bits, least significant first, in whole bytes.

The stream repeats after ``lcm(bits, 8)`` bits. Such a run holds whole codes in whole bytes, so
all runs are packed at once, one shift for each byte that a code reaches into::

    3 bits, 8 codes in 3 bytes:   22111000  54443332  77766655
"""

from math import ceil, lcm
from typing import NamedTuple

import torch
from torch import Tensor

BITS_A_BYTE = 8


class Overlap(NamedTuple):
    """A code and a byte of its run that hold bits in common."""

    code: int
    byte: int
    shift: int
    """From the code to the byte: to the left, or to the right if negative."""


def overlaps(bits: int) -> tuple[int, int, list[Overlap]]:
    """Codes and bytes of a run, and which of them share bits."""
    run = lcm(bits, BITS_A_BYTE)
    found = [
        Overlap(code, byte, code * bits - byte * BITS_A_BYTE)
        for code in range(run // bits)
        for byte in range(run // BITS_A_BYTE)
        if -bits < code * bits - byte * BITS_A_BYTE < BITS_A_BYTE
    ]
    return run // bits, run // BITS_A_BYTE, found


def shifted(values: Tensor, places: int) -> Tensor:
    """Uint8 values shifted to the left, or to the right if negative; what falls out is lost."""
    return values << places if places >= 0 else values >> -places


def in_runs(flat: Tensor, length: int) -> Tensor:
    """A flat tensor as rows of so many values, filled up with zeros."""
    missing = -flat.numel() % length
    return (torch.nn.functional.pad(flat, (0, missing)) if missing else flat).view(-1, length)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes as a stream of bits, least significant first, in whole bytes.

    Args:
        codes: uint8 of any shape, each below ``2 ** bits``.
        bits: 1 to 8.

    Returns:
        Uint8 ``[ceil(numel * bits / 8)]``.
    """
    codes_a_run, bytes_a_run, shared = overlaps(bits)
    runs = in_runs(codes.reshape(-1), codes_a_run)
    packed = torch.zeros(len(runs), bytes_a_run, dtype=torch.uint8, device=codes.device)
    for code, byte, shift in shared:
        packed[:, byte] |= shifted(runs[:, code], shift)
    size = ceil(codes.numel() * bits / BITS_A_BYTE)
    flat = packed.view(-1)
    return flat if flat.numel() == size else flat[:size].clone()


def unpack(packed: Tensor, bits: int, shape: torch.Size) -> Tensor:
    """The inverse of :func:`pack`."""
    codes_a_run, bytes_a_run, shared = overlaps(bits)
    runs = in_runs(packed, bytes_a_run)
    codes = torch.zeros(len(runs), codes_a_run, dtype=torch.uint8, device=packed.device)
    for code, byte, shift in shared:
        codes[:, code] |= shifted(runs[:, byte], -shift)
    codes &= 2**bits - 1
    return codes.view(-1)[: shape.numel()].reshape(shape)
