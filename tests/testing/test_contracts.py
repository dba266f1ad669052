"""Each rule finds the step that breaks it, and says so; the good ones pass."""

from pathlib import Path
from typing import Any

import broken_steps as broken
import pytest
import torch

from pytest_compression.modifiers.activations import Activations
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude, RandomPruning, Wanda
from pytest_compression.modifiers.structured import Heads, Layers, Neurons
from pytest_compression.testing import (
    ContractError,
    Plan,
    build,
    check_light,
    check_modifier,
    check_pruner,
    check_quantizer,
)
from pytest_compression.testing.counts import require_as_many, zeros_of
from pytest_compression.testing.properties import Applied, State

PRUNES_ALL = (
    r"^Threshold breaks the contract of a pruner on a llama of 64 x 128 in float32, its weights: "
    r"constant: The step was asked for sparsity 0\.5 and 1\.0000 was measured"
)
PRUNES_TIES = (
    r"^Counting breaks the contract of a pruner on a llama of 64 x 128 in float32, its weights: "
    r"constant: 40960 weights are zero, and 20480 should be"
)
LOSES_CONSTANTS = (
    r"^MinMax breaks the contract of a quantizer on a llama of 64 x 128 in float32, its weights: "
    r"constant: '.*' holds 0\.3 everywhere and came back off by 0\.3: its range is wrong where"
)
ONE: Any = {"families": ("causal",), "examples": 2}


def test_a_good_pruner_passes() -> None:
    check_pruner(broken.Good(), examples=3)


def test_a_good_quantizer_passes_and_keeps_its_promise() -> None:
    check_quantizer(broken.MinMax(), max_error=1 / 15, examples=3)
    check_quantizer(broken.MinMax(zeros=False), **ONE)
    with pytest.raises(ContractError, match=r"a weight of '.*' is off by .*; .* is promised"):
        check_quantizer(broken.MinMax(), max_error=1 / 40, **ONE)


CALIBRATION = Material(facts=("continent",))


@pytest.mark.parametrize(
    "step",
    [
        Magnitude(pattern="2:4"),
        Magnitude(sparsity=0.3, scope="row"),
        Magnitude(sparsity=0.7, targets="feed-forward", count_of="all"),
        Magnitude(sparsity=0.2, targets="attention", count_of="model.layers.3.*"),
        RandomPruning(sparsity=0.37, scope="layer"),
        Wanda(sparsity=0.3, calibration=CALIBRATION),
    ],
    ids=lambda step: f"{type(step).__name__}-{step.pattern or step.sparsity}",
)
def test_pruners_pass_however_they_count(step: Any) -> None:
    check_pruner(step, families=["masked"], examples=1)


@pytest.mark.parametrize(
    "step",
    [
        Heads(sparsity=0.1),
        Neurons(sparsity=0.003),
        Layers(sparsity=0.2),
        Layers(count=2),
        Magnitude(pattern="64:128"),
    ],
    ids=str,
)
def test_a_step_that_needs_larger_models_is_tried_on_them(step: Any) -> None:
    check_modifier(step, families=["masked"], examples=1)


