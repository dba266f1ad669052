"""Cloze questions as tokens: what surrounds the blank, and what may fill it.

The answer's tokens are those it has in its place, after the prompt and a space: by itself a
word often becomes other tokens. Where a tokenizer merges the answer with its surroundings, or
does not know a character, the question is left out and counted, never scored wrongly.

A causal model is asked for what follows the prompt. Where words follow the blank, its answers are
whole endings of the sentence. A sentence with further blanks is read with a mark in each.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from pytest_compression.errors import MeasurementError
from pytest_compression.types import Family, Question

SENTINEL = "<extra_id_0>"
"""Marks the blank for T5's family, in the encoder's text and in the decoder's."""

BLANK = "[MASK]"
"""Stands for a further blank in the text behind a question's own, whatever the model's mark is."""

OPENING = {"Ps", "Pi"}
"""Unicode's categories of opening brackets and quotation marks."""

Tokens = tuple[int, ...]


def lead(stem: str) -> str:
    """A prompt up to the first character of its answer.

    That is the prompt and a space. Nothing is added at the beginning of a text, nor behind an
    opening bracket or quotation mark, a currency sign, or a hyphen or slash that ends a word; a
    prompt that brings its own space keeps it.
    """
    if not stem or stem[-1].isspace():
        return stem
    last, word = stem[-1], stem.rsplit(maxsplit=1)[-1]
    glued = (
        unicodedata.category(last) in {*OPENING, "Sc"}
        or (last in "-/" and word != last)
        or (last == '"' and stem.count(last) % 2 == 1)
        or (last == "'" and word == last)
    )
    return stem if glued else f"{stem} "


def parted(text: str, mark: str) -> tuple[str, str] | None:
    """What stands before and behind a blank, so that ``lead(before)`` is as it was in the text.

    Returns:
        Stem and end; None if the blank is the end of a longer word, which no question says.
    """
    before, _, behind = text.partition(mark)
    stem = before.rstrip()
    is_glued, was_glued = lead(stem) == stem, stem == before
    if not stem or is_glued == was_glued:
        return stem, behind
    return None if was_glued else (f"{stem} ", behind)


