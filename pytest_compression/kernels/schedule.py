"""What changes while a model is trained: sparsity and learning rate, by step.

Gradual pruning follows Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878:
``s_t = s_f + (s_i - s_f) * (1 - p)^3`` with ``p = (t - begin) / (end - begin)``, between 0 and 1.
It prunes fast while there is much to spare, and slowly in the end.
"""

import math


def gradual_sparsity(
    step: int, *, begin: int, end: int, final: float, initial: float = 0.0
) -> float:
    """The sparsity that is due at a step.

    Args:
        step: any.
        begin: up to here it is ``initial``.
        end: from here on it is exactly ``final``.
        final: in [0, 1].
        initial: in [0, 1].

    Raises:
        ValueError: it ends before it begins, or a sparsity is out of range.
    """
    if end < begin:
        message = f"the schedule ends at step {end}, before it begins at {begin}"
        raise ValueError(message)
    for sparsity in (initial, final):
        if not 0 <= sparsity <= 1:
            message = f"sparsity must be in [0, 1], got {sparsity}"
            raise ValueError(message)
    if step >= end:
        return final
    left = 1.0 if step <= begin else (end - step) / (end - begin)
    return final + (initial - final) * left**3


def updates(begin: int, end: int, frequency: int) -> tuple[int, ...]:
    """The steps at which masks are made anew: every ``frequency`` ones, and always the last.

    Published schedules stop at the last multiple, and so never reach their final sparsity where
    ``frequency`` does not divide ``end - begin``.

    Raises:
        ValueError: it ends before it begins, or the frequency is not positive.
    """
    if end < begin or frequency < 1:
        message = f"no updates from step {begin} to {end}, every {frequency} steps"
        raise ValueError(message)
    return (*range(begin, end, frequency), end)


def warm_cosine(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up over 5 %, then half a cosine to zero."""
    warm = steps // 20 + 1
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
