"""What a failed trial says: the verdict, the figures, the facts that were lost, what to do."""

from collections import Counter
from collections.abc import Iterator

from pytest_compression.examination import Examination
from pytest_compression.gate.retention import SMALL
from pytest_compression.store.baselines import differences
from pytest_compression.types import Footprint

FACTS = 12
"""Forgotten facts that are listed."""
RELATIONS = 5


def text(examination: Examination) -> str:
    """The whole message, without a traceback."""
    return "\n".join(lines(examination))


def lines(examination: Examination) -> Iterator[str]:
    """The message, most important first."""
    subject, verdict = examination.subject, examination.verdict
    low, high = verdict.interval
    yield (
        f"{subject.trial}: knowledge was lost: retention {verdict.retention:.4f} is below the "
        f"floor {verdict.floor:g}."
    )
    yield ""
    yield (
        f"  dense {verdict.dense:.4f}  compressed {verdict.compressed:.4f}  chance "
        f"{verdict.chance:.4f}  on {verdict.questions} questions ({subject.measured.metric})"
    )
    yield (
        f"  retention {verdict.retention:.4f}  [{low:.4f}, {high:.4f}] at "
        f"{subject.spec.gate.confidence:.0%}, paired standard error {verdict.standard_error:.4f}"
        + ("  (few questions: the interval is too narrow)" if verdict.questions < SMALL else "")
    )
    known = round(verdict.dense * verdict.questions)
    yield (
        f"  forgotten {len(verdict.forgotten)} of {known} known  learned {len(verdict.learned)}  "
        f"near ties settled {verdict.near_ties}"
    )
    yield f"  {footprint_line(subject.footprint)}"
    yield ""
    yield from blame(examination)
    yield ""
    yield from relations(examination)
    yield from facts(examination)
    yield ""
    if examination.recorded:
        yield "It was recorded as asked, and is still below the floor."
    yield f"Run it again: {subject.command} '{subject.trial}'"
    yield (
        "A loss below the floor is not mended by recording it. Mend the recipe, or lower "
        f"min_retention in the suite and say why: {subject.accept(subject.trial)}"
    )


def footprint_line(footprint: Footprint) -> str:
    """The measured footprint of the recipe."""
    return (
        f"recipe: {footprint.modules_touched} of {footprint.modules} linear layers, "
        f"{footprint.bits:.2f} bits a weight, {footprint.sparsity:.1%} zeros, weight error "
        f"{footprint.weight_error:.3f}; {size(footprint.bytes)} of {size(footprint.dense_bytes)} "
        f"({footprint.bytes / footprint.dense_bytes:.2f}x)"
    )


def size(count: int) -> str:
    """Bytes for a reader."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"


def blame(examination: Examination) -> Iterator[str]:
    """What differs since the trial was accepted: the recipe, the environment, or neither."""
    baseline, subject = examination.baseline, examination.subject
    yield f"Since it was accepted ({baseline.accepted.date}, score {baseline.score:.4f}):"
    yield "  data: the same questions, scored the same way; the same dense weights"
    if baseline.recipe != subject.recipe:
        yield f"  recipe: changed from {steps(baseline.recipe)} to {steps(subject.recipe)}"
    else:
        yield f"  recipe: unchanged, {steps(subject.recipe)}"
    changed = differences(baseline.environment, subject.environment)
    yield f"  environment: {'changed: ' + ', '.join(changed) if changed else 'unchanged'}"


def steps(recipe: list[dict[str, object]]) -> str:
    """A recipe in one line."""
    return " > ".join(
        " ".join([str(step["use"]), *(f"{k}={v}" for k, v in step.items() if k != "use")])
        for step in recipe
    )


def relations(examination: Examination) -> Iterator[str]:
    """The relations that lost most."""
    questions = examination.subject.measured.questions
    verdict = examination.verdict
    lost = Counter(questions[i].cluster for i in verdict.forgotten)
    gained = Counter(questions[i].cluster for i in verdict.learned)
    asked = Counter(question.cluster for question in questions)
    yield "Relations that lost most:"
    for relation, count in lost.most_common(RELATIONS):
        yield (
            f"  {relation}: forgotten {count}, learned {gained[relation]}, of {asked[relation]} "
            "questions"
        )


def facts(examination: Examination) -> Iterator[str]:
    """The forgotten facts, the most clearly wrong first."""
    measured, forgotten = examination.subject.measured, examination.verdict.forgotten
    worst = sorted(forgotten, key=lambda i: measured.margins[i])
    more = f" (the {FACTS} most clearly wrong of {len(worst)})" if len(worst) > FACTS else ""
    yield f"Forgotten facts{more}:"
    for i in worst[:FACTS]:
        question = measured.questions[i]
        yield (
            f"  {question.subject} | {question.cluster} | then {question.answer}, now "
            f"{measured.given[i]} (by {-measured.margins[i]:.2f} nats)"
        )
