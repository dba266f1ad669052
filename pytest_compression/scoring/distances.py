"""Distances from the dense model at every scored token of a text, and their statistics.

The formulas are those of llama.cpp: see :mod:`pytest_compression.scoring.distributions`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from inspect import signature
from itertools import accumulate
from math import exp
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pytest_compression.scoring.distributions import (
    DRAWN,
    Array,
    Distances,
    Kept,
    compare,
    keep,
)
from pytest_compression.scoring.forward import batches, log_probabilities, to_run
from pytest_compression.scoring.reading import in_parts
from pytest_compression.scoring.tokens import Tokens
from pytest_compression.scoring.windows import Hiding, Passage, hidden, mask_of

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Result = TypeVar("Result")

POSITIONS = 64
"""Whose log-probabilities are computed at once."""
ENOUGH = 100
"""Tokens below which llama.cpp gives no statistics, nor are there any here."""
OF_DIVERGENCE = (99.9, 99, 95, 90, 50, 10, 5, 1, 0.1)
OF_DELTA = (99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1)
"""Percentiles, interpolated between the values at ``floor`` and ``ceil`` of ``f (n - 1)``."""


class Reading(NamedTuple):
    """A row that is run, and the positions in it whose logits are read."""

    row: Tokens
    places: tuple[int, ...]
    """Ascending, one at least."""
    tokens: Tokens
    """Those that truly stand where the logits predict; parallel to the places."""


def readings(model: "LanguageModel", passage: Passage, hiding: Hiding) -> list[Reading]:
    """What is run to score a passage: a row, or of a masked model a row for each token."""
    if model.family == "masked":
        rows = hidden(passage, mask_of(model), hiding)
        return [Reading(row.row, row.places, row.tokens) for row in rows]
    before = tuple(place - 1 for place in passage.places)
    return [Reading(passage.row[:-1], before, passage.tokens)]


def read_logits(
    model: "LanguageModel", asked: Sequence[Reading], take: Callable[[Tensor, Tensor], Result]
) -> Iterator[Result]:
    """What is made of the log-probabilities at every place that is read, in no certain order.

    No more logits are computed at once than the budget says, but of one masked row, or of
    ``POSITIONS`` positions, at least. Rows that do not fit into memory are run in smaller parts.

    Args:
        model: causal or masked.
        asked: what is read.
        take: given numbers of places, counted through all readings, ``[n]``, and their
            log-probabilities, ``[n, vocabulary]``, with ``n <= POSITIONS``. It is called again
            for a part that failed.

    Raises:
        MeasurementError: the model computes NaN or infinities, or memory does not suffice for one
            row.
    """
    first = [0, *accumulate(len(reading.places) for reading in asked)]
    budget = replace(model.budget, tokens=min(model.budget.tokens, room_of(model)))
    found: list[Result] = []

    def ask(some: list[int]) -> None:
        numbers = torch.tensor([n for i in some for n in range(first[i], first[i + 1])])
        read = read_rows(model, [asked[i] for i in some])
        found.extend([take(numbers[which], values) for which, values in read])  # all or nothing

    with torch.inference_mode():
        for some in batches([(len(reading.row),) for reading in asked], budget):
            in_parts(model, some, ask, budget)
            yield from found
            found.clear()


def room_of(model: "LanguageModel") -> int:
    """Positions whose logits are computed at once."""
    vocabulary = getattr(model.module.config, "vocab_size", 1)
    return max(POSITIONS, model.budget.logits // vocabulary)


def read_rows(model: "LanguageModel", asked: Sequence[Reading]) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of places in rows of equal length, and log-probabilities there."""
    at = torch.tensor([(row, place) for row, one in enumerate(asked) for place in one.places])
    begin = 0
    for logits in run(model, [reading.row for reading in asked], room_of(model)):
        here = (at[:, 1] >= begin) & (at[:, 1] < begin + logits.shape[1])
        for which in here.nonzero().squeeze(1).split(POSITIONS):
            row, place = at[which].to(logits.device).T
            yield which, log_probabilities(logits[row, place - begin])
        begin += logits.shape[1]


def run(model: "LanguageModel", rows: Sequence[Tokens], room: int) -> Iterator[Tensor]:
    """Logits ``[rows, positions, vocabulary]`` of rows, in pieces of ``room`` positions at most."""
    module: Any = model.module
    if model.family == "masked":
        ids = to_run(model, rows)
        yield module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return
    if len(rows[0]) <= room or "past_key_values" not in signature(module.forward).parameters:
        yield module(input_ids=to_run(model, rows), use_cache=False).logits
        return
    past = None
    for start in range(0, len(rows[0]), room):
        ids = to_run(model, [row[start : start + room] for row in rows])
        found = module(input_ids=ids, past_key_values=past, use_cache=True)
        past = found.past_key_values
        yield found.logits


