"""Every built-in step keeps the contract of its kind."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import hypothesis
import pytest

from pytest_compression import registry
from pytest_compression.testing import check_light, check_modifier, check_pruner, check_quantizer
from pytest_compression.types import Part

FACTS: Final = {"facts": ["symbol"], "samples": 4}
COURSE: Final = {"material": FACTS, "steps": 6, "batch": 4}

THOROUGH: Final = hypothesis.settings().max_examples > 100
"""Whether the profile has time for all families; others only see to linear layers of both kinds."""
FEW: Final[dict[str, Any]] = {} if THOROUGH else {"families": ("causal",), "examples": 1}

pruner = partial(check_pruner, **FEW)
quantizer = partial(check_quantizer, **FEW)
modifier = partial(check_modifier, **FEW)

EXAMPLES: Final[dict[str, list[tuple[Callable[..., None], dict[str, Any]]]]] = {
    "Activations": [
        (modifier, {}),
        (modifier, {"granularity": "tensor", "scheme": "static", "calibration": FACTS}),
    ],
    "BitsAndBytes": [(modifier, {"scheme": "int8"}), (modifier, {"scheme": "nf4"})],
    "FineTune": [(modifier, COURSE)],
    "Float8": [
        (partial(quantizer, max_error=1 / 16), {"format": "e4m3"}),
        (partial(quantizer, max_error=1 / 8), {"format": "e5m2"}),
    ],
    "Fp4": [(partial(quantizer, max_error=1 / 6), {"block_size": 32})],
    "GradualMagnitude": [(modifier, {**COURSE, "sparsity": 0.5, "frequency": 2})],
    "Heads": [(modifier, {"sparsity": 0.5})],
    "Hqq": [(quantizer, {"group_size": 16})],
    "Layers": [(modifier, {"count": 1})],
    "Magnitude": [(pruner, {"sparsity": 0.5}), (pruner, {"pattern": "2:4"})],
    "Neurons": [(modifier, {"sparsity": 0.5})],
    "Nf4": [(partial(quantizer, max_error=0.152), {"double_quant": False})],
    "Qat": [(modifier, {**COURSE, "bits": 4})],
    "Quanto": [(modifier, {"weights": "int8"})],
    "RandomPruning": [(pruner, {"sparsity": 0.5})],
    "RoundToNearest": [
        (partial(quantizer, max_error=1 / 254), {"bits": 8}),
        (partial(quantizer, max_error=1 / 15), {"bits": 4, "symmetric": False}),
        (quantizer, {"bits": 3, "granularity": "group", "group_size": 8, "clip": "search"}),
    ],
    "Ternary": [(quantizer, {})],
    "TorchDynamic": [(modifier, {})],
    "Wanda": [(pruner, {"sparsity": 0.5, "calibration": FACTS})],
}
"""By class: what it is checked as, with which options."""

ELSEWHERE: Final = {
    "Checkpoint": "it reads one release of one model; tests/modifiers/test_checkpoint.py",
    "Distill": "its student is another network; tests/modifiers/training/test_distillation.py",
    "LlmCompressor": "it needs an environment of its own",
    "OnnxRuntime": "it needs an environment of its own",
}
"""Steps that no small model can stand for, and where they are tried."""

INSTALLED_APART: Final = {"TorchAO": "tests/backends/torchao.py"}
"""Steps of packages that these tests do without, and where their contract is checked."""

BUILT_IN: Final = {
    name: point
    for name, point in sorted(registry.known("modifiers").items())
    if point.value.startswith("pytest_compression.")
}
CASES: Final = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name, point in BUILT_IN.items()
    for number in range(len(EXAMPLES.get(point.attr, ())))
]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_built_in_step_keeps_its_contract(name: str, number: int) -> None:
    check, options = EXAMPLES[BUILT_IN[name].attr][number]
    check(registry.build("modifiers", Part(use=name, options=options)))


def test_every_built_in_step_has_an_example_and_is_light() -> None:
    known = {**EXAMPLES, **ELSEWHERE, **INSTALLED_APART}
    without = [name for name, point in BUILT_IN.items() if point.attr not in known]
    assert not without, (
        f"{without} have no example: name their classes in EXAMPLES, with options under which they "
        "keep their contract"
    )
    check_light(*(registry.resolve("modifiers", name) for name in BUILT_IN))


def test_built_in_steps_that_suit_one_model_alone_say_so() -> None:
    for name, point in BUILT_IN.items():
        kind = registry.resolve("modifiers", name)
        assert (getattr(kind, "contract", "exact") == "model") == (point.attr in ELSEWHERE), name
