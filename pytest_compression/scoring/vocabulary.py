"""Where an answer of one token stands in a vocabulary: P@1, P@k and the mean reciprocal rank.

The vocabulary is the model's own, or a common one: then an answer competes only with words that
the tokenizer says in one token where the blank is, so that models of different vocabularies can be
compared (LAMA: Petroni et al. 2019, https://arxiv.org/abs/1909.01066). Ties count against the
model: ``rank = 1 + #(other tokens at least as probable)``.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from msgspec.structs import replace
from torch import Tensor

from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.scoring import cloze
from pytest_compression.scoring.tokens import Encoded, Encoder, is_inside_word, lead
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Metric = Literal["ranked", "P@1", "P@k", "MRR"]

VERSION = 1
"""Raise it when the same tokens would get other scores."""

OUTSIDE = "an answer that is not in the common vocabulary"

Vocabulary = tuple[int, ...]
"""The tokens that compete, sorted; none for all that the model has."""


class Standing(NamedTuple):
    """Where one answer stands."""

    rank: int
    """From 1."""
    margin: float
    """Nats by which it leads the other token at some place."""
    first: int
    """The token that stands first."""


class Prepared(NamedTuple):
    """Questions as tokens, and what their answers compete with."""

    encoded: list[Encoded]
    vocabularies: dict[str, Vocabulary]
    """By question's id; one object for all questions that share one."""
    unsaid: int
    """Words of the common vocabulary that are no single token."""
    left_out: dict[str, int]
    scoring: str


def measure(  # noqa: PLR0913  # each is an option of a benchmark
    model: "LanguageModel",
    questions: Sequence[Question],
    metric: Metric,
    *,
    k: int = 10,
    words: tuple[str, ...] = (),
    ids: Collection[str] | None = None,
) -> Measurement:
    """Ask a model cloze questions, with further figures for each metric and mean over relations.

    Args:
        model: of any family.
        questions: the whole benchmark, as for :func:`cloze.measure`.
        metric: how answers compete: with their candidates, or for a place in the vocabulary.
        k: how many places count as right in P@k.
        words: the common vocabulary; the model's own if empty.
        ids: of the questions to ask; all if not given.

    Raises:
        MeasurementError: no question can be asked, the model computes NaN or infinities, or the
            vocabulary is too small to miss the first ``k``.
        ValueError: there is no question with one of the ids.
    """
    if metric == "ranked":
        ranked = cloze.measure(model, questions, metric, ids)
        return replace(ranked, figures=figures(ranked.questions, {"ranked": ranked.scores}))
    ran = model.tokens_run
    made = prepared(model, questions, words, f"P@{k}" if metric == "P@k" else metric)
    encoded = made.encoded if ids is None else cloze.part(made.encoded, questions, ids)
    place = k if metric == "P@k" else 1
    found = standings(model, encoded, made.vocabularies, place)
    asked = tuple(item.question for item in encoded)
    ranks = [standing.rank for standing in found]
    inverse = tuple(1 / rank for rank in ranks)
    shown = {
        "P@1": [float(rank == 1) for rank in ranks],
        f"P@{k}": [float(rank <= k) for rank in ranks],
        "MRR": inverse,
    }
    sizes = [len(made.vocabularies[question.id]) for question in asked]
    return Measurement(
        metric=f"P@{k}" if metric == "P@k" else metric,
        questions=asked,
        margins=() if metric == "MRR" else tuple(standing.margin for standing in found),
        values=inverse if metric == "MRR" else (),
        given=tuple(model.tokenizer.decode([standing.first]).strip() for standing in found),
        scoring=made.scoring,
        left_out=dict(made.left_out),
        open_vocabulary=True,
        expected=tuple(guessing(metric, size, k) for size in sizes) if words else (),
        figures=figures(asked, shown)
        | ({"common words of several tokens": float(made.unsaid)} if words else {}),
        tokens=model.tokens_run - ran,
    )


def prepared(
    model: "LanguageModel", questions: Sequence[Question], words: tuple[str, ...], metric: str
) -> Prepared:
    """The questions as tokens, sorted by id; kept for the model's other recipes.

    Raises:
        MeasurementError: none can be asked.
    """
    key = ("vocabulary", metric, words, tuple(questions))
    if key in model.memo:
        found: Prepared = model.memo[key]
        return found
    encoded, left_out, _ = cloze.prepared(model, questions, "P@1")
    vocabularies: dict[str, Vocabulary] = {item.question.id: () for item in encoded}
    unsaid = 0
    if words:
        vocabularies, unsaid = common(Encoder(model.tokenizer, model.family), encoded, words)
        members = {id(one): frozenset(one) for one in vocabularies.values()}
        inside = [i for i in encoded if answer(i) in members[id(vocabularies[i.question.id])]]
        if len(inside) < len(encoded):
            left_out = left_out | {OUTSIDE: len(encoded) - len(inside)}
        if not inside:
            message = f"no answer is in the common vocabulary as one token ({len(encoded)} tried)."
            raise MeasurementError(message)
        encoded = inside
    names = {id(one): digest([repr(one).encode()]) for one in vocabularies.values()}
    parts = (
        repr((item.before, item.after, item.kinds, answer(item), names[id(mine)]))
        for item, mine in ((item, vocabularies[item.question.id]) for item in encoded)
    )
    head = f"{VERSION} {metric} {model.family}".encode()
    scoring = digest([head, *(part.encode() for part in parts)])
    model.memo[key] = Prepared(encoded, vocabularies, unsaid, left_out, scoring)
    return prepared(model, questions, words, metric)


