"""When a model is asked, and when it need not be."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kept import cache, measured

from pytest_compression.store import answers, keys
from pytest_compression.store.answers import Answers
from pytest_compression.store.cache import Cache
from pytest_compression.types import Identity, Measurement


@dataclass
class Model:
    """Its identity is what it is set to; it counts how often that is computed."""

    weights: str = "w1"
    unknown: str = ""
    computed: int = 0

    def identity(self) -> Identity:
        self.computed += 1
        return Identity(digest="" if self.unknown else self.weights, unknown=self.unknown)


@dataclass
class Facts:
    """Answers with the model's weights, and counts how often it asks."""

    asked: int = 0
    sight: list[str] = field(default_factory=lambda: ["facts"])
    meanwhile: Callable[[Model], None] = lambda _model: None
    cached: bool = True

    def questions(self) -> list[str]:
        return self.sight

    def measure(self, model: Model) -> Measurement:
        self.asked += 1
        found = measured(model.weights)
        self.meanwhile(model)
        return found


@pytest.fixture(autouse=True)
def _plain_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        keys, "of_benchmark", lambda facts, _model, _since: {"asks": repr(facts.sight)}
    )


@pytest.fixture(name="kept")
def kept_(tmp_path: Path) -> Cache:
    return cache(tmp_path)


def test_the_same_is_asked_once(kept: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 3.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    facts, model = Facts(), Model()
    first = Answers(model, kept).ask(facts)
    again = Answers(model, kept).ask(facts)
    assert facts.asked == 1
    assert (first.measurement, first.seconds, first.cached) == (measured("w1"), 2.5, False)
    assert (again.measurement, again.seconds, again.cached) == (measured("w1"), 2.5, True)
    assert first.properties == []
    assert again.properties == [("cached", True)]


def test_another_model_or_benchmark_is_asked(kept: Cache) -> None:
    facts = Facts()
    Answers(Model(), kept).ask(facts)
    other = Answers(Model(weights="w2"), kept).ask(facts)
    assert (facts.asked, other.measurement) == (2, measured("w2"))
    Answers(Model(), kept).ask(more := Facts(sight=["facts", "more"]))
    assert more.asked == 1


def test_without_a_cache_everything_is_asked() -> None:
    facts, model = Facts(), Model()
    for _ in range(2):
        assert Answers(model, None).ask(facts).properties == []
    assert (facts.asked, model.computed) == (2, 0)


def test_a_model_without_an_identity_is_just_asked(kept: Cache) -> None:
    class Plain:
        weights = "w1"

    facts = Facts()
    for _ in range(2):
        assert Answers(Plain(), kept).ask(facts).properties == []
    assert facts.asked == 2


def test_an_identity_is_computed_once_for_what_is_kept(kept: Cache) -> None:
    facts = [Facts(sight=[name]) for name in "abc"]
    model = Model()
    here = Answers(model, kept)
    for one in facts:
        here.ask(one)
    assert model.computed == 4  # and after each measurement, for that may change a model
    again = Answers(model, kept)
    for one in facts:
        again.ask(one)
    assert model.computed == 5
    assert [one.asked for one in facts] == [1, 1, 1]


def test_a_benchmark_that_changes_the_model_is_not_kept_and_the_next_sees_it(kept: Cache) -> None:
    def zero(model: Model) -> None:
        model.weights = "zeroed"

    here = Answers(Model(), kept)
    answer = here.ask(Facts(meanwhile=zero))
    assert answer.measurement == measured("w1")
    assert answer.properties == [("cache", f"not stored: {answers.CHANGED}")]
    assert not list(kept.folder.iterdir())
    assert here.ask(Facts(sight=["next"])).measurement == measured("zeroed")
    undamaged = Answers(Model(), kept).ask(Facts(sight=["next"]))
    assert (undamaged.measurement, undamaged.cached) == (measured("w1"), False)


def test_so_it_is_where_nothing_is_written(tmp_path: Path) -> None:
    def zero(model: Model) -> None:
        model.weights = "zeroed"

    Answers(Model(), cache(tmp_path)).ask(Facts(sight=["next"]))
    here = Answers(Model(), cache(tmp_path, writes=False))
    here.ask(Facts(meanwhile=zero))
    answer = here.ask(Facts(sight=["next"]))
    assert (answer.measurement, answer.cached) == (measured("zeroed"), False)


def test_files_that_change_while_they_are_read_are_not_kept(kept: Cache) -> None:
    facts = Facts()
    facts.meanwhile = lambda _model: facts.sight.append("edited")
    answer = Answers(Model(), kept).ask(facts)
    assert answer.note == f"not stored: {answers.CHANGED}"
    assert not list(kept.folder.iterdir())


def test_what_is_not_known_is_asked_each_time_and_said(kept: Cache) -> None:
    facts, model = Facts(), Model(unknown="hooks on model")
    here = Answers(model, kept)
    for _ in range(2):
        assert here.ask(facts).properties == [("cache", "not usable: hooks on model")]
    assert (facts.asked, model.computed) == (2, 1)


def test_a_benchmark_that_is_always_asked_costs_no_identity(kept: Cache) -> None:
    facts, model = Facts(cached=False), Model()
    answer = Answers(model, kept).ask(facts)
    assert answer.note == "not usable: Facts is always asked"
    assert (facts.asked, model.computed) == (1, 0)


class New(Facts):
    """The same questions, otherwise answered."""

    def measure(self, model: Model) -> Measurement:
        super().measure(model)
        return measured("new")


@pytest.mark.parametrize(
    ("modes", "asked", "left"),
    [
        ({"writes": False}, 0, "w1"),
        ({"reads": False}, 1, "new"),
        ({}, 0, "w1"),
    ],
    ids=["ro", "refresh", "rw"],
)
def test_modes(tmp_path: Path, modes: dict[str, Any], asked: int, left: str) -> None:
    Answers(Model(), cache(tmp_path)).ask(Facts())
    facts = New()
    Answers(Model(), cache(tmp_path, **modes)).ask(facts)
    assert facts.asked == asked
    assert Answers(Model(), cache(tmp_path)).ask(facts).measurement == measured(left)


def test_an_answer_that_cannot_be_kept_is_given_all_the_same(tmp_path: Path) -> None:
    answer = Answers(Model(), cache(tmp_path, limit=10)).ask(Facts())
    assert answer.measurement == measured("w1")
    assert answer.note.startswith("not stored: its ")
