"""Error control over a whole run: which losses against the accepted results are significant.

A suite of 200 green trials, each tested at 5 %, would be red by chance nearly always. So whether a
loss is a regression can only be said when all tests of the run are known: a trial whose loss is
suspicious is held back, and its report is given at the end, after Holm's adjustment over
everything that ran, in this process and in all workers. Where only a part runs here (a shard), the
adjustment is for the tests of all parts.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from pytest_compression.gate.multiplicity import Pooled, holm, pooled, pooled_margin, tarone
from pytest_compression.types import OnInconclusive


class Test(Struct, frozen=True, kw_only=True):
    """A trial's comparison with the last accepted result."""

    loss: float
    p_loss: float
    p_gain: float
    margin: float
    alpha: float
    flipped: int
    """Questions, or relations if they are the units, that differ."""
    questions: int
    differences: list[tuple[str, str, float]]
    """Cluster, question and accepted less present score, where they differ."""
    clusters: list[str]
    """Of all questions; each once."""
    suspected: bool
    improved: bool
    must_accept: bool
    """Whether an improvement must be accepted, too."""
    headline: str = ""
    """What the trial says if its loss or gain is significant."""
    details: str = ""


class Evidence(Struct, frozen=True, kw_only=True):
    """What one trial knows before the others are known."""

    trial: str
    """Or the suite, of the test that pools its trials."""
    lost: bool = False
    """Red already."""
    unclear: list[str] = []
    on_inconclusive: OnInconclusive = "warn"
    test: Test | None = None
    tests_in_all: int = 0
    """In all shards; 0 if the run is no shard."""

    @property
    def suite(self) -> str:
        """The suite's id."""
        return self.trial.partition("::")[0]

    @property
    def suspected(self) -> bool:
        """Whether it lost more than the margin, significantly by itself."""
        return self.test is not None and self.test.suspected

    @property
    def held(self) -> bool:
        """Whether the verdict must wait for the others."""
        test = self.test
        if self.lost or test is None:
            return False
        return test.suspected or (test.improved and test.must_accept)


class Decision(Struct, frozen=True, kw_only=True):
    """What is said of a trial when all are known."""

    verdict: str
    """``kept``, ``regressed``, ``improved``, ``inconclusive`` or, with no more to say, empty."""
    red: str = ""
    """Why it fails; empty if it does not."""
    warning: str = ""


class One(Struct, frozen=True, kw_only=True):
    """One of the hypothesis tests of a run."""

    trial: str
    direction: Literal["loss", "gain"]
    p: float
    flipped: int


def tests_of(found: Iterable[Evidence], alpha: float) -> list[One]:
    """The tests of all trials; suites may have different alphas, so each p is scaled to one.

    Args:
        found: of every trial that was examined.
        alpha: the largest of theirs.
    """
    tests = []
    for evidence in found:
        test = evidence.test
        if test is None:
            continue
        for direction, p in (("loss", test.p_loss), ("gain", test.p_gain)):
            if direction == "loss" or test.must_accept:
                scaled = min(1.0, p * alpha / test.alpha)
                tests.append(
                    One(
                        trial=evidence.trial,
                        direction=direction,  # type: ignore[arg-type]  # of the two above
                        p=scaled,
                        flipped=test.flipped,
                    )
                )
    return tests


class Pool(Struct, frozen=True, kw_only=True):
    """The test that pools the trials of a suite."""

    found: Pooled
    margin: float
    alpha: float


def pool(found: list[Evidence]) -> Pool | None:
    """One test of whether a small loss is spread over all trials of a suite."""
    tests = [evidence.test for evidence in found if evidence.test is not None]
    if len(tests) < 2:  # a single one has its own test
        return None
    return Pool(
        found=pooled(
            [{(c, q): value for c, q, value in test.differences} for test in tests],
            clusters={cluster for test in tests for cluster in test.clusters},
            asked=sum(test.questions for test in tests),
        ),
        margin=pooled_margin(min(test.margin for test in tests), len(tests)),
        alpha=min(test.alpha for test in tests),
    )


class Judgement(Struct, frozen=True, kw_only=True):
    """What is said of a whole run."""

    decisions: dict[str, Decision]
    """By trial, and by suite for the pooled tests."""
    pools: dict[str, Pool]
    """By suite."""