def distances(
    model: "LanguageModel",
    asked: Sequence[Reading],
    kept: Kept | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Kept, Distances]:
    """Distances at every place that is read, in order, and the dense distributions there.

    Args:
        model: causal or masked.
        asked: one reading at least.
        kept: of the same places; if not given, it is taken from this model.
        progress: told how many places are done, of how many.

    Raises:
        MeasurementError: the model computes NaN or infinities, or memory does not suffice for one
            row.
    """
    tokens = torch.tensor([token for reading in asked for token in reading.tokens])
    lots = torch.rand(len(tokens), DRAWN, generator=torch.Generator().manual_seed(0))

    def take(where: Tensor, values: Tensor) -> tuple[Tensor, Kept, Distances]:
        here = keep(values, tokens[where], lots[where]) if kept is None else kept.at(where)
        return where, here, compare(here, values, tokens[where])

    done = 0
    order, stores, found = list[Tensor](), list[Kept](), list[Distances]()
    for where, here, distance in read_logits(model, asked, take):
        order.append(where)
        if kept is None:
            stores.append(here)
        found.append(distance)
        done += len(where)
        if progress is not None:
            progress(done, len(tokens))
    places = torch.cat(order)
    joined = Kept.joined(stores, places) if kept is None else kept
    return joined, Distances.joined(found, places)


def statistics(found: Distances, perplexity: str = "perplexity") -> dict[str, float]:
    """llama.cpp's statistics, with a standard error behind ``+-``; nats, and shares of 1.

    ``KLD sampling +-`` is the standard error by what is not kept of the dense distributions, and
    ``KLD at least`` and ``at most`` are bounds of what the mean would be if all were kept.

    Args:
        found: of all tokens.
        perplexity: what it is called: that of a masked model is another.
    """
    n = len(found.token)
    if n < ENOUGH:
        return {}
    kld, delta = found.divergence, np.exp(found.token) - np.exp(found.dense_token)
    same = float(found.same_top.mean())
    rms = float(np.sqrt(np.mean(delta**2)))
    ratio, ratio_error = log_ratio(-found.token, -found.dense_token)
    figures = {
        "KLD": float(kld.mean()),
        "KLD +-": standard_error(kld),
        "KLD sampling +-": float(np.sqrt(found.variance.sum()) / n),
        "KLD at least": float(found.least.mean()),
        "KLD at most": float(found.most.mean()),
        "KLD max": float(kld.max()),
        "KLD min": float(kld.min()),
        "same top": same,
        "same top +-": float(np.sqrt(same * (1 - same) / (n - 1))),
        "delta p": float(delta.mean()),
        "delta p +-": standard_error(delta),
        "delta p RMS": rms,
        "delta p RMS +-": standard_error(delta**2) / (2 * rms) if rms else 0.0,
        "delta p max": float(delta.max()),
        "delta p min": float(delta.min()),
        perplexity: exponential(-found.token.mean()),
        f"dense {perplexity}": exponential(-found.dense_token.mean()),
        f"{perplexity} ratio": exponential(ratio),
        f"{perplexity} ratio +-": exponential(ratio) * ratio_error,
    }
    figures |= {f"KLD {f:g}%": float(np.percentile(kld, f)) for f in OF_DIVERGENCE}
    return figures | {f"delta p {f:g}%": float(np.percentile(delta, f)) for f in OF_DELTA}


def standard_error(values: Array) -> float:
    """Of a mean: ``sqrt((E[x^2] - E[x]^2) / (n - 1))``."""
    return float(np.sqrt(values.var() / (len(values) - 1)))


def log_ratio(losses: Array, dense: Array) -> tuple[float, float]:
    """``ln(PPL_Q / PPL_P)``: the mean difference of the paired losses, with its standard error.

    llama.cpp's ``sqrt(SE_Q^2 + SE_P^2 - 2 cov)`` is that of the differences.
    """
    return float((losses - dense).mean()), standard_error(losses - dense)


def exponential(value: float) -> float:
    """``exp``, but finite: a perplexity beyond ``exp(700)`` is no more than that."""
    return exp(min(value, 700.0))