def test_any_step_passes_that_does_what_it_says() -> None:
    check_modifier(Activations(granularity="tensor"), **ONE)
    check_modifier(broken.Adjusting(), **ONE)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (broken.Threshold(), PRUNES_ALL),
        (broken.Scaling(), r"weights of '.*' are neither zero nor what they were"),
        (broken.Adjusting(), r"applied a second time it changes '.*'"),
        (broken.Unseeded(), r"applied to the same weights again it makes '.*' otherwise: seed"),
        (broken.Wandering(), r"applied a second time it changes '.*'"),
        (broken.Meddling(), r"'.*norm.*' is not among the targets it claims, and was changed"),
        (broken.Training(), r"'' is left in training mode"),
        (broken.Hooking(), r"a hook is left on 'model\.layers\.0\.self_attn\.q_proj'"),
        (broken.Careless(), r"it takes weights that hold nan: refuse them by a RecipeError"),
        (broken.Crashing(), r"it raises AttributeError .*What it cannot do it must refuse"),
        (broken.Picky(), r"it refuses these weights \(all weights are equal\), and no others of"),
        (broken.Counting(), PRUNES_TIES),
        (broken.Counting(above=False), r"constant: 0 weights are zero, and \d+ should be: so many"),
        (broken.Elusive(), r"it refuses weights of which no two are equal \(no two are equal\)"),
        (
            broken.Stingy(),
            r"sparsity 0\.5 with scope 'layer' asks for \d+ zeros, and \d+ were found",
        ),
        (broken.Misnamed(), r"Misnamed says contract = 'whatever': a step says one of exact, adj"),
        (broken.Silent(), r"apply\(\) must return a Claim"),
        (broken.Large(layers=99), r"refuses the plainest of models \(2 are too few\), and larger"),
        (broken.Shy(), r"it refuses the plainest of models \(not today\)"),
        (broken.Thawed(), r"Thawed must be a dataclass with frozen=True"),
        (broken.Idle(), r"it claims no zeros"),
    ],
    ids=str,
)
def test_a_broken_pruner_is_found(step: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_pruner(step, **ONE)


def test_a_step_that_does_nothing_is_found() -> None:
    with pytest.raises(ContractError, match="it took no effect: the model is what it was"):
        check_modifier(broken.Idle(), **ONE)


@pytest.mark.parametrize("families", [(), ("causl",), ("causal", "diffusion"), "causl"])
def test_families_are_named_by_their_names(families: Any) -> None:
    with pytest.raises(ValueError, match="name one or several of causal, masked, seq2seq"):
        check_pruner(broken.Good(), families=families)


def test_zeros_that_were_there_may_stay_besides() -> None:
    step, plan = broken.Good(sparsity=0.5), Plan(architecture="llama", fillings=("few values",))
    apart = applied(step, Plan(architecture="llama", fillings=("distinct",)))
    few = applied(step, plan)
    asked, none = zeros_of(apart)
    found, before = zeros_of(few)
    assert none == 0 < before
    assert asked < found < asked + before
    require_as_many(few, apart)
    with pytest.raises(ContractError, match=rf"^{asked} weights are zero, and {found} should be:"):
        require_as_many(apart, few)


def applied(step: Any, plan: Plan) -> Applied:
    model = build(plan)
    before = State.of(model)
    return Applied(step=step, claim=step.apply(model), before=before, model=model)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "t5"])
def test_no_two_magnitudes_of_a_distinct_model_are_equal(architecture: Any) -> None:
    model = build(Plan(architecture=architecture, fillings=("distinct",)))
    values = torch.cat([weight.values.flatten() for weight in model.linear()]).abs()
    assert len(values.unique()) == len(values)
    assert 0 < values.min() < values.max() < 1


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (broken.MinMax(zero_inside=False), LOSES_CONSTANTS),
        (broken.MinMax(nbytes=7), r"claims 7 bytes for 4096 codes of 4 bits, which take 2048"),
        (broken.Unrounded(), r"holds \d+ values, and 4 bits with 320 bytes of scales tell 5120 "),
        (broken.Drifting(), r"'.*' lies on no grid"),
        (broken.Shifted(), r"\d+ zeros of '.*' are none any more, so a mask is lost"),
        (broken.Good(), r"it claims no bits"),
    ],
    ids=str,
)
def test_a_broken_quantizer_is_found(step: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_quantizer(step, **ONE)


def test_what_loads_torch_when_it_is_imported_is_not_light(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_light(broken.Good)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "heavy_step.py").write_text("import torch\n\n\nclass Step: ...\n", encoding="utf-8")
    import heavy_step  # type: ignore[import-not-found]  # just written

    with pytest.raises(ContractError, match="importing 'heavy_step' loads torch, and it is"):
        check_light(heavy_step.Step)
    (tmp_path / "heavy_step.py").unlink()
    with pytest.raises(ContractError, match="cannot be imported by itself: ModuleNotFoundError"):
        check_light(heavy_step.Step)
