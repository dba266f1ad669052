"""Logits only where they are read, and what they say of given tokens.

A model computes logits for every position of every row, and most of them are thrown away: the
output head of a small model costs as much as all its layers together. So the head is handed only
the hidden states of the positions that are read. What a model does to logits afterwards (scaling,
soft capping) it does as ever.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from pytest_compression.errors import MeasurementError
from pytest_compression.models.conditions import Budget
from pytest_compression.scoring.memory import halving

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

CHUNK = 2**20
"""Logits that are in single precision at once."""
ENOUGH = 1024
"""Tokens with which a processor's products reach their rate: more would only take memory."""


Row = TypeVar("Row")


class Readings(NamedTuple):
    """What is said of tokens at places."""

    values: Tensor
    """Nats: the log-probability of each wanted token, ``[wanted]``."""
    best: Tensor
    """Whether each is the most probable one, ``[wanted]``; of equal ones only the first is."""


@contextmanager
def read_only(module: Any, places: Tensor) -> Iterator[list[torch.Size]]:
    """Let the output head see only some positions.

    Inside, the model's logits are ``[1, places, vocabulary]``, if the head was called as a module
    on ``[rows, tokens, hidden]``; then the shape is noted.

    Args:
        module: of any family.
        places: positions among all rows of a pass, one row after the other.
    """
    called: list[torch.Size] = []

    def pick(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden, *others = given
        if hidden.dim() != 3 or not hidden.is_floating_point():
            return None  # an embedding that is the head as well
        called.append(hidden.shape)
        return (hidden.flatten(0, 1)[places.to(hidden.device)].unsqueeze(0), *others)

    head = module.get_output_embeddings()
    handle = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        yield called
    finally:
        if handle is not None:
            handle.remove()


def run(model: "LanguageModel", places: Tensor, **inputs: Any) -> tuple[Tensor, Any]:
    """One pass.

    Returns:
        Logits ``[places, vocabulary]``, and all that the model returned.
    """
    with read_only(model.module, places) as called:
        found = cast("Any", model.module)(**inputs)
    logits: Tensor = found.logits
    if len(called) == 1 and logits.shape[:2] == (1, len(places)):
        return logits.squeeze(0), found
    return logits.flatten(0, 1)[places.to(logits.device)], found  # a head of its own kind


def readings(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> Readings:
    """The log-probabilities of tokens, several of one row perhaps.

    They are torch's own, which other libraries report: of 49,152 logits in single precision it adds
    up exponentials with an error of about 2e-5 nats, which a sum of many tokens shows.

    Args:
        logits: ``[places, vocabulary]``.
        rows: of each wanted token, whose logits are read.
        tokens: the wanted ones.

    Raises:
        MeasurementError: the model computes NaN or infinities.
    """
    index = torch.tensor(rows, device=logits.device)
    wanted = torch.tensor(tokens, device=logits.device)
    size = max(1, CHUNK // logits.shape[1])
    values = torch.empty(len(rows), device=logits.device)
    for start, part in zip(range(0, len(logits), size), logits.split(size), strict=True):
        mine = ((index >= start) & (index < start + size)).nonzero().flatten()
        values[mine] = part.float().log_softmax(1)[index[mine] - start, wanted[mine]]
    tops = torch.cat([part.amax(1) for part in logits.split(size)])
    chosen = logits[index, wanted]
    if not values.isfinite().all():
        bad = int((~values.isfinite()).sum())
        message = (
            f"the model computes NaN or infinite logits ({bad} of {len(values)} tokens in one "
            "batch). It is broken numerically; nothing can be said of its knowledge."
        )
        raise MeasurementError(message)
    best = chosen == tops[index]
    for one in best.nonzero().flatten().tolist():
        best[one] = (logits[rows[one], : tokens[one]] < chosen[one]).all()
    return Readings(values=values.cpu(), best=best.cpu())


def enough(model: "LanguageModel") -> Budget:
    """A model's budget, or what suffices on its device if that is less."""
    budget = model.budget
    if next(model.module.parameters()).device.type != "cpu":
        return budget
    return replace(budget, tokens=min(budget.tokens, ENOUGH))


def in_parts(
    model: "LanguageModel", rows: Sequence[Row], run: Callable[[list[Row]], object], budget: Budget
) -> None:
    """Run rows together, or in parts if memory is short.

    The model's budget becomes half of the one by which the rows were put together, or a quarter,
    and so on: what is put together later is smaller, and no smaller than memory asks for.

    Raises:
        MeasurementError: memory does not suffice for one row.
    """
    share = Fraction(1)

    def shrink() -> None:
        nonlocal share
        share /= 2
        model.budget = model.budget.within(budget.times(share))

    for _ in halving(range(len(rows)), lambda part: run([rows[i] for i in part]), shrink=shrink):
        pass
