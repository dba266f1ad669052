"""How large the inputs of layers are on calibration text: sums of squares, one for each feature.

Block by block, the inputs are those that the blocks before give after they were pruned. To run the
whole model for each block would take time that grows with the square of the depth. So what blocks
are called with is noted in one run, and from then on a block of a chain is called with the same,
but for the hidden states, which are what the block before it returns now. A chain ends where a
block is given anything else than what the one before it returned: where the decoder begins, or
behind a norm that stands between. From there the model is run anew.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.saliency import added_squares
from pytest_compression.modifiers.blocks import (
    Batch,
    Given,
    Step,
    calls_of,
    chains_of,
    given_to,
    is_linked,
    passed,
    steps_of,
    units_of,
)

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight
    from pytest_compression.modifiers.material import Material

ROWS = 8
"""Rows that are run together, at most."""

Squares = dict[str, Tensor]
"""Sums of squares of what each layer was given, float64 ``[in_features]``, by its name."""
Part = tuple[list["LinearWeight"], Squares]
"""Layers that may be pruned now, and what they are to be weighed by."""


def rows_alike(model: "LanguageModel", material: "Material") -> list[Batch]:
    """The material in batches of rows of equal lengths, so that no padding counts as an input."""
    alike: dict[tuple[torch.Size, ...], list[dict[str, Tensor]]] = {}
    for row in material.batches(model, size=1):
        if model.family != "seq2seq":  # whose decoder reads them
            del row["labels"]
        alike.setdefault(tuple(tensor.shape for tensor in row.values()), []).append(row)
    extra = {} if model.family == "masked" else {"use_cache": False}
    return [
        {name: torch.cat([row[name] for row in rows[at : at + ROWS]]) for name in rows[0]} | extra
        for rows in alike.values()
        for at in range(0, len(rows), ROWS)
    ]


def at_once(
    model: "LanguageModel", batches: Sequence[Batch], weights: Sequence["LinearWeight"]
) -> Iterator[Part]:
    """All layers together, on the inputs that the model gives them as it is.

    Raises:
        RecipeError: a layer was given nothing, or NaN or infinities.
    """
    layers = [weight.layer for weight in weights]
    calls = len(calls_of(model, batches[0], layers))
    squares: Squares = {}
    with watched(weights, squares):
        for batch in batches:
            given_to(model, batch, layers, range(calls, calls))
    yield list(weights), complete(weights, squares)


def by_blocks(
    model: "LanguageModel", batches: Sequence[Batch], weights: Sequence["LinearWeight"]
) -> Iterator[Part]:
    """The layers of one block after another; who asks for the next must have pruned these.

    A layer outside of all blocks comes alone, and a block that is called several times (ALBERT's)
    once, weighed by what it is given in all of its calls.

    Raises:
        RecipeError: a layer was given nothing, or NaN or infinities.
    """
    units = units_of(model.module, [weight.layer for weight in weights])
    calls = calls_of(model, batches[0], units)
    inside = {part for call in calls for part in call.module.modules()}
    complete([weight for weight in weights if weight.layer not in inside], {})
    at = 0
    for chain in chains_of(steps_of(calls)):
        span = range(at, at + sum(map(len, chain)))
        at = span.stop
        if is_linked(chain[0], span.start):
            rows = [given_to(model, batch, units, span) for batch in batches]
            yield from along(chain, rows, weights)
        elif some := held_by(chain[0], weights):
            yield from at_once(model, batches, some)


def along(
    chain: Sequence[Step], rows: Sequence[Sequence[Given]], weights: Sequence["LinearWeight"]
) -> Iterator[Part]:
    """The layers of a chain, step after step.

    Args:
        chain: steps, each linked to the one before it.
        rows: of each batch, what the chain's calls were given.
        weights: the targets, also those that are not in the chain.
    """
    states: list[Any] = [None] * len(rows)
    at = 0
    for step in chain:
        here = [row[at : at + len(step)] for row in rows]
        at += len(step)
        some = held_by(step, weights)
        if some:
            squares: Squares = {}
            with watched(some, squares):
                passed(step, here, states)
            yield some, complete(some, squares)
        states = passed(step, here, states)


def held_by(step: Step, weights: Sequence["LinearWeight"]) -> list["LinearWeight"]:
    """The weights whose layers are in a step's modules."""
    inside = {part for call in step for part in call.module.modules()}
    return [weight for weight in weights if weight.layer in inside]


@contextlib.contextmanager
def watched(weights: Sequence["LinearWeight"], squares: Squares) -> Iterator[None]:
    """Sum up the squares of what the layers are given, for as long as this lasts."""

    def note(name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        squares[name] = added_squares(squares.get(name), given[0])

    handles = [
        weight.layer.register_forward_pre_hook(partial(note, weight.name)) for weight in weights
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def complete(weights: Sequence["LinearWeight"], squares: Squares) -> Squares:
    """The sums, checked.

    Raises:
        RecipeError: a layer was given nothing, or NaN or infinities.
    """
    for weight in weights:
        found = squares.get(weight.name)
        if found is None:
            message = (
                f"'{weight.name}' was given no input by the calibration text, so its weights "
                "cannot be weighed by one: name it in 'ignore'."
            )
            raise RecipeError(message)
        if not found.isfinite().all():
            message = (
                f"'{weight.name}' was given NaN or infinite inputs by the calibration text: the "
                "model is broken numerically before its weights are pruned."
            )
            raise RecipeError(message)
    return squares
