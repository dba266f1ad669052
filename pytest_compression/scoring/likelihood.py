"""Log-probabilities of given continuations after given contexts, for causal and seq2seq models.

Everything that ranks or sums likelihoods asks here: choices of a task, statements, windows of a
text. A causal model reads context and continuation as one sequence; a seq2seq model reads the
context in its encoder and the continuation in its decoder.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import fsum
from typing import TYPE_CHECKING, NamedTuple

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.scoring.reading import Readings


class Request(NamedTuple):
    """What is given, and what is asked."""

    context: Tokens
    """Not empty: a model predicts nothing after nothing. Seq2seq: what the encoder reads."""
    continuation: Tokens
    """Not empty. Its tokens are scored, each after all that stand before it."""


class Likelihood(NamedTuple):
    """What a model says of a continuation."""

    tokens: tuple[float, ...]
    """Nats: the log-probability of each token of the continuation."""
    greedy: bool
    """Whether each is the most probable token where it stands."""

    @property
    def total(self) -> float:
        """Nats: the log-probability of the whole continuation."""
        return fsum(self.tokens)


def loglikelihoods(model: "LanguageModel", requests: Sequence[Request]) -> list[Likelihood]:
    """Score every request; the results are in the order of the requests.

    What requests share at their beginning is run once, and equal requests are: pass all at once.

    Raises:
        MeasurementError: the model is masked, or computes NaN or infinities.
        ValueError: a context or a continuation is empty.
    """
    if model.family == "masked":
        message = "a masked model predicts no continuations; ask it for pseudo-log-likelihoods."
        raise MeasurementError(message)
    for request in requests:
        if not (request.context and request.continuation):
            message = "a request needs a context and a continuation of one token at least"
            raise ValueError(message)
    if not requests:
        return []
    found = (decoded if model.family == "seq2seq" else continued)(model, requests)
    values, best = found.values.tolist(), found.best.tolist()
    ends = list(accumulate(len(request.continuation) for request in requests))
    return [
        Likelihood(tuple(values[start:end]), greedy=all(best[start:end]))
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def continued(model: "LanguageModel", requests: Sequence[Request]) -> "Readings":
    """Causal: each token is read behind the one before it."""
    from pytest_compression.scoring.trees import CausalEngine

    wanted = [
        (i, len(request.context) - 1 + k, token)
        for i, request in enumerate(requests)
        for k, token in enumerate(request.continuation)
    ]
    rows = [request.context + request.continuation[:-1] for request in requests]
    return CausalEngine(model).score(rows, wanted)


def decoded(model: "LanguageModel", requests: Sequence[Request]) -> "Readings":
    """Seq2seq: each token is read in the decoder."""
    from pytest_compression.scoring.decoding import decode

    return decode(model, requests)
