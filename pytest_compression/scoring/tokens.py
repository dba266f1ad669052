"""Cloze questions as tokens: what surrounds the blank, and what may fill it.

The answer's tokens are those it has in its place, after the prompt and a space: by itself a
word often becomes other tokens. Where a tokenizer merges the answer with its surroundings, or
does not know a character, the question is left out and counted, never scored wrongly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_compression.errors import MeasurementError
from pytest_compression.types import Family, Question

SENTINEL = "<extra_id_0>"
"""Marks the blank for T5's family, in the encoder's text and in the decoder's."""

Tokens = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One question for one tokenizer."""

    question: Question
    before: Tokens
    """What the model reads before the blank (masked: with special tokens; seq2seq: the whole
    text for the encoder)."""
    after: Tokens
    """What it reads behind the blank; masked only."""
    answers: tuple[Tokens, ...]
    """Tokens of each candidate, parallel to the question's; empty if it cannot be said."""
    right: int
    """Position of the right answer among the candidates."""


class Encoder:
    """Turns questions into tokens for one family, and says which it cannot."""

    def __init__(self, tokenizer: Any, family: Family) -> None:
        self.tokenizer = tokenizer
        self.family = family
        self.left_out: dict[str, int] = {}
        self.sets: dict[tuple[str, ...], tuple[Tokens, ...]] = {}
        """Tokens of candidate sets, which questions share."""
        if family == "masked" and tokenizer.mask_token_id is None:
            message = "the tokenizer of this masked model has no mask token."
            raise MeasurementError(message)
        if family == "seq2seq":
            self.sentinel = tokenizer.convert_tokens_to_ids(SENTINEL)
            if self.sentinel in (None, tokenizer.unk_token_id):
                message = (
                    f"the tokenizer of this seq2seq model has no sentinel {SENTINEL}: only models "
                    "trained to fill blanks as T5 does can be asked cloze questions."
                )
                raise MeasurementError(message)

    def ids(self, text: str, *, special: bool) -> Tokens:
        """Tokens of a text; a causal model's end mark would end the sentence before its answer."""
        found = tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        ends = self.family == "causal" and found[-1:] == (self.tokenizer.eos_token_id,)
        return found[:-1] if ends else found

    def encode(self, questions: Sequence[Question]) -> list[Encoded]:
        """The questions that can be asked, in order.

        Raises:
            MeasurementError: none of them can.
        """
        encoded = [found for q in questions if (found := self.question(q)) is not None]
        if not encoded:
            reasons = "; ".join(f"{reason} ({n})" for reason, n in self.left_out.items())
            message = f"no question can be asked of this tokenizer: {reasons or 'there are none'}."
            raise MeasurementError(message)
        return encoded

    def question(self, question: Question) -> Encoded | None:
        """One question, or None with the reason counted."""
        candidates = question.candidates
        if candidates not in self.sets:
            self.sets[candidates] = tuple(self.answer(question, text) for text in candidates)
        answers = self.sets[candidates]
        right = candidates.index(question.answer)
        mine = answers[right]
        before, after = self.surroundings(question)
        alone = self.ids(f" {question.answer}", special=False)
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in (*before, *after, *alone):
            self.leave_out("a character that the tokenizer does not know")
            return None
        if mine and answers.count(mine) > 1:
            self.leave_out("another candidate has the same tokens")
            return None
        if not mine or self.answer(question, question.answer) != mine:
            self.leave_out("the tokenizer merges the answer with its surroundings")
            return None
        return Encoded(question=question, before=before, after=after, answers=answers, right=right)

    def leave_out(self, reason: str) -> None:
        """Count a question that is not asked."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def surroundings(self, question: Question) -> tuple[Tokens, Tokens]:
        """What the model reads around the blank."""
        if self.family == "causal":
            return self.ids(question.stem, special=True), ()
        if self.family == "seq2seq":
            return self.ids(f"{question.stem} {SENTINEL}{question.end}", special=True), ()
        mask = self.tokenizer.mask_token
        whole = self.ids(f"{question.stem} {mask}{question.end}", special=True)
        blank = whole.index(self.tokenizer.mask_token_id)
        return whole[:blank], whole[blank + 1 :]

    def answer(self, question: Question, text: str) -> Tokens:
        """The tokens of an answer in its place, or none if it cannot be said there."""
        if self.family == "seq2seq":
            whole = self.ids(f"{SENTINEL} {text}", special=False)
            found = whole[1:] if whole[:1] == (self.sentinel,) else ()
        elif self.family == "causal":
            stem = self.ids(question.stem, special=True)
            whole = self.ids(f"{question.stem} {text}", special=True)
            found = whole[len(stem) :] if whole[: len(stem)] == stem else ()
        else:
            before, after = self.surroundings(question)
            whole = self.ids(f"{question.stem} {text}{question.end}", special=True)
            fits = whole[: len(before)] == before and whole[len(whole) - len(after) :] == after
            found = whole[len(before) : len(whole) - len(after)] if fits else ()
        return () if self.tokenizer.unk_token_id in found else found
