"""Statements as tokens: a template's blank filled with each option, for the three families.

What is scored of a statement, and of it only, are the tokens of its text. A causal model reads
the tokenizer's begin mark before them; without one the end mark stands there, so that an option
that comes first is scored whole, too. A seq2seq model's encoder reads the statement with a
sentinel for the option; its decoder is asked for the option and for the sentinel that closes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring.tokens import SENTINEL, Encoder, Tokens
from pytest_compression.types import Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Pll = Literal["within_word_l2r", "original"]
"""What is hidden beside a token whose log-probability a masked model is asked for."""

CLOSING = "<extra_id_1>"
"""What T5's family writes behind the text of the first blank."""


@dataclass(frozen=True, kw_only=True)
class Blank:
    """A question, and the exact text around its blank."""

    question: Question
    before: str
    """With the space before the blank, if there is one."""
    after: str
    capitalized: bool = False
    """Whether a statement begins with a capital, whatever fills its blanks."""

    def filled(self, option: str) -> str:
        """The statement that an option makes."""
        text = f"{self.before}{option}{self.after}"
        return text[:1].upper() + text[1:] if self.capitalized else text


class Line(NamedTuple):
    """A statement as tokens."""

    before: Tokens
    """Special tokens before it; seq2seq: what the encoder reads."""
    tokens: Tokens
    """What is scored (seq2seq: behind the first); empty if the statement cannot be said."""
    after: Tokens = ()
    """Masked: special tokens behind it."""
    words: tuple[int | None, ...] = ()
    """Masked: which word each token is part of."""


def around(template: str, subject: str, where: str) -> tuple[str, str]:
    """The text before and behind a template's [Y], with the subject for [X].

    Raises:
        MeasurementError: [X] is missing, or [Y] does not stand in it once.
    """
    if "[X]" not in template or template.count("[Y]") != 1:
        message = f"{where}: the template '{template}' must contain [X], and [Y] once."
        raise MeasurementError(message)
    before, _, after = template.partition("[Y]")
    return before.replace("[X]", subject), after.replace("[X]", subject)


class Speller:
    """Turns statements into tokens for one family."""

    def __init__(self, model: "LanguageModel", pll: Pll) -> None:
        self.tokenizer: Any = model.tokenizer
        self.family = model.family
        self.encoder = Encoder(model.tokenizer, model.family)  # refuses a missing mask or sentinel
        self.lead: Tokens = ()
        if self.family == "causal":
            self.lead = (self.begin_mark(),)
        if self.family == "seq2seq":
            self.closing = self.tokenizer.convert_tokens_to_ids(CLOSING)
            if self.closing in (None, self.tokenizer.unk_token_id):
                message = f"the tokenizer of this seq2seq model has no sentinel {CLOSING}."
                raise MeasurementError(message)
        if self.family == "masked" and pll == "within_word_l2r" and not self.tokenizer.is_fast:
            message = (
                "the tokenizer of this masked model does not tell words apart (it is no 'fast' "
                "one), so within_word_l2r is not possible; ask with pll: original."
            )
            raise MeasurementError(message)

    def begin_mark(self) -> int:
        """What stands before the first token of a text.

        Raises:
            MeasurementError: the tokenizer has neither a begin nor an end mark.
        """
        for mark in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if mark is not None:
                return int(mark)
        message = (
            "the tokenizer of this causal model has neither a begin nor an end mark, so the first "
            "token of a statement has no probability."
        )
        raise MeasurementError(message)

    def lines(self, blank: Blank) -> tuple[Line, ...]:
        """A question's statements, parallel to its candidates."""
        if self.family == "seq2seq":
            return self.blanked(blank)
        texts = [blank.filled(option) for option in blank.question.candidates]
        found = self.tokenizer(texts, return_special_tokens_mask=True)
        words = [()] * len(texts)
        if self.family == "masked" and self.tokenizer.is_fast:
            words = [tuple(found.word_ids(i)) for i in range(len(texts))]
        each = zip(found["input_ids"], found["special_tokens_mask"], words, strict=True)
        return tuple(self.line(tuple(ids), special, mine) for ids, special, mine in each)

    def line(self, ids: Tokens, special: Sequence[int], words: tuple[int | None, ...]) -> Line:
        """A tokenized statement without the special tokens around it."""
        first = sum(takewhile(bool, special))
        last = len(ids) - sum(takewhile(bool, reversed(special)))
        tokens = ids[first:last] if self.is_known(ids[first:last]) else ()
        if self.family == "causal":
            return Line(ids[:first] or self.lead, tokens)
        return Line(ids[:first], tokens, ids[last:], words[first:last])

    def blanked(self, blank: Blank) -> tuple[Line, ...]:
        """For seq2seq models: the statement with a sentinel, and what stands for it."""
        text = blank.filled(SENTINEL)
        before = self.encoder.ids(text, special=True)
        space = "" if blank.before and not blank.before[-1].isspace() else " "
        found = []
        for option in blank.question.candidates:
            first = option[:1].upper() if blank.capitalized and not blank.before else option[:1]
            tokens = self.encoder.ids(f"{SENTINEL}{space}{first}{option[1:]}", special=False)
            said = self.is_known(before + tokens) and tokens[:1] == (self.encoder.sentinel,)
            found.append(Line(before, (*tokens, self.closing) if said else ()))
        return tuple(found)

    def is_known(self, tokens: Tokens) -> bool:
        """Whether the tokenizer knew every character."""
        return self.tokenizer.unk_token_id is None or self.tokenizer.unk_token_id not in tokens
