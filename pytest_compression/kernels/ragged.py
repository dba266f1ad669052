"""Blocks of differing lengths: what is left of equal ones when values are cut out.

Consecutive values share a scale in blocks of one length. Of a cut matrix each value keeps the scale
that it had, so that it stays what it was bit for bit: blocks that lost all their values go, and
the lengths of the others are written down, unless they are all alike but for a shorter last one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LENGTHS = (torch.uint8, torch.int16, torch.int32, torch.int64)


class Left(NamedTuple):
    """Blocks that are left of a cut."""

    blocks: Tensor
    """Their places among all blocks, int64, ascending."""
    block: int
    """How many values the longest has; a single one counts as long as it was."""
    lengths: Tensor | None
    """Of each, in the smallest dtype; None if all but the last have ``block``."""


def block_of_each(count: int, block: int, lengths: Tensor | None, device: torch.device) -> Tensor:
    """The block that each of so many consecutive values is in: int64 ``[count]``.

    Args:
        count: of the values.
        block: length of the blocks, the last of which may be shorter.
        lengths: of each block, where they differ.
        device: to compute on.
    """
    if lengths is None:
        return torch.arange(count, device=device) // block
    return torch.arange(len(lengths), device=device).repeat_interleave(lengths.long())


def left_of(blocks: Tensor, block: int) -> Left:
    """What is left of blocks that were cut.

    Args:
        blocks: the one that each value is in that stays, ascending.
        block: how many values the longest had.
    """
    which, lengths = blocks.unique_consecutive(return_counts=True)
    if len(which) == 1:
        return Left(which, block, None)
    longest = int(lengths.max())
    if (lengths[:-1] == longest).all():
        return Left(which, longest, None)
    smallest = next(dtype for dtype in LENGTHS if longest <= torch.iinfo(dtype).max)
    return Left(which, longest, lengths.to(smallest))
