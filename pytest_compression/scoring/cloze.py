"""Cloze questions to a measurement, by the same idea for all families.

``ranked``: the candidates compete by their log-probability (masked: at the mask positions, one
mask a token; seq2seq: in the decoder after the sentinel; causal: as continuation, and where words
follow the blank, each with the rest of its sentence). ``P@1``: the answer competes with the whole
vocabulary, so only answers of one token are asked, and a causal model only where the blank is last
(LAMA: Petroni et al. 2019, https://arxiv.org/abs/1909.01066).
"""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.scoring.forward import NextToken, Read, batches
from pytest_compression.scoring.likelihood import Request, loglikelihoods
from pytest_compression.scoring.ranking import rank_in_batches
from pytest_compression.scoring.segments import masked_in_segments
from pytest_compression.scoring.tokens import Encoded, Encoder, Tokens, goes_on
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Metric = Literal["ranked", "P@1"]

VERSION = 1
"""Raise it when the same tokens would get other scores."""

LISTED = 5
"""Ids that an error shows."""

MULTI_TOKEN = "an answer of several tokens"  # noqa: S105
NOT_LAST = "a blank that is not last, where a causal model names no token"
TOO_LONG = "more tokens than the model's context"
ALONE = "no other candidate can be said"

TOGETHER = 2**16
"""Endings of sentences that are listed at once, for there may be millions."""


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
        expected=chances(encoded) if metric == "ranked" else (),
        tokens=model.tokens_run - ran,
    )


def prepared(
    model: "LanguageModel", questions: Sequence[Question], metric: Metric
) -> tuple[list[Encoded], dict[str, int], str]:
    """The questions as tokens, sorted by id; kept for the model's other recipes."""
    key = (metric, tuple(questions))
    if key not in model.memo:
        encoder = Encoder(model.tokenizer, model.family)
        asked = sorted(questions, key=lambda question: question.id)
        if metric == "P@1" and model.family == "causal":
            last = [question for question in asked if not goes_on(question)]
            encoder.leave_out(NOT_LAST, len(asked) - len(last))
            asked = last
        encoded = fitting(model, encoder, encoder.encode(asked), metric)
        parts = (
            repr((item.before, item.after, item.answers if metric == "ranked" else item.right))
            + (repr(item.kinds) if item.kinds else "")
            for item in encoded
        )
        head = f"{VERSION} {metric} {model.family}".encode()
        model.memo[key] = encoded, encoder.left_out, digest([head, *(p.encode() for p in parts)])
    found: tuple[list[Encoded], dict[str, int], str] = model.memo[key]
    return found


def fitting(
    model: "LanguageModel", encoder: Encoder, encoded: list[Encoded], metric: Metric
) -> list[Encoded]:
    """The questions that the metric suits and the model has room for; the others are counted.

    Raises:
        MeasurementError: there are none.
    """
    if metric == "P@1":
        suited = [item for item in encoded if len(item.answers[item.right]) == 1]
        encoder.leave_out(MULTI_TOKEN, len(encoded) - len(suited))
        if not suited:
            message = f"no answer is a single token of this tokenizer, so {metric} asks nothing."
            raise MeasurementError(message)
    else:
        sayable = {id(item.answers): sum(map(bool, item.answers)) for item in encoded}
        suited = [
            item
            for item in encoded
            if sayable[id(item.answers)] > 1 or len(item.answers) == 1  # alone as it was given
        ]
        encoder.leave_out(ALONE, len(encoded) - len(suited))
    room = context(model)
    of_one = metric == "P@1"
    longest = {id(i.answers): 1 if of_one else max(map(len, i.answers)) for i in suited}
    short = [
        item
        for item in suited
        if room is None or len(item.before) + longest[id(item.answers)] + len(item.after) <= room
    ]
    encoder.leave_out(TOO_LONG, len(suited) - len(short))
    if not short:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in encoder.left_out.items())
        message = f"no question can be asked of this model: {reasons}."
        raise MeasurementError(message)
    return short


def context(model: "LanguageModel") -> int | None:
    """Tokens that the model has positions for; None if they have no end, as in T5's family.

    RoBERTa's family counts positions from behind its padding.
    """
    for name, layer in model.module.named_modules():
        if name.endswith("position_embeddings") and isinstance(layer, torch.nn.Embedding):
            unused = 0 if layer.padding_idx is None else layer.padding_idx + 1
            return layer.num_embeddings - unused
    declared: int | None = getattr(model.module.config, "max_position_embeddings", None)
    return declared


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
    found: list[tuple[float, int]] = [(0.0, -1)] * len(encoded)
    causal = model.family == "causal"
    whole = [p for p, item in enumerate(encoded) if causal and goes_on(item.question)]
    others = sorted(set(range(len(encoded))) - set(whole))
    rest = [encoded[p] for p in others]
    if model.family == "masked":
        scores = masked_scores(model, rest)
        outcomes = [outcome(*pair) for pair in zip(scores, rest, strict=True)]
    else:
        outcomes = rank_in_batches(model, rest)
    outcomes += ending_outcomes(model, [encoded[p] for p in whole])
    for position, result in zip(others + whole, outcomes, strict=True):
        found[position] = result
    return [margin for margin, _ in found], [winner for _, winner in found]


