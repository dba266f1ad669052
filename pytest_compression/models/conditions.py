"""Ways to compute the same: other batches, numbers of threads, and dtypes.

Sums of floating-point numbers depend on their order, and the order on how rows are batched and
how work is shared among threads. A calibration measures the dense model under each condition, to
learn how far its margins move by that alone.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
}
"""What shows the rounding of each dtype."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is run through a model at once; no score depends on it beyond rounding."""

    tokens: int = 8192
    logits: int = 2**25
    """That are computed at once, of a whole vocabulary each: 128 MiB in single precision."""
    rows: int = 256

    def times(self, factor: Fraction) -> "Budget":
        """Another budget, of one token and row at least."""
        return Budget(
            tokens=max(1, int(self.tokens * factor)),
            logits=max(1, int(self.logits * factor)),
            rows=max(1, int(self.rows * factor)),
        )

    def within(self, other: "Budget") -> "Budget":
        """The smaller of two, in everything."""
        return Budget(
            tokens=min(self.tokens, other.tokens),
            logits=min(self.logits, other.logits),
            rows=min(self.rows, other.rows),
        )


SINGLE = Budget(tokens=1, logits=1, rows=1)
"""Each row is run alone."""


def conditions_of(model: "LanguageModel") -> dict[str, AbstractContextManager[None]]:
    """All that differ from how the model is run now, by name.

    Each can be entered once. Threads only matter to models that run on processors.
    """
    found: dict[str, AbstractContextManager[None]] = {
        "batch budget 1": batched(model, SINGLE),
        "batch budget 1/8": batched(model, model.budget.times(Fraction(1, 8))),
        "batch budget x4": batched(model, model.budget.times(Fraction(4))),
    }
    tensor = next(model.module.parameters())
    if tensor.device.type == "cpu":
        found |= {f"threads {count}": threaded(count) for count in thread_counts()}
    wider = WIDER.get(tensor.dtype)
    others = [dtype for dtype in (torch.bfloat16, wider) if dtype not in (None, tensor.dtype)]
    for dtype in others:
        name = str(dtype).removeprefix("torch.")
        found[f"dtype {name}"] = converted(model.module, dtype)
    return found


def thread_counts() -> list[int]:
    """One, two, half and all of the processors this process may use, other than as many as now."""
    mine = getattr(os, "sched_getaffinity", None)  # not on every system
    processors = len(mine(0)) if mine else os.cpu_count() or 1
    return sorted({1, 2, max(1, processors // 2), processors} - {torch.get_num_threads()})


@contextmanager
def batched(model: "LanguageModel", budget: Budget) -> Iterator[None]:
    """Run the model within another budget."""
    before = model.roomy
    model.budget = budget
    try:
        yield
    finally:
        model.budget = before


@contextmanager
def threaded(count: int) -> Iterator[None]:
    """Let torch share work among so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def converted(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Compute in another dtype, as if the model had been loaded in it.

    What a checkpoint stores is converted. Other buffers are not: rotary frequencies stay in single
    precision whatever a model is loaded in. The tensors themselves are put aside and back, so not
    a bit of them changes; while it lasts, memory holds both.
    """
    stored = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
    floating = [tensor for tensor in stored.values() if tensor.is_floating_point()]
    aside = [tensor.data for tensor in floating]
    try:
        for tensor in floating:
            tensor.data = tensor.data.to(dtype)
        yield
    finally:
        for tensor, data in zip(floating, aside, strict=True):
            tensor.data = data
