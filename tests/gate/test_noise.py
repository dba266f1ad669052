"""What numerics may do: bounds by property, rates by simulation."""

import itertools
from collections.abc import Callable
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from light_strategies import graded_measurements, measurements
from numpy.typing import NDArray
from scipy import stats

from pytest_compression.gate.noise import above, exceedance, false_red, learned
from pytest_compression.gate.verdict import near_ties, settled
from pytest_compression.types import Measurement, Noise, Question

OWN = ("batch budget 1", "threads 1", "threads 2")

steps = st.one_of(st.sampled_from([0.0, 1e-6, -1e-6, 0.01, -0.02]), st.floats(-3, 3))
shifts = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 10)), min_size=1, max_size=60)
leads = st.lists(st.floats(-20, 20), min_size=1, max_size=20)
distances = st.one_of(st.sampled_from([0.0, 0.01]), st.floats(0, 5))


def measured(*margins: float) -> Measurement:
    return Measurement(
        metric="ranked",
        questions=tuple(
            Question(
                id=f"{i:04}",
                subject="",
                stem="",
                end="",
                answer="a",
                candidates=("a", "b"),
                cluster="r",
            )
            for i in range(len(margins))
        ),
        margins=margins,
        given=("a",) * len(margins),
        scoring="v1",
        left_out={},
    )


def learn(reference: Measurement, **others: Measurement) -> Noise:
    named = {name.replace("_", " "): other for name, other in others.items()}
    return learned(reference, named, date="2026-01-02")


@st.composite
def calibrations(draw: st.DrawFn) -> tuple[Measurement, dict[str, Measurement]]:
    """A measurement, and the same questions under a few conditions of the same dtype."""
    reference = draw(measurements())
    n = len(reference.questions)
    others = {}
    for name in sorted(draw(st.sets(st.sampled_from(OWN), min_size=1))):
        moves = draw(st.lists(steps, min_size=n, max_size=n))
        margins = tuple(a + b for a, b in zip(reference.margins, moves, strict=True))
        others[name] = msgspec.structs.replace(reference, margins=margins)
    return reference, others


@given(calibrations())
def test_wherever_it_was_accepted_the_same_is_judged_under_each_condition(
    calibration: tuple[Measurement, dict[str, Measurement]],
) -> None:
    reference, others = calibration
    near = learned(reference, others, date="").near_tie
    for then, now in itertools.product([reference, *others.values()], repeat=2):
        recorded = {i: then.scores[i] for i in near_ties(then.margins, near)}
        assert settled(now, recorded, near)[0] == list(then.scores)


def test_the_furthest_shift_itself_would_not_do() -> None:
    # Accepted where the margin is highest, judged where it is lowest.
    highest, lowest = measured(2.0), measured(-0.1)
    found = learn(measured(1.0), threads_1=highest, threads_2=lowest)
    assert found.shifts == {"threads 1": 1.0, "threads 2": 1.1}
    assert near_ties(highest.margins, 1.2) == []
    assert near_ties(highest.margins, found.near_tie) == [0]
    assert settled(lowest, {0: 1.0}, found.near_tie) == ([1.0], [0])


def test_it_says_shifts_and_flips_by_condition_and_learns_from_its_own_dtype_only() -> None:
    found = learn(
        measured(1.0, -1.0, 0.25),
        threads_1=measured(1.5, -1.0, 0.25),
        batch_budget_1=measured(1.0, -1.0, -0.5),
        dtype_bfloat16=measured(-7.0, 7.0, 0.25),
    )
    assert found.shifts == {"threads 1": 0.5, "batch budget 1": 0.75, "dtype bfloat16": 8.0}
    assert found.flips == {"threads 1": 0, "batch budget 1": 1, "dtype bfloat16": 2}
    assert found.near_tie == 1.6
    assert found.date == "2026-01-02"
    without = learn(
        measured(1.0, -1.0, 0.25),
        threads_1=measured(1.5, -1.0, 0.25),
        batch_budget_1=measured(1.0, -1.0, -0.5),
    )
    assert found.false_red == without.false_red > 0


