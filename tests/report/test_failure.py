"""What a failed trial says, built from values alone."""

from math import inf
from pathlib import Path

import pytest
from fakes import Facts
from msgspec.structs import replace

from pytest_compression.examination import Examination, examine
from pytest_compression.gate.verdict import Stopped
from pytest_compression.references import References, Subject
from pytest_compression.report.comparison import retained
from pytest_compression.report.failure import FACTS, footprint_line, lines, size, steps, text
from pytest_compression.report.properties import of_footprint
from pytest_compression.store.baselines import Baseline, chance, packed
from pytest_compression.types import (
    Acceptance,
    Cost,
    Footprint,
    Gate,
    Measurement,
    Part,
    Question,
    TrialSpec,
)

FOOTPRINT = Footprint(
    bytes=2_500_000,
    dense_bytes=10_000_000,
    parameters=2_500_000,
    zeros=750_000,
    modules_touched=9,
    modules=10,
    sparsity=0.3,
    bits=8.125,
    weight_error=0.0123,
)
GATE = Gate()


def measured(n: int, forgotten: int) -> Measurement:
    """Of ``n`` questions, the first are wrong, each more clearly than the one before."""
    questions: tuple[Question, ...] = Facts(n=n).questions()
    return Measurement(
        metric="P@1",
        questions=questions,
        margins=tuple(-1.0 - i if i < forgotten else 1.0 for i in range(n)),
        given=tuple(f"given {i}" for i in range(n)),
        scoring="v1",
        left_out={},
        open_vocabulary=True,
    )


def trial(n: int, gate: Gate) -> Subject:
    return Subject(
        trial="x.yaml::m/int8::b",
        dense_trial="x.yaml::m/dense::b",
        spec=TrialSpec(model="m", recipe="int8", benchmark="b", gate=gate),
        steps=(Part(use="rtn", options={"bits": 8}), Part(use="magnitude")),
        path=Path("b.json"),
        dense_path=Path("d.json"),
        weights="w",
        footprint=FOOTPRINT,
        environment={"torch": "2"},
        dense=measured(n, 0),
        records_dense=False,
        command="pytest --compress-suite",
    )


def examination(
    n: int, forgotten: int, gate: Gate = GATE, accepted: int | None = None
) -> Examination:
    """The first of ``n`` questions were forgotten; fewer, or as many, when it was accepted."""
    now = measured(n, forgotten)
    then = measured(n, forgotten if accepted is None else accepted)
    subject = trial(n, gate)
    baseline = Baseline(
        recipe=subject.recipe,
        metric="P@1",
        scores=packed(then),
        chance=chance(then),
        near_ties={},
        near_tie=0.01,
        gate=gate,
        left_out={},
        fingerprint=subject.fingerprint,
        footprint=FOOTPRINT,
        cost=Cost(tokens=0, seconds=0),
        environment={"torch": "2"},
        accepted=Acceptance(date="2026-08-01", reason=""),
    )
    references = References(
        dense=[1.0] * n,
        near_tie=0.01,
        own=baseline,
        hardware=subject.hardware,
        accepted=list(then.scores),
    )
    return examine(subject, now, references)


def test_few_forgotten_facts_are_all_listed_the_most_clearly_wrong_first() -> None:
    said = list(lines(examination(10, 3)))
    start = said.index("Forgotten facts:")
    assert said[start + 1 : start + 4] == [
        "  Fact 2 | even | then right 2, now given 2 (by 3.00 nats)",
        "  Fact 1 | odd | then right 1, now given 1 (by 2.00 nats)",
        "  Fact 0 | even | then right 0, now given 0 (by 1.00 nats)",
    ]
    assert said[start + 4] == ""
    assert "  even: forgotten 2, learned 0, of 5 questions" in said


