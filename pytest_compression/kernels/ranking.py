"""Where a ranking by magnitude ends what is pruned: exact, over any number of tensors at once.

Nothing is sorted, and little is in memory besides the tensors. A sample tells between which two
magnitudes the cut should lie; one pass counts what is below them and takes out what is between
them, and the cut is found there. If it is not there, or ties are too many to be taken out, it is
found by digits, as in radix sort: the bit pattern of a magnitude, read as an integer, has the order
of the magnitudes, and a histogram of the next bits tells how the pattern goes on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

MANY = 2**16
"""Fewer numbers are not worth a sample."""
SAMPLE = 2**20
"""How many magnitudes a sample has, at most."""
LEAP = 16
"""Or one in so many, where there are less."""
DEVIATIONS = 4
"""Standard deviations that a sample's quantile may be off."""
CHUNK = 3 * 2**13
"""Numbers that are looked at together: they stay in a processor's cache, and are too few for torch
to share them out to threads, which costs more than it saves where processors are busy."""
LANES = 8
"""How many numbers are asked at once whether one of them is wanted."""
FEW = 32
"""One in so many numbers may be taken out."""
DIGIT = 11
"""Bits of a digit, at most."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of a float."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The last of what is pruned, in the order of (magnitude, tensor, position)."""

    threshold: Tensor
    """Its magnitude, a scalar in the widest dtype of the tensors."""
    place: int
    """The index of its tensor: of weights equal to the threshold, all in tensors before this one
    are pruned, and none in those behind it."""
    ties: int
    """How many of those in this tensor are pruned: the first ones by position."""

    def keep(self, tensor: Tensor, place: int) -> Tensor:
        """The mask of the tensor with this index, True = kept."""
        sizes = tensor.detach().abs().to(self.threshold.dtype)
        if place < self.place:
            return sizes > self.threshold
        kept = (sizes >= self.threshold).contiguous()
        if place == self.place:
            kept.view(-1)[self.first_ties(sizes)] = False
        return kept

    def prune(self, tensor: Tensor, place: int) -> Tensor:
        """The tensor with this index, zero where :meth:`keep` is False; in one pass."""
        wide = tensor.detach().to(self.threshold.dtype)
        if place < self.place:
            return hardshrink(wide, float(self.threshold)).to(tensor.dtype)
        if not self.threshold:  # nothing is smaller
            pruned = wide.clone()
        else:
            below = torch.nextafter(self.threshold, torch.zeros_like(self.threshold))
            pruned = hardshrink(wide, float(below))
        if place == self.place:
            pruned = pruned.contiguous()
            pruned.view(-1)[self.first_ties(wide.abs())] = 0
        return pruned.to(tensor.dtype)

    def first_ties(self, sizes: Tensor) -> Tensor:
        """Positions of the pruned ones among the numbers equal to the threshold."""
        return (sizes == self.threshold).reshape(-1).nonzero().squeeze(1)[: self.ties]


def cut_at(tensors: Sequence[Tensor], count: int) -> Cut:
    """The cut that prunes exactly ``count`` numbers: those of smallest magnitude.

    Of equal magnitudes the ones in earlier tensors, and at earlier positions, go first.

    Args:
        tensors: at least one, of any shapes and floating dtypes; each is asked for several times,
            so that they may be computed when they are needed.
        count: 0 to the number of all.

    Raises:
        ValueError: a number is NaN.
    """
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in tensors})
    return cut_by_sample(tensors, dtype, count) or cut_by_digits(tensors, dtype, count)


def flat(tensor: Tensor) -> Tensor:
    """A tensor in the order of memory, which is the fastest; of a turned matrix no copy."""
    turned = tensor.dim() == 2 and tensor.mT.is_contiguous()
    return (tensor.mT if turned else tensor).detach().reshape(-1)


