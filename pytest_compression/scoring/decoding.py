"""Seq2seq models: each context is encoded once, and its continuations are decoded in rows."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_compression.scoring.forward import batches
from pytest_compression.scoring.reading import Readings, enough, in_parts, readings, run
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.scoring.likelihood import Request


class Row:
    """What the decoder reads behind one context, and the tokens that are read of it."""

    def __init__(self, context: Tokens, tokens: Tokens) -> None:
        self.context = context
        self.tokens = tokens
        self.reads: list[tuple[int, int, int]] = []
        """Position, wanted token, and where its result goes."""


def rows_of(requests: Sequence["Request"], start: int) -> list[Row]:
    """A row for each thing that the decoder reads; of single-token choices that is one."""
    found: dict[tuple[Tokens, Tokens], Row] = {}
    where = 0
    for context, continuation in requests:
        tokens = (start, *continuation[:-1])
        row = found.setdefault((context, tokens), Row(context, tokens))
        for position, token in enumerate(continuation):
            row.reads.append((position, token, where))
            where += 1
    return list(found.values())


def decode(model: "LanguageModel", requests: Sequence["Request"]) -> Readings:
    """Log-probabilities of all tokens of all continuations, one after the other.

    Raises:
        MeasurementError: the model computes NaN or infinities.
    """
    module: Any = model.module
    rows = rows_of(requests, decoder_start(module))
    total = sum(len(request.continuation) for request in requests)
    found = Readings(torch.zeros(total), torch.zeros(total, dtype=torch.bool))
    behind: dict[Tokens, list[Row]] = {}
    for row in rows:
        behind.setdefault(row.context, []).append(row)
    contexts = list(behind)
    with torch.inference_mode():
        budget = enough(model)
        for positions in batches([(len(context),) for context in contexts], budget):
            some = [contexts[p] for p in positions]
            states: dict[Tokens, Tensor] = {}
            in_parts(model, some, partial(encode, model, states), budget)
            below = [row for one in some for row in behind[one]]
            for batch in decoder_batches(model, below):
                in_parts(model, batch, partial(decode_rows, model, states, found), enough(model))
    return found


def decoder_batches(model: "LanguageModel", rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of equal lengths, within the budget of tokens and of logits."""
    module: Any = model.module
    budget = enough(model)
    room = budget.logits // module.config.get_text_config().vocab_size
    for positions in batches([(len(row.tokens),) for row in rows], budget):
        some = [rows[p] for p in positions]
        size = max(1, room // max(len({place for place, _, _ in row.reads}) for row in some))
        for first in range(0, len(some), size):
            yield some[first : first + size]


def encode(
    model: "LanguageModel", states: dict[Tokens, Tensor], contexts: Sequence[Tokens]
) -> None:
    """Put in the encoder's states of contexts of equal length, ``[tokens, hidden]`` each."""
    ids = torch.tensor(contexts, device=next(model.module.parameters()).device)
    model.tokens_run += ids.numel()
    hidden = model.module.get_encoder()(input_ids=ids).last_hidden_state  # type: ignore[operator]
    states.update(zip(contexts, hidden, strict=True))


def decode_rows(
    model: "LanguageModel", states: dict[Tokens, Tensor], found: Readings, rows: Sequence[Row]
) -> None:
    """Run decoder rows of equal length, and read what is wanted of them."""
    from transformers.modeling_outputs import BaseModelOutput

    hidden = torch.stack([states[row.context] for row in rows])
    ids = torch.tensor([row.tokens for row in rows], device=hidden.device)
    model.tokens_run += ids.numel()
    length = ids.shape[1]
    wanted = [(i * length + p, t, w) for i, row in enumerate(rows) for p, t, w in row.reads]
    places = sorted({place for place, _, _ in wanted})
    logits, _ = run(
        model,
        torch.tensor(places),
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        attention_mask=hidden.new_ones(hidden.shape[:2]),
        decoder_input_ids=ids,
        use_cache=False,
    )
    at = {place: i for i, place in enumerate(places)}
    said = readings(logits, [at[place] for place, _, _ in wanted], [t for _, t, _ in wanted])
    where = torch.tensor([w for _, _, w in wanted])
    found.values[where], found.best[where] = said.values, said.best


def decoder_start(module: Any) -> int:
    """The token that a decoder begins with."""
    start = module.generation_config.decoder_start_token_id
    found: int = module.config.decoder_start_token_id if start is None else start
    return found
