"""Each rule finds the step that breaks it, and says so; the good ones pass."""

from pathlib import Path
from typing import Any

import broken_steps as broken
import pytest

from pytest_compression.modifiers.activations import Activations
from pytest_compression.testing import (
    ContractError,
    check_light,
    check_modifier,
    check_pruner,
    check_quantizer,
)

PRUNES_ALL = (
    r"^Threshold breaks the contract of a pruner on a llama of 64 x 128 in float32, its weights: "
    r"constant: The step was asked for sparsity 0\.5 and 1\.0000 was measured"
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


def test_any_step_passes_that_does_what_it_says() -> None:
    check_modifier(broken.Idle(), **ONE)
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
        (broken.Shy(), r"it refuses the plainest of models \(not today\)"),
        (broken.Thawed(), r"Thawed must be a dataclass with frozen=True"),
        (broken.Idle(), r"it claims no zeros"),
    ],
    ids=str,
)
def test_a_broken_pruner_is_found(step: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_pruner(step, **ONE)


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