def test_what_is_settled_anyway_lowers_the_rate_and_not_what_was_learned() -> None:
    reference = measured(0.3, -0.5, 2.0, 3.0)
    others = {"threads 1": measured(0.31, -0.52, 2.05, 2.9)}
    alone, less, more = (
        learned(reference, others, date="", near_tie=near_tie) for near_tie in (0.0, 0.1, 1.0)
    )
    assert alone.near_tie == more.near_tie == 0.21
    assert alone == less
    assert 0 < more.false_red < alone.false_red


def test_where_nothing_moves_nothing_is_near_and_no_run_is_red() -> None:
    still = measured(0.0, 1e-9, -3.0, np.inf)  # a right answer without others leads infinitely
    found = learn(still, threads_1=still, batch_budget_1=still)
    assert (found.near_tie, found.false_red) == (0.0, 0.0)
    assert found.shifts == {"threads 1": 0.0, "batch budget 1": 0.0}


@given(graded_measurements(), st.floats(0.5, 2), st.sampled_from([0, 1]))
def test_graded_scores_may_move_twice_as_far_as_any_did(
    reference: Measurement, step: float, moves: int
) -> None:
    first, *rest = reference.values
    other = msgspec.structs.replace(reference, values=(first + step * moves, *rest))
    found = learn(reference, threads_1=reference, threads_2=other)
    assert 2 * step * moves <= found.near_tie + 1e-9
    assert found.near_tie <= 2.3 * step * moves
    assert found.shifts["threads 2"] == pytest.approx(step * moves, abs=1e-9)
    assert found.flips == {"threads 1": 0, "threads 2": moves}
    assert found.false_red == 0


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({}, "no condition that computes in the same dtype"),
        ({"dtype_float64": measured(1.0, 2.0)}, "no condition that computes in the same dtype"),
        ({"threads_1": measured(1.0)}, "different questions"),
        ({"threads_1": measured(1.0, np.inf)}, "finite in one condition"),
        ({"threads_1": measured(1.0, np.nan)}, "finite in one condition"),
    ],
    ids=["none", "dtype only", "fewer", "infinite", "nan"],
)
def test_what_cannot_be_learned_from_is_refused(others: dict[str, Measurement], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        learn(measured(1.0, 2.0), **others)


@given(st.floats(0, 1e300))
@example(9.999999999999999e299)  # the next of which is 1.1e300, more than 1.1 times as much
def test_a_distance_is_rounded_up_to_two_digits_and_lies_within(distance: float) -> None:
    found = above(distance)
    assert found > distance or found == distance == 0
    assert len(Decimal(repr(found)).normalize().as_tuple().digits) <= 2
    assert found <= (1.1 + 1e-9) * distance + 1e-300


@given(shifts)
def test_up_to_the_tail_chances_are_shares_of_what_was_seen(moves: list[float]) -> None:
    found, ordered = np.array(moves), sorted(move for move in moves if move > 0)
    for distance in [0.0, *ordered[:-10]]:
        share = sum(move >= distance for move in ordered) / len(moves)
        assert exceedance(np.array([distance]), found) == pytest.approx([share])


@pytest.mark.parametrize("index", [1.5, 2, 4])
def test_a_power_law_is_continued_as_it_is(index: float) -> None:
    law = stats.pareto(index)
    draws = law.ppf((np.arange(20_000) + 0.5) / 20_000)
    far = np.array([2.0, 10.0, 100.0, 1000.0])
    assert exceedance(far, draws) == pytest.approx(law.sf(far), rel=0.1)


@given(leads, shifts, distances, distances)
def test_wider_near_ties_never_raise_the_rate(
    margins: list[float], moves: list[float], one: float, other: float
) -> None:
    found = np.array(moves)
    wider = false_red(margins, found, max(one, other))
    assert 0 <= wider <= false_red(margins, found, min(one, other)) + 1e-12 <= 1 + 1e-12


@given(leads, shifts, distances, st.integers(0, 20))
def test_more_noise_never_lowers_the_rate_and_units_change_nothing(
    margins: list[float], moves: list[float], near: float, power: int
) -> None:
    found, factor = np.array(moves), 2.0**power
    rate = false_red(margins, found, near)
    assert false_red(margins, factor * found, near) >= rate - 1e-9
    scaled = false_red([factor * margin for margin in margins], factor * found, factor * near)
    assert scaled == pytest.approx(rate, rel=1e-9, abs=1e-12)


# Rates against the truth. Margins as a model's that knows most answers, noise of known law.

STRENGTH = 0.05
MARGINS = stats.norm(1.5, 2).ppf((np.arange(400) + 0.5) / 400)
CONDITIONS = 4
CALIBRATIONS = 100

Rates = tuple[float, float]


def true_rate(law: stats.distributions.rv_frozen, near: float) -> float:
    """Chance that independent shifts flip an answer beyond near ties: exact."""
    lead = np.abs(MARGINS)
    reach = np.where(lead < near, 2 * near + lead, lead)
    return float(-np.expm1(np.log1p(-law.sf(reach)).sum()))


def rates(
    law: stats.distributions.rv_frozen, near: Callable[[NDArray[np.float64]], float]
) -> Rates:
    """Predicted and true, on average over calibrations that draw from the law."""
    random = np.random.default_rng(7)
    predicted, true = [], []
    for _ in range(CALIBRATIONS):
        draws = np.abs(law.rvs(CONDITIONS * len(MARGINS), random_state=random))
        distance = near(draws)
        predicted.append(false_red(MARGINS.tolist(), draws, distance))
        true.append(true_rate(law, distance))
    return float(np.mean(predicted)), float(np.mean(true))


def learned_distance(draws: NDArray[np.float64]) -> float:
    return above(2 * float(draws.max()))


LIGHT = {"normal": stats.norm(scale=STRENGTH), "laplace": stats.laplace(scale=STRENGTH)}
HEAVY = {"t3": stats.t(3, scale=STRENGTH), "t2": stats.t(2, scale=STRENGTH)}


@pytest.mark.parametrize("near", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("law", sorted(LIGHT | HEAVY))
def test_within_what_was_seen_the_rate_is_right(law: str, near: float) -> None:
    predicted, true = rates((LIGHT | HEAVY)[law], lambda _: near * STRENGTH)
    assert true > 1e-3
    assert predicted == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("near", [lambda _: 5 * STRENGTH, learned_distance], ids=["5", "learned"])
@pytest.mark.parametrize("law", sorted(HEAVY))
def test_beyond_what_was_seen_the_rate_of_heavy_tails_is_right_within_a_factor(
    law: str, near: Callable[[NDArray[np.float64]], float]
) -> None:
    predicted, true = rates(HEAVY[law], near)
    assert true > 1e-4
    assert 0.9 * true < predicted < 3 * true


@pytest.mark.parametrize("law", sorted(LIGHT))
def test_beyond_what_was_seen_the_rate_of_light_tails_is_small_and_too_high(law: str) -> None:
    predicted, true = rates(LIGHT[law], learned_distance)
    assert true < predicted < 5e-3


def test_questions_that_move_together_make_it_too_high_and_not_too_low() -> None:
    random, near = np.random.default_rng(3), 0.5 * STRENGTH
    loading = random.choice([-0.9, 0.9], len(MARGINS))

    def runs(count: int) -> NDArray[np.float64]:
        shared, own = random.normal(size=(count, 1)), random.normal(size=(count, len(MARGINS)))
        noise: NDArray[np.float64] = STRENGTH * (loading * shared + np.sqrt(1 - 0.81) * own)
        return noise

    lead = np.abs(MARGINS)
    reach = np.where(lead < near, 2 * near + lead, lead)
    true = float((-np.sign(MARGINS) * runs(20_000) >= reach).any(1).mean())
    predicted = [
        false_red(MARGINS.tolist(), np.abs(runs(CONDITIONS)).ravel(), near)
        for _ in range(CALIBRATIONS)
    ]
    assert 0.95 * true < np.mean(predicted) < 1.5 * true


def test_an_unchanged_model_is_never_red_at_what_was_learned() -> None:
    random = np.random.default_rng(11)
    reference = measured(*MARGINS.tolist())

    def again() -> Measurement:
        moved = MARGINS + random.normal(scale=STRENGTH, size=len(MARGINS))
        return msgspec.structs.replace(reference, margins=tuple(moved.tolist()))

    near = learn(reference, a=again(), b=again(), c=again()).near_tie
    recorded = {i: reference.scores[i] for i in near_ties(reference.margins, near)}
    raw = 0
    for _ in range(500):
        now = again()
        raw += now.scores != reference.scores
        assert settled(now, recorded, near)[0] == list(reference.scores)
    assert raw > 100
