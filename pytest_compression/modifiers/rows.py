"""A text as rows of tokens to learn from or to calibrate on, for each family.

Causal: each token is learned from those before it. Masked: 15 % of the tokens are hidden, as in
Devlin et al. 2019, https://arxiv.org/abs/1810.04805, but always by the mask token. Seq2seq: 15 % of
the tokens are taken out in spans of about three, which the decoder gives back behind their
sentinels (Raffel et al. 2020, https://arxiv.org/abs/1910.10683).
"""

import random
from typing import TYPE_CHECKING, Any

from pytest_compression.embedded.batches import IGNORED, Batch, stacked
from pytest_compression.errors import RecipeError

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

HIDDEN = 0.15
"""Share of tokens that a masked or seq2seq model has to find."""
SPAN = 3
"""Tokens a span, about."""
SHORTEST = 4
"""Tokens of a row: fewer teach nothing."""

Row = tuple[list[int], list[int]]
"""Ids and labels."""


def context(model: "LanguageModel") -> int | None:
    """How many tokens a model can read at once; None if nothing says so."""
    config: Any = model.module.config
    limits = [getattr(config, "max_position_embeddings", None), model.tokenizer.model_max_length]
    for name, part in model.module.named_modules():
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            limits.append(part.num_embeddings - part.padding_idx - 1)  # RoBERTa's begin behind it
    return min((limit for limit in limits if limit is not None), default=None)


def framing(model: "LanguageModel") -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind a text; a causal model's text goes on.

    Raises:
        RecipeError: it changes the text's own tokens.
    """
    sample = "a"
    bare = model.tokenizer(sample, add_special_tokens=False)["input_ids"]
    whole = model.tokenizer(sample)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            behind = whole[start + len(bare) :]
            return whole[:start], [] if model.family == "causal" else behind
    message = "the tokenizer of this model tells other tokens of a text with special tokens."
    raise RecipeError(message)


def chunks(model: "LanguageModel", text: str, length: int) -> list[list[int]]:
    """A text as consecutive runs of tokens, special ones not counted in, of a row's length.

    The last run may be shorter.

    Raises:
        RecipeError: a row has no room, or the text is too short for one.
    """
    before, behind = framing(model)
    room = min(length, context(model) or length) - len(before) - len(behind)
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    found = [ids[first : first + room] for first in range(0, len(ids), max(1, room))]
    found = [run for run in found if len(run) >= SHORTEST]
    if not found:
        message = (
            f"the text has {len(ids)} tokens and a row has room for {max(0, room)}: at least "
            f"{SHORTEST} are needed. Give a longer text, or a larger 'length'."
        )
        raise RecipeError(message)
    return found


def text_batch(model: "LanguageModel", runs: list[list[int]], rng: random.Random) -> Batch:
    """Runs of a text as one batch for the model's family.

    Raises:
        RecipeError: the tokenizer has nothing to hide a token with.
    """
    before, behind = framing(model)
    if model.family == "causal":
        rows = [before + run for run in runs]
        labels = [[IGNORED] * len(before) + run for run in runs]
    elif model.family == "masked":
        pairs = [hidden(run, mask_token(model), rng) for run in runs]
        rows = [before + ids + behind for ids, _ in pairs]
        ends = [IGNORED] * len(before), [IGNORED] * len(behind)
        labels = [ends[0] + wanted + ends[1] for _, wanted in pairs]
    else:
        marks = sentinels(model)
        pairs = [corrupted(run, marks, rng) for run in runs]
        rows = [before + ids + behind for ids, _ in pairs]
        labels = [wanted + behind for _, wanted in pairs]
    return stacked(model.tokenizer, rows, labels)


def hidden(run: list[int], mask: int, rng: random.Random) -> Row:
    """Some tokens behind masks, at least one; they alone are learned."""
    places = set(rng.sample(range(len(run)), max(1, round(HIDDEN * len(run)))))
    ids = [mask if i in places else token for i, token in enumerate(run)]
    return ids, [token if i in places else IGNORED for i, token in enumerate(run)]


def corrupted(run: list[int], marks: list[int], rng: random.Random) -> Row:
    """Spans replaced by sentinels, and what was in them; a last sentinel closes it.

    Spans keep at least one token between them, so that no two merge.
    """
    hide = max(1, round(HIDDEN * len(run)))
    count = min(max(1, round(hide / SPAN)), len(marks) - 1)
    cuts = sorted(rng.sample(range(1, hide), count - 1))
    lengths = [end - start for start, end in zip([0, *cuts], [*cuts, hide], strict=True)]
    # Where spans begin among the tokens that stay: at places of their own.
    places = sorted(rng.sample(range(len(run) - hide + 1), count))
    ids, wanted, at, kept = list[int](), list[int](), 0, 0
    for mark, place, length in zip(marks, places, lengths, strict=False):
        ids += [*run[at : at + place - kept], mark]
        at += place - kept
        wanted += [mark, *run[at : at + length]]
        at, kept = at + length, place
    return ids + run[at:], [*wanted, marks[count]]


def mask_token(model: "LanguageModel") -> int:
    """What hides a token.

    Raises:
        RecipeError: there is none.
    """
    found: int | None = model.tokenizer.mask_token_id
    if found is None:
        message = "the tokenizer of this masked model has no mask token, so nothing can be hidden."
        raise RecipeError(message)
    return found


def sentinels(model: "LanguageModel") -> list[int]:
    """Ids of T5's ``<extra_id_0>``, ``<extra_id_1>`` ..., as many as there are.

    Raises:
        RecipeError: there are not two.
    """
    unknown, found = model.tokenizer.unk_token_id, list[int]()
    while (mark := model.tokenizer.convert_tokens_to_ids(f"<extra_id_{len(found)}>")) not in (
        None,
        unknown,
    ):
        found.append(mark)
    if len(found) < 2:
        message = (
            "the tokenizer of this seq2seq model has no sentinels <extra_id_0> and <extra_id_1>, "
            "so nothing can be hidden: only models that fill blanks as T5 does learn so."
        )
        raise RecipeError(message)
    return found
