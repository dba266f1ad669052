"""What a trial hands on to the judgement of the whole run."""

from pytest_compression.examination import Examination
from pytest_compression.familywise import Evidence, Test
from pytest_compression.gate.verdict import Regression, paired_test
from pytest_compression.report import failure


def evidence(examined: Examination, tests_in_all: int = 0) -> Evidence:
    """What one trial knows before the others are known.

    Args:
        examined: the trial.
        tests_in_all: how many there are in all shards; 0 if the run is no shard.
    """
    verdict = examined.verdict
    return Evidence(
        trial=examined.subject.trial,
        lost=verdict.outcome == "lost",
        unclear=list(verdict.unclear),
        on_inconclusive=examined.subject.spec.gate.on_inconclusive,
        test=comparison(examined, verdict.regression) if verdict.regression else unasked(examined),
        tests_in_all=tests_in_all,
    )


def unasked(examined: Examination) -> Test | None:
    """Of a trial that stopped early: it is one of the run's tests all the same, and not red.

    Otherwise those that did not stop, for they lost most, would be held against fewer tests.
    """
    gate = examined.subject.gate
    if examined.asked_all or not examined.subject.spec.is_tested:
        return None
    return Test(
        loss=0.0,
        p_loss=1.0,
        p_gain=1.0,
        margin=gate.margin,
        alpha=gate.alpha,
        flipped=len(examined.subject.questions),
        questions=0,
        differences=[],
        clusters=[],
        suspected=False,
        improved=False,
        must_accept=False,
    )


def comparison(examined: Examination, regression: Regression) -> Test:
    """The trial's comparison with the last accepted result."""
    gate, change = examined.subject.spec.gate, regression.change
    must_accept = gate.improvement == "accept"
    headline, details = "", ""
    if regression.suspected or (regression.improved and must_accept):
        headline, _, details = failure.text(examined).partition(".\n")
    everything = range(len(examined.references.dense))
    _, now = examined.references.scores(examined.measured, everything, examined.subject)
    measured, accepted = examined.measured, examined.references.accepted
    shape = paired_test(accepted, now, measured.clusters, alpha=gate.alpha, margin=gate.margin)
    n = examined.verdict.questions
    return Test(
        harmless=2 * min(len(change.forgotten), len(change.learned)) / n,
        inflation=shape.inflation,
        relations=shape.clusters,
        power=gate.power,
        loss=change.loss,
        p_loss=change.p_loss,
        p_gain=change.p_gain,
        margin=gate.margin,
        alpha=gate.alpha,
        flipped=change.flipped,
        questions=examined.verdict.questions,
        differences=[
            (question.cluster, question.id, then - score)
            for question, then, score in zip(
                examined.measured.questions, examined.references.accepted, now, strict=True
            )
            if then != score
        ],
        clusters=sorted(set(examined.measured.clusters)),
        suspected=regression.suspected,
        improved=regression.improved,
        must_accept=must_accept,
        headline=headline,
        details=details,
    )
