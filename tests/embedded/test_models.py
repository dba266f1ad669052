"""The embedded models: quick to load, knowledgeable, and forgetful in the way that is described."""

import time
from dataclasses import replace
from typing import Any

import pytest

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.gate.retention import retention
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.types import Family, Measurement

FAMILIES: tuple[Family, ...] = ("causal", "masked", "seq2seq")
FACTS = WorldFacts(limit=25)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    loaded = Embedded(family=request.param).load()
    assert isinstance(loaded, LanguageModel)
    return loaded


@pytest.fixture(scope="module")
def dense(model: LanguageModel) -> Measurement:
    """What it says uncompressed."""
    assert model.restore()
    return FACTS.measure(model)


def kept(model: LanguageModel, dense: Measurement, steps: list[Any]) -> float:
    model.restore()
    model.compress(steps)
    measured = FACTS.measure(model)
    model.restore()
    return retention(dense.scores, measured.scores, dense.chance).value


def test_loading_takes_well_under_a_second_of_processor_time(model: LanguageModel) -> None:
    started = time.process_time()  # the imports are done: the fixture has loaded one
    Embedded(family=model.family).load()
    assert time.process_time() - started < 1


def test_it_knows_as_much_as_its_card_says_in_every_phrasing(
    model: LanguageModel, dense: Measurement
) -> None:
    model.restore()
    least = {"causal": 0.97, "masked": 0.8, "seq2seq": 0.65}[model.family]
    others = [replace(FACTS, phrasing=phrasing).measure(model) for phrasing in (1, 2)]
    for measured in (dense, *others):
        assert sum(measured.scores) / len(measured.scores) > least


def test_fewer_bits_forget_more(model: LanguageModel, dense: Measurement) -> None:
    eight, four, three, two = (
        kept(model, dense, [RoundToNearest(bits=bits)]) for bits in (8, 4, 3, 2)
    )
    assert eight > 0.98
    assert four > 0.85
    assert two < three <= four + 0.01
    assert two < 0.7


def test_sparser_weights_forget_more(model: LanguageModel, dense: Measurement) -> None:
    little, plenty, most = (
        kept(model, dense, [Magnitude(sparsity=share)]) for share in (0.3, 0.5, 0.7)
    )
    assert little > 0.85
    assert most < plenty < little
    assert most < 0.7


def test_the_same_weights_give_the_same_scores_twice(
    model: LanguageModel, dense: Measurement
) -> None:
    model.compress([Magnitude(sparsity=0.5)])
    model.restore()
    again = FACTS.measure(model)
    assert again.margins == dense.margins
    assert again.given == dense.given
