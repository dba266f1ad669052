"""Codes of 1 to 8 bits as a stream of bits, least significant first, in whole bytes.

As many codes as fill whole bytes are packed at once, as the bytes of a word. They are moved
together pair by pair, then four by four, then all eight (the compress of Warren 2012, *Hacker's
Delight*, section 7-4)::

    3 bits:    .....777 .....666 .....555 .....444 .....333 .....222 .....111 .....000
    pairs      ..........777666 ..........555444 ..........333222 ..........111000
    fours      ....................777666555444 ....................333222111000
    all                                               777666555444333222111000
"""

import sys
from math import ceil

import torch
from torch import Tensor

BITS_A_BYTE = 8
WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the codes in it, whose bytes it has."""


def moves(bits: int, codes: int) -> list[tuple[int, int, int]]:
    """How codes are moved together in a word of so many.

    Returns:
        For each step: how far every other part of the word moves down, which bits the parts have
        that stay, and which those have that move, once they have moved.
    """
    size = codes * BITS_A_BYTE
    found, part, filled = [], BITS_A_BYTE, bits
    while part < size:
        low = sum((2**filled - 1) << place for place in range(0, size, 2 * part))
        found.append((part - filled, low, low << filled))
        part, filled = 2 * part, 2 * filled
    return found


def codes_a_word(bits: int) -> int:
    """The fewest codes that fill whole bytes, if they fill one, and otherwise eight."""
    return BITS_A_BYTE // bits if BITS_A_BYTE % bits == 0 else BITS_A_BYTE


def in_runs(flat: Tensor, length: int) -> Tensor:
    """A flat tensor as rows of so many values, filled up with zeros."""
    missing = -flat.numel() % length
    return (torch.nn.functional.pad(flat, (0, missing)) if missing else flat).view(-1, length)


def words_of(flat: Tensor, width: int, codes: int) -> Tensor:
    """Each ``width`` bytes as the low ones of a word of ``codes`` bytes: ``[words]``."""
    runs = in_runs(flat, width)
    if width == 1:
        return runs.view(-1).to(WORDS[codes])
    words = torch.zeros(len(runs), codes, dtype=torch.uint8, device=flat.device)
    words[:, :width] = runs
    return ordered(words).view(WORDS[codes]).view(-1)


def low_bytes(words: Tensor, width: int, codes: int) -> Tensor:
    """The reverse: the low bytes of each word, a flat uint8."""
    if width == 1:
        return words.to(torch.uint8)
    return ordered(words.view(torch.uint8).view(-1, codes))[:, :width].reshape(-1)


def ordered(words: Tensor) -> Tensor:
    """The bytes of words, from the order of this processor to the lowest first, or back."""
    return words if sys.byteorder == "little" else words.flip(1)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes as a stream of bits, least significant first, in whole bytes.

    Args:
        codes: uint8 of any shape, each below ``2 ** bits``.
        bits: 1 to 8.

    Returns:
        Uint8 ``[ceil(numel * bits / 8)]``.
    """
    if bits == BITS_A_BYTE:
        return codes.reshape(-1).clone()
    count = codes_a_word(bits)
    words = words_of(codes.reshape(-1), count, count)
    for places, low, high in moves(bits, count):
        words = (words & low).bitwise_or_((words >> places).bitwise_and_(high))
    size = ceil(codes.numel() * bits / BITS_A_BYTE)
    return low_bytes(words, count * bits // BITS_A_BYTE, count)[:size].clone()


def unpack(packed: Tensor, bits: int, shape: torch.Size) -> Tensor:
    """The inverse of :func:`pack`."""
    if bits == BITS_A_BYTE:
        return packed.reshape(shape).clone()
    count = codes_a_word(bits)
    words = words_of(packed, count * bits // BITS_A_BYTE, count)
    for places, low, high in reversed(moves(bits, count)):
        words = (words & low).bitwise_or_((words & high).bitwise_left_shift_(places))
    return low_bytes(words, count, count)[: shape.numel()].reshape(shape)
