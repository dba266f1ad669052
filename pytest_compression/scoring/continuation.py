"""Rows of tokens that grow: what they begin with is run once, and what was read is remembered.

A model's cache is only trusted where it consists of keys and values of single tokens. With any
other (recurrent states, none at all) rows are run whole at each step: slow, and right.
"""

import inspect
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
)

from pytest_compression.scoring.forward import to_run
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

SHARED = Fraction(1, 2)
"""Of two prompts: where they have so much of their beginning in common, it is run once."""


def headers(prompts: Sequence[Tokens], *, at_all: bool) -> Iterator[tuple[int, list[int]]]:
    """Groups of prompts, and how many tokens all of a group begin with, leaving each one.

    Prompts that have too little in common with any other are the last group, with none.

    Args:
        prompts: token ids, one at least each.
        at_all: otherwise all are one group with none: an encoder reads each token in sight of
            the others.
    """
    groups: list[list[int]] = []
    for position in sorted(range(len(prompts)), key=lambda p: prompts[p]) if at_all else ():
        first = prompts[groups[-1][0]] if groups else ()
        longer = max(len(first), len(prompts[position]))
        if common(first, prompts[position]) >= SHARED * longer:
            groups[-1].append(position)
        else:
            groups.append([position])
    for group in groups:
        if len(group) > 1:  # sorted: its first and last differ most
            shared = common(prompts[group[0]], prompts[group[-1]])
            yield min(shared, *(len(prompts[p]) - 1 for p in group)), group
    alone = [p for group in groups if len(group) == 1 for p in group]
    rest = alone if at_all else list(range(len(prompts)))
    if rest:
        yield 0, rest


def common(one: Tokens, other: Tokens) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


class Header:
    """What the rows of a group begin with; run once, if the model's cache allows it."""

    def __init__(self, model: "LanguageModel", tokens: Tokens) -> None:
        self.model = model
        self.tokens = tokens
        self.layers: list[tuple[Tensor, Tensor]] | None = None
        """Keys and values ``[1, heads, tokens, size]`` of each layer; none if they are not all
        that the model remembers."""

    def past(self, rows: int) -> DynamicCache | None:
        """A cache of the header for so many rows; None if each row must be run whole."""
        if not self.tokens:
            return None
        if self.layers is None:
            found = Rows(self.model, [self.tokens])
            found.logits()
            caches = found.caches()
            plain = all(type(layer) is DynamicLayer for cache in caches for layer in cache.layers)
            self.layers = [(x.keys, x.values) for x in caches[0].layers] if plain and caches else []
        if not self.layers:
            return None  # recurrent states, sliding windows
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return cache


class Rows:
    """Rows of equal length that are continued together, and what the model remembers of them."""

    def __init__(
        self,
        model: "LanguageModel",
        tokens: Sequence[Tokens],
        *,
        past: DynamicCache | None = None,
        read: int = 0,
        states: Tensor | None = None,
    ) -> None:
        self.model = model
        self.module: Any = model.module
        self.tokens = list(tokens)
        self.past: Any = past
        self.read = read
        """How many tokens of each row are in the cache."""
        self.states = states
        """Seq2seq: what the encoder made of the prompts, ``[rows, tokens, hidden]``."""
        self.accepts = inspect.signature(self.module.forward).parameters

    def logits(self) -> Tensor:
        """Behind each row, ``[rows, vocabulary]``."""
        options = {"use_cache": True, "past_key_values": self.past, "logits_to_keep": 1}
        options = {key: value for key, value in options.items() if key in self.accepts}
        ids = to_run(self.model, [row[self.read :] for row in self.tokens])
        if self.states is None:
            found = self.module(input_ids=ids, **options)
        else:
            from transformers.modeling_outputs import BaseModelOutput

            encoded = BaseModelOutput(last_hidden_state=self.states)
            found = self.module(encoder_outputs=encoded, decoder_input_ids=ids, **options)
        self.past, self.read = getattr(found, "past_key_values", None), len(self.tokens[0])
        if not self.caches():  # what this model remembers is none of ours: run the rows whole
            self.past, self.read = None, 0
        logits: Tensor = found.logits
        return logits[:, -1]

    def caches(self) -> list[Any]:
        """Of its own tokens and the encoder's, if it takes them back and rows can be chosen."""
        past: Any = self.past if "past_key_values" in self.accepts else None
        crossed = isinstance(past, EncoderDecoderCache)
        caches = [past.self_attention_cache, past.cross_attention_cache] if crossed else [past]
        kinds = {type(layer) for cache in caches for layer in getattr(cache, "layers", (None,))}
        return caches if kinds and kinds <= {DynamicLayer, DynamicSlidingWindowLayer} else []

    def keep(self, rows: list[int]) -> None:
        """Only these, in this order."""
        if rows == list(range(len(self.tokens))):
            return
        device = next(self.module.parameters()).device
        chosen = torch.tensor(rows, dtype=torch.long, device=device)
        self.tokens = [self.tokens[row] for row in rows]
        if self.states is not None:
            self.states = self.states[chosen]
        for cache in self.caches() if self.past is not None else ():
            cache.batch_select_indices(chosen)
