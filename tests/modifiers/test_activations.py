from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pytest
import tiny
import torch
from torch import Tensor, nn

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.kernels.activations import round_inputs, widened
from pytest_compression.models.conditions import SINGLE, Budget, converted
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.layers import KINDS
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.activations import Activations
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.registry import build
from pytest_compression.types import Family, Modifier, Part

FACTS = Material(facts=("symbol",), samples=6)
STATIC: Final[dict[str, Any]] = {
    "granularity": "tensor",
    "scheme": "static",
    "calibration": FACTS,
}
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "affine": {"symmetric": False},
    "int4": {"bits": 4},
    "tensor": {"granularity": "tensor"},
    "static": STATIC,
    "static-affine": {**STATIC, "symmetric": False},
}
typical = pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))


def logits(model: LanguageModel, ids: Tensor) -> Tensor:
    decoder = {"decoder_input_ids": ids} if model.family == "seq2seq" else {}
    with torch.inference_mode():
        found: Tensor = model.module(input_ids=ids, **decoder).logits
    return found


IDS = torch.arange(3, 15).reshape(2, 6)


CASES = [(name, "default") for name in sorted(tiny.ARCHITECTURES)] + [
    (name, option) for name in tiny.TYPICAL.values() for option in OPTIONS if option != "default"
]


@pytest.mark.parametrize(("architecture", "option"), CASES)
def test_targets_round_their_inputs_and_nothing_else_changes(
    architecture: str, option: str
) -> None:
    model = tiny.model(architecture)
    before = logits(model, IDS)
    step = Activations(**OPTIONS[option])
    footprint = model.compress([step])
    names = {weight.name for weight in model.weights("all")}
    for name, layer in model.module.named_modules():
        assert getattr(layer, "activation_bits", None) == (step.bits if name in names else None)
    assert footprint.activation_bits == step.bits
    assert footprint.modules_touched == len(names)
    assert footprint.weight_error == 0
    ranges = 8 * len(names) if step.scheme == "static" else 0
    assert footprint.bytes == footprint.dense_bytes + ranges
    live = dict(model.tensors())
    assert all(torch.equal(live[name], dense) for name, dense in model.dense.items())
    after = logits(model, IDS)
    assert not torch.equal(after, before)
    if step.bits == 8:
        assert (after - before).norm() < 0.5 * before.norm()
    assert model.restore()
    assert torch.equal(logits(model, IDS), before)


def test_each_option_is_another_model_that_is_known() -> None:
    model = tiny.model("llama")
    digests = [model.identity().digest]
    for options in OPTIONS.values():
        model.compress([Activations(**options)])
        assert model.identity().unknown == ""
        digests.append(model.identity().digest)
        assert model.restore()
        assert model.identity().digest == digests[0]
    assert len(set(digests)) == len(digests)


@typical
def test_weights_and_inputs_are_rounded_in_either_order(architecture: str) -> None:
    steps: list[Modifier] = [RoundToNearest(bits=8), Activations()]
    model = tiny.model(architecture)
    footprint = model.compress(steps)
    found = logits(model, IDS)
    assert footprint.activation_bits == 8
    assert footprint.bytes < footprint.dense_bytes
    assert model.restore()
    assert model.compress(steps[::-1]) == footprint
    assert torch.equal(logits(model, IDS), found)


@typical
def test_a_static_range_is_that_of_what_goes_through_the_layer(architecture: str) -> None:
    model = tiny.model(architecture)
    layer = model.weights("feed-forward")[-1].layer
    seen: list[Tensor] = []
    with_hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    rows = FACTS.batches(model, size=1)
    assert len(rows) == 6
    for row in rows:
        assert bool(row["attention_mask"].all())  # no range is that of padding
        with torch.inference_mode():
            model.module(**row)
    with_hook.remove()
    expected: Tensor | None = None
    for inputs in seen:
        expected = widened(expected, inputs)
    assert expected is not None
    Activations(**STATIC).apply(model)
    assert torch.equal(layer.input_range, expected)  # type: ignore[arg-type]
    inputs = 3 * seen[0]
    rounded = round_inputs(inputs, *expected, bits=8, symmetric=True)
    mapped: Tensor = nn.functional.linear(rounded, layer.weight, layer.bias)  # type: ignore[arg-type]
    assert torch.equal(layer(inputs), mapped)


def test_calibration_leaves_no_hook_and_tells_how_far_it_is() -> None:
    model = tiny.model("llama")
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    Activations(**STATIC).apply(model)
    assert told == [(done, 6) for done in range(1, 7)]
    assert not any(part._forward_pre_hooks for part in model.module.modules())


# What is run together

FAMILIES: tuple[Family, ...] = ("causal", "masked", "seq2seq")
QUESTIONS = WorldFacts(limit=1, metric="P@1")