def common(
    encoder: Encoder, encoded: Sequence[Encoded], words: tuple[str, ...]
) -> tuple[dict[str, Vocabulary], int]:
    """The tokens of a common vocabulary for each question, and how many words have several.

    A word's token depends on whether a space stands before the blank, or nothing at all.
    """
    places: dict[tuple[bool, bool, bool], Vocabulary] = {}
    found: dict[str, Vocabulary] = {}
    unsaid = 0
    for item in encoded:
        placed = encoder.placed(item.question)
        space = lead(placed.stem)[-1:].isspace()
        place = space, not placed.stem, is_inside_word(placed)
        if place not in places:
            tokens = encoder.candidates(replace(placed, candidates=words))
            places[place] = tuple(sorted({one[0] for one in tokens if len(one) == 1}))
            unsaid = max(unsaid, sum(len(one) != 1 for one in tokens))
        found[item.question.id] = places[place]
    return found, unsaid


def answer(item: Encoded) -> int:
    """The one token of the right answer."""
    return item.answers[item.right][0]


def standings(
    model: "LanguageModel",
    encoded: Sequence[Encoded],
    vocabularies: Mapping[str, Vocabulary],
    place: int,
) -> list[Standing]:
    """Where each answer stands, with its margin over the other token at a place from 1.

    Raises:
        MeasurementError: fewer other tokens than that compete.
    """
    found: dict[str, Standing] = {}
    groups: dict[int, list[Encoded]] = {}
    for item in encoded:
        groups.setdefault(id(vocabularies[item.question.id]), []).append(item)
    for items in groups.values():
        columns = torch.tensor(vocabularies[items[0].question.id], dtype=torch.long)

        def read(
            positions: list[int],
            values: Tensor,
            columns: Tensor = columns,
            items: list[Encoded] = items,
        ) -> None:
            rows = values.reshape(len(positions), -1).cpu()
            right = torch.tensor([answer(items[p]) for p in positions])
            if len(columns):
                rows, right = rows[:, columns], torch.searchsorted(columns, right)
            for position, (rank, margin, first) in zip(
                positions, stand(rows, right, place), strict=True
            ):
                token = int(columns[first]) if len(columns) else first
                found[items[position].question.id] = Standing(rank, margin, token)
            model.progress(len(found), len(encoded))

        cloze.read_blanks(model, items, read)
    return [found[item.question.id] for item in encoded]


def stand(values: Tensor, right: Tensor, place: int) -> list[Standing]:
    """Where the right columns stand in their rows.

    Args:
        values: log-probabilities ``[rows, columns]``.
        right: the right answers' columns ``[rows]``.
        place: of the other column that the margin is over, from 1.

    Raises:
        MeasurementError: there are fewer other columns than that.
    """
    if values.shape[1] - 1 < place:
        message = (
            f"only {values.shape[1]} tokens compete, so every answer is among the first {place}. "
            "Take a larger vocabulary, or a smaller k."
        )
        raise MeasurementError(message)
    mine = values.gather(1, right.unsqueeze(1))
    others = values.scatter(1, right.unsqueeze(1), -torch.inf)
    ranks = 1 + (others >= mine).sum(1)
    best, columns = others.topk(place, dim=1)
    margins = mine[:, 0] - best[:, -1]
    first = torch.where(ranks == 1, right, columns[:, 0])
    triples = zip(ranks.tolist(), margins.tolist(), first.tolist(), strict=True)
    return [Standing(*triple) for triple in triples]


def guessing(metric: Metric, size: int, k: int) -> float:
    """The score that a random order of a vocabulary of ``size`` tokens would get."""
    if metric == "MRR":
        return math.fsum(1 / rank for rank in range(1, size + 1)) / size
    return min(1.0, (k if metric == "P@k" else 1) / size)


def figures(
    questions: Sequence[Question], scores: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Each score's mean over questions, and over relations of their means; and the majority's.

    LAMA's figure of a corpus is the mean over relations. ``majority answer`` is the share that
    would be right by always giving the commonest answer of a relation.
    """
    if not questions:
        return {}
    found: dict[str, float] = {}
    relations: dict[str, list[int]] = {}
    for position, question in enumerate(questions):
        relations.setdefault(question.cluster, []).append(position)
    for name, values in scores.items():
        means = [math.fsum(values[p] for p in some) / len(some) for some in relations.values()]
        found[name] = math.fsum(values) / len(values)
        found[f"{name} macro"] = math.fsum(means) / len(means)
    common = [Counter(questions[p].answer for p in some) for some in relations.values()]
    found["majority answer"] = sum(max(one.values()) for one in common) / len(questions)
    return found
