"""Language modelling on a local text: how well it is predicted, and how alike to the dense model.

The questions are windows of the text. Light to import; scoring comes with ``measure``.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from msgspec import Meta

from pytest_compression.benchmarks.files import Seed, draw, lines, there, under
from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.scoring.distributions import Distances, Kept
    from pytest_compression.scoring.windows import Passage

VERSION = 1
"""Raise it when the same tokens would get other scores."""
SHOWN = 40
"""Characters of a passage that stand for it in messages."""
LISTED = 5
"""Ids that an error shows."""


class Prepared(NamedTuple):
    """A text as questions and passages, parallel and sorted by id, for one tokenizer."""

    questions: tuple[Question, ...]
    passages: tuple["Passage", ...]
    left_out: dict[str, int]
    scoring: str

    def part(self, ids: Collection[str] | None) -> list[int]:
        """Positions of the questions with these ids; of all if None.

        Raises:
            ValueError: there is no question with one of the ids.
        """
        places = {question.id: i for i, question in enumerate(self.questions)}
        if ids is None:
            return list(places.values())
        if unknown := sorted(set(ids) - places.keys()):
            names = ", ".join(f"'{name}'" for name in unknown[:LISTED])
            message = f"the text has no passage {names} ({len(unknown)} of {len(ids)} ids)"
            raise ValueError(message)
        return sorted(places[name] for name in set(ids))


BYTES = 256
"""Who guesses a byte is right once in so many times, and needs 8 bits for it."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text file and how it is cut into passages."""

    path: str
    """A file in UTF-8."""
    documents: Literal["whole", "paragraphs"] = "whole"
    """Read the file as one text, or each part between blank lines by itself."""
    window: Annotated[int, Meta(ge=2)] | None = None
    """Tokens that are read at once; if not given, as many as the model can read, but no more than
    1024, and 128 of a masked model."""
    stride: Annotated[int, Meta(ge=1)] | None = None
    """Tokens that a window adds to what was scored before; half a window if not given."""
    hiding: Literal["within-word", "original"] = "within-word"
    """Masked models: hide with a token the later ones of its word, or that token alone."""
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many passages, drawn by ``seed``."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check that windows overlap."""
        if self.window is not None and self.stride is not None and self.stride >= self.window:
            message = f"stride {self.stride} must be less than the window {self.window}"
            raise ValueError(message)

    def sources(self) -> Iterator[Path]:
        """The files that the answers depend on."""
        yield from under(self.path)

    def prepared(self, model: "LanguageModel") -> Prepared:
        """The passages of the text; kept for the model's other recipes.

        Raises:
            MeasurementError: the model is seq2seq, or the text has nothing that can be scored.
        """
        if model.family == "seq2seq":
            message = (
                "an encoder-decoder model gives no probability to a text of its own: it predicts "
                "an output from an input. Ask it cloze questions instead."
            )
            raise MeasurementError(message)
        options = (self.path, self.documents, self.window, self.stride, self.hiding)
        key = ("text", *options, self.limit, self.seed)
        if key not in model.memo:
            model.memo[key] = self._prepare(model)
        found: Prepared = model.memo[key]
        return found

    def _prepare(self, model: "LanguageModel") -> Prepared:
        from pytest_compression.scoring.windows import NOTHING, Cutter, documents, identity

        path = there(self.path)
        text = "".join(line for _, line in lines(path))
        cutter = Cutter(model, self.window, self.stride)
        texts = documents(text, apart=self.documents == "paragraphs")
        cut = list(cutter.passages(texts))
        passages = [passage for passage in cut if passage is not None]
        if not passages:
            message = f"'{path}' has no token that this model can be scored on."
            raise MeasurementError(message)
        taken = set[str]()
        ids = [identity(path.name, passage.text, taken) for passage in passages]
        chosen = sorted(draw(list(zip(ids, passages, strict=True)), ids, self.limit, self.seed))
        hiding = self.hiding if model.family == "masked" else ""
        rows = (repr((name, passage.row, passage.places)).encode() for name, passage in chosen)
        clusters = [self._cluster(path, document.text) for document in texts]
        return Prepared(
            questions=tuple(
                self._question(path, name, passage, clusters[passage.document])
                for name, passage in chosen
            ),
            passages=tuple(passage for _, passage in chosen),
            left_out={NOTHING: len(cut) - len(passages)} if len(cut) > len(passages) else {},
            scoring=digest([f"{VERSION} {model.family} {hiding}".encode(), *rows]),
        )

    def _cluster(self, path: Path, text: str) -> str:
        """The file, or a paragraph of it: named by content, for others may come before it."""
        if self.documents == "whole":
            return path.name
        return f"{path.name}: {shortened(text)} {digest([text.encode()])[:8]}"

    @staticmethod
    def _question(path: Path, name: str, passage: "Passage", cluster: str) -> Question:
        short = shortened(passage.text)
        return Question(
            id=name,
            subject=f"{path.name}:{passage.line}",
            stem=passage.text,
            end="",
            answer=short,
            candidates=(short,),
            cluster=cluster,
            beside=passage.beside,
        )


