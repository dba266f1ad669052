"""What steps calibrate on or learn from: a text, or facts of the world-facts table.

The options are light to import; torch comes with ``batches``.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from pytest_compression.embedded.facts import phrasings
from pytest_compression.embedded.facts.sentences import Sentence, sentences
from pytest_compression.errors import OptionError, RecipeError, nearest
from pytest_compression.fingerprints import digest

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_compression.models.language_model import LanguageModel


class Material(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either ``text`` or ``facts``, and how much of it."""

    text: str | None = None
    """A file in UTF-8; a relative path is taken from where pytest is started."""
    facts: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Relations of the world facts, such as ``capital``: the sentences that the embedded models
    were taught, of which the answers are learned."""
    samples: Annotated[int, Meta(ge=1)] = 128
    """At most so many rows (pieces of the text, or sentences), drawn by ``seed``; of facts, each in
    one phrasing before any is in a second one."""
    length: Annotated[int, Meta(ge=8)] = 256
    """Tokens a row of a text; no more than the model reads at once."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Of the draw, of the order, and of what is hidden from masked and seq2seq models."""

    def __post_init__(self) -> None:
        """Check that there is one origin, and the relations against the table."""
        if (self.text is None) == (self.facts is None):
            message = "exactly one of 'text' and 'facts' is needed"
            raise ValueError(message)
        known = phrasings()
        for relation in self.facts or ():
            if relation not in known:
                message = f"there is no relation '{relation}'. {nearest(relation, known)}"
                raise OptionError(message, option="facts")

    def read(self) -> str:
        """The text.

        Raises:
            RecipeError: there is no such file, it is not UTF-8, or it is empty.
        """
        path = Path(self.text or "").expanduser()
        try:
            found = path.read_text(encoding="utf-8")
        except OSError as error:
            message = (
                f"the text '{self.text}' cannot be read ({error.strerror}). A relative path is "
                f"taken from where pytest was started ({Path.cwd()})."
            )
            raise RecipeError(message) from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            message = f"the text '{self.text}' is not UTF-8 (line {line}): convert it."
            raise RecipeError(message) from error
        if not found.strip():
            message = f"the text '{self.text}' is empty."
            raise RecipeError(message)
        return found

    def environment(self) -> dict[str, str]:
        """What the text says, for its file may say something else tomorrow.

        Raises:
            RecipeError: as :meth:`read`.
        """
        return {} if self.text is None else {f"text {self.text}": digest([self.read().encode()])}

    def passages(self) -> Iterator[str]:
        """All that it says: the whole text, or the sentences, also those not drawn.

        Raises:
            RecipeError: as :meth:`read`.
        """
        if self.facts is None:
            yield self.read()
        else:
            yield from (sentence.text for told in sentences(self.facts) for sentence in told)

    def batches(self, model: "LanguageModel", size: int = 8) -> list[dict[str, "Tensor"]]:
        """What ``model.module(**batch)`` takes, in an order that is always the same.

        Returns:
            Batches of ``size`` rows, the last perhaps smaller: ``input_ids`` and
            ``attention_mask`` ``[rows, tokens]``, and ``labels``, which are -100 where nothing is
            learned, ``[rows, tokens]`` (seq2seq: of the decoder).

        Raises:
            RecipeError: the text cannot be read or is too short, or the model cannot learn so.
        """
        rng = random.Random(self.seed)  # noqa: S311  # no cryptography
        made = self._of_facts(model, size, rng) if self.facts else self._of_text(model, size, rng)
        device = next(model.module.parameters()).device
        return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in made]

    def _of_text(
        self, model: "LanguageModel", size: int, rng: random.Random
    ) -> Iterator[dict[str, "Tensor"]]:
        from pytest_compression.modifiers.rows import chunks, text_batch

        found = chunks(model, self.read(), self.length)
        drawn = rng.sample(found, min(self.samples, len(found)))
        for first in range(0, len(drawn), size):
            yield text_batch(model, drawn[first : first + size], rng)

    def _of_facts(
        self, model: "LanguageModel", size: int, rng: random.Random
    ) -> Iterator[dict[str, "Tensor"]]:
        from pytest_compression.embedded.batches import causal_batch, masked_batch, seq2seq_batch
        from pytest_compression.modifiers.rows import context, mask_token, sentinels

        make = {"causal": causal_batch, "masked": masked_batch, "seq2seq": seq2seq_batch}
        if model.family != "causal":
            (mask_token if model.family == "masked" else sentinels)(model)  # or it is refused
        drawn, limit = self._drawn(rng), context(model)
        for first in range(0, len(drawn), size):
            batch = make[model.family](model.tokenizer, drawn[first : first + size], rng)
            tokens = batch["input_ids"].shape[1]
            if limit is not None and tokens > limit:
                message = f"a fact is {tokens} tokens long, and this model reads {limit}."
                raise RecipeError(message)
            yield batch

    def _drawn(self, rng: random.Random) -> list[Sentence]:
        """Sentences in rounds: each fact once before any comes in another phrasing."""
        told = [rng.sample(each, len(each)) for each in sentences(self.facts)]
        drawn = list[Sentence]()
        while told and len(drawn) < self.samples:
            rng.shuffle(told)
            drawn += [each.pop() for each in told]
            told = [each for each in told if each]
        return drawn[: self.samples]
