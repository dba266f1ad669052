"""Other batches, threads and dtypes: what they change, and that nothing of it stays."""

import os
from contextlib import AbstractContextManager, ExitStack
from fractions import Fraction
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.models.conditions import SINGLE, Budget, converted, threaded
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.scoring.cloze import measure
from pytest_compression.types import Calibrated, Family

FAMILIES: tuple[Family, ...] = ("causal", "masked", "seq2seq")
every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
every_family = pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))


def tensors(model: LanguageModel) -> list[Tensor]:
    """Every parameter and buffer, also those that no checkpoint holds."""
    return [*model.module.parameters(), *model.module.buffers()]


def snapshot(model: LanguageModel) -> tuple[Any, ...]:
    """All that a condition may change, and where it lies."""
    bits = [tensor.detach().clone().contiguous().view(torch.uint8) for tensor in tensors(model)]
    places = [tensor.data_ptr() for tensor in tensors(model)]
    dtypes = [tensor.dtype for tensor in tensors(model)]
    return bits, (places, dtypes, model.owners(), model.budget, torch.get_num_threads())


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[1] == other[1] and all(map(torch.equal, one[0], other[0]))


def enter(condition: AbstractContextManager[None], fails: type[Exception] | None) -> None:
    with condition:
        if fails:
            raise fails


@every_architecture
@pytest.mark.parametrize("fails", [None, ValueError], ids=["well", "failing"])
def test_each_condition_puts_everything_back(
    architecture: str, fails: type[Exception] | None
) -> None:
    model = tiny.model(architecture)
    before, conditions = snapshot(model), model.conditions()
    assert same(before, snapshot(model))  # none of them is entered yet
    for condition in conditions.values():
        with ExitStack() as expected:
            if fails:
                expected.enter_context(pytest.raises(fails))
            enter(condition, fails)
        assert same(before, snapshot(model))
    assert model.restore()


@every_architecture
def test_each_condition_asks_the_same_questions(architecture: str) -> None:
    model = tiny.model(architecture)
    reference = measure(model, tiny.questions(), "ranked")
    for name, condition in model.conditions().items():
        with condition:
            found = measure(model, tiny.questions(), "ranked")
        assert (found.questions, found.scoring) == (reference.questions, reference.scoring), name
        if not name.startswith("dtype"):
            assert found.margins == pytest.approx(reference.margins, abs=1e-4)
            assert found.tokens == reference.tokens
    assert measure(model, tiny.questions(), "ranked") == reference


def test_conditions_are_named_after_what_differs_from_now() -> None:
    model = tiny.model("llama")
    processors = len(os.sched_getaffinity(0))
    threads = {1, 2, max(1, processors // 2), processors}
    with threaded(3):
        assert set(model.conditions()) == {
            "batch budget 1",
            "batch budget 1/8",
            "batch budget x4",
            *(f"threads {count}" for count in threads - {3}),
            "dtype bfloat16",
            "dtype float64",
        }
    with threaded(2):
        assert "threads 2" not in model.conditions()
        assert "threads 1" in model.conditions()
    assert isinstance(model, Calibrated)


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (torch.float32, {"dtype bfloat16", "dtype float64"}),
        (torch.bfloat16, {"dtype float32"}),
        (torch.float16, {"dtype bfloat16", "dtype float32"}),
    ],
    ids=["float32", "bfloat16", "float16"],  # a set has no order to be named by
)
def test_other_dtypes_are_a_narrower_and_a_wider_one(own: torch.dtype, others: set[str]) -> None:
    model = LanguageModel(
        module=tiny.network("llama").to(own), tokenizer=tiny.tokenizer("causal"), family="causal"
    )
    assert {name for name in model.conditions() if name.startswith("dtype")} == others


