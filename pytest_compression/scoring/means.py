"""Figures of a whole benchmark, in which each relation counts alike, however large it is."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from pytest_compression.types import Measurement, Question

ACCURACY = "accuracy, mean over relations"
MAJORITY = "majority answer"


def over_relations(clusters: Sequence[str], values: Sequence[float]) -> float:
    """The mean over relations of their means; clusters and values are parallel, and not empty."""
    found: dict[str, list[float]] = {}
    for cluster, value in zip(clusters, values, strict=True):
        found.setdefault(cluster, []).append(value)
    return fmean(map(fmean, found.values()))


def majority(questions: Sequence[Question]) -> dict[str, float]:
    """What always giving a relation's commonest answer would get; nothing if none is asked."""
    if not questions:
        return {}
    relations: dict[str, Counter[str]] = {}
    for question in questions:
        relations.setdefault(question.cluster, Counter())[question.answer] += 1
    right = sum(max(answers.values()) for answers in relations.values())
    return {MAJORITY: right / len(questions)}


def accuracy(measured: Measurement) -> dict[str, float]:
    """The share of right answers, as LAMA and its successors report it, and the majority's.

    Of a part without questions there are no figures.
    """
    if not measured.questions:
        return {}
    mean = over_relations(measured.clusters, measured.scores)
    return {ACCURACY: mean, **majority(measured.questions)}