def chances(encoded: Sequence[Encoded]) -> tuple[float, ...]:
    """Of guessing among what can be said; none if all that was given can, and differs."""
    counts = {id(item.answers): len({*item.answers} - {()}) for item in encoded}
    if all(counts[id(item.answers)] == len(item.question.candidates) for item in encoded):
        return ()
    return tuple(1 / counts[id(item.answers)] for item in encoded)


def outcome(scores: Tensor, item: Encoded) -> tuple[float, int]:
    """The margin of the right answer among the candidates' scores, and who won; a tie is lost."""
    others = scores.clone()
    others[item.right] = -torch.inf
    margin = float(scores[item.right] - others.max())
    return margin, item.right if margin > 0 else int(others.argmax())


def ending_outcomes(model: "LanguageModel", encoded: Sequence[Encoded]) -> list[tuple[float, int]]:
    """Causal: rank sentences by the log-probability of candidate and ending, given the prompt."""
    found: list[tuple[float, int]] = []
    for items in slices(encoded):
        asked = [(item, i) for item in items for i, tokens in enumerate(item.answers) if tokens]
        requests = [Request(item.before, item.answers[i]) for item, i in asked]
        scores = {id(item): torch.full((len(item.answers),), -torch.inf) for item in items}
        for (item, i), likelihood in zip(asked, loglikelihoods(model, requests), strict=True):
            scores[id(item)][i] = likelihood.total
        found += [outcome(scores[id(item)], item) for item in items]
        model.progress(len(found), len(encoded))
    return found


def slices(encoded: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Questions with about :data:`TOGETHER` candidates a slice."""
    some: list[Encoded] = []
    candidates = 0
    for item in encoded:
        some.append(item)
        candidates += len(item.answers)
        if candidates >= TOGETHER:
            yield some
            some, candidates = [], 0
    if some:
        yield some


def masked_scores(model: "LanguageModel", encoded: Sequence[Encoded]) -> list[Tensor]:
    """Each candidate's sum of log-probabilities, asked with as many masks as it has tokens."""
    scores = [torch.full((len(item.answers),), -torch.inf) for item in encoded]
    sets = {id(item.answers): item.answers for item in encoded}  # shared within a relation
    lengths = sorted({len(tokens) for answers in sets.values() for tokens in answers if tokens})
    done = 0.0
    for length in lengths:
        fitting = {key: of_length(answers, length) for key, answers in sets.items()}
        rows = [q for q, item in enumerate(encoded) if len(fitting[id(item.answers)][0])]

        def read(
            positions: list[int],
            values: Tensor,
            rows: list[int] = rows,
            fitting: dict[int, tuple[Tensor, Tensor]] = fitting,
        ) -> None:
            nonlocal done
            done += len(positions) / len(rows) / len(lengths) * len(encoded)
            model.progress(round(done), len(encoded))
            for position, row in zip(positions, values.cpu(), strict=True):
                which, tokens = fitting[id(encoded[rows[position]].answers)]
                places = torch.arange(tokens.shape[1])
                scores[rows[position]][which] = row[places, tokens].sum(1)

        masked_in_segments(model, encoded, rows, length, read)
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
    done = 0

    def read(positions: list[int], values: Tensor) -> None:
        nonlocal done
        done += len(positions)
        model.progress(done, len(encoded))
        rows = values.reshape(len(positions), -1)
        right = torch.tensor([encoded[p].answers[encoded[p].right][0] for p in positions])
        mine = rows.gather(1, right.to(rows.device).unsqueeze(1))
        others = rows.scatter(1, right.to(rows.device).unsqueeze(1), -torch.inf)
        best, winner = others.max(1)
        for i, position in enumerate(positions):
            margins[position] = float(mine[i, 0] - best[i])
            token = int(right[i]) if margins[position] > 0 else int(winner[i])
            given[position] = model.tokenizer.decode([token]).strip()

    read_blanks(model, encoded, read)
    return margins, given


def read_blanks(model: "LanguageModel", encoded: Sequence[Encoded], read: Read) -> None:
    """Give ``read`` the distribution over the first token of each question's answer.

    Args:
        model: of any family.
        encoded: the questions; masked models are shown one mask each.
        read: takes positions and log-probabilities, ``[positions, vocabulary]`` or
            ``[positions, 1, vocabulary]``.
    """
    if model.family == "masked":
        masked_in_segments(model, encoded, range(len(encoded)), 1, read)
        return
    for positions in batches([(len(item.before),) for item in encoded], model.budget):
        some = [encoded[position] for position in positions]

        def place(found: list[int], values: Tensor, positions: list[int] = positions) -> None:
            read([positions[i] for i in found], values)

        NextToken(model, some).run([(q, ()) for q in range(len(some))], place)