def test_of_many_forgotten_facts_the_worst_are_listed_and_all_are_counted() -> None:
    said = list(lines(examination(300, 40)))
    start = said.index(f"Forgotten facts (the {FACTS} most clearly wrong of 40):")
    assert len([line for line in said[start + 1 :] if line.startswith("  Fact")]) == FACTS
    assert said[start + 1].startswith("  Fact 39 |")
    assert said[start + FACTS + 1] == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (" right 0", "then 'right 0', now ' right 0' ("),
        ("right\n0", "then 'right 0', now 'right\\n0' ("),
        ("right\u00a00", "then 'right 0', now 'right\\xa00' ("),
        ("right 00", "then right 0, now right 00 ("),
        ("right 0", "then right 0, now right 0 ("),  # wrong for another reason
    ],
)
def test_an_answer_that_is_wrong_by_white_space_is_in_quotes(given: str, said: str) -> None:
    found = examination(10, 1)
    answers = (given, *found.measured.given[1:])
    found = replace(found, measured=replace(found.measured, given=answers))
    (line,) = (line for line in lines(found) if line.startswith("  Fact 0 |"))
    assert line.startswith(f"  Fact 0 | even | {said}")


def test_limits_without_bounds_are_unknown() -> None:
    found = examination(1, 0)  # of a single question nothing is known
    assert found.verdict.interval == (-inf, inf)
    (line,) = (line for line in lines(found) if line.startswith("  retention "))
    assert line == (
        "  retention 1.0000  [unknown, unknown], each limit at 95% over questions; paired standard "
        "error unknown"
    )
    said = next(retained(found.verdict, GATE))
    assert said.startswith("retention 1.0000  [unknown, unknown], each limit at 95%")


def test_what_is_lost_is_told_with_every_rule_that_it_breaks() -> None:
    found = examination(40, 8, Gate(relation_floors={"odd": 0.9, "even": 0.5}, max_forgotten=0.1))
    assert next(lines(found)) == (
        "x.yaml::m/int8::b: knowledge was lost: retention 0.8000 is below the floor 0.95; "
        "retention of relation odd 0.8000 is below the floor 0.9; 0.2000 of the right answers "
        "were forgotten, more than max_forgotten 0.1."
    )
    assert text(found).endswith(
        "A loss below the floor is not mended by recording it. Mend the recipe, or lower the floor "
        "in the suite and say why: pytest --compress-suite 'x.yaml::m/int8::b' --compress-update "
        '--compress-reason "..."'
    )


def test_a_regression_above_the_floor_is_told_with_its_size_and_significance() -> None:
    found = examination(200, 9, accepted=3)
    said = list(lines(found))
    assert said[0] == (
        "x.yaml::m/int8::b: a regression: 3.00% of the answers were lost, net, since the result "
        "was accepted, beyond the margin 1.00%; p = 0.016."  # 2 ** -6
    )
    low, high = found.verdict.interval
    assert said[2:6] == [
        "  dense 1.0000  compressed 0.9550  chance 0.0000  on 200 questions (P@1)",
        (
            f"  retention 0.9550  [{low:.4f}, {high:.4f}], each limit at 95% over questions; "
            "paired standard error 0.0147"
        ),
        "  forgotten 9 of 200 known  learned 0  near ties settled 0",
        ("  since accepted: lost 6, regained 0, net +3.00% of the questions lost, p = 0.016"),
    ]
    # What was lost since then, not what the dense model knew besides.
    assert [line.split(" | ")[0] for line in said if line.startswith("  Fact")] == [
        f"  Fact {i}" for i in (8, 7, 6, 5, 4, 3)
    ]
    assert "  even: forgotten 3, learned 0, of 100 questions" in said
    assert said[-1] == (
        "Mend what is to blame, or accept the worse result and say why: pytest --compress-suite "
        "'x.yaml::m/int8::b' --compress-update --compress-reason \"...\""
    )


def test_a_regression_is_told_before_what_cannot_be_proven() -> None:
    found = examination(100, 17, Gate(assurance="proven", min_retention=0.8), accepted=0)
    assert found.verdict.unclear
    assert next(lines(found)).startswith("x.yaml::m/int8::b: a regression: 17.00% of the answers")


@pytest.mark.parametrize(
    ("found", "listed"),
    [
        pytest.param(
            examination(200, 8, accepted=4), [7, 6, 5, 4], id="a loss since it was accepted"
        ),
        pytest.param(
            examination(40, 2, Gate(assurance="proven"), accepted=2), [1, 0], id="a retention"
        ),
    ],
)
def test_what_cannot_be_decided_lists_the_facts_that_are_in_question(
    found: Examination, listed: list[int]
) -> None:
    said = list(lines(found))
    assert said[0].startswith("x.yaml::m/int8::b: INCONCLUSIVE: ")
    assert [line.split(" | ")[0] for line in said if line.startswith("  Fact")] == [
        f"  Fact {i}" for i in listed
    ]
    assert said[-1].startswith("Ask more questions, or let the suite's gate say what ")


