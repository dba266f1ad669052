"""The cache on a real model: it answers for the same model only, and for nothing else."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from kept import cache

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.embedded import facts
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.store.answers import Answer, Answers

BENCHMARK: Final = WorldFacts(relations=("capital",), limit=12)


def loaded(**options: Any) -> LanguageModel:
    model = Embedded(family="causal", **options).load()
    assert isinstance(model, LanguageModel)
    return model


def ask(folder: Path, model: LanguageModel, benchmark: Any = BENCHMARK) -> Answer:
    """As the next run would."""
    return Answers(model, replace(cache(folder), since=time.time() + 60)).ask(benchmark)


def test_an_unchanged_trial_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(tmp_path, loaded())
    assert (first.cached, first.note) == (False, "")

    def never(*_args: object) -> None:
        pytest.fail("it was asked")

    monkeypatch.setattr(WorldFacts, "measure", never)
    again = ask(tmp_path, loaded())
    assert again.cached
    assert (again.measurement, again.seconds) == (first.measurement, first.seconds)


def zero_head(model: LanguageModel) -> None:
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]
    head.weight.data.zero_()


def flip_one_bit(model: LanguageModel) -> None:
    tensor = next(model.module.parameters()).detach().reshape(-1)
    tensor[:1].view(torch.uint8)[0] ^= 1


CHANGES: Final[dict[str, Callable[[LanguageModel], object]]] = {
    "zeroed head": zero_head,
    "one bit": flip_one_bit,
    "recipe": lambda model: model.compress([Magnitude(sparsity=0.3)]),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_another_model_is_asked(tmp_path: Path, change: str) -> None:
    model = loaded()
    first = ask(tmp_path, model)
    CHANGES[change](model)
    other = ask(tmp_path, model)
    assert not other.cached
    assert other.measurement == BENCHMARK.measure(model)
    model.restore()
    assert ask(tmp_path, model).measurement == first.measurement


def test_another_dtype_and_other_questions_are_asked(tmp_path: Path) -> None:
    model = loaded()
    ask(tmp_path, model)
    assert not ask(tmp_path, loaded(dtype="bfloat16")).cached
    for options in ({"limit": 13}, {"limit": 12, "seed": 1}, {"limit": 12, "metric": "P@1"}):
        assert not ask(tmp_path, model, WorldFacts(relations=("capital",), **options)).cached
    assert ask(tmp_path, model).cached


def test_edited_facts_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded()
    ask(tmp_path, model)
    edited = [fact._replace(object=fact.object.upper()) for fact in facts.worldfacts()]
    monkeypatch.setattr("pytest_compression.benchmarks.worldfacts.worldfacts", lambda: edited)
    assert not ask(tmp_path, model).cached
