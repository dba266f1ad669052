"""Error control over a whole run: which losses against the accepted results are significant.

A suite of 200 green trials, each tested at 5 %, would be red by chance nearly always. So whether a
loss is a regression can only be said when all tests of the run are known: a trial whose loss is
suspicious is held back, and its report is given at the end, after Holm's adjustment over
everything that ran, in this process and in all workers. Where only a part runs here (a shard), the
adjustment is for the tests of all parts.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from msgspec import Struct

from pytest_compression.gate import multiplicity
from pytest_compression.gate.multiplicity import PooledChange, holm, pooled, pooled_margin
from pytest_compression.gate.power import PairedTest
from pytest_compression.gate.verdict import shows
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
    harmless: float = 0.0
    """Share of the answers that changed both ways."""
    inflation: float = 1.0
    """How many times relations widen the standard error."""
    relations: int | None = None
    """How many there are, if they are the units."""
    power: float = 0.8
    headline: str = ""
    """What the trial says if its loss or gain is significant."""
    details: str = ""

    def sensitivity(self, tests: int) -> str:
        """What the questions could show as one of so many tests, by Holm's first step."""
        level = self.alpha / 2 / tests
        test = PairedTest(
            alpha=level, margin=self.margin, inflation=self.inflation, clusters=self.relations
        )
        return shows(test, self.questions, self.loss, self.harmless, self.power)


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

    found: PooledChange
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

    Trials that are red by themselves are not pooled, so that a large loss of one is not told as a
    small one of all. This costs no level: where one is red by chance, there is a false alarm
    already.

    Args:
        found: of every trial that was examined.
        suites: those whose trials are to be pooled; one with a single test has nothing to pool.
    """
    alpha = max((e.test.alpha for e in found if e.test is not None), default=0.0)
    tests = tests_of(found, alpha)
    counts = Counter(test.trial.partition("::")[0] for test in tests if test.direction == "loss")
    suites = [suite for suite in suites if counts[suite] > 1]
    alone = rejected(tests, [1.0] * len(suites), alpha, found)[0]
    red = {e.trial for e in found if e.lost or (e.suspected and (e.trial, "loss") in alone)}
    pools = {}
    for suite in suites:
        one = pool([e for e in found if e.suite == suite and e.trial not in red])
        if one is not None:
            pools[suite] = one
    together = [min(1.0, one.found.p * alpha / one.alpha) for one in pools.values()]
    absent = [1.0] * (len(suites) - len(pools))
    alone, spread = rejected(tests, together + absent, alpha, found)
    total = max([len(tests), *(evidence.tests_in_all for evidence in found)])
    decisions = {e.trial: decision(e, alone, total) for e in found}
    for (suite, one), is_spread in zip(pools.items(), spread, strict=False):
        said = diffuse(suite, one, total) if is_spread and one.found.loss > one.margin else ""
        decisions[suite] = Decision(verdict="regressed" if said else "kept", red=said)
    return Judgement(decisions=decisions, pools=pools)


def rejected(
    tests: Sequence[One], together: Sequence[float], alpha: float, found: Iterable[Evidence]
) -> tuple[set[tuple[str, str]], list[bool]]:
    """Trial and direction of the tests that are significant, and which pools are.

    Args:
        tests: that were made here.
        together: p of each pool.
        alpha: chance of any false alarm.
        found: the evidence, which tells how many tests are made elsewhere, in other shards.
    """
    p, in_all = [test.p for test in tests], max((e.tests_in_all for e in found), default=0)
    if in_all:  # the pools are for the shards together
        verdicts, pools = holm(p, alpha / 2, max(in_all, len(tests))), list[bool]()
    else:
        flipped = [test.flipped for test in tests]
        verdicts, pools = multiplicity.significant(p, flipped, together, alpha)
    names = [(test.trial, test.direction) for test in tests]
    return {name for name, red in zip(names, verdicts, strict=True) if red}, pools


def among(total: int) -> str:
    """By what a test is or is not significant."""
    return f"Holm's adjustment over {total} tests"


def diffuse(suite: str, one: Pool, total: int) -> str:
    """What the pooled test says if it is red."""
    return (
        f"{suite}: a loss is spread over {one.found.trials} trials: {one.found.loss:.3%} of all "
        f"answers were lost, net, since they were accepted, beyond the pooled margin "
        f"{one.margin:.3%}; p = {one.found.p:.2g}, significant beside {among(total)}. No single "
        "trial shows it: look for what they share, such as the environment or a step of all "
        f"recipes. If it is meant, accept it: pytest --compress-suite '{suite}' --compress-update "
        '--compress-reason "..."'
    )


def decision(evidence: Evidence, significant: set[tuple[str, str]], total: int) -> Decision:
    """What becomes of one trial.

    Args:
        evidence: of the trial.
        significant: trial and direction of the tests that are significant.
        total: how many tests there are.
    """
    test = evidence.test
    if evidence.lost:
        return Decision(verdict="")
    if test is not None and test.suspected and (evidence.trial, "loss") in significant:
        return Decision(verdict="regressed", red=loud(test, among(total)))
    if test is not None and test.improved and (evidence.trial, "gain") in significant:
        return Decision(verdict="improved", red=loud(test, among(total)))
    unclear = list(evidence.unclear)
    if test is not None and test.suspected:
        unclear.append(
            f"{test.loss:.2%} of the answers were lost since the result was accepted, "
            f"p = {test.p_loss:.3f} by itself, which is not significant after {among(total)}. "
            f"{test.sensitivity(total)}"
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


def loud(test: Test, adjusted: str) -> str:
    """What a trial says whose change is significant."""
    return f"{test.headline}, significant after {adjusted}.\n{test.details}"
