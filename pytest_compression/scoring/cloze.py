"""Cloze questions to a measurement, by the same idea for all families.

``ranked``: the candidates compete by their log-probability (masked: at the mask positions, one
mask a token; seq2seq: in the decoder after the sentinel; causal: as continuation). ``P@1``: the
answer competes with the whole vocabulary, so only answers of one token are asked (LAMA: Petroni
et al. 2019, https://arxiv.org/abs/1909.01066).
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.scoring.forward import NextToken, batches, masked
from pytest_compression.scoring.ranking import rank_in_batches
from pytest_compression.scoring.tokens import Encoded, Encoder, Tokens
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Metric = Literal["ranked", "P@1"]

VERSION = 1
"""Raise it when the same tokens would get other scores."""

LISTED = 5
"""Ids that an error shows."""

MULTI_TOKEN = "an answer of several tokens"  # noqa: S105


def measure(
    model: "LanguageModel",
    questions: Sequence[Question],
    metric: Metric,
    ids: Collection[str] | None = None,
) -> Measurement:
    """Ask a model, compressed or not.

    Args:
        model: of any family.
        questions: the whole benchmark; the fingerprint of scoring and what is left out are its.
        metric: how answers compete.
        ids: of the questions to ask; all if not given. One that is left out is not asked.

    Raises:
        MeasurementError: no question can be asked, or the model computes NaN or infinities.
        ValueError: there is no question with one of the ids.
    """
    encoded, left_out, scoring = prepared(model, questions, metric)
    if ids is not None:
        encoded = part(encoded, questions, ids)
    ran = model.tokens_run
    if metric == "P@1":
        margins, given = over_vocabulary(model, encoded)
    else:
        margins, winners = ranked(model, encoded)
        given = [item.question.candidates[w] for item, w in zip(encoded, winners, strict=True)]
    return Measurement(
        metric=metric,
        questions=tuple(item.question for item in encoded),
        margins=tuple(margins),
        given=tuple(given),
        scoring=scoring,
        left_out=left_out,
        open_vocabulary=metric == "P@1",
        tokens=model.tokens_run - ran,
    )


def prepared(
    model: "LanguageModel", questions: Sequence[Question], metric: Metric
) -> tuple[list[Encoded], dict[str, int], str]:
    """The questions as tokens, sorted by id; kept for the model's other recipes."""
    key = (metric, tuple(questions))
    if key not in model.memo:
        encoder = Encoder(model.tokenizer, model.family)
        encoded = encoder.encode(sorted(questions, key=lambda question: question.id))
        if metric == "P@1":
            short = [item for item in encoded if len(item.answers[item.right]) == 1]
            if len(short) < len(encoded):
                encoder.left_out[MULTI_TOKEN] = len(encoded) - len(short)
            encoded = short
        if not encoded:
            message = f"no answer is a single token of this tokenizer, so {metric} asks nothing."
            raise MeasurementError(message)
        parts = (
            repr((item.before, item.after, item.answers if metric == "ranked" else item.right))
            for item in encoded
        )
        head = f"{VERSION} {metric} {model.family}".encode()
        model.memo[key] = encoded, encoder.left_out, digest([head, *(p.encode() for p in parts)])
    found: tuple[list[Encoded], dict[str, int], str] = model.memo[key]
    return found


def part(
    encoded: Sequence[Encoded], questions: Sequence[Question], ids: Collection[str]
) -> list[Encoded]:
    """The questions with these ids, in order.

    Raises:
        ValueError: there is no question with one of the ids.
    """
    wanted = set(ids)
    if unknown := sorted(wanted - {question.id for question in questions}):
        names = ", ".join(f"'{name}'" for name in unknown[:LISTED])
        message = f"the benchmark has no question {names} ({len(unknown)} of {len(wanted)} ids)"
        raise ValueError(message)
    return [item for item in encoded if item.question.id in wanted]


def ranked(model: "LanguageModel", encoded: Sequence[Encoded]) -> tuple[list[float], list[int]]:
    """Margins of the right answers, and which candidates won."""
    if model.family != "masked":
        found = rank_in_batches(model, encoded)
        return [margin for margin, _ in found], [winner for _, winner in found]
    margins: list[float] = []
    winners: list[int] = []
    for item, scores in zip(encoded, masked_scores(model, encoded), strict=True):
        others = scores.clone()
        others[item.right] = -torch.inf
        margin = float(scores[item.right] - others.max())
        margins.append(margin)
        winners.append(item.right if margin > 0 else int(others.argmax()))
    return margins, winners


def masked_scores(model: "LanguageModel", encoded: Sequence[Encoded]) -> list[Tensor]:
    """Each candidate's sum of log-probabilities, asked with as many masks as it has tokens."""
    scores = [torch.full((len(item.answers),), -torch.inf) for item in encoded]
    sets = {id(item.answers): item.answers for item in encoded}  # shared within a relation
    lengths = sorted({len(tokens) for answers in sets.values() for tokens in answers if tokens})
    for length in lengths:
        fitting = {key: of_length(answers, length) for key, answers in sets.items()}
        rows = [q for q, item in enumerate(encoded) if len(fitting[id(item.answers)][0])]

        def read(
            positions: list[int],
            values: Tensor,
            rows: list[int] = rows,
            fitting: dict[int, tuple[Tensor, Tensor]] = fitting,
        ) -> None:
            for position, row in zip(positions, values.cpu(), strict=True):
                which, tokens = fitting[id(encoded[rows[position]].answers)]
                places = torch.arange(tokens.shape[1])
                scores[rows[position]][which] = row[places, tokens].sum(1)

        masked(model, encoded, rows, length, read)
    return scores


def of_length(answers: Sequence[Tokens], length: int) -> tuple[Tensor, Tensor]:
    """Positions of the candidates with so many tokens, and their tokens ``[found, length]``."""
    which = [i for i, tokens in enumerate(answers) if len(tokens) == length]
    tokens = torch.tensor([answers[i] for i in which], dtype=torch.long).reshape(-1, length)
    return torch.tensor(which, dtype=torch.long), tokens


def over_vocabulary(
    model: "LanguageModel", encoded: Sequence[Encoded]
) -> tuple[list[float], list[str]]:
    """Margins over the best other token of the vocabulary, and the preferred tokens."""
    margins = [0.0] * len(encoded)
    given = [""] * len(encoded)

    def read(positions: list[int], values: Tensor) -> None:
        rows = values.reshape(len(positions), -1)
        right = torch.tensor([encoded[p].answers[encoded[p].right][0] for p in positions])
        mine = rows.gather(1, right.to(rows.device).unsqueeze(1))
        others = rows.scatter(1, right.to(rows.device).unsqueeze(1), -torch.inf)
        best, winner = others.max(1)
        for i, position in enumerate(positions):
            margins[position] = float(mine[i, 0] - best[i])
            token = int(right[i]) if margins[position] > 0 else int(winner[i])
            given[position] = model.tokenizer.decode([token]).strip()

    if model.family == "masked":
        masked(model, encoded, range(len(encoded)), 1, read)
        return margins, given
    for positions in batches([(len(item.before),) for item in encoded], model.budget):
        some = [encoded[position] for position in positions]

        def place(found: list[int], values: Tensor, positions: list[int] = positions) -> None:
            read([positions[i] for i in found], values)

        NextToken(model, some).run([(q, ()) for q in range(len(some))], place)
    return margins, given
