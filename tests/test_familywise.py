"""Error control over a run: what is promised of every run, and false alarms counted exactly."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from pytest_compression.familywise import Decision, Evidence, Test, decide
from pytest_compression.gate.multiplicity import pooled_margin
from pytest_compression.gate.regression import Change, change
from pytest_compression.types import Gate, OnInconclusive

Test.__test__ = False  # type: ignore[attr-defined]  # a hypothesis test, not one of pytest's

N = 100
"""Questions of each trial."""
SUITES = ("x.yaml", "y.yaml")


CLUSTERS = ["even", "odd"] * (N // 2)


@cache
def changed(signs: frozenset[tuple[int, float]]) -> Change:
    """The scores on some questions are less (1) or more (-1) than the accepted ones."""
    sign = dict(signs)
    accepted = [float(sign.get(i, 0) > 0) for i in range(N)]
    return change(accepted, [float(sign.get(i, 0) < 0) for i in range(N)], CLUSTERS)


def compared(signs: Mapping[int, float], gate: Gate) -> Test:
    """The comparison of a trial whose scores differ so."""
    found = changed(frozenset(signs.items()))
    return Test(
        loss=found.loss,
        p_loss=found.p_loss,
        p_gain=found.p_gain,
        margin=gate.margin,
        alpha=gate.alpha,
        flipped=found.flipped,
        questions=N,
        differences=[(CLUSTERS[i], f"q{i}", float(sign)) for i, sign in signs.items()],
        clusters=["even", "odd"],
        suspected=found.loss > gate.margin and found.p_loss <= gate.alpha,
        improved=-found.loss > gate.margin and found.p_gain <= gate.alpha,
        must_accept=gate.improvement == "accept",
        headline="HEADLINE",
        details="DETAILS",
    )


def trial(name: str, signs: Mapping[int, float], suite: str = "x.yaml", **gate: Any) -> Evidence:
    """What a trial knows that differs so."""
    return Evidence(
        trial=f"{suite}::tiny/{name}::low",
        test=compared(signs, chosen := Gate(**gate)),
        on_inconclusive=chosen.on_inconclusive,
    )


def forgets(*facts: int) -> dict[int, float]:
    """Questions that were right when accepted and are wrong now."""
    return dict.fromkeys(facts, 1.0)


def learns(*facts: int) -> dict[int, float]:
    """Questions that were wrong when accepted and are right now."""
    return dict.fromkeys(facts, -1.0)


changes: SearchStrategy[dict[int, float]] = st.one_of(
    st.just({}),
    st.dictionaries(st.integers(0, N - 1), st.sampled_from([1.0, -1.0]), max_size=12),
    st.sets(st.integers(0, N - 1), max_size=15).map(lambda facts: forgets(*facts)),
    st.sets(st.integers(0, N - 1), max_size=15).map(lambda facts: learns(*facts)),
)
"""Half of them lose only or gain only: those are the significant ones."""


@st.composite
def runs(draw: st.DrawFn, /, **gate: SearchStrategy[Any]) -> list[Evidence]:
    """The trials of a run of one or two suites, some of them lost or not comparable."""
    found = []
    for number, signs in enumerate(draw(st.lists(changes, max_size=8))):
        suite = draw(st.sampled_from(SUITES))
        keys = {"margin": st.sampled_from([0.0, 0.01, 0.15])} | gate
        one = trial(f"r{number}", signs, suite, **{k: draw(value) for k, value in keys.items()})
        found.append(
            draw(
                st.sampled_from(
                    [one, one, one, replace(one, lost=True), replace(one, test=None)],
                )
            )
        )
    return found


gates = {
    "alpha": st.sampled_from([0.01, 0.05, 0.2]),
    "improvement": st.sampled_from(["report", "accept"]),
    "inconclusive": st.sampled_from(["pass", "warn", "fail"]),
}


def red(decisions: Mapping[str, Decision]) -> set[str]:
    return {name for name, decision in decisions.items() if decision.red}


def regressed(decisions: Mapping[str, Decision]) -> set[str]:
    """Trials, or suites, that are red because of a significant change."""
    return {name for name in red(decisions) if decisions[name].verdict != "inconclusive"}


# Properties of every run


@given(runs(**gates), st.randoms(use_true_random=False))
def test_the_order_in_which_trials_report_is_irrelevant(found: list[Evidence], random: Any) -> None:
    shuffled = found.copy()
    random.shuffle(shuffled)
    suites = list(SUITES)
    random.shuffle(suites)
    assert decide(shuffled, suites) == decide(found, SUITES)


@given(runs(**gates), st.sets(st.sampled_from(SUITES)))
def test_there_is_one_decision_for_each_trial_and_each_pool(
    found: list[Evidence], suites: set[str]
) -> None:
    judged = decide(found, suites)
    assert judged.pools.keys() <= suites
    assert judged.decisions.keys() == {one.trial for one in found} | judged.pools.keys()


@given(runs(**gates))
def test_only_trials_that_were_held_back_become_red_by_a_significant_change(
    found: list[Evidence],
) -> None:
    decisions = decide(found, SUITES).decisions
    held = {one.trial for one in found if one.held}
    assert regressed(decisions) <= held | set(SUITES)
    for name in regressed(decisions) - set(SUITES):
        assert decisions[name].red.startswith("HEADLINE, significant after Holm's adjustment over ")
        assert decisions[name].red.endswith(" tests.\nDETAILS")


@given(runs(**gates))
def test_lost_trials_are_undecided_here_and_not_pooled(found: list[Evidence]) -> None:
    judged = decide(found, SUITES)
    for one in found:
        assert (judged.decisions[one.trial] == Decision(verdict="")) == one.lost
    lost = {one.trial for one in found if one.lost} | {
        name for name in red(judged.decisions) if judged.decisions[name].verdict == "regressed"
    }
    for suite, pool in judged.pools.items():
        left = [one for one in found if one.suite == suite and one.test and one.trial not in lost]
        assert pool.found.trials >= len(left)  # more where all of alpha came to the trials later
        assert pool.found.trials <= sum(one.suite == suite and not one.lost for one in found)


@given(st.lists(st.sets(st.integers(0, N - 1)), max_size=8), st.booleans())
def test_nothing_is_red_where_nothing_was_lost(gains: list[set[int]], equal: bool) -> None:  # noqa: FBT001
    found = [
        trial(f"r{i}", learns(*facts) if not equal else {}, margin=0.0)
        for i, facts in enumerate(gains)
    ]
    assert all(one.test is not None and one.test.p_loss == 1.0 for one in found)
    assert not red(decide(found, SUITES).decisions)


@given(runs(alpha=st.sampled_from([0.01, 0.05, 0.2])), changes)
def test_a_trial_that_lost_nothing_makes_no_other_trial_red(
    found: list[Evidence], gained: dict[int, float]
) -> None:
    more = [*found, trial("more", dict.fromkeys(gained, -1.0))]
    before, after = (decide(some, []).decisions for some in (found, more))
    assert regressed(after) <= regressed(before)


@given(runs(**gates), st.integers(1, 4), st.data())
def test_what_a_shard_finds_is_red_where_all_shards_are_judged_together(
    found: list[Evidence], parts: int, data: st.DataObject
) -> None:
    where = [data.draw(st.integers(1, parts)) for _ in found]
    tests = sum(1 + one.test.must_accept for one in found if one.test is not None)
    whole = regressed(decide(found, SUITES).decisions)
    for part in range(1, parts + 1):
        shard = [
            replace(one, tests_in_all=tests + len(SUITES))
            for one, place in zip(found, where, strict=True)
            if place == part
        ]
        judged = decide(shard, [])
        assert regressed(judged.decisions) <= whole
        assert not judged.pools


@given(runs(**gates))
def test_pooling_costs_single_trials_no_more_than_half_of_alpha(found: list[Evidence]) -> None:
    halved = [
        replace(one, test=replace(one.test, alpha=one.test.alpha / 2)) if one.test else one
        for one in found
    ]
    single, both = (regressed(decide(some, []).decisions) for some in (halved, found))
    pooled = regressed(decide(found, SUITES).decisions) - set(SUITES)
    assert single <= pooled <= both


# Single decisions


def test_a_loss_that_is_significant_by_itself_may_not_be_so_among_many() -> None:
    # 2 ** -5 is 0.031: less than 0.05, more than half of it, and a quarter where another flipped.
    (alone,) = decide([trial("r", forgets(*range(5)))], []).decisions.values()
    assert alone.verdict == "regressed"
    assert alone.red == "HEADLINE, significant after Holm's adjustment over 1 tests.\nDETAILS"
    among = decide([trial("r", forgets(*range(5))), trial("s", {})], ["x.yaml"]).decisions
    assert among["x.yaml::tiny/r::low"] == Decision(
        verdict="inconclusive",
        warning="x.yaml::tiny/r::low: INCONCLUSIVE: 5.00% of the answers were lost since the "
        "result was accepted, p = 0.031 by itself, which is not significant after Holm's "
        "adjustment over 2 tests. They show a loss of 8.94% with power 80% at level 0.013; about "
        "180 would settle one of this size.",
    )
    assert among["x.yaml"] == Decision(verdict="kept")


@pytest.mark.parametrize(
    ("policy", "is_red", "warns"),
    [("pass", False, False), ("warn", False, True), ("fail", True, False)],
)
def test_an_inconclusive_trial_passes_warns_or_fails(
    policy: OnInconclusive, *, is_red: bool, warns: bool
) -> None:
    said = "x.yaml::tiny/r::low: INCONCLUSIVE: too few."
    unclear = Evidence(
        trial="x.yaml::tiny/r::low", unclear=["too few"], on_inconclusive=policy, test=None
    )
    decided = decide([unclear], []).decisions[unclear.trial]
    assert decided == Decision(
        verdict="inconclusive", red=said if is_red else "", warning=said if warns else ""
    )
    suspected = [trial("r", forgets(*range(5)), inconclusive=policy), trial("s", {})]
    decided = decide(suspected, ["x.yaml"]).decisions["x.yaml::tiny/r::low"]
    assert (bool(decided.red), bool(decided.warning)) == (is_red, warns)
    assert decided.verdict == "inconclusive"


def test_an_improvement_is_said_and_red_only_where_it_must_be_accepted() -> None:
    better = learns(*range(10))
    said = decide([trial("r", better), trial("s", {})], ["x.yaml"]).decisions
    assert said["x.yaml::tiny/r::low"] == Decision(verdict="improved")
    must = [trial("r", better, improvement="accept"), trial("s", {}, improvement="accept")]
    decided = decide(must, ["x.yaml"]).decisions["x.yaml::tiny/r::low"]
    assert decided.verdict == "improved"
    assert decided.red.startswith("HEADLINE, significant after Holm's adjustment over 4 tests.")


def test_an_improvement_that_is_not_significant_among_all_is_only_said() -> None:
    must = [
        trial("r", learns(*range(5)), improvement="accept"),
        *(trial(f"s{i}", forgets(*range(5)) | learns(*range(5, 10))) for i in range(4)),
    ]
    assert must[0].held
    decided = decide(must, []).decisions["x.yaml::tiny/r::low"]
    assert decided == Decision(verdict="improved")


def test_each_suite_has_its_own_alpha() -> None:
    # 2 ** -6 is 0.016, and half of alpha is 0.05 in the one and 0.005 in the other.
    lax = trial("r", forgets(*range(6)), "x.yaml", alpha=0.1)
    strict = trial("r", forgets(*range(6)), "y.yaml", alpha=0.01)
    assert red(decide([lax, strict], []).decisions) == {lax.trial}
    assert not strict.held
    strict = trial("r", forgets(*range(6)), "y.yaml", alpha=0.02)
    assert red(decide([lax, strict], []).decisions) == {lax.trial, strict.trial}
    lax = trial("r", forgets(*range(3)) | learns(*range(3, 6)), "x.yaml", alpha=0.1)
    decided = decide([lax, strict], []).decisions  # as the first of two, 0.01 were needed
    assert decided[strict.trial].verdict == "inconclusive"


# The test of all trials together


def spread(trials: int, each: int, **gate: Any) -> list[Evidence]:
    """Trials that lose a few questions each, every one others."""
    return [
        trial(f"r{i}", forgets(*range(i * each, (i + 1) * each)), **gate) for i in range(trials)
    ]


def test_a_loss_that_no_trial_shows_is_red_in_the_pool() -> None:
    judged = decide(spread(8, 1), ["x.yaml"])
    assert red(judged.decisions) == {"x.yaml"}
    assert judged.decisions["x.yaml"] == Decision(
        verdict="regressed",
        red="x.yaml: a loss is spread over 8 trials: 1.000% of all answers were lost, net, since "
        "they were accepted, beyond the pooled margin 0.354%; p = 0.0039, significant beside "
        "Holm's adjustment over 8 tests. No single trial shows it: look for what they share, such "
        "as the environment or a step of all recipes. If it is meant, accept it: pytest "
        "--compress-suite 'x.yaml' --compress-update --compress-reason \"...\"",
    )
    pool = judged.pools["x.yaml"]
    assert (pool.found.trials, pool.found.loss, pool.found.units) == (8, 0.01, 8)
    assert pool.margin == pooled_margin(0.01, 8)


@pytest.mark.parametrize(("margin", "is_red"), [(0.028, True), (0.029, False)])
def test_a_pool_is_red_only_beyond_its_margin(margin: float, *, is_red: bool) -> None:
    found = spread(8, 1, margin=margin)  # 0.01 was lost, and the root of 8 is 2.83
    assert (red(decide(found, ["x.yaml"]).decisions) == {"x.yaml"}) == is_red
    assert decide(found, ["x.yaml"]).pools["x.yaml"].found.p == 2**-8


def test_losses_that_are_significant_but_within_the_margin_are_pooled() -> None:
    found = spread(8, 10, margin=0.15)  # 0.1 was lost in each, and 0.15 over the root of 8 is 0.05
    judged = decide(found, ["x.yaml"])
    assert red(judged.decisions) == {"x.yaml"}
    assert judged.pools["x.yaml"].found.trials == 8


def test_the_strictest_of_its_trials_sets_a_pool_s_margin_and_level() -> None:
    found = [*spread(7, 1, margin=0.5, alpha=0.2), trial("strict", forgets(50), alpha=0.01)]
    pool = decide(found, ["x.yaml"]).pools["x.yaml"]
    assert (pool.margin, pool.alpha) == (pooled_margin(0.01, 8), 0.01)


def test_the_same_questions_lost_in_every_trial_are_no_further_evidence() -> None:
    found = [trial(f"r{i}", forgets(3)) for i in range(20)]
    assert not red(decide(found, ["x.yaml"]).decisions)


@pytest.mark.parametrize("trials", [0, 1])
def test_a_single_trial_has_no_pool(trials: int) -> None:
    judged = decide(spread(trials, 9, margin=0.2), ["x.yaml"])
    assert judged.pools == {}
    assert "x.yaml" not in judged.decisions


def test_a_large_loss_of_one_trial_is_not_told_as_a_small_one_of_all() -> None:
    found = [trial("r", forgets(*range(30))), trial("s", {}), trial("t", {})]
    judged = decide(found, ["x.yaml"])
    assert red(judged.decisions) == {"x.yaml::tiny/r::low"}
    assert judged.pools["x.yaml"].found.trials == 2
    lost = [replace(found[0], lost=True), *found[1:]]
    assert not red(decide(lost, ["x.yaml"]).decisions)


def test_pools_of_several_suites_are_tested_among_each_other() -> None:
    # 2 ** -6 is 0.016: beyond half of 0.05, which two pools share.
    def both(*each: int) -> list[Evidence]:
        return [
            replace(one, trial=one.trial.replace("x.yaml", suite))
            for suite, trials in zip(SUITES, each, strict=True)
            for one in spread(trials, 1)
        ]

    assert red(decide(both(6, 2), ["x.yaml"]).decisions) == {"x.yaml"}
    assert not red(decide(both(6, 2), SUITES).decisions)
    assert red(decide(both(7, 2), SUITES).decisions) == {"x.yaml"}
    assert red(decide(both(6, 7), SUITES).decisions) == set(SUITES)  # after the first, the second


def test_where_all_pools_are_significant_their_half_of_alpha_goes_to_the_trials() -> None:
    found = [*spread(9, 1), trial("r", forgets(*range(20, 25)), margin=0.02)]
    decisions = decide(found, ["x.yaml"]).decisions
    assert red(decisions) == {"x.yaml", "x.yaml::tiny/r::low"}
    alone = decide([found[-1], trial("s", {})], ["x.yaml"]).decisions
    assert not red(alone)


# False alarms, counted over every pattern of signs


def worlds(flips: Sequence[Collection[int]]) -> Iterator[list[dict[int, float]]]:
    """Every way in which the questions that flip in each trial may be lost or gained.

    A question that flips in several trials is lost in all of them or gained in all.
    """
    facts = sorted({fact for each in flips for fact in each})
    for signs in product([1.0, -1.0], repeat=len(facts)):
        sign = dict(zip(facts, signs, strict=True))
        yield [{fact: sign[fact] for fact in each} for each in flips]


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize(
    "flips",
    [
        pytest.param([range(9)], id="one-trial"),
        pytest.param([range(5), range(5, 10)], id="two-trials"),
        pytest.param([range(5), range(5, 8), range(8, 10), []], id="unequal-trials"),
        pytest.param([range(7), range(7), range(3, 10)], id="shared-questions"),
        pytest.param([[i] for i in range(9)], id="one-flip-each"),
    ],
)
def test_runs_in_which_nothing_is_lost_are_red_no_more_often_than_alpha(
    flips: Sequence[Collection[int]], alpha: float
) -> None:
    reds = [
        bool(
            red(
                decide(
                    [
                        trial(f"r{i}", signs, margin=0.0, alpha=alpha, inconclusive="pass")
                        for i, signs in enumerate(world)
                    ],
                    ["x.yaml"],
                ).decisions
            )
        )
        for world in worlds(flips)
    ]
    assert 0 < sum(reds) <= alpha * len(reds)


@pytest.mark.parametrize(
    "lost", [pytest.param(8, id="seen-at-once"), pytest.param(5, id="seen-now-and-then")]
)
def test_a_true_loss_makes_no_other_trial_red_more_often_than_alpha(lost: int) -> None:
    alpha, false, worlds_ = 0.2, 0, 0
    for world in worlds([range(5), range(5, 10)]):
        found = [
            trial(f"r{i}", signs, margin=0.0, alpha=alpha, inconclusive="pass")
            for i, signs in enumerate([forgets(*range(50, 50 + lost)), *world])
        ]
        judged = decide(found, ["x.yaml"])
        alarms = red(judged.decisions) - {found[0].trial}
        if "x.yaml" in judged.pools and judged.pools["x.yaml"].found.trials == 3:
            alarms -= {"x.yaml"}  # the true loss is in it
        false += bool(alarms)
        worlds_ += 1
    assert 0 < false <= alpha * worlds_