def shortened(text: str) -> str:
    """The first words of a text."""
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else f"{words[: SHOWN - 3]}..."


@dataclass(frozen=True, kw_only=True)
class Perplexity(Text):
    """How well a text is predicted.

    A passage's score is ``2 ** -bits per byte``: the geometric mean, over its bytes, of the
    probability that the model gives them. Less perplexity is a higher score, a ratio of scores is
    one of probabilities a byte, and tokenizers do not matter.
    """

    def measure(self, model: "LanguageModel") -> Measurement:
        """Ask a model, compressed or not.

        Raises:
            MeasurementError: the file cannot be read, the model is seq2seq, or it computes NaN.
        """
        return self._measure(model, None)

    def measure_part(self, model: "LanguageModel", ids: Collection[str]) -> Measurement:
        """Ask only the passages with these ids; the figures are those of a whole text only.

        Raises:
            ValueError: there is no passage with one of the ids.
        """
        return self._measure(model, ids)

    def _measure(self, model: "LanguageModel", ids: Collection[str] | None) -> Measurement:
        from pytest_compression.scoring.windows import nats

        prepared = self.prepared(model)
        chosen = prepared.part(ids)
        passages = [prepared.passages[i] for i in chosen]
        ran = model.tokens_run
        totals = nats(model, passages, self.hiding)
        rates = [-one / passage.size for one, passage in zip(totals, passages, strict=True)]
        metric = perplexity_of(model)
        return Measurement(
            metric=f"{metric} ({self.hiding})" if model.family == "masked" else metric,
            questions=tuple(prepared.questions[i] for i in chosen),
            margins=(),
            given=tuple(f"{rate / math.log(2):.3f} bits a byte" for rate in rates),
            scoring=prepared.scoring,
            left_out=prepared.left_out,
            expected=(1 / BYTES,) * len(chosen),
            values=tuple(math.exp(-rate) for rate in rates),
            tokens=model.tokens_run - ran,
            figures={} if ids is not None else self._figures(prepared, totals, metric),
        )

    @staticmethod
    def _figures(prepared: Prepared, totals: Sequence[float], name: str) -> dict[str, float]:
        from pytest_compression.scoring.distances import exponential

        loss = -math.fsum(totals)
        tokens = sum(len(passage.places) for passage in prepared.passages)
        size = sum(passage.size for passage in prepared.passages)
        words = sum(passage.words for passage in prepared.passages)
        unscored = sum(passage.unscored for passage in prepared.passages)
        found = {
            name: exponential(loss / tokens),
            "bits per byte": loss / size / math.log(2),
            "tokens scored": float(tokens),
            "tokens not scored": float(unscored),
            "bytes": float(size),
        }
        if words:
            found[f"{name} per word"] = exponential(loss / words)
        return found