def test_inside_a_condition_it_holds() -> None:
    model = tiny.model("llama")
    held: dict[str, Any] = {}
    with threaded(3):
        for name, condition in model.conditions().items():
            with condition:
                held[name] = model.budget, torch.get_num_threads(), model.environment()["dtype"]
    now = Budget()
    assert held["batch budget 1"] == (SINGLE, 3, "float32")
    assert held["batch budget 1/8"] == (now.times(Fraction(1, 8)), 3, "float32")
    assert held["batch budget x4"] == (now.times(Fraction(4)), 3, "float32")
    assert held["threads 1"] == (now, 1, "float32")
    assert held["threads 2"] == (now, 2, "float32")
    assert held["dtype bfloat16"] == (now, 3, "bfloat16")
    assert held["dtype float64"] == (now, 3, "float64")


@given(
    st.builds(Budget, tokens=st.integers(1), logits=st.integers(1), rows=st.integers(1)),
    st.fractions(min_value=0),
)
def test_a_budget_is_multiplied_and_never_nothing(budget: Budget, factor: Fraction) -> None:
    found = budget.times(factor)
    for mine, its in zip(vars(budget).values(), vars(found).values(), strict=True):
        assert its == max(1, mine * factor.numerator // factor.denominator)


def test_rotary_frequencies_keep_their_precision() -> None:
    # Loading in another dtype computes them in single precision; so does a condition.
    model = tiny.model("llama")
    stored = model.module.state_dict().keys()
    with converted(model.module, torch.bfloat16):
        dtypes = {name: tensor.dtype for name, tensor in model.module.named_buffers()}
        assert {tensor.dtype for tensor in model.module.state_dict().values()} == {torch.bfloat16}
    frequencies = {name: dtype for name, dtype in dtypes.items() if name not in stored}
    assert set(frequencies.values()) == {torch.float32}


def test_tied_weights_are_tied_in_another_dtype_too() -> None:
    model = tiny.model("gpt2")
    tied = model.owners()
    assert tied["lm_head.weight"] != "lm_head.weight"
    with converted(model.module, torch.float64):
        assert model.owners() == tied


def test_a_compressed_model_comes_back_compressed() -> None:
    model = tiny.model("bert")
    footprint = model.compress([RoundToNearest(bits=3)])
    before = snapshot(model)
    for condition in model.conditions().values():
        enter(condition, None)
    assert same(before, snapshot(model))
    assert [weight.stored is not None for weight in model.weights("all")] == (
        [True] * footprint.modules_touched
    )


@every_family
def test_wider_numbers_move_margins_less_than_narrower_ones(architecture: str) -> None:
    model = tiny.model(architecture)
    reference = measure(model, tiny.questions(), "ranked")
    moved = {}
    for dtype in (torch.bfloat16, torch.float64):
        with converted(model.module, dtype):
            margins = measure(model, tiny.questions(), "ranked").margins
        moved[dtype] = max(abs(a - b) for a, b in zip(margins, reference.margins, strict=True))
    assert 0 < moved[torch.float64] < 1e-4 < moved[torch.bfloat16]


@pytest.fixture(scope="module", params=FAMILIES)
def embedded(request: pytest.FixtureRequest) -> LanguageModel:
    loaded = Embedded(family=request.param).load()
    assert isinstance(loaded, LanguageModel)
    return loaded


def test_neither_batches_nor_threads_change_an_answer_of_a_real_model(
    embedded: LanguageModel,
) -> None:
    facts = WorldFacts(limit=4)
    reference = facts.measure(embedded)
    conditions = embedded.conditions()
    own = [name for name in conditions if not name.startswith("dtype")]
    assert len(own) >= 4
    for name in own:
        with conditions[name]:
            found = facts.measure(embedded)
        assert found.scores == reference.scores, name
        assert found.given == reference.given, name
        assert found.margins == pytest.approx(reference.margins, abs=1e-3), name
        assert found.tokens == reference.tokens, name


def test_another_dtype_is_the_model_loaded_in_it(embedded: LanguageModel) -> None:
    facts = WorldFacts(relations=("capital", "symbol"), limit=15)
    loaded = Embedded(family=embedded.family, dtype="bfloat16").load()
    with embedded.conditions()["dtype bfloat16"]:
        assert facts.measure(embedded) == facts.measure(loaded)  # type: ignore[arg-type]
