"""What a failed trial says: the verdict, the figures, the facts that were lost, what to do."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import isfinite

from pytest_compression.examination import Examination
from pytest_compression.store.baselines import differences
from pytest_compression.types import Footprint, Question

FACTS = 12
"""Forgotten facts that are listed."""
RELATIONS = 5


def text(examined: Examination) -> str:
    """The whole message, without a traceback."""
    return "\n".join(lines(examined))


def lines(examined: Examination) -> Iterator[str]:
    """The message, most important first."""
    subject, verdict = examined.subject, examined.verdict
    yield f"{subject.trial}: {headline(examined)}."
    yield ""
    yield from figures(examined)
    yield f"  {footprint_line(subject.footprint)}"
    yield ""
    yield from blame(examined)
    yield ""
    forgotten, learned = verdict.forgotten, verdict.learned
    regression = verdict.regression
    if regression is not None and is_about_the_accepted(examined):
        forgotten, learned = regression.change.forgotten, regression.change.learned
    if is_gain(examined):
        yield from facts(examined, learned, "Learned")
    elif forgotten:
        yield from relations(examined, forgotten, learned)
        yield from facts(examined, forgotten, "Forgotten")
    yield ""
    if examined.recorded:
        yield "It was recorded as asked" + (
            ", and is still below its floors." if verdict.outcome == "lost" else "."
        )
    yield f"Run it again: {subject.command} '{subject.trial}'"
    yield advice(examined)


def is_about_the_accepted(examined: Examination) -> bool:
    """Whether the news is a change since the result was accepted, not what is retained."""
    verdict = examined.verdict
    regression = verdict.regression
    if regression is None or verdict.outcome == "lost":
        return False
    return regression.suspected or bool(regression.unclear) or verdict.outcome == "kept"


def is_gain(examined: Examination) -> bool:
    """Whether the news is an improvement."""
    verdict = examined.verdict
    return (
        verdict.outcome != "lost" and verdict.regression is not None and verdict.regression.improved
    )


def headline(examined: Examination) -> str:
    """The verdict in a sentence."""
    verdict = examined.verdict
    if verdict.outcome == "lost":
        return f"knowledge was lost: {'; '.join(verdict.broken)}"
    regression = verdict.regression
    changed = regression is not None and (regression.suspected or regression.improved)
    if verdict.outcome == "inconclusive" and not changed:
        return f"INCONCLUSIVE: {'; '.join(verdict.unclear)}"
    assert regression is not None  # noqa: S101
    change, margin = regression.change, examined.subject.spec.gate.margin
    if regression.suspected:
        return (
            f"a regression: {change.loss:.2%} of the answers were lost, net, since the result was "
            f"accepted, beyond the margin {margin:.2%}; p = {change.p_loss:.2g}"
        )
    return (
        f"an improvement that is not accepted yet: {-change.loss:.2%} of the answers were gained, "
        f"net, beyond the margin {margin:.2%}; p = {change.p_gain:.2g}"
    )


def figures(examined: Examination) -> Iterator[str]:
    """Scores, retention and flips."""
    subject, verdict = examined.subject, examined.verdict
    low, high = (figure(limit) for limit in verdict.interval)
    stopped = "" if examined.asked_all else f" of {len(subject.questions)}, stopped early"
    yield (
        f"  dense {verdict.dense:.4f}  compressed {verdict.compressed:.4f}  chance "
        f"{verdict.chance:.4f}  on {verdict.questions} questions{stopped} "
        f"({examined.measured.metric})"
    )
    units = "relations" if verdict.clustered else "questions"
    yield (
        f"  retention {verdict.retention:.4f}  [{low}, {high}], each limit at "
        f"{1 - subject.spec.gate.alpha:.0%} over {units}; paired standard error "
        f"{figure(verdict.standard_error)}"
    )
    known = (
        "" if examined.measured.values else f" of {round(verdict.dense * verdict.questions)} known"
    )
    yield (
        f"  forgotten {len(verdict.forgotten)}{known}  learned {len(verdict.learned)}  "
        f"near ties settled {verdict.near_ties}"
    )
    if verdict.regression is not None:
        change = verdict.regression.change
        yield (
            f"  since accepted: lost {len(change.forgotten)}, regained {len(change.learned)}, net "
            f"{change.loss:+.2%} of the questions lost, p = {change.p_loss:.2g}"
        )


def figure(value: float) -> str:
    """A figure for a reader: few questions can leave an error or a limit without bounds."""
    return f"{value:.4f}" if isfinite(value) else "unknown"


def advice(examined: Examination) -> str:
    """What to do next."""
    subject, outcome = examined.subject, examined.verdict.outcome
    accept = subject.accept(subject.trial)
    if outcome == "lost":
        return (
            "A loss below the floor is not mended by recording it. Mend the recipe, or lower the "
            f"floor in the suite and say why: {accept}"
        )
    regression = examined.verdict.regression
    if regression is not None and regression.suspected:
        return f"Mend what is to blame, or accept the worse result and say why: {accept}"
    if outcome == "inconclusive":
        return "Ask more questions, or let the suite's gate say what inconclusive trials become."
    return f"Accept it, so that it is not lost again unseen: {accept}"


def footprint_line(footprint: Footprint) -> str:
    """The measured footprint of the recipe."""
    inputs = f"{footprint.activation_bits} bits an input, " if footprint.activation_bits else ""
    error = f"{footprint.reshaped} of another shape"
    if not footprint.reshaped:
        error = f"weight error {footprint.weight_error:.3f}"
    return (
        f"recipe: {footprint.modules_touched} of {footprint.modules} linear layers, "
        f"{footprint.bits:.2f} bits a weight, {inputs}{footprint.sparsity:.1%} zeros, "
        f"{error}; {size(footprint.bytes)} of {size(footprint.dense_bytes)} "
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


def blame(examined: Examination) -> Iterator[str]:
    """What differs since the trial was accepted: the recipe, the environment, or neither."""
    baseline, subject = examined.references.own, examined.subject
    if baseline is None:
        yield "It was not accepted before."
        return
    yield f"Since it was accepted ({baseline.accepted.date}, score {baseline.score:.4f}):"
    yield "  data: the same questions, scored the same way; the same dense weights"
    edited = baseline.recipe != subject.recipe
    if edited:
        yield f"  recipe: changed from {steps(baseline.recipe)} to {steps(subject.recipe)}"
    else:
        yield f"  recipe: unchanged, {steps(subject.recipe)}"
    changed = differences(baseline.environment, subject.environment)
    yield f"  environment: {'changed: ' + ', '.join(changed) if changed else 'unchanged'}"
    if examined.references.hardware != subject.hardware:
        yield (
            f"  hardware: compared with the baseline of {examined.references.hardware}; there is "
            f"none of {subject.hardware}"
        )
    change = examined.verdict.regression.change if examined.verdict.regression else None
    if change is not None and not change.forgotten and not change.learned:
        yield "Nothing has changed since: it was as low when it was accepted"
    elif not is_gain(examined) and not subject.is_dense:
        yield f"To blame: {culprit(edited=edited, environment=bool(changed))}"


def culprit(*, edited: bool, environment: bool) -> str:
    """Who is to blame; data and dense model were checked before."""
    dense = "the dense model still gives its accepted answers"
    if edited:
        return f"the recipe: it was edited, and {dense}"
    if environment:
        return (
            f"the recipe in the changed environment: {dense}, so that what changed moves only "
            "compressed weights"
        )
    return (
        f"the recipe: nothing that is recorded has changed, and {dense}. Look at the code of its "
        "steps, and for randomness in them"
    )


def steps(recipe: list[dict[str, object]]) -> str:
    """A recipe in one line."""
    return " > ".join(
        " ".join([str(step["use"]), *(f"{k}={v}" for k, v in step.items() if k != "use")])
        for step in recipe
    )


def relations(
    examined: Examination, forgotten: Sequence[int], learned: Sequence[int]
) -> Iterator[str]:
    """The relations that lost most."""
    clusters = examined.measured.clusters
    lost, gained, asked = (
        Counter(clusters[i] for i in which) for which in (forgotten, learned, range(len(clusters)))
    )
    yield "Relations that lost most:"
    for relation, count in lost.most_common(RELATIONS):
        yield (
            f"  {relation}: forgotten {count}, learned {gained[relation]}, of {asked[relation]} "
            "questions"
        )


def facts(examined: Examination, which: Sequence[int], what: str) -> Iterator[str]:
    """Facts that were forgotten or learned, the most clearly wrong first."""
    measured = examined.measured
    by = measured.margins or measured.values
    worst = sorted(which, key=lambda i: by[i])
    more = f" (the {FACTS} most clearly wrong of {len(worst)})" if len(worst) > FACTS else ""
    yield f"{what} facts{more}:"
    for i in worst[:FACTS]:
        question = measured.questions[i]
        then, now = answers(question, measured.given[i])
        how = f"by {abs(by[i]):.2f} nats" if measured.margins else f"score {by[i]:.4g}"
        yield f"  {question.subject} | {question.cluster} | then {then}, now {now} ({how})"


def answers(question: Question, given: str) -> tuple[str, str]:
    """The right answer and the given one, in quotes if only white space tells them apart."""
    right = question.answer
    return (repr(right), repr(given)) if alike(right, given) else (right, given)


def alike(one: str, other: str) -> bool:
    """Whether two texts differ, but in white space alone."""
    return one != other and one.split() == other.split()