@dataclass(frozen=True, kw_only=True)
class Distance(Text):
    """How alike to the dense model's are the predictions of each token of a text.

    The dense model is asked first, in the same process, and scores 1.
    """

    cached: ClassVar[bool] = False  # what it measures from is the dense model in this process
    needs_dense: ClassVar[bool] = True
    metric: Literal["KL", "agreement"] = "KL"
    """A passage's score. ``KL``: ``exp(-KL divergence)``, its mean over the tokens: the geometric
    mean of the share that is left of the probability of what the dense model would say.
    ``agreement``: the share of tokens for which the most probable is the same."""

    def measure(self, model: "LanguageModel") -> Measurement:
        """Ask a model, compressed or not.

        Raises:
            MeasurementError: the file cannot be read, the model is seq2seq, it computes NaN, or
                the dense model was not asked before.
        """
        return self._measure(model, None)

    def measure_part(self, model: "LanguageModel", ids: Collection[str]) -> Measurement:
        """Ask only the passages with these ids; the figures are those of a whole text only.

        Raises:
            ValueError: there is no passage with one of the ids.
        """
        return self._measure(model, ids)

    def _measure(self, model: "LanguageModel", ids: Collection[str] | None) -> Measurement:
        from pytest_compression.scoring.distances import statistics
        from pytest_compression.scoring.distributions import DRAWN, TOP

        prepared = self.prepared(model)
        chosen = prepared.part(ids)
        ran = model.tokens_run
        found, size = self._distances(model, prepared, chosen)
        counts = (len(prepared.passages[i].places) for i in chosen)
        each = [found.at(slice(a, b)) for a, b in pairwise(accumulate(counts, initial=0))]
        divergences = [math.fsum(one.divergence) / len(one.divergence) for one in each]
        shares = [math.fsum(one.same_top) / len(one.same_top) for one in each]
        figures = statistics(found, perplexity_of(model)) if ids is None else {}
        about = f"{self.metric} {TOP} {DRAWN} {prepared.scoring}"
        return Measurement(
            metric=f"distance ({self.metric})",
            questions=tuple(prepared.questions[i] for i in chosen),
            margins=(),
            given=tuple(
                f"{kl:.4f} nats, same top {share:.1%}"
                for kl, share in zip(divergences, shares, strict=True)
            ),
            scoring=digest([about.encode()]),
            left_out=prepared.left_out,
            open_vocabulary=True,
            values=tuple(math.exp(-kl) for kl in divergences)
            if self.metric == "KL"
            else tuple(shares),
            tokens=model.tokens_run - ran,
            figures=figures and figures | {"kept bytes a token": float(size)},
        )

    def _distances(
        self, model: "LanguageModel", prepared: Prepared, chosen: Sequence[int]
    ) -> tuple["Distances", int]:
        """Of each scored token of the chosen passages, and bytes kept of each."""
        from numpy import empty
        from torch import arange, cat

        from pytest_compression.scoring.distances import distances, readings
        from pytest_compression.scoring.distributions import Distances

        rows = [readings(model, passage, self.hiding) for passage in prepared.passages]

        def progress(done: int, places: int) -> None:
            model.progress(done * len(chosen) // places, len(chosen))

        key = ("dense distributions", prepared.scoring)
        if key not in model.memo:
            if model.compressed:
                message = (
                    "the dense model was not asked in this process, so that there is nothing to "
                    "measure a distance from. Ask it first, with the same model object: "
                    "measure(model) before model.compress(steps)."
                )
                raise MeasurementError(message)
            every = [reading for some in rows for reading in some]
            model.memo[key], found = distances(model, every, progress=progress)
            if len(chosen) == len(rows):
                return found, model.memo[key].size
        kept: Kept = model.memo[key]
        ends = list(accumulate((len(one.places) for one in prepared.passages), initial=0))
        if not chosen:
            return Distances(*[empty(0)] * len(Distances._fields)), kept.size
        where = cat([arange(ends[i], ends[i + 1]) for i in chosen])
        asked = [reading for i in chosen for reading in rows[i]]
        return distances(model, asked, kept.at(where), progress)[1], kept.size


def perplexity_of(model: "LanguageModel") -> str:
    """What the perplexity of a model of this family is called."""
    return "pseudo-perplexity" if model.family == "masked" else "perplexity"
