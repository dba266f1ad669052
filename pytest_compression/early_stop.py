"""Asking a trial round by round, until it is known what the whole trial would say."""

from collections.abc import Sequence
from itertools import chain

from msgspec.structs import replace

from pytest_compression.errors import MeasurementError
from pytest_compression.gate.sequential import (
    Condition,
    EarlyStop,
    retained,
    rounds,
    unforgotten,
    unregressed,
)
from pytest_compression.gate.verdict import Stopped, relation_floors
from pytest_compression.references import References, Subject
from pytest_compression.types import Gate, Measurement, Model, PartialBenchmark


def ask_until_decided(
    subject: Subject, references: References, benchmark: object, model: Model, seed: int
) -> tuple[Measurement, Stopped | None]:
    """Ask in a seeded order, stratified by relation and by what the dense model knows.

    Args:
        subject: the trial.
        references: what it is compared with.
        benchmark: must be one of which a part can be asked.
        model: compressed.
        seed: of the order.

    Returns:
        What was measured, and why no more was asked; None if everything was.

    Raises:
        MeasurementError: the benchmark cannot be asked in part, or its scores are out of range.
    """
    if not isinstance(benchmark, PartialBenchmark):
        message = (
            f"{type(benchmark).__name__} cannot be asked in part: it has no measure_part(model, "
            "ids). Run it without --compress-early-stop."
        )
        raise MeasurementError(message)
    gate, dense = subject.gate, subject.dense
    order = rounds(list(zip(dense.clusters, references.dense, strict=True)), seed)
    graded = bool(dense.values)
    try:
        knowledge = EarlyStop(
            order,
            conditions(dense, references, gate),
            gate.alpha,
            graded=graded,
            keeps=may_be_kept_early(subject),
        )
        # Apart, for near ties count there also if the recipe was edited.
        unregressed_ = unregressed(references.accepted, gate.margin)
        change = EarlyStop(order, [unregressed_], gate.alpha, graded=graded)
    except ValueError as error:
        raise MeasurementError(out_of_range(subject, error)) from error
    parts = list[Measurement]()
    while knowledge.upcoming:
        asked = knowledge.upcoming
        part = benchmark.measure_part(model, [subject.questions[i].id for i in asked])
        place = {question.id: i for i, question in enumerate(part.questions)}
        here = [place[subject.questions[i].id] for i in asked]
        parts.append(part)
        scores, calm = references.scores(part, sorted(asked), subject)
        try:
            decision = knowledge.tell([scores[i] for i in here])
            unchanged = change.tell([calm[i] for i in here]) or not subject.spec.is_tested
        except ValueError as error:
            raise MeasurementError(out_of_range(subject, error)) from error
        if decision == "lost" or (decision == "kept" and unchanged):
            break
    measured = joined(parts)
    if decision is None or not knowledge.upcoming:
        return measured, None
    return measured, Stopped(decision=decision, limits=knowledge.limits("retention"))


def may_be_kept_early(subject: Subject) -> bool:
    """A proof is never cut short, nor the search for an improvement that must be accepted."""
    gate = subject.gate
    if gate.assurance == "proven":
        return False
    return not (subject.spec.is_tested and gate.improvement == "accept")


def conditions(dense: Measurement, references: References, gate: Gate) -> list[Condition]:
    """What must hold for the knowledge to be kept."""
    found = [retained(references.dense, dense.chance, gate.min_retention)]
    for relation, least in relation_floors(dense.clusters, gate.relation_floors):
        found.append(
            retained(
                references.dense,
                dense.chance,
                least,
                counted=[cluster == relation for cluster in dense.clusters],
                name=f"retention of {relation}",
            )
        )
    if gate.max_forgotten is not None:
        found.append(unforgotten(references.dense, gate.max_forgotten))
    return found


PARALLEL = ("questions", "margins", "given", "values", "expected")
"""What a measurement has one of for each question."""


def joined(parts: Sequence[Measurement]) -> Measurement:
    """Measurements of some questions each as one, sorted by id."""
    questions = list(chain.from_iterable(part.questions for part in parts))
    order = sorted(range(len(questions)), key=lambda i: questions[i].id)

    def sorted_(name: str) -> tuple[object, ...]:
        every = list(chain.from_iterable(getattr(part, name) for part in parts))
        return tuple(every[i] for i in order) if every else ()

    return replace(
        parts[0],
        **{name: sorted_(name) for name in PARALLEL},
        figures={},  # of the whole; none of a part is
        tokens=sum(part.tokens for part in parts),
    )


def out_of_range(subject: Subject, error: ValueError) -> str:
    """Why a trial cannot stop early."""
    return (
        f"{subject.trial} cannot stop early: {error}. Its scores must lie between 0 and 1; run it "
        "without --compress-early-stop."
    )
