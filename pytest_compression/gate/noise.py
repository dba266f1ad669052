"""The noise floor: how far numerics alone move margins, and how often that turns a run red.

The same model is measured again under other conditions (batches, threads). With ``D`` the
furthest that any margin moved from the reference, no two of the conditions are further apart
than ``2 D``: so wherever a baseline was accepted and wherever it is judged, near ties within a
little more than ``2 D`` settle every answer that numerics can flip.

What is left is a run that moves further than any that was tried. An unsettled answer with margin
``m`` flips if it moves by ``|m|`` towards the other side; one recorded as a near tie, by
``2 near_tie + |m|``. The chance of that is read off the shifts seen, and beyond the furthest
twentieth of them off a power law through those (index by Hill 1975,
https://doi.org/10.1214/aos/1176343247; tail by Weissman 1978,
https://doi.org/10.1080/01621459.1978.10480104). Half of it counts, for accepted and measured could
be exchanged, so that either direction is as likely. The chance of one flip at least is that of
independent questions: too high if they move together.

In simulations (four conditions, 100 or 1,000 questions) the rate is right on average within a tenth
as long as near ties are narrower than most shifts of the tail, whatever the shape of the noise;
further out, within a factor of three for power laws (Student's t with 2 or 3 degrees of freedom),
and too high for lighter tails. It is the rate of runs like those tried. Where the strength of the
noise itself varies twofold between runs, it came out at 0.1 % with 0.4 % true: four conditions
without a flip cannot promise more than 53 % by themselves (``1 - 0.05 ** (1 / 4)``). So conditions
should be extremes.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_UP, Context

import numpy as np
from numpy.typing import NDArray

from pytest_compression.types import Measurement, Noise

OTHER_DTYPE = "dtype"
"""Conditions whose names begin so compute something else, and say nothing of this noise."""
TAIL = 20
"""The furthest one of so many shifts make the tail."""
FEWEST = 10
"""Shifts in a tail, if there are as many."""


def learned(
    reference: Measurement,
    others: Mapping[str, Measurement],
    *,
    date: str,
    near_tie: float = 0.0,
) -> Noise:
    """What numerics do to a dense model's answers.

    Graded scores have no near ties: one that moves by less than the distance is not a change.

    Args:
        reference: as it is measured here.
        others: the same questions under other conditions, by name.
        date: of the calibration.
        near_tie: nats that are settled anyway; the false-red rate is that at the larger one.

    Raises:
        ValueError: no condition of the same dtype, other questions, or a margin that is finite in
            one condition only.
    """
    shifts = {name: moved(reference, other) for name, other in others.items()}
    flips = {
        name: sum(a != b for a, b in zip(reference.scores, other.scores, strict=True))
        for name, other in others.items()
    }
    own = [name for name in others if not name.startswith(OTHER_DTYPE)]
    if not own:
        message = "there is no condition that computes in the same dtype"
        raise ValueError(message)
    pooled = np.concatenate([shifts[name] for name in own])
    needed = above(2 * float(pooled.max(initial=0.0)))
    distance = max(needed, near_tie)
    if reference.values:
        rate = any_of(exceedance(np.full(len(reference.values), distance), pooled))
    else:
        rate = false_red(reference.margins, pooled, distance)
    return Noise(
        near_tie=needed,
        shifts={name: float(shift.max(initial=0.0)) for name, shift in shifts.items()},
        flips=flips,
        false_red=rate,
        date=date,
    )


def moved(one: Measurement, other: Measurement) -> NDArray[np.float64]:
    """How far each margin moved, or each graded score; ``[n]``, none negative.

    Raises:
        ValueError: other questions, or a margin that is finite in one of the two only.
    """
    if [question.id for question in one.questions] != [q.id for q in other.questions]:
        message = "the conditions asked different questions"
        raise ValueError(message)
    a = np.array(one.values or one.margins, dtype=np.float64)
    b = np.array(other.values or other.margins, dtype=np.float64)
    shift = np.zeros(len(a))
    differs = a != b  # a margin without any other answer is infinite in both
    shift[differs] = np.abs(b[differs] - a[differs])
    if not np.isfinite(shift).all():
        message = "a margin is finite in one condition and not in another"
        raise ValueError(message)
    return shift


def above(distance: float) -> float:
    """The next number of two digits above a distance; 0 for none, where nothing moved."""
    if distance == 0:
        return 0.0
    further = math.nextafter(distance, math.inf)  # a margin as far as that must lie within
    return float(Context(prec=2, rounding=ROUND_UP).create_decimal_from_float(further))


def false_red(margins: Sequence[float], shifts: NDArray[np.float64], near_tie: float) -> float:
    """Chance that numerics flip at least one answer of a run that near ties do not settle.

    Args:
        margins: the accepted ones, ``[n]``.
        shifts: how far margins moved, of all questions and conditions.
        near_tie: nats within which answers are recorded as near ties.
    """
    lead = np.abs(np.asarray(margins, dtype=np.float64))
    reach = np.where(lead < near_tie, 2 * near_tie + lead, lead)
    return any_of(0.5 * exceedance(reach, shifts))


def any_of(chances: NDArray[np.float64]) -> float:
    """Chance that one at least of independent events happens."""
    return float(0.0 - np.expm1(np.log1p(-chances).sum()))


def exceedance(distances: NDArray[np.float64], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance that a margin moves, and by a distance or more, for each distance.

    Args:
        distances: nats.
        shifts: how far margins moved; those that did not move have no part in the tail.
    """
    moving, count = np.sort(shifts[shifts > 0]), max(1, len(shifts))
    seen = (len(moving) - np.searchsorted(moving, distances)) / count
    tail = min(max(FEWEST, len(moving) // TAIL), len(moving) - 1)
    if tail < 1:
        return seen
    start = moving[-tail - 1]
    logs = np.log(moving[-tail - 1 :])
    slope = logs[1:].mean() - logs[0]  # 0 if all are equal: nothing is beyond them
    further = np.log(np.maximum(distances, start)) - logs[0]
    beyond = np.exp(-further / slope) if slope > 0 else np.zeros(len(distances))
    return np.where(distances <= start, seen, tail / count * beyond)
