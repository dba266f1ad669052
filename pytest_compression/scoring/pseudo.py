"""Masked models: log-probabilities of tokens that are hidden, each in a pass of its own.

The pseudo-log-likelihood of a text is the sum over its tokens of their log-probability where they
are masked (Salazar et al. 2020, https://arxiv.org/abs/1910.14659).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pytest_compression.scoring.forward import batches
from pytest_compression.scoring.reading import in_parts, readings, run
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


class Hidden(NamedTuple):
    """One row for a masked model, and what is read of it."""

    row: Tokens
    """With special tokens, and with masks where something is hidden."""
    places: tuple[int, ...]
    """Positions in the row to read."""
    tokens: Tokens
    """Whose log-probabilities are read there; parallel to the places."""
    segments: Tokens = ()
    """Token type of each position; none for a single segment."""


Pass = tuple[Tokens, Tokens]
"""A row and its segments, and with them all that decides what a model says."""


def hidden_log_probabilities(
    model: "LanguageModel", rows: Sequence[Hidden]
) -> list[tuple[float, ...]]:
    """Nats of the wanted tokens of each row, in the order of the rows.

    Equal rows are run once, and read as often as they are wanted.

    Raises:
        MeasurementError: the model computes NaN or infinities.
    """
    found: list[tuple[float, ...]] = [()] * len(rows)
    wanted: dict[Pass, list[int]] = {}
    for i, hidden in enumerate(rows):
        wanted.setdefault((hidden.row, hidden.segments), []).append(i)

    def ask(some: list[Pass]) -> None:
        reads = [
            (i, row * len(ids) + place, token)
            for row, (ids, segments) in enumerate(some)
            for i in wanted[ids, segments]
            for place, token in zip(rows[i].places, rows[i].tokens, strict=True)
        ]
        values = read(model, some, [place for _, place, _ in reads], [t for _, _, t in reads])
        by_row: dict[int, list[float]] = {}
        for (i, _, _), value in zip(reads, values, strict=True):
            by_row.setdefault(i, []).append(value)
        for i, mine in by_row.items():
            found[i] = tuple(mine)

    with torch.inference_mode():
        budget = model.budget
        for batch in passes(model, wanted, rows):
            in_parts(model, batch, ask, budget)
    return found


def passes(
    model: "LanguageModel", wanted: dict[Pass, list[int]], rows: Sequence[Hidden]
) -> Iterator[list[Pass]]:
    """Rows of equal lengths, within the budget of tokens and of logits."""
    module: Any = model.module
    lengths: dict[int, list[Pass]] = {}
    for one in wanted:
        lengths.setdefault(len(one[0]), []).append(one)
    for length, due in sorted(lengths.items()):
        reads = (len({place for i in wanted[one] for place in rows[i].places}) for one in due)
        room = model.budget.logits // (max(reads) * module.config.vocab_size)
        budget = replace(model.budget, rows=max(1, min(model.budget.rows, room)))
        for positions in batches([(length,)] * len(due), budget):
            yield [due[p] for p in positions]


def read(
    model: "LanguageModel", some: Sequence[Pass], places: Sequence[int], tokens: Sequence[int]
) -> list[float]:
    """One pass of rows of equal length, and the log-probabilities of tokens at places."""
    device = next(model.module.parameters()).device
    ids = torch.tensor([row for row, _ in some], device=device)
    options = {"attention_mask": torch.ones_like(ids)}
    if any(segments for _, segments in some):
        kinds = [segments or (0,) * len(row) for row, segments in some]
        options["token_type_ids"] = torch.tensor(kinds, device=device)
    model.tokens_run += ids.numel()
    unique = sorted(set(places))
    at = {place: i for i, place in enumerate(unique)}
    logits, _ = run(model, torch.tensor(unique), input_ids=ids, **options)
    found: list[float] = readings(logits, [at[place] for place in places], tokens).values.tolist()
    return found
