"""Log-probabilities of the next token, or of masked ones, for each family.

Rows of equal length share a batch, so nothing is padded and no score depends on its neighbours
beyond the rounding of a matrix product. Logits are only computed where they are read.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from pytest_compression.errors import MeasurementError
from pytest_compression.models.conditions import Budget
from pytest_compression.scoring.reading import in_parts, run
from pytest_compression.scoring.tokens import Encoded, Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Row = tuple[int, Tokens]
"""A question's position, and answer tokens that are taken as given behind its prompt."""
Read = Callable[[list[int], Tensor], None]
"""Takes positions of rows and their log-probabilities, ``[rows, vocabulary]``."""


def batches(lengths: Sequence[tuple[int, ...]], budget: Budget) -> Iterator[list[int]]:
    """Positions of rows of equal lengths, in batches, the shortest first.

    Args:
        lengths: of each row, the tokens of each part that is run (encoder and decoder).
        budget: how much is run together, but one row at least.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, length in enumerate(lengths):
        groups.setdefault(length, []).append(position)
    for length, positions in sorted(groups.items()):
        size = max(1, min(budget.rows, budget.tokens // max(1, sum(length))))
        for first in range(0, len(positions), size):
            yield positions[first : first + size]


def to_run(model: "LanguageModel", rows: Sequence[Tokens]) -> Tensor:
    """Token ids ``[rows, tokens]`` on the model's device, counted as run through it."""
    ids = torch.tensor(rows, device=next(model.module.parameters()).device)
    model.tokens_run += ids.numel()
    return ids


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, in single precision at least.

    Raises:
        MeasurementError: the model computes NaN or infinities.
    """
    if not logits.isfinite().all():
        bad = int((~logits.isfinite()).flatten(1).any(1).sum())
        message = (
            f"the model computes NaN or infinite logits ({bad} of {len(logits)} prompts in one "
            "batch). It is broken numerically; nothing can be said of its knowledge."
        )
        raise MeasurementError(message)
    return logits.float().log_softmax(-1)


class NextToken:
    """Causal and seq2seq models: the distribution after a prompt and given answer tokens."""

    def __init__(self, model: "LanguageModel", encoded: Sequence[Encoded]) -> None:
        self.model = model
        self.module: Any = model.module
        self.encoded = encoded
        self.seq2seq = model.family == "seq2seq"
        accepts = inspect.signature(self.module.forward).parameters
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}
        self.states: dict[int, Tensor] = {}
        """Seq2seq: encoder outputs, ``[tokens, hidden]``, by question."""
        self.past: dict[int, list[tuple[Tensor, Tensor]]] = {}
        """Causal: a layer's keys and values of the prompt, ``[heads, tokens, size]``."""
        if self.seq2seq:
            self.start = self.decoder_start(model)

    def decoder_start(self, model: "LanguageModel") -> Tokens:
        """What the decoder begins with: its start token and the sentinel."""
        from pytest_compression.scoring.tokens import SENTINEL

        start = self.module.generation_config.decoder_start_token_id
        if start is None:
            start = self.module.config.decoder_start_token_id
        return (start, model.tokenizer.convert_tokens_to_ids(SENTINEL))

    def run(self, rows: Sequence[Row], read: Read) -> None:
        """Give ``read`` the log-probabilities of the token after each row."""
        lengths = [(len(self.encoded[q].before), len(path)) for q, path in rows]
        with torch.inference_mode():
            budget = self.model.budget
            for positions in batches(lengths, budget):
                in_parts(self.model, positions, partial(self.ask, rows, read), budget)

    def ask(self, rows: Sequence[Row], read: Read, positions: list[int]) -> None:
        """Run rows of equal length together."""
        chosen = [rows[position] for position in positions]
        logits = self.decode(chosen) if self.seq2seq else self.extend(chosen)
        read(positions, log_probabilities(logits))

    def extend(self, rows: Sequence[Row]) -> Tensor:
        """Causal: ``[rows, vocabulary]`` logits behind prompt and path."""
        if all(path and q in self.past for q, path in rows):
            ids = to_run(self.model, [path for _, path in rows])
            past = self.joined([q for q, _ in rows])
            found = self.module(
                input_ids=ids, past_key_values=past, use_cache=True, **self.last_only
            )
        else:
            ids = to_run(self.model, [self.encoded[q].before + path for q, path in rows])
            found = self.module(input_ids=ids, use_cache=True, **self.last_only)
            self.keep([q if not path else None for q, path in rows], found)
        logits: Tensor = found.logits
        return logits[:, -1]

    def keep(self, questions: Sequence[int | None], found: Any) -> None:
        """Keep the prompts' keys and values, if the model's cache is nothing but those."""
        past = getattr(found, "past_key_values", None)
        layers = getattr(past, "layers", ())
        if not layers or any(type(layer) is not DynamicLayer for layer in layers):
            return  # recurrent states, sliding windows: such prompts are run again
        for row, question in enumerate(questions):
            if question is not None:
                self.past[question] = [(layer.keys[row], layer.values[row]) for layer in layers]

    def joined(self, questions: Sequence[int]) -> DynamicCache:
        """A cache of one row a question, for prompts of equal length."""
        cache = DynamicCache()
        kept = [self.past[q] for q in questions]
        for layer in range(len(kept[0])):
            keys, values = zip(*(one[layer] for one in kept), strict=True)
            cache.update(torch.stack(keys), torch.stack(values), layer)
        return cache

    def decode(self, rows: Sequence[Row]) -> Tensor:
        """Seq2seq: ``[rows, vocabulary]`` logits behind sentinel and path."""
        from transformers.modeling_outputs import BaseModelOutput

        new = [q for q in dict.fromkeys(q for q, _ in rows) if q not in self.states]
        if new:
            ids = to_run(self.model, [self.encoded[q].before for q in new])
            hidden = self.module.get_encoder()(input_ids=ids).last_hidden_state
            self.states.update(zip(new, hidden, strict=True))
        states = torch.stack([self.states[q] for q, _ in rows])
        logits: Tensor = self.module(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=to_run(self.model, [self.start + path for _, path in rows]),
            use_cache=False,
        ).logits
        return logits[:, -1]


def masked(
    model: "LanguageModel",
    encoded: Sequence[Encoded],
    rows: Sequence[int],
    masks: int,
    read: Read,
) -> None:
    """Give ``read`` the log-probabilities at ``masks`` masked positions of each question.

    Args:
        model: of the masked family.
        encoded: all questions.
        rows: positions of those to ask.
        masks: how many masks stand for the answer.
        read: takes positions in ``rows`` and ``[rows, masks, vocabulary]``.
    """
    blank = (model.tokenizer.mask_token_id,) * masks
    whole = [encoded[q].before + blank + encoded[q].after for q in rows]
    module: Any = model.module
    room = model.budget.logits // (masks * module.config.vocab_size)
    budget = replace(model.budget, rows=max(1, min(model.budget.rows, room)))
    blanks = torch.arange(masks)

    def ask(positions: list[int]) -> None:
        ids = to_run(model, [whole[p] for p in positions])
        starts = [
            row * ids.shape[1] + len(encoded[rows[p]].before) for row, p in enumerate(positions)
        ]
        places = (torch.tensor(starts).unsqueeze(1) + blanks).flatten()
        logits, _ = run(model, places, input_ids=ids, attention_mask=torch.ones_like(ids))
        read(positions, log_probabilities(logits).unflatten(0, (-1, masks)))

    with torch.inference_mode():
        for positions in batches([(len(ids),) for ids in whole], budget):
            in_parts(model, positions, ask, budget)