def cut_by_sample(tensors: Sequence[Tensor], dtype: torch.dtype, count: int) -> Cut | None:
    """The cut, if it lies where a sample says; None if it does not, or ties are too many."""
    total = sum(tensor.numel() for tensor in tensors)
    if total < MANY:
        return None
    stride = max(LEAP, total // SAMPLE) | 1  # odd, or it may meet only a few columns of a matrix
    sample = torch.cat([flat(tensor)[::stride].to(dtype) for tensor in tensors])
    share = count / total
    middle, margin = share * len(sample), DEVIATIONS * (len(sample) * share * (1 - share)) ** 0.5
    first, last = math.floor(middle - margin), math.ceil(middle + margin)
    if (last - first) * FEW > len(sample):
        return None
    low = quantile(sample, first) if first >= 0 else 0.0
    high = quantile(sample, last) if last < len(sample) else math.inf
    return (
        cut_between(tensors, dtype, count, low, high)
        or cut_among_ties(tensors, dtype, count, low)
        or cut_among_ties(tensors, dtype, count, high)
    )


def quantile(sample: Tensor, place: int) -> float:
    """The magnitude at a place in the order of a sample; behind its end, the last."""
    return float(cut_at([sample], min(place + 1, len(sample))).threshold)


def cut_between(
    tensors: Sequence[Tensor], dtype: torch.dtype, count: int, low: float, high: float
) -> Cut | None:
    """The cut, if it is above one magnitude and not above another, and few numbers are there."""
    few = sum(tensor.numel() for tensor in tensors) // FEW
    left, between = count, list[Tensor]()
    for tensor in tensors:
        above, found = taken_out(tensor, dtype, low, high)
        left -= tensor.numel() - above
        between.append(found)
        if left <= 0 or sum(map(len, between)) > few:
            return None
    numbers = torch.cat(between)
    if left > len(numbers) or numbers.isnan().any():
        return None
    threshold = numbers.kthvalue(left).values
    left -= int((numbers < threshold).sum())
    place, ties = place_of([int((found == threshold).sum()) for found in between], left)
    return Cut(threshold=threshold, place=place, ties=ties)


def cut_among_ties(
    tensors: Sequence[Tensor], dtype: torch.dtype, count: int, value: float
) -> Cut | None:
    """The cut, if it is among the numbers of this magnitude; None if it is not."""
    threshold = torch.tensor(value, dtype=dtype, device=tensors[0].device)
    below = float(torch.nextafter(threshold, torch.full_like(threshold, -1)))  # of zero, none
    up_to = [tensor.numel() - count_above(tensor, dtype, value) for tensor in tensors]
    smaller = [tensor.numel() - count_above(tensor, dtype, below) for tensor in tensors]
    left = count - sum(smaller)
    if not 0 < left <= sum(up_to) - sum(smaller):
        return None
    refuse_nan(tensors)
    place, ties = place_of([a - b for a, b in zip(up_to, smaller, strict=True)], left)
    return Cut(threshold=threshold, place=place, ties=ties)


def count_above(tensor: Tensor, dtype: torch.dtype, bound: float) -> int:
    """How many magnitudes are above a bound; all are above a negative one."""
    if bound < 0:
        return tensor.numel()
    return sum(
        int(hardshrink(part.to(dtype).abs(), bound).sign().sum(dtype=torch.float32))
        for part in flat(tensor).split(CHUNK)
    )


def taken_out(tensor: Tensor, dtype: torch.dtype, low: float, high: float) -> tuple[int, Tensor]:
    """How many magnitudes are above ``low``, and those of them that are at most ``high``.

    NaN is taken out, too. Comparing each number with a bound, or asking of each whether it is
    wanted, is what would take time. So what is out of bounds becomes zero, and a sum tells whether
    one of ``LANES`` numbers is wanted; then all of them are looked at.
    """
    numbers = flat(tensor)
    rest = numbers[len(numbers) // CHUNK * CHUNK :]
    chunks = numbers[: len(numbers) - len(rest)].view(-1, LANES, CHUNK // LANES)
    above, sums = int((rest.to(dtype).abs() > low).sum()), list[Tensor]()
    for chunk in chunks:
        sizes = hardshrink(chunk.to(dtype).abs(), low)
        above += int(sizes.sign().sum(dtype=torch.float32))
        sums.append(sizes.sub_(hardshrink(sizes, high)).sum(0))
    if sums:
        which, column = torch.stack(sums).nonzero(as_tuple=True)
        rest = torch.cat([chunks[which, :, column].view(-1), rest])
    sizes = rest.to(dtype).abs()
    return above, sizes[~((sizes <= low) | (sizes > high))]


def cut_by_digits(tensors: Sequence[Tensor], dtype: torch.dtype, count: int) -> Cut:
    """The cut, whatever the numbers are.

    Raises:
        ValueError: one is NaN.
    """
    integer = INTEGERS[dtype.itemsize]
    bits = unread = 8 * dtype.itemsize - 1
    found, left = 0, count
    while unread:
        width = min(DIGIT, unread)
        counts = histogram(tensors, dtype, found, unread, width)
        if unread == bits:
            refuse_nan(tensors)
        reached = counts.cumsum(0)
        digit = int(torch.searchsorted(reached, left))
        left -= int(reached[digit] - counts[digit])
        found, unread = found << width | digit, unread - width
    equal = [
        sum(int((part == found).count_nonzero()) for part in patterns(tensor, dtype))
        for tensor in tensors
    ]
    place, ties = place_of(equal, left)
    threshold = torch.tensor(found, dtype=integer, device=tensors[0].device).view(dtype)
    return Cut(threshold=threshold, place=place, ties=ties)


def patterns(tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Bit patterns of the magnitudes, as integers, in chunks."""
    integer = INTEGERS[dtype.itemsize]
    for part in flat(tensor).split(CHUNK):
        yield part.to(dtype).view(integer) & torch.iinfo(integer).max


def histogram(
    tensors: Sequence[Tensor], dtype: torch.dtype, found: int, unread: int, width: int
) -> Tensor:
    """How often each next digit comes behind the digits found: int64 ``[2 ** width]``.

    Args:
        tensors: what is counted.
        dtype: whose bit patterns are read.
        found: the leading bits that are known.
        unread: how many bits follow them.
        width: of these, the bits of the next digit.
    """
    device = tensors[0].device
    counts = torch.zeros(2**width, dtype=torch.int64, device=device)
    one = torch.ones((), dtype=torch.int64, device=device)
    everything = unread == 8 * dtype.itemsize - 1
    for tensor in tensors:
        for part in patterns(tensor, dtype):
            chosen = part if everything else part[part >> unread == found]
            digits = (chosen >> (unread - width)) & (2**width - 1)
            counts.index_add_(0, digits.int(), one.expand(len(digits)))
    return counts


def place_of(equal: Sequence[int], left: int) -> tuple[int, int]:
    """In which tensor the first ``left`` of all ties end, and how many of them it has."""
    place = next(at for at, reached in enumerate(accumulate(equal)) if reached >= left)
    return place, left - sum(equal[:place])


def refuse_nan(tensors: Sequence[Tensor]) -> None:
    """Refuse what has no order.

    Raises:
        ValueError: there is a NaN.
    """
    if any(tensor.numel() and tensor.amax().isnan() for tensor in tensors):
        message = "scores hold NaN: there is no order to prune by"
        raise ValueError(message)
