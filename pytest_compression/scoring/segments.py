"""Masked models that read two sentences as segments of their own.

A token's type says which sentence it belongs to (BERT: Devlin et al. 2019,
https://arxiv.org/abs/1810.04805).
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_compression.scoring.forward import Read, batches, log_probabilities, masked, to_run
from pytest_compression.scoring.reading import in_parts, run
from pytest_compression.scoring.tokens import Encoded, Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


def masked_in_segments(
    model: "LanguageModel", encoded: Sequence[Encoded], rows: Sequence[int], masks: int, read: Read
) -> None:
    """Give ``read`` the log-probabilities at ``masks`` masked positions of each question.

    Args:
        model: of the masked family.
        encoded: all questions, of one segment or two.
        rows: positions of those to ask.
        masks: how many masks stand for the answer.
        read: takes positions in ``rows`` and ``[rows, masks, vocabulary]``.
    """
    typed = [p for p, q in enumerate(rows) if encoded[q].kinds] if knows_segments(model) else []
    plain = sorted(set(range(len(rows))) - set(typed))
    if plain:

        def hand_on(positions: list[int], values: Tensor) -> None:
            read([plain[position] for position in positions], values)

        masked(model, encoded, [rows[p] for p in plain], masks, hand_on)
    kinds = [stretched(encoded[rows[p]], masks) for p in typed]
    config: Any = model.module.config
    room = model.budget.logits // (masks * config.vocab_size)
    budget = replace(model.budget, rows=max(1, min(model.budget.rows, room)))

    def ask(some: list[int]) -> None:
        items = [encoded[rows[typed[i]]] for i in some]
        logits = logits_of(model, items, masks, [kinds[i] for i in some])
        values = log_probabilities(logits).unflatten(0, (-1, masks))
        read([typed[i] for i in some], values)

    with torch.inference_mode():
        for some in batches([(len(row),) for row in kinds], budget):
            in_parts(model, some, ask, budget)


def knows_segments(model: "LanguageModel") -> bool:
    """Whether the model tells two types of tokens apart."""
    if getattr(model.module.config, "type_vocab_size", 1) < 2:
        return False
    return "token_type_ids" in inspect.signature(model.module.forward).parameters


def stretched(item: Encoded, masks: int) -> Tokens:
    """The token types of a row whose blank is so many masks."""
    blank = len(item.before)
    return item.kinds[:blank] + item.kinds[blank : blank + 1] * masks + item.kinds[blank + 1 :]


def logits_of(
    model: "LanguageModel", items: Sequence[Encoded], masks: int, kinds: Sequence[Tokens]
) -> Tensor:
    """``[rows * masks, vocabulary]`` of rows of equal length, at their blanks."""
    blank = (model.tokenizer.mask_token_id,) * masks
    ids = to_run(model, [item.before + blank + item.after for item in items])
    starts = [row * ids.shape[1] + len(item.before) for row, item in enumerate(items)]
    places = (torch.tensor(starts).unsqueeze(1) + torch.arange(masks)).flatten()
    logits, _ = run(
        model,
        places,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        token_type_ids=torch.tensor(kinds, device=ids.device),
    )
    return logits
