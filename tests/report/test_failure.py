"""What a failed trial says, built from values alone."""

from pathlib import Path

import pytest
from fakes import Facts
from msgspec.structs import replace

from pytest_compression.examination import Examination, Subject
from pytest_compression.gate.verdict import judge
from pytest_compression.report.failure import FACTS, footprint_line, lines, size, steps
from pytest_compression.store.baselines import Baseline, packed
from pytest_compression.types import (
    Acceptance,
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


def examination(n: int, forgotten: int) -> Examination:
    """Of ``n`` questions, the first were forgotten, each more clearly than the one before."""
    questions: tuple[Question, ...] = Facts(n=n).questions()
    margins = tuple(-1.0 - i if i < forgotten else 1.0 for i in range(n))
    measured = Measurement(
        metric="P@1",
        questions=questions,
        margins=margins,
        given=tuple(f"given {i}" for i in range(n)),
        scoring="v1",
        left_out={},
        open_vocabulary=True,
    )
    subject = Subject(
        trial="x.yaml::m/int8::b",
        dense_trial="x.yaml::m/dense::b",
        spec=TrialSpec(model="m", recipe="int8", benchmark="b", gate=Gate()),
        steps=(Part(use="rtn", options={"bits": 8}), Part(use="magnitude")),
        path=Path("b.json"),
        dense_path=Path("d.json"),
        measured=measured,
        weights="w",
        footprint=FOOTPRINT,
        environment={"torch": "2"},
        dense=measured,
        records_dense=False,
        command="pytest --compress-suite",
    )
    baseline = Baseline(
        trial=subject.trial,
        recipe=subject.recipe,
        metric="P@1",
        scores=packed(measured),
        near_ties={},
        near_tie=0.01,
        floor=0.95,
        left_out={},
        fingerprint=subject.fingerprint,
        footprint=FOOTPRINT,
        environment={"torch": "2"},
        accepted=Acceptance(date="2026-08-01", reason=""),
    )
    verdict = judge(measured, measured.scores, [1] * n, Gate())
    return Examination(subject=subject, baseline=baseline, verdict=verdict, recorded=False)


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
    assert "few questions" not in "\n".join(said)
    assert "few questions" in "\n".join(lines(examination(199, 40)))


def test_what_did_not_change_is_said_to_be_unchanged() -> None:
    found = examination(10, 3)
    said = list(lines(found))
    assert "  recipe: unchanged, rtn bits=8 > magnitude" in said
    assert "  environment: unchanged" in said
    other = replace(
        found,
        baseline=replace(
            found.baseline, environment={"torch": "1"}, recipe=[{"use": "rtn", "bits": 4}]
        ),
    )
    said = list(lines(other))
    assert "  recipe: changed from rtn bits=4 to rtn bits=8 > magnitude" in said
    assert "  environment: changed: torch 1 -> 2" in said


def test_the_footprint_reads_in_one_line() -> None:
    assert footprint_line(FOOTPRINT) == (
        "recipe: 9 of 10 linear layers, 8.12 bits a weight, 30.0% zeros, weight error 0.012; "
        "2.5 MB of 10.0 MB (0.25x)"
    )
    assert steps([{"use": "rtn", "bits": 4, "targets": "all"}]) == "rtn bits=4 targets=all"


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
