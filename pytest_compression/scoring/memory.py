"""A batch that does not fit into memory is run in smaller parts."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from pytest_compression.errors import MeasurementError

Result = TypeVar("Result")

SAID = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
"""What allocators of different devices and libraries say, in small letters."""


def halving(
    positions: Sequence[int],
    run: Callable[[list[int]], Result],
    *,
    shrink: Callable[[], None] = lambda: None,
) -> Iterator[tuple[list[int], Result]]:
    """Run a batch, and where memory runs out, in parts of half the size, down to one row.

    Each position is in exactly one of the parts that are given back, in order. A part that failed
    is run again from its start, so ``run`` must leave nothing behind when it raises. What the
    caller does with a result is no part of this: its errors are its own.

    Args:
        positions: of the rows of a batch.
        run: computes a result for some of them.
        shrink: told whenever the size was halved, so that later batches are smaller at once.

    Raises:
        MeasurementError: memory does not suffice for one row.
    """
    size, done = len(positions), 0
    while done < len(positions):
        part = list(positions[done : done + size])
        failed = False
        try:
            found = run(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                message = (
                    "memory does not suffice for a single row of this benchmark, the smallest "
                    "batch there is. Use a machine or device with more memory, a smaller dtype, or "
                    f"shorter prompts (fewer shots). It was said: {first_line(error)}"
                )
                raise MeasurementError(message) from error
            failed = True
        if failed:  # here the error is gone, and with it the tensors that its frames held
            size = (len(part) + 1) // 2
            release()
            shrink()
            continue
        done += len(part)
        yield part, found
        del found  # not kept while the next part is run


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in SAID)


def release() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Of its message, or its name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