@pytest.fixture(scope="module", params=FAMILIES)
def embedded(request: pytest.FixtureRequest) -> LanguageModel:
    loaded = Embedded(family=request.param).load()
    assert isinstance(loaded, LanguageModel)
    return loaded


def margins(model: LanguageModel, ids: Sequence[str] | None = None) -> dict[str, float]:
    """Of all questions, or of some of them, by id."""
    found = QUESTIONS.measure(model) if ids is None else QUESTIONS.measure_part(model, ids)
    return dict(zip([question.id for question in found.questions], found.margins, strict=True))


def shift(some: dict[str, float], others: dict[str, float]) -> float:
    return max(abs(some[name] - others[name]) for name in some.keys() & others.keys())


def test_with_one_dynamic_scale_for_all_each_request_is_run_alone(embedded: LanguageModel) -> None:
    assert embedded.restore()
    embedded.compress([RoundToNearest(bits=8), Activations(granularity="tensor")])
    assert embedded.alone
    whole = margins(embedded)
    assert margins(embedded, list(whole)[::3]) == {name: whole[name] for name in list(whole)[::3]}
    embedded.budget = SINGLE
    assert margins(embedded) == whole
    embedded.budget = Budget()
    embedded.alone = False  # as any library leaves it: scores hang on what else is asked
    assert shift(margins(embedded), whole) > 0.01
    assert embedded.restore()
    assert not embedded.alone


@pytest.mark.parametrize("options", [OPTIONS["default"], OPTIONS["static-affine"]], ids=str)
def test_scales_of_tokens_and_static_ones_do_not_depend_on_what_is_run_together(
    embedded: LanguageModel, options: dict[str, Any]
) -> None:
    assert embedded.restore()
    embedded.compress([RoundToNearest(bits=8), Activations(**options)])
    assert not embedded.alone
    # In double precision, for in single an input that lies between two codes may go either way.
    with converted(embedded.module, torch.float64):
        together = margins(embedded)
        embedded.budget = SINGLE
        apart = margins(embedded)
        embedded.budget = Budget()
    assert shift(together, apart) < 1e-6
    assert shift(margins(embedded), together) < 0.5
    assert embedded.restore()


# Refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheme": "static", "granularity": "tensor"}, "'calibration' is needed for scheme 'st"),
        (
            {"calibration": {"facts": ["capital"]}},
            "'calibration' is needed for scheme 'static', ",
        ),
        ({"scheme": "static", "calibration": {"facts": ["capital"]}}, "a static scale knows no to"),
        ({"targets": "atention"}, "Did you mean 'attention'?"),
        ({"bits": 9}, "Expected `int` <= 8"),
        ({"bits": 1}, "Expected `int` >= 2"),
        ({"granularity": "channel"}, "Invalid enum value 'channel'"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    use = "pytest_compression.modifiers.activations:Activations"
    with pytest.raises(msgspec.ValidationError) as caught:
        build("modifiers", Part(use=use, options=options))
    assert said in str(caught.value)


def test_inputs_are_rounded_once() -> None:
    model = tiny.model("llama")
    with pytest.raises(RecipeError, match=r"'model\.layers\.0\..*' are rounded already"):
        model.compress([Activations(targets="attention"), Activations(bits=4)])


@pytest.mark.parametrize("targets", ["embeddings", "lent.*"])
def test_a_layer_of_another_kind_is_refused(targets: str) -> None:
    model = tiny.model("llama")
    if targets == "lent.*":
        model.module.lent = nn.MultiheadAttention(4, 2)
    with pytest.raises(RecipeError, match=r"it is a torch\.nn\..*, not a plain linear"):
        model.compress([Activations(targets=targets)])
    assert not any(type(part) in KINDS.values() for part in model.module.modules())


def test_a_layer_that_calibration_does_not_reach_is_refused() -> None:
    model = tiny.model("llama")
    model.module.unused = nn.Linear(4, 4)
    with pytest.raises(RecipeError, match="'unused' saw nothing in calibration"):
        model.compress([Activations(targets=("all", "unused*"), **STATIC)])
    model.compress([Activations(ignore=("unused*",), **STATIC)])


def test_a_layer_that_sees_nothing_but_zeros_is_refused() -> None:
    model = tiny.model("llama")
    steps: list[Modifier] = [Magnitude(sparsity=1, targets="feed-forward"), Activations(**STATIC)]
    with pytest.raises(RecipeError, match=r"down_proj' saw nothing but zeros in calibration"):
        model.compress(steps)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_that_computes_nan_is_refused(bad: float) -> None:
    model = tiny.model("llama")
    model.weights("feed-forward")[0].values[0, 0] = bad
    with pytest.raises(RecipeError, match="saw NaN or infinite inputs in calibration"):
        model.compress([Activations(**STATIC)])
    assert not any(part._forward_pre_hooks for part in model.module.modules())