def decide(found: list[Evidence], suites: Collection[str]) -> Judgement:
    """Judge all trials of a run together.

    Half of alpha is for the trials' own tests and half for the pooled ones; what one half finds
    wholly significant goes over to the other. Trials that are red by themselves are not pooled, so
    that a large loss of one is not told as a small one of all. This costs no level: where one is
    red by chance, there is a false alarm already.

    Args:
        found: of every trial that was examined.
        suites: those whose trials are to be pooled.
    """
    alpha = max((e.test.alpha for e in found if e.test is not None), default=0.0)
    tests = tests_of(found, alpha)
    total = max([len(tests), *(evidence.tests_in_all for evidence in found)])
    is_shard = any(evidence.tests_in_all for evidence in found)
    half = alpha / 2 if suites or is_shard else alpha
    alone = significant(tests, half, total)
    red = {e.trial for e in found if e.lost or (e.suspected and (e.trial, "loss") in alone)}
    pools = {}
    for suite in suites:
        one = pool([e for e in found if e.suite == suite and e.trial not in red])
        if one is not None:
            pools[suite] = one
    spread = dict(zip(pools, significant_pools(pools, alpha, half), strict=True))
    if pools and all(spread.values()) and not is_shard:
        alone = significant(tests, alpha, total)
    among = f"Holm's adjustment over {total + len(pools)} tests"
    decisions = {e.trial: decision(e, alone, among) for e in found}
    for suite, one in pools.items():
        said = ""
        if spread[suite] and one.found.loss > one.margin:
            said = (
                f"{suite}: a loss is spread over {one.found.trials} trials: {one.found.loss:.3%} "
                f"of all answers were lost, net, since they were accepted, p = {one.found.p:.2g}, "
                f"significant after {among}. No single trial shows it: look for what they share, "
                "such as the environment or a step of all recipes."
            )
        decisions[suite] = Decision(verdict="regressed" if said else "kept", red=said)
    return Judgement(decisions=decisions, pools=pools)


def significant(tests: Sequence[One], alpha: float, total: int) -> set[tuple[str, str]]:
    """Trial and direction of the tests that are significant.

    Args:
        tests: that were made here.
        alpha: chance of any false alarm.
        total: how many there are in all, where some are made elsewhere.
    """
    p = [test.p for test in tests]
    if total > len(tests):
        verdicts = holm(p, alpha, total)
    else:
        verdicts = tarone(p, [test.flipped for test in tests], alpha)
    return {(test.trial, test.direction) for test, red in zip(tests, verdicts, strict=True) if red}


def significant_pools(pools: Mapping[str, Pool], alpha: float, level: float) -> list[bool]:
    """Which of the pooled tests are significant at a level; each p is scaled to alpha."""
    return holm([min(1.0, one.found.p * alpha / one.alpha) for one in pools.values()], level)


def decision(evidence: Evidence, rejected: set[tuple[str, str]], among: str) -> Decision:
    """What becomes of one trial."""
    test = evidence.test
    if evidence.lost:
        return Decision(verdict="")
    if test is not None and test.suspected and (evidence.trial, "loss") in rejected:
        return Decision(verdict="regressed", red=loud(test, among))
    if test is not None and test.improved and (evidence.trial, "gain") in rejected:
        return Decision(verdict="improved", red=loud(test, among))
    unclear = list(evidence.unclear)
    if test is not None and test.suspected:
        unclear.append(
            f"{test.loss:.2%} of the answers were lost since the result was accepted, "
            f"p = {test.p_loss:.3f} by itself, which is not significant after {among}"
        )
    if not unclear:
        better = test is not None and test.improved
        return Decision(verdict="improved" if better else "kept")
    said = f"{evidence.trial}: INCONCLUSIVE: {'; '.join(unclear)}."
    return Decision(
        verdict="inconclusive",
        red=said if evidence.on_inconclusive == "fail" else "",
        warning=said if evidence.on_inconclusive == "warn" else "",
    )


def loud(test: Test, among: str) -> str:
    """What a trial says whose change is significant."""
    return f"{test.headline}, significant after {among}.\n{test.details}"
