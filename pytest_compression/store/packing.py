"""Scores and chance of a cluster's questions, as a baseline keeps them: in the order of the ids.

Right and wrong are bits, packed as hexadecimal digits. Graded scores are listed, and so is chance
where it differs within the cluster.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import fsum

from msgspec import Struct

from pytest_compression.errors import BaselineError
from pytest_compression.types import Question

Chance = float | list[float]
"""What guessing gets in a cluster: one number where all its questions have the same."""


class Packed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The scores of one cluster: either right and wrong as bits, or graded values."""

    questions: int
    right: int | None = None
    bits: str | None = None
    """Hexadecimal; the first question is the most significant bit of the first digit."""
    values: list[float] | None = None

    def __post_init__(self) -> None:
        """Check that it is one of the two."""
        is_bits = self.bits is not None
        if is_bits != (self.right is not None) or is_bits == (self.values is not None):
            message = "scores are either `right` with `bits`, or `values`"
            raise ValueError(message)

    @property
    def total(self) -> float:
        """Sum of the scores."""
        return float(self.right or 0) if self.values is None else fsum(self.values)


def by_cluster(questions: Sequence[Question]) -> Iterator[tuple[str, list[int]]]:
    """Positions of the questions of each cluster, in the order of the ids; clusters by name."""
    keys = [(question.cluster, question.id) for question in questions]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for cluster, positions in groupby(order, key=lambda i: keys[i][0]):
        yield cluster, list(positions)


def pack_bits(scores: Sequence[float]) -> str:
    """Zeros and ones as hexadecimal digits, filled up with zeros at the end."""
    bits = "".join("1" if score else "0" for score in scores)
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[i : i + 4], 2):x}" for i in range(0, len(bits), 4))


def unpack_bits(digits: str, count: int) -> list[int]:
    """The inverse of :func:`pack_bits`.

    Raises:
        ValueError: not hexadecimal, or not as many digits as the count needs.
    """
    if len(digits) != -(-count // 4):
        message = f"{len(digits)} digits cannot hold {count} scores"
        raise ValueError(message)
    bits = "".join(f"{int(digit, 16):04b}" for digit in digits)
    return [int(bit) for bit in bits[:count]]


def pack(scores: Sequence[float], *, graded: bool) -> Packed:
    """Scores of a cluster, 0 and 1 unless they are graded."""
    if graded:
        return Packed(questions=len(scores), values=[float(score) for score in scores])
    right = sum(int(score) for score in scores)
    return Packed(questions=len(scores), right=right, bits=pack_bits(scores))


def unpack(cluster: str, part: Packed) -> Sequence[float]:
    """The inverse of :func:`pack`.

    Raises:
        BaselineError: the scores of the cluster contradict themselves.
    """
    if part.values is not None:
        if len(part.values) != part.questions:
            message = f"'{cluster}' has {len(part.values)} values but says {part.questions}"
            raise BaselineError(message)
        return part.values
    try:
        scores = unpack_bits(part.bits or "", part.questions)
    except ValueError as error:
        message = f"the bits of '{cluster}' are damaged: {error}"
        raise BaselineError(message) from error
    if sum(scores) != part.right:
        message = f"'{cluster}' has {sum(scores)} right answers in its bits but says {part.right}"
        raise BaselineError(message)
    return scores


def pack_chance(each: Sequence[float]) -> Chance:
    """What guessing gets on each of one or more questions."""
    return float(each[0]) if len(set(each)) == 1 else [float(chance) for chance in each]


def unpack_chance(cluster: str, chance: Chance | None, count: int) -> list[float]:
    """The inverse of :func:`pack_chance`, for ``count`` questions.

    Raises:
        BaselineError: the chance of the cluster is missing, or is of another number of questions.
    """
    if chance is None:
        message = f"it does not say what guessing gets on '{cluster}'"
        raise BaselineError(message)
    each = chance if isinstance(chance, list) else [chance] * count
    if len(each) != count:
        message = f"'{cluster}' has {len(each)} chances for {count} questions"
        raise BaselineError(message)
    return each