def test_a_trial_that_was_stopped_says_of_how_many_questions_and_between_what_limits() -> None:
    whole = examination(40, 20)
    asked = measured(20, 12)
    stopped = Stopped(decision="lost", limits=(0.1, 0.7))
    found = examine(whole.subject, asked, whole.references, stopped)
    said = list(lines(found))
    assert said[0] == (
        "x.yaml::m/int8::b: knowledge was lost: 20 of 40 questions were enough to know that it "
        "misses its floors; the retention of the whole trial lies in [0.1000, 0.7000], the floor "
        "is 0.95."
    )
    assert "  on 20 questions of 40, stopped early (P@1)" in said[2]
    assert "  retention 0.4000  [0.1000, 0.7000], each" in said[3]
    assert "since accepted" not in text(found)  # a part of the answers is no comparison


def test_what_did_not_change_is_said_to_be_unchanged() -> None:
    found = examination(10, 3, accepted=0)
    said = list(lines(found))
    assert "Since it was accepted (2026-08-01, score 1.0000):" in said
    assert "  recipe: unchanged, rtn bits=8 > magnitude" in said
    assert "  environment: unchanged" in said
    blamed = "To blame: the recipe: nothing that is recorded has changed, and the dense model still"
    assert blamed in text(found)
    other = since(found, environment={"torch": "1"})
    assert "  environment: changed: torch 1 -> 2" in list(lines(other))
    assert "To blame: the recipe in the changed environment: the dense model" in text(other)
    edited = since(found, environment={"torch": "1"}, recipe=[{"use": "rtn", "bits": 4}])
    said = list(lines(edited))
    assert "  recipe: changed from rtn bits=4 to rtn bits=8 > magnitude" in said
    assert "  environment: changed: torch 1 -> 2" in said
    assert "To blame: the recipe: it was edited, and the dense model still" in text(edited)


def since(found: Examination, **changes: object) -> Examination:
    """The same, with other things in the accepted baseline."""
    assert found.references.own is not None
    own = replace(found.references.own, **changes)
    return replace(found, references=replace(found.references, own=own))


def test_other_hardware_s_baseline_is_named() -> None:
    found = examination(10, 3, accepted=0)
    assert "hardware:" not in text(found)
    other = replace(found, references=replace(found.references, hardware="cuda H100"))
    assert "  hardware: compared with the baseline of cuda H100; there is none of any" in lines(
        other
    )


def test_what_was_never_accepted_blames_nobody() -> None:
    found = examination(10, 3)
    new = examine(found.subject, found.measured, References(dense=[1.0] * 10, near_tie=0.01))
    said = list(lines(new))
    assert "It was not accepted before." in said
    assert not [line for line in said if line.startswith("To blame")]
    assert said[0].endswith("retention 0.7000 is below the floor 0.95.")


def test_the_footprint_reads_in_one_line() -> None:
    assert footprint_line(FOOTPRINT) == (
        "recipe: 9 of 10 linear layers, 8.12 bits a weight, 30.0% zeros, weight error 0.012; "
        "2.5 MB of 10.0 MB (0.25x)"
    )
    assert steps([{"use": "rtn", "bits": 4, "targets": "all"}]) == "rtn bits=4 targets=all"


def test_no_error_is_said_of_layers_that_were_cut() -> None:
    cut = replace(FOOTPRINT, reshaped=4)
    assert "30.0% zeros, 4 of another shape; 2.5 MB" in footprint_line(cut)
    assert "weight_error" not in dict(of_footprint(cut))
    assert dict(of_footprint(FOOTPRINT))["weight_error"] == FOOTPRINT.weight_error


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (2_500_000_000, "2.5 GB"),
        (2_500_000_000_000, "2500.0 GB"),
    ],
)
def test_sizes_are_for_readers(count: int, said: str) -> None:
    assert size(count) == said