def goes_on(question: Question) -> bool:
    """Whether words follow the blank, not only punctuation."""
    return any(letter.isalnum() for letter in question.end + question.behind)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One question for one tokenizer."""

    question: Question
    before: Tokens
    """What the model reads before the blank (masked: with special tokens; seq2seq: the whole
    text for the encoder)."""
    after: Tokens
    """What it reads behind the blank; masked only."""
    kinds: Tokens = ()
    """Token types of what is before the blank, of the blank, and of what is after it; masked, and
    only where there are two segments."""
    answers: tuple[Tokens, ...]
    """Tokens of each candidate, parallel to the question's; empty if it cannot be said. Causal:
    with all that follows the blank, where words do."""
    right: int
    """Position of the right answer among the candidates."""


class Encoder:
    """Turns questions into tokens for one family, and says which it cannot."""

    def __init__(self, tokenizer: Any, family: Family) -> None:
        self.tokenizer = tokenizer
        self.family = family
        self.left_out: dict[str, int] = {}
        self.sets: dict[tuple[object, ...], tuple[Tokens, ...]] = {}
        """Tokens of candidate sets, which questions share where they stand in like places."""
        special = tokenizer.num_special_tokens_to_add
        self.pairs = family == "masked" and special(pair=True) > special(pair=False)
        """Whether two sentences are read as segments of their own."""
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
        placed = self.placed(question)
        if not self.reads_further_blanks(placed):
            self.leave_out("a further blank, which this model cannot read")
            return None
        candidates = question.candidates
        answers = self.candidates(placed)
        right = candidates.index(question.answer)
        mine = answers[right]
        before, after = self.surroundings(placed)
        alone = self.ids(f" {question.answer}", special=False)
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in (*before, *after, *alone):
            self.leave_out("a character that the tokenizer does not know")
            return None
        if not before:
            self.leave_out("nothing stands before the blank, nor can a mark of the tokenizer")
            return None
        if mine and answers.count(mine) > 1:
            self.leave_out("another candidate has the same tokens")
            return None
        if not mine or self.answer(placed, question.answer) != mine:
            self.leave_out("the tokenizer merges the answer with its surroundings")
            return None
        return Encoded(
            question=question,
            before=before,
            after=after,
            kinds=self.kinds(placed),
            answers=answers,
            right=right,
        )

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count questions that are not asked."""
        if count:
            self.left_out[reason] = self.left_out.get(reason, 0) + count

    def placed(self, question: Question) -> Question:
        """The question with as many sentences to its sides as the tokenizer keeps apart."""
        changes: dict[str, str] = {}
        if question.before and not self.pairs:
            changes |= {"before": "", "stem": f"{question.before} {question.stem}".strip()}
        if question.behind and (question.before or not self.pairs):
            changes |= {"behind": "", "end": f"{question.end} {question.behind}"}
        return replace(question, **changes) if changes else question

    def reads_further_blanks(self, placed: Question) -> bool:
        """Whether there is a mark for each blank behind the first."""
        count = (placed.end + placed.behind).count(BLANK)
        if self.family == "seq2seq" and count:
            last = self.tokenizer.convert_tokens_to_ids(f"<extra_id_{count}>")
            return last not in (None, self.tokenizer.unk_token_id)
        return self.family == "masked" or not count

    def candidates(self, placed: Question) -> tuple[Tokens, ...]:
        """The tokens of all candidates."""
        goes_on_with = placed.end if self.family == "causal" and goes_on(placed) else ""
        space = lead(placed.stem)[-1:].isspace()
        begins = not placed.stem  # where some tokenizers put a space by themselves
        key = (placed.candidates, space, begins, goes_on_with, is_inside_word(placed))
        if key not in self.sets:
            self.sets[key] = tuple(self.answer(placed, text) for text in placed.candidates)
        return self.sets[key]

    def surroundings(self, placed: Question) -> tuple[Tokens, Tokens]:
        """What the model reads around the blank."""
        if self.family == "causal":
            return self.ids(placed.stem.rstrip(), special=True) or self.beginning(), ()
        if self.family == "seq2seq":
            end = placed.end
            for number in range(1, end.count(BLANK) + 1):
                end = end.replace(BLANK, f"<extra_id_{number}>", 1)
            return self.ids(f"{lead(placed.stem)}{SENTINEL}{end}", special=True), ()
        whole = tuple(self.filled(placed, self.tokenizer.mask_token)["input_ids"])
        blank = whole.index(self.tokenizer.mask_token_id)
        return whole[:blank], whole[blank + 1 :]

    def beginning(self) -> Tokens:
        """What a causal model reads where nothing stands before the blank."""
        marks = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return tuple(mark for mark in marks if mark is not None)[:1]

    def filled(self, placed: Question, text: str) -> Any:
        """Masked: what the tokenizer makes of the sentence with a text in its blank."""
        mask = self.tokenizer.mask_token
        own = f"{lead(placed.stem)}{text}{placed.end.replace(BLANK, mask)}"
        parts = (placed.before, own, placed.behind.replace(BLANK, mask))
        return self.tokenizer(*filter(None, parts), add_special_tokens=True)

    def kinds(self, placed: Question) -> Tokens:
        """Masked: token types, where there are two segments and the tokenizer tells them apart."""
        if self.family != "masked" or not (placed.before or placed.behind):
            return ()
        return tuple(self.filled(placed, self.tokenizer.mask_token).get("token_type_ids", ()))

    def answer(self, placed: Question, text: str) -> Tokens:
        """The tokens of an answer in its place, or none if it cannot be said there."""
        if self.family == "seq2seq":
            whole = self.ids(f"{SENTINEL} {text}", special=False)
            found = whole[1:] if whole[:1] == (self.sentinel,) else ()
        elif self.family == "causal":
            stem = self.ids(placed.stem.rstrip(), special=True)
            end = placed.end if goes_on(placed) else ""
            whole = self.ids(f"{lead(placed.stem)}{text}{end}", special=True)
            found = whole[len(stem) :] if whole[: len(stem)] == stem else ()
        else:
            if is_inside_word(placed):  # there the answer would be other tokens
                placed = replace(placed, end="")
            before, after = self.surroundings(placed)
            whole = tuple(self.filled(placed, text)["input_ids"])
            fits = whole[: len(before)] == before and whole[len(whole) - len(after) :] == after
            found = whole[len(before) : len(whole) - len(after)] if fits else ()
        return () if self.tokenizer.unk_token_id in found else found


def is_inside_word(question: Question) -> bool:
    """Whether letters follow the blank without a space, as in ``[MASK]ians``."""
    return question.end[:1].isalnum()
