"""Prompts and answers as tokens, exactly as lm-eval makes them.

A causal model reads prompt and answer as one text: the answer's tokens are those of both together
behind as many as the prompt has by itself, whatever the tokenizer merges at the seam. A seq2seq
model reads them apart. As in ``_encode_pair`` of EleutherAI's lm-evaluation-harness 0.4.13
(https://github.com/EleutherAI/lm-evaluation-harness, ``lm_eval/api/model.py``), but for an end
mark that a causal tokenizer appends to every text: it is dropped, where lm-eval takes it for the
answer.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring.tokens import Tokens
from pytest_compression.types import Family

Pair = tuple[str, str]
"""What is given and what follows."""


class PairEncoder:
    """Turns pairs of texts into tokens for one model, each pair once."""

    def __init__(
        self, tokenizer: Any, family: Family, known: dict[Pair, tuple[Tokens, Tokens]]
    ) -> None:
        self.tokenizer = tokenizer
        self.causal = family == "causal"
        self.known = known
        """The tokens of each pair so far; kept for the model's other recipes."""

    @property
    def prefix(self) -> int:
        """What stands before an answer without a prompt: the begin mark, else the end mark.

        Raises:
            MeasurementError: the tokenizer has neither.
        """
        found = self.mark()
        if found is None:
            message = (
                "the tokenizer has neither a begin nor an end mark, so that nothing can be read "
                "before an answer without a prompt."
            )
            raise MeasurementError(message)
        return found

    def mark(self) -> int | None:
        """The begin mark, else the end mark, if there is one."""
        begin: int | None = self.tokenizer.bos_token_id
        end: int | None = self.tokenizer.eos_token_id
        return end if begin is None else begin

    def ids(self, texts: Iterable[str], *, special: bool = True) -> dict[str, Tokens]:
        """Tokens of each text; a begin mark that is written out is not put there again."""
        mark = self.mark()
        begin = None if mark is None else self.tokenizer.decode(mark)
        groups: dict[bool, list[str]] = {}
        for text in dict.fromkeys(texts):
            written = begin is not None and text.startswith(begin)
            groups.setdefault(special and not written, []).append(text)
        found: dict[str, Tokens] = {}
        for marked, group in groups.items():
            encoded = self.tokenizer(group, add_special_tokens=marked, verbose=False)["input_ids"]
            for text, tokens in zip(group, encoded, strict=True):
                found[text] = self.open_ended(text, tuple(tokens))
        return found

    def open_ended(self, text: str, tokens: Tokens) -> Tokens:
        """Without an end mark that the text itself does not have; seq2seq: as they are."""
        ended = self.causal and tokens[-1:] == (self.tokenizer.eos_token_id,)
        return tokens[:-1] if ended and not text.endswith(self.tokenizer.eos_token) else tokens

    def encoded(self, pairs: Sequence[Pair]) -> list[tuple[Tokens, Tokens]]:
        """Tokens of what is given and of what follows."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.known]
        moved = [spaces_moved(*pair) for pair in new]
        contexts = self.ids(context for context, _ in moved)
        read = [bool(given and contexts[a]) for (given, _), (a, _) in zip(new, moved, strict=True)]
        both = zip(moved, read, strict=True) if self.causal else ()
        together = self.ids(a + b for (a, b), is_read in both if is_read)
        alone = self.ids((b for _, b in moved), special=False)
        for pair, (context, rest), is_read in zip(new, moved, read, strict=True):
            before = contexts[context]
            if not is_read:
                self.known[pair] = self.without_prompt(alone[rest])
            elif self.causal:
                self.known[pair] = before, together[context + rest][len(before) :]
            else:
                self.known[pair] = before, alone[rest]
        return [self.known[pair] for pair in pairs]

    def without_prompt(self, tokens: Tokens) -> tuple[Tokens, Tokens]:
        """A begin mark before the answer, unless the answer has its own."""
        prefix = (self.prefix,)
        return (tokens[:1], tokens[1:]) if tokens[:1] == prefix else (prefix, tokens)


def spaces_moved(context: str, continuation: str) -> Pair:
    """Spaces at the end of a context belong to the word behind them."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
