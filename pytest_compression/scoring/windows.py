"""Windows over a text: which tokens are scored, and how much a model reads around them.

A causal model reads a window of tokens that slides by a stride, and is scored on those it has not
been scored on yet, as in the recipe of Hugging Face
(https://huggingface.co/docs/transformers/perplexity): behind the first window, each token is
predicted from ``window - stride`` tokens at least. A masked model is scored on ``stride`` tokens in
the middle of its window, each hidden in a row of its own.

What a tokenizer puts around any text by itself (a BOS token, ``[CLS]``, ``[SEP]``) is put around
every window and counts as part of it. Where it puts nothing before, nothing predicts the first
token of a document, and that one is not scored. Unknown and special tokens within the text are
read but not scored: they say nothing of the bytes they stand for.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from math import fsum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import nn

from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.scoring.likelihood import Request, loglikelihoods
from pytest_compression.scoring.pseudo import Hidden, hidden_log_probabilities
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Hiding = Literal["original", "within-word"]
"""Which tokens are hidden when one is scored: itself alone (Salazar et al. 2020,
https://arxiv.org/abs/1910.14659), or with it the later ones of its word, which would give it away
(Kauf & Ivanova 2023, https://arxiv.org/abs/2305.10588)."""

LONGEST = {"causal": 1024, "masked": 128}
"""The default window at most. A masked model reads a whole window for every token."""

BESIDE = 200
"""Characters on each side of a passage by which it is known: a dozen words."""

TOGETHER = 2**16
"""Tokens of rows that are asked at once, between two words of progress."""

NOTHING = "no token that can be scored"
_SAMPLE = "a"  # any text shows what a tokenizer puts around texts
_BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")
_WORD = re.compile(r"\S+")


class Window(NamedTuple):
    """Positions of tokens, each a half-open range: ``first <= begin < end <= last``."""

    first: int
    """Where it begins to read."""
    begin: int
    """Where it begins to be scored."""
    end: int
    last: int


class Document(NamedTuple):
    """A text that is read without what stands before or behind it."""

    text: str
    line: int
    """Of the file, where it begins."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What is scored in one window."""

    text: str
    """All that the scored tokens stand for, with what stands between them."""
    beside: tuple[str, str]
    """What stands before and behind it, ``BESIDE`` characters at most."""
    line: int
    """Of the file, where it begins."""
    document: int
    """Number of the document that it is of."""
    row: Tokens
    """What the model reads."""
    places: tuple[int, ...]
    """Positions in the row of the tokens that are scored; ascending, one at least."""
    words_of: tuple[int | None, ...]
    """For each position in the row, the number of its word; None for what is no text."""
    size: int
    """Bytes in UTF-8 that the scored tokens stand for."""
    words: int
    """Words between spaces that begin in a scored token."""
    unscored: int
    """Tokens of the window that are not scored, though no other window scores them."""

    @property
    def tokens(self) -> Tokens:
        """Those that are scored."""
        return tuple(self.row[place] for place in self.places)


def sliding(length: int, window: int, stride: int) -> Iterator[Window]:
    """Windows of a causal model; each of ``length`` tokens is in one ``[begin, end)``."""
    end = 0
    for first in range(0, length, stride):
        begin, end = end, min(first + window, length)
        yield Window(first, begin, end, end)
        if end == length:
            return


def centred(length: int, window: int, stride: int) -> Iterator[Window]:
    """Windows of a masked model: as much is read before what is scored as behind it.

    At either end of a text the window stays within it, and is as full as it can be.
    """
    for begin in range(0, length, stride):
        end = min(begin + stride, length)
        first = max(0, min(begin - (window - stride) // 2, length - window))
        yield Window(first, begin, end, min(first + window, length))


def documents(text: str, *, apart: bool) -> list[Document]:
    """The whole text, or its parts between blank lines; none is empty."""
    cuts = [0]
    if apart:
        cuts += [found.end() for found in _BLANK.finditer(text)]
    found, line = [], 1
    for start, end in pairwise([*cuts, len(text)]):
        piece = text[start:end]
        if piece.strip():
            found.append(Document(piece.rstrip() if apart else piece, line))
        line += piece.count("\n")
    return found


class Cutter:
    """Cuts documents into passages for one model."""

    def __init__(self, model: "LanguageModel", window: int | None, stride: int | None) -> None:
        self.tokenizer = model.tokenizer
        self.masked = model.family == "masked"
        if not getattr(self.tokenizer, "is_fast", False):
            message = (
                "the tokenizer of this model does not tell which characters a token stands for "
                "(it is no fast one), so that bytes cannot be counted."
            )
            raise MeasurementError(message)
        self.before, self.after = surroundings(self.tokenizer, masked=self.masked)
        whole, self.stride = extent(model, window, stride)
        self.window = whole - len(self.before) - len(self.after)
        """Tokens of the text itself that are read at once."""
        if self.stride > self.window - (not self.before):
            message = (
                f"stride {self.stride} is too long for a window of {whole} tokens: tokens would be "
                "left out, or predicted from nothing."
            )
            raise MeasurementError(message)

    def passages(self, texts: Iterable[Document]) -> Iterator[Passage | None]:
        """A passage for each window; None where it holds no token that can be scored."""
        for number, document in enumerate(texts):
            yield from self.cut(number, document)

    def cut(self, number: int, document: Document) -> Iterator[Passage | None]:
        """The passages of one document."""
        encoding = self.tokenizer(
            document.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, words_of = encoding["input_ids"], encoding.word_ids()
        edges = boundaries(encoding["offset_mapping"], len(document.text))
        starts = [found.start() for found in _WORD.finditer(document.text)]
        odd = {*self.tokenizer.all_special_ids, self.tokenizer.unk_token_id}
        cut = centred if self.masked else sliding
        for window in cut(len(ids), self.window, self.stride):
            found = range(window.begin, window.end)
            chosen = [t for t in found if ids[t] not in odd and (t or self.before)]
            if not chosen:
                yield None
                continue
            spans = [(edges[t], edges[t + 1]) for t in chosen]
            begin, end = spans[0][0], spans[-1][1]
            read = slice(window.first, window.last)
            yield Passage(
                text=document.text[begin:end],
                beside=(
                    document.text[max(0, begin - BESIDE) : begin],
                    document.text[end : end + BESIDE],
                ),
                line=document.line + document.text.count("\n", 0, begin),
                document=number,
                row=(*self.before, *ids[read], *self.after),
                places=tuple(t - window.first + len(self.before) for t in chosen),
                words_of=(
                    *(None for _ in self.before),
                    *words_of[read],
                    *(None for _ in self.after),
                ),
                size=sum(len(document.text[a:b].encode()) for a, b in spans),
                words=sum(bisect_left(starts, b) - bisect_left(starts, a) for a, b in spans),
                unscored=len(found) - len(chosen),
            )


def boundaries(offsets: Iterable[tuple[int, int]], length: int) -> list[int]:
    """Where the text of each token begins, in characters; ``[tokens + 1]``.

    What no token stands for, such as a space that a tokenizer drops, belongs to the token behind
    it. Of the tokens that share a character, the first has it: so each character is counted once.
    """
    ends = list(accumulate((end for _, end in offsets), max))
    return [0, *ends[:-1], length]


def surroundings(tokenizer: Any, *, masked: bool) -> tuple[Tokens, Tokens]:
    """What a tokenizer puts before and behind any text; an end mark only where it is masked.

    Raises:
        MeasurementError: it changes the text's own tokens.
    """
    bare = tuple(tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"])
    whole = tuple(tokenizer(_SAMPLE)["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :] if masked else ()
    message = "the tokenizer of this model tells other tokens of a text with special tokens."
    raise MeasurementError(message)


def extent(model: "LanguageModel", window: int | None, stride: int | None) -> tuple[int, int]:
    """Tokens that are read at once and by which windows are apart, with defaults put in.

    Raises:
        MeasurementError: the window is longer than what the model can read.
    """
    limit = context_length(model)
    longest = LONGEST[model.family]
    if window is None:
        window = longest if limit is None else min(longest, limit)
    elif limit is not None and window > limit:
        message = f"window {window} is longer than the {limit} tokens that this model reads."
        raise MeasurementError(message)
    return window, max(1, window // 2) if stride is None else stride


def context_length(model: "LanguageModel") -> int | None:
    """How many tokens a model can read at once; None if nothing says so."""
    config: Any = model.module.config
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len")]
    limits.append(getattr(model.tokenizer, "model_max_length", None))
    for name, part in model.module.named_modules():
        # RoBERTa's positions begin behind the one of padding.
        padded = isinstance(part, nn.Embedding) and part.padding_idx is not None
        if padded and name.endswith("position_embeddings"):
            limits.append(part.num_embeddings - part.padding_idx - 1)
    return min((limit for limit in limits if limit is not None), default=None)


def hidden(passage: Passage, mask: int, hiding: Hiding) -> Iterator[Hidden]:
    """A row for each token that is scored, with it hidden, and what gives it away."""
    for place in passage.places:
        row = list(passage.row)
        end = place + 1
        if hiding == "within-word" and (word := passage.words_of[place]) is not None:
            while passage.words_of[end : end + 1] == (word,):
                end += 1
        row[place:end] = [mask] * (end - place)
        yield Hidden(tuple(row), (place,), (passage.row[place],))


def nats(model: "LanguageModel", passages: Sequence[Passage], hiding: Hiding) -> list[float]:
    """Log-probability of the scored tokens of each passage; pseudo- of a masked model.

    Raises:
        MeasurementError: the model computes NaN or infinities, or has no mask token.
    """
    masked = model.family == "masked"
    found: list[float] = []
    for some in slices(passages, masked=masked):
        found += pseudo_nats(model, some, hiding) if masked else causal_nats(model, some)
        model.progress(len(found), len(passages))
    return found


def slices(passages: Sequence[Passage], *, masked: bool) -> Iterator[list[Passage]]:
    """Passages of about :data:`TOGETHER` tokens a slice, counted in all rows that are run."""
    some: list[Passage] = []
    tokens = 0
    for passage in passages:
        some.append(passage)
        tokens += len(passage.row) * (len(passage.places) if masked else 1)
        if tokens >= TOGETHER:
            yield some
            some, tokens = [], 0
    if some:
        yield some


def pseudo_nats(model: "LanguageModel", passages: Sequence[Passage], hiding: Hiding) -> list[float]:
    """Sums over the scored tokens, each hidden in a row of its own."""
    mask = mask_of(model)
    rows = [list(hidden(passage, mask, hiding)) for passage in passages]
    found = iter(hidden_log_probabilities(model, [row for some in rows for row in some]))
    return [fsum(next(found)[0] for _ in some) for some in rows]


def causal_nats(model: "LanguageModel", passages: Sequence[Passage]) -> list[float]:
    """Sums over the scored tokens, each given all before it."""
    first = [passage.places[0] for passage in passages]
    pairs = list(zip(passages, first, strict=True))
    asked = loglikelihoods(model, [Request(one.row[:at], one.row[at:]) for one, at in pairs])
    return [
        fsum(said.tokens[place - at] for place in passage.places)
        for said, (passage, at) in zip(asked, pairs, strict=True)
    ]


def mask_of(model: "LanguageModel") -> int:
    """The token that hides others.

    Raises:
        MeasurementError: there is none.
    """
    if model.tokenizer.mask_token_id is None:
        message = "the tokenizer of this masked model has no mask token."
        raise MeasurementError(message)
    return int(model.tokenizer.mask_token_id)


def identity(name: str, text: str, taken: set[str]) -> str:
    """An id for a text, which is added to those taken; equal texts are numbered."""
    for number in count():
        found = f"{name}:{digest([text.encode(), str(number).encode()])[:12]}"
        if found not in taken:
            break
    taken.add(found)
    return found
