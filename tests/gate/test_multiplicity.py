"""Holm against statsmodels, the rest by what it promises: few false alarms, nothing missed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulations import false_red
from statsmodels.stats.multitest import multipletests

from pytest_compression.gate.multiplicity import (
    holm,
    pooled,
    pooled_margin,
    significant,
    tarone,
)
from pytest_compression.gate.regression import change, mcnemar, sign_flip

ALPHA = 0.05
shares = st.one_of(st.sampled_from([0.0, 1.0, ALPHA, ALPHA / 2, ALPHA / 3, 0.001]), st.floats(0, 1))
many = st.lists(st.one_of(shares, st.floats(0, 0.01)), max_size=40)
counts = st.one_of(st.integers(0, 9), st.integers(0, 60))
flips = st.lists(st.tuples(counts, counts), max_size=30)
"""Forgotten and learned in each trial: often too few to be significant."""
QUESTIONS = [(f"r{i % 15}", f"q{i}") for i in range(60)]
changes = st.dictionaries(st.sampled_from(QUESTIONS), st.sampled_from([-1.0, 1.0]), max_size=40)
NAMES = {cluster for cluster, _ in QUESTIONS}


@settings(max_examples=25)  # theirs takes a twentieth of a second
@given(many, st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_is_that_of_statsmodels(p: list[float], alpha: float) -> None:
    theirs = multipletests(p, alpha, method="holm")[0].tolist() if p else []
    assert holm(p, alpha) == theirs


def test_holms_own_steps() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.0125, 0.05, 0.05 / 3, 0.025], 0.05) == [True] * 4
    assert holm([0.0126, 0.0], 0.05, total=5) == [False, True]


@given(many, st.data())
def test_part_of_the_tests_finds_a_part_of_what_all_find(
    p: list[float], data: st.DataObject
) -> None:
    chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(p))))) if p else [])
    seen = holm([p[i] for i in chosen], ALPHA, total=len(p))
    whole = holm(p, ALPHA)
    assert all(whole[i] for i, found in zip(chosen, seen, strict=True) if found)


@pytest.mark.parametrize("p", [[0.5, 1.5], [-0.1], [float("nan")]])
def test_a_p_value_is_a_share(p: list[float]) -> None:
    for call in (
        lambda: holm(p, ALPHA),
        lambda: tarone(p, [9] * len(p), ALPHA),
        lambda: significant([], [], p, ALPHA),
    ):
        with pytest.raises(ValueError, match="not a p-value: "):
            call()
    with pytest.raises(ValueError, match="3 of 2 tests"):
        holm([0.1] * 3, ALPHA, total=2)


@given(flips)
def test_tarone_finds_all_that_holm_finds_and_trials_without_flips_cost_nothing(
    trials: list[tuple[int, int]],
) -> None:
    p, flipped = [mcnemar(*each) for each in trials], [sum(each) for each in trials]
    found = tarone(p, flipped, ALPHA)
    assert all(mine or not theirs for mine, theirs in zip(found, holm(p, ALPHA), strict=True))
    assert tarone([*p, *[1.0] * 50], [*flipped, *[0] * 50], ALPHA) == [*found, *[False] * 50]
    order = sorted(zip(p, found, strict=True))
    assert all(first or not second for (a, first), (b, second) in pairwise(order) if a < b)


@given(flips.filter(bool))
def test_tarone_keeps_its_level_whatever_flipped(trials: list[tuple[int, int]]) -> None:
    # No loss anywhere: the chance of any p in the first step is at most the sum of their tails.
    flipped = [sum(each) for each in trials]
    passing = [
        max(
            (p for k in range(n + 1) if tarone_first(p := mcnemar(k, n - k), i, flipped)), default=0
        )
        for i, n in enumerate(flipped)
    ]
    assert sum(passing) <= ALPHA


def tarone_first(p: float, i: int, flipped: list[int]) -> bool:
    """Whether it is significant where no other test is."""
    return tarone([p if j == i else 1.0 for j in range(len(flipped))], flipped, ALPHA)[i]


def test_nine_forgotten_are_seen_if_nothing_else_flipped() -> None:
    p, flipped = [1.0] * 199 + [2.0**-9], [0] * 199 + [9]
    assert not any(holm(p, ALPHA))
    assert tarone(p, flipped, ALPHA) == significant(p, flipped, [], ALPHA)[0]
    assert tarone(p, flipped, ALPHA) == [False] * 199 + [True]
    assert not any(tarone(p, [9] * 200, ALPHA))


@given(flips, shares)
def test_trials_and_all_together_have_half_of_alpha_each(
    trials: list[tuple[int, int]], together: float
) -> None:
    p, flipped = [mcnemar(*each) for each in trials], [sum(each) for each in trials]
    found, (also,) = significant(p, flipped, [together], ALPHA)
    half = tarone(p, flipped, ALPHA / 2)
    assert also == (together <= (ALPHA if all(half) else ALPHA / 2))
    assert found == (tarone(p, flipped, ALPHA) if also else half)


@given(st.lists(changes, min_size=1, max_size=5))
def test_a_question_is_one_unit_however_many_recipes_were_asked(
    trials: list[dict[tuple[str, str], float]],
) -> None:
    asked = len(trials) * len(QUESTIONS)
    few = pooled(([{("r", q): d for (_, q), d in trial.items()} for trial in trials]), "r", asked)
    sums = [sum(trial.get(question, 0.0) for trial in trials) for question in QUESTIONS]
    assert (few.clustered, few.trials) == (False, len(trials))
    assert few.loss == pytest.approx(sum(sums) / asked, abs=1e-15)
    assert few.p == sign_flip(sums)
    many = pooled(trials, NAMES, asked)
    sums = [
        sum(d for trial in trials for (cluster, _), d in trial.items() if cluster == name)
        for name in sorted(NAMES)
    ]
    assert (many.clustered, many.loss, many.p) == (True, few.loss, sign_flip(sums))
    assert few.units == len({question for trial in trials for question in trial})


@given(changes.filter(bool), st.integers(2, 20))
def test_copies_of_a_recipe_are_no_further_evidence(
    trial: dict[tuple[str, str], float], copies: int
) -> None:
    one = pooled([trial], NAMES, 60)
    all_of_them = pooled([trial] * copies, NAMES, 60 * copies)
    assert all_of_them.p == one.p
    assert all_of_them.loss == pytest.approx(one.loss, abs=1e-15)


def test_what_no_trial_shows_all_together_do() -> None:
    # Each of 40 trials forgets 3 questions of its own and learns 1 of 200: 1 point, p = 5/16.
    names = [f"r{i % 4}" for i in range(200)]
    trials, p = [], []
    for number in range(40):
        now = [1] * 200
        for i in range(3):
            now[(3 * number + i) % 199] = 0
        accepted = [1] * 199 + [0]
        found = change(accepted, now, names)
        p.append(found.p_loss)
        trials.append(
            {(names[i], str(i)): accepted[i] - now[i] for i in found.forgotten + found.learned}
        )
        assert found.loss <= 0.01
    together = pooled(trials, names, 40 * 200)
    assert (together.loss, together.trials, together.units) == (0.01, 40, 121)
    found_of_trials, (also,) = significant(p, [4] * 40, [together.p], ALPHA)
    assert not any(found_of_trials)
    assert also
    assert together.loss > pooled_margin(0.01, 40)


def test_without_trials_or_flips_nothing_is_lost() -> None:
    found = pooled([{}, {}], ["r"], 20)
    assert (found.loss, found.p, found.trials, found.units) == (0.0, 1.0, 2, 0)


@pytest.mark.parametrize(
    ("clusters", "asked"), [(["r"], 0), (["other"], 5)], ids=["too-many", "unknown"]
)
def test_pooled_differences_are_of_the_questions_asked(clusters: list[str], asked: int) -> None:
    with pytest.raises(ValueError, match="1 differences of"):
        pooled([{("r", "q"): 1.0}], clusters, asked)


@given(st.floats(0, 1), st.integers(1, 1000))
def test_the_margin_of_all_shrinks_from_that_of_one(margin: float, trials: int) -> None:
    assert pooled_margin(margin, 1) == margin
    assert pooled_margin(margin, trials + 1) <= pooled_margin(margin, trials)
    assert pooled_margin(0.01, 200) == pytest.approx(0.000707, abs=1e-6)


@pytest.mark.parametrize(
    "world", [false_red.CLUSTERED, false_red.FEW], ids=["33-relations", "2-to-6-relations"]
)
def test_suites_of_200_green_trials_are_seldom_red(world: false_red.World) -> None:
    suites = 500
    run = false_red.simulate(world, suites)
    red = (run.significant() & run.beyond(0.0)).any(axis=1)
    assert red.mean() <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / suites)
    alone = (run.p[:, :-1] <= 0.02) & (run.loss[:, :-1] > 0.01)
    assert alone.any(axis=1).mean() > 0.5  # unadjusted, most of them are
