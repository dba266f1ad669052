"""Greedy continuations of prompts, for causal and seq2seq models.

The most probable token is taken at each step, from the logits as the model computes them. Of a
model's generation config only the end tokens and the decoder's start token are read: forced or
suppressed tokens, penalties, beams and sampling would measure that file, not the weights.

Rows of equal length share a batch, so nothing is padded. What many prompts begin with (a few-shot
header) is run once, and a row that has ended leaves its batch.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring.continuation import Header, Rows, headers
from pytest_compression.scoring.forward import batches, log_probabilities, to_run
from pytest_compression.scoring.memory import halving
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


def generate(
    model: "LanguageModel", prompts: Sequence[Tokens], *, stop: Sequence[str], max_new_tokens: int
) -> list[str]:
    """The greedy continuation of each prompt, up to the first of the stop strings.

    Stop strings are looked for in the decoded text, whatever tokens hold them. Special tokens are
    no part of the text. The results do not depend on the batches, but where two tokens are
    equally probable up to rounding.

    Args:
        model: causal, or seq2seq: then a prompt is what its encoder reads.
        prompts: token ids, one at least each.
        stop: a continuation ends before the first of them; also at an end token.
        max_new_tokens: so many tokens are generated at most.

    Raises:
        MeasurementError: the model is masked, a prompt is too long for it, it computes NaN or
            infinities, or memory does not suffice for one prompt.
        ValueError: a prompt or a stop string is empty, or no token is asked for.
    """
    check(model, prompts, stop, max_new_tokens)
    writer = Writer(model, stop, max_new_tokens)
    found = [""] * len(prompts)
    with torch.inference_mode():
        for shared, group in headers(prompts, at_all=model.family == "causal"):
            header = Header(model, prompts[group[0]][:shared])
            rows = [prompts[position] for position in group]

            def run(
                some: list[int], rows: list[Tokens] = rows, header: Header = header
            ) -> list[str]:
                return writer.continued([rows[i] for i in some], header)

            lengths = [(len(row), max_new_tokens) for row in rows]
            for some, texts in in_batches(model, lengths, run):
                for i, text in zip(some, texts, strict=True):
                    found[group[i]] = text
    return found


def check(
    model: "LanguageModel", prompts: Sequence[Tokens], stop: Sequence[str], max_new_tokens: int
) -> None:
    """Refuse what cannot be generated; errors as of :func:`generate`."""
    if model.family == "masked":
        message = "a masked model generates no text: ask it a benchmark that ranks answers."
        raise MeasurementError(message)
    if not (all(prompts) and all(stop)) or max_new_tokens < 1:
        message = "prompts and stop strings must not be empty, nor may no token be asked for"
        raise ValueError(message)
    fits, longest = room(model, max_new_tokens), max(map(len, prompts), default=0)
    if fits is not None and longest > fits:
        message = (
            f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit into this "
            f"model's positions: there is room for a prompt of {fits}."
        )
        raise MeasurementError(message)


def room(model: "LanguageModel", max_new_tokens: int) -> int | None:
    """How many tokens a prompt may have, if so many may follow it; None without a limit.

    The last new token is never read. A seq2seq model's decoder has positions of its own.
    """
    limit = getattr(model.module.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    if model.family == "seq2seq":
        return limit if max_new_tokens <= limit else 0
    return max(0, limit - max_new_tokens + 1)


def in_batches(
    model: "LanguageModel",
    lengths: Sequence[tuple[int, ...]],
    run: Callable[[list[int]], list[str]],
) -> Iterator[tuple[list[int], list[str]]]:
    """Run rows of equal lengths together, within the model's budget and within memory.

    Where memory runs out, the model's budget is halved for good, and the rest is batched anew.
    """

    def shrink() -> None:
        model.budget = model.budget.times(Fraction(1, 2))

    left = list(range(len(lengths)))
    while left:
        budget, done = model.budget, set[int]()
        for batch in batches([lengths[i] for i in left], budget):
            yield from halving([left[i] for i in batch], run, shrink=shrink)
            done.update(batch)
            if model.budget != budget:
                break
        left = [row for i, row in enumerate(left) if i not in done]


class Writer:
    """Continues rows, and knows where a text ends."""

    def __init__(self, model: "LanguageModel", stop: Sequence[str], max_new_tokens: int) -> None:
        self.model = model
        self.stop = tuple(stop)
        self.max_new_tokens = max_new_tokens
        self.ends = end_tokens(model)

    def continued(self, prompts: Sequence[Tokens], header: Header) -> list[str]:
        """The texts that follow prompts of equal length, which begin with the header."""
        rows = self.begin(prompts, header)
        texts = [""] * len(prompts)
        made: list[Tokens] = [()] * len(prompts)
        running = list(range(len(prompts)))
        while running:
            best = most_probable(rows.logits())
            going_on = []
            for place, (row, token) in enumerate(zip(running, best, strict=True)):
                made[row] += (token,)
                texts[row], ended = self.text(made[row])
                rows.tokens[place] += (token,)
                if not ended:
                    going_on.append(place)
            running = [running[place] for place in going_on]
            rows.keep(going_on)
        return texts

    def begin(self, prompts: Sequence[Tokens], header: Header) -> Rows:
        """Rows of which nothing but the header is run: the prompts, or the decoder's start."""
        if self.model.family == "causal":
            past = header.past(len(prompts))
            read = 0 if past is None else len(header.tokens)
            return Rows(self.model, prompts, past=past, read=read)
        module: Any = self.model.module
        ids = to_run(self.model, prompts)
        states = module.get_encoder()(input_ids=ids).last_hidden_state
        return Rows(self.model, [(decoder_start(self.model),)] * len(prompts), states=states)

    def text(self, made: Tokens) -> tuple[str, bool]:
        """What is written so far, and whether that is all.

        All tokens are decoded anew: the last may complete a character that the one before began.
        """
        ended = made[-1] in self.ends
        text: str = self.model.tokenizer.decode(
            made[:-1] if ended else made,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        places = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        if places:
            return text[: min(places)], True
        return text, ended or len(made) >= self.max_new_tokens


def most_probable(logits: Tensor) -> list[int]:
    """The best token of each row of ``[rows, vocabulary]``; the first of equal ones.

    Raises:
        MeasurementError: the model computes NaN or infinities.
    """
    if not logits.isfinite().all():
        log_probabilities(logits)  # which says so
    best: list[int] = logits.argmax(-1).tolist()
    return best


def of_configs(model: "LanguageModel", key: str) -> Any:
    """A setting of the generation config, else of the model's own."""
    module: Any = model.module
    found = getattr(getattr(module, "generation_config", None), key, None)
    return getattr(module.config, key, None) if found is None else found


def end_tokens(model: "LanguageModel") -> set[int]:
    """Those behind which nothing follows: the generation config's, else the tokenizer's."""
    found = of_configs(model, "eos_token_id")
    if found is None:
        found = model.tokenizer.eos_token_id
    return set(found) if isinstance(found, (list, tuple)) else {found} - {None}


def decoder_start(model: "LanguageModel") -> int:
    """What the decoder begins with.

    Raises:
        MeasurementError: the model does not say.
    """
    for key in ("decoder_start_token_id", "bos_token_id"):
        if isinstance(found := of_configs(model, key), int):
            return found
    message = "this seq2seq model's configuration has no decoder_start_token_id to begin with."
    raise MeasurementError(message)
