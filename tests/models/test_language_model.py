from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.pruning import keep_top
from pytest_compression.kernels.quantization import quantize
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.weights import LinearWeight
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.types import Claim, Modifier

RECIPES: dict[str, list[Modifier]] = {
    "prune": [Magnitude(sparsity=0.5)],
    "prune-all": [Magnitude(sparsity=1.0)],
    "int4": [RoundToNearest(bits=4)],
    "groups": [RoundToNearest(bits=3, granularity="group", group_size=5, symmetric=False)],
    "prune-int8": [Magnitude(sparsity=0.3, scope="layer"), RoundToNearest(bits=8)],
    "int2-prune": [RoundToNearest(bits=2), Magnitude(sparsity=0.7)],
}
every_recipe = pytest.mark.parametrize("recipe", sorted(RECIPES))
every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))


def logits(model: LanguageModel) -> Tensor:
    """What a model says to one row of tokens."""
    ids = torch.arange(5, 25).reshape(2, 10)
    module: Any = model.module
    more = {"decoder_input_ids": ids[:, :4]} if model.family == "seq2seq" else {}
    with torch.inference_mode():
        found: Tensor = module(input_ids=ids, **more).logits
    return found


def state(model: LanguageModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.tensors()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@every_architecture
@every_recipe
def test_the_dense_weights_come_back_bit_for_bit(architecture: str, recipe: str) -> None:
    model = tiny.model(architecture)
    before, said = state(model), logits(model)
    model.compress(RECIPES[recipe])
    assert not equal(state(model), before)
    assert not torch.equal(logits(model), said)
    assert model.restore()
    assert equal(state(model), before)
    assert torch.equal(logits(model), said)


@every_recipe
def test_a_recipe_gives_the_same_whatever_was_tried_before(recipe: str) -> None:
    fresh, used = tiny.model("llama"), tiny.model("llama")
    used.compress([RoundToNearest(bits=2, granularity="tensor")])
    assert used.restore()
    assert used.compress(RECIPES[recipe]) == fresh.compress(RECIPES[recipe])
    assert equal(state(used), state(fresh))


@every_architecture
def test_the_fingerprint_is_unmoved_by_compression(architecture: str) -> None:
    model = tiny.model(architecture)
    before = model.fingerprint()
    model.compress([RoundToNearest(bits=2)])
    assert model.fingerprint() == before
    model.memo.clear()
    assert model.fingerprint() == before
    assert tiny.model(architecture).fingerprint() == before
    assert tiny.model(architecture, seed=1).fingerprint() != before


def test_the_fingerprint_changes_with_any_weight() -> None:
    original = tiny.model("gpt2").fingerprint()
    names = [name for name, _ in tiny.model("gpt2").tensors()]
    for name in names:
        network = tiny.network("gpt2")
        tensor = dict(network.state_dict())[name].reshape(-1)
        tensor[-1] += 1
        changed = LanguageModel(module=network, tokenizer=None, family="causal")
        assert changed.fingerprint() != original, name


def test_the_fingerprint_knows_shapes_and_dtypes() -> None:
    found = {
        LanguageModel(module=module, tokenizer=None, family="causal").fingerprint()
        for module in (
            nn.Linear(4, 2, bias=False).requires_grad_(requires_grad=False).apply(zero),
            nn.Linear(2, 4, bias=False).requires_grad_(requires_grad=False).apply(zero),
            nn.Linear(4, 4, bias=False).half().requires_grad_(requires_grad=False).apply(zero),
        )
    }
    assert len(found) == 3


def zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


def test_dense_is_compressed_by_nothing() -> None:
    model = tiny.model("bert")
    before = state(model)
    footprint = model.compress([])
    assert equal(state(model), before)
    assert footprint.bytes == footprint.dense_bytes
    assert footprint.modules_touched == 0
    assert footprint.bits == footprint.sparsity == footprint.weight_error == 0


def test_a_model_without_such_layers_says_which_it_has() -> None:
    model = LanguageModel(module=tiny.network("bert"), tokenizer=None, family="masked")
    del model.module.bert.encoder.layer  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=r"no layer .* 'attention'.*cls.predictions.transform"):
        model.weights("attention")


def test_the_weights_of_gpt2_are_shown_the_right_way_round() -> None:
    model = tiny.model("gpt2")
    shapes = {w.name.split(".", 3)[-1]: tuple(w.values.shape) for w in model.weights("all")}
    assert shapes == {
        "attn.c_attn": (48, 16),
        "attn.c_proj": (16, 16),
        "mlp.c_fc": (32 * 2, 16),
        "mlp.c_proj": (16, 32 * 2),
    }


@pytest.mark.parametrize(
    "step",
    [
        Magnitude(sparsity=0.5),
        RoundToNearest(bits=3),
        RoundToNearest(bits=4, granularity="group", group_size=5, symmetric=False),
    ],
    ids=["prune", "channel", "group"],
)
def test_gpt2_s_turned_layers_are_compressed_as_linear_ones_would_be(step: Modifier) -> None:
    turned = tiny.model("gpt2")
    plain = LanguageModel(module=as_linear(tiny.network("gpt2")), tokenizer=None, family="causal")
    assert torch.allclose(logits(turned), logits(plain), atol=1e-4)
    said = logits(turned)
    one, other = turned.compress([step]), plain.compress([step])
    assert one == other
    assert one.modules_touched == 8
    assert one.zeros > 0 or one.bytes < one.dense_bytes
    for mine, its in zip(turned.weights("all"), plain.weights("all"), strict=True):
        assert mine.name == its.name
        assert torch.equal(mine.values, its.values)
    assert torch.allclose(logits(turned), logits(plain), atol=1e-4)
    assert not torch.allclose(logits(turned), said, atol=1e-2)


def as_linear(network: nn.Module) -> nn.Module:
    """The same model with each Conv1D as nn.Linear."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Conv1D):
            linear = nn.Linear(layer.weight.shape[0], layer.weight.shape[1])
            linear.weight.data = layer.weight.data.t().contiguous()
            linear.bias.data = layer.bias.data
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, linear)
    return network


def test_albert_s_shared_layer_is_compressed_once() -> None:
    model = tiny.model("albert", num_hidden_layers=12)
    footprint = model.compress([RoundToNearest(bits=4, targets="feed-forward")])
    assert footprint.modules_touched == 2


# What third parties might do, rightly or wrongly.


@dataclass(frozen=True)
class Step:
    """A modifier made of a function."""

    work: Callable[[LanguageModel], Claim]

    def apply(self, model: LanguageModel) -> Claim:
        return self.work(model)


def named(weights: list[LinearWeight]) -> list[str]:
    return [weight.name for weight in weights]


def compress(*works: Callable[[LanguageModel], Claim], model: LanguageModel | None = None) -> Any:
    return (model or tiny.model("llama")).compress([Step(work) for work in works])


def below_threshold(model: LanguageModel) -> Claim:
    """The rule that prunes everything where weights are equal."""
    for weight in model.weights("all"):
        flat = weight.values.abs().flatten().sort().values
        weight.write(weight.values.where(weight.values.abs() > flat[len(flat) // 2 - 1], 0))
    return Claim(targets=named(model.weights("all")), sparsity=0.5)


def test_a_threshold_is_good_enough_where_there_are_no_ties() -> None:
    assert compress(below_threshold).sparsity == pytest.approx(0.5)


def test_a_threshold_on_equal_weights_misses_its_sparsity() -> None:
    model = tiny.model("llama")
    for weight in model.weights("all"):
        weight.values.fill_(0.25)
    with pytest.raises(RecipeError, match=r"Step was asked for sparsity 0\.5 and 1\.0000 was"):
        compress(below_threshold, model=model)


def one_layer_forgotten(model: LanguageModel) -> Claim:
    weights = model.weights("all")
    for weight in weights[1:]:
        weight.write(weight.values.where(keep_top(weight.values.abs(), 0.5), 0))
    return Claim(targets=named(weights), sparsity=0.5)


def test_a_layer_that_was_forgotten_misses_the_sparsity() -> None:
    with pytest.raises(RecipeError, match=r"asked for sparsity 0\.5 and 0\.4"):
        compress(one_layer_forgotten)


def test_zeros_that_were_there_before_are_no_miss() -> None:
    # Asked for less than an earlier step left: nothing is to be done, and that is right.
    footprint = tiny.model("llama").compress([Magnitude(sparsity=0.5), Magnitude(sparsity=0.2)])
    assert footprint.sparsity == pytest.approx(0.5, abs=1e-3)


def nothing(_: LanguageModel) -> Claim:
    return Claim(targets=[])


def test_a_step_that_touches_nothing_is_an_error() -> None:
    with pytest.raises(RecipeError, match="Step touched nothing"):
        compress(nothing)


@pytest.mark.parametrize("returned", [None, {"targets": []}])
def test_a_step_that_does_not_say_what_it_did_is_an_error(returned: Any) -> None:
    kind = type(returned).__name__
    with pytest.raises(RecipeError, match=rf"apply\(\) of Step returned {kind}, and must return a"):
        compress(lambda _: returned)


def everything_as_it_was(model: LanguageModel) -> Claim:
    for weight in model.weights("all"):
        weight.write(weight.values.clone())
    return Claim(targets=named(model.weights("all")))


def test_a_recipe_that_changes_nothing_is_an_error() -> None:
    with pytest.raises(RecipeError, match="the recipe changed nothing"):
        compress(everything_as_it_was)


def strange_layers(model: LanguageModel) -> Claim:
    return Claim(targets=[*named(model.weights("all")), "model.layers.9.mlp"])


def test_layers_that_are_not_there_are_an_error() -> None:
    with pytest.raises(RecipeError, match=r"does not have: model\.layers\.9\.mlp"):
        compress(strange_layers)


def rounded_but_not_packed(model: LanguageModel) -> Claim:
    for weight in model.weights("all"):
        found = quantize(weight.values, bits=4, granularity="channel", symmetric=True)
        weight.write(found.dequantize())
    return Claim(targets=named(model.weights("all")), bits=4)


def test_bits_without_packed_codes_are_an_error() -> None:
    with pytest.raises(RecipeError, match=r"asked for 4 bits, but '.*q_proj' lies on no grid"):
        compress(rounded_but_not_packed)


def other_bits(model: LanguageModel) -> Claim:
    RoundToNearest(bits=8).apply(model)
    return Claim(targets=named(model.weights("all")), bits=4)


def test_other_bits_than_claimed_are_an_error() -> None:
    with pytest.raises(RecipeError, match=r"asked for 4 bits, but '.*' is stored in 8 bits"):
        compress(other_bits)


def packed_codes_of_other_values(model: LanguageModel) -> Claim:
    for weight in model.weights("all"):
        found = quantize(weight.values, bits=4, granularity="channel", symmetric=True)
        weight.write(weight.values.clone(), found)
    return Claim(targets=named(model.weights("all")), bits=4)


def test_packed_codes_that_do_not_give_the_weight_back_are_an_error() -> None:
    with pytest.raises(RecipeError, match="lies on no grid"):
        compress(packed_codes_of_other_values)


def noise(model: LanguageModel) -> Claim:
    for weight in model.weights("all"):
        weight.write(weight.values + 0.001)
    return Claim(targets=named(model.weights("all")))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Magnitude(sparsity=0.5), r"Magnitude was asked for sparsity 0\.5 .* after the whole"),
        (RoundToNearest(bits=4), r"RoundToNearest was asked for 4 bits.*no grid after the whole"),
    ],
    ids=["sparsity", "bits"],
)
def test_what_a_later_step_undoes_is_an_error(step: Modifier, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        tiny.model("llama").compress([step, Step(noise)])


def test_more_bits_afterwards_undo_fewer() -> None:
    with pytest.raises(RecipeError, match=r"asked for 2 bits.*stored in 8 bits after the whole"):
        tiny.model("llama").compress([RoundToNearest(bits=2), RoundToNearest(bits=8)])


def test_fewer_bits_afterwards_are_no_undoing() -> None:
    footprint = tiny.model("llama").compress([RoundToNearest(bits=8), RoundToNearest(bits=4)])
    assert 4 < footprint.bits < 8


class Wrapped(nn.Linear):
    """A layer with more to store than nn.Linear."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.weight = nn.Parameter(layer.weight.data.half().float(), requires_grad=False)
        self.register_buffer("smooth", torch.ones(layer.in_features))


def wrap(model: LanguageModel) -> Claim:
    weights = model.weights("feed-forward")
    for weight in weights:
        parent, _, last = weight.name.rpartition(".")
        assert isinstance(weight.layer, nn.Linear)
        setattr(model.module.get_submodule(parent), last, Wrapped(weight.layer))
    return Claim(targets=named(weights))


def assert_restored(model: LanguageModel) -> None:
    """It is what a model that nobody touched is, bit by bit."""
    network: Any = model.snapshot.module
    assert model.restore()
    assert model.built_as_loaded()
    fresh: Any = tiny.network(network.config.model_type)
    assert repr(model.module) == repr(fresh)
    assert network.config.to_dict() == fresh.config.to_dict()
    live, wanted = network.state_dict(), fresh.state_dict()
    assert live.keys() == wanted.keys()
    assert all(torch.equal(live[name], wanted[name]) for name in wanted)
    ids = torch.arange(1, 9).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(network(input_ids=ids).logits, fresh(input_ids=ids).logits)
    assert {tensor.requires_grad for tensor in model.module.parameters()} == {False}
    assert not any(part.training for part in model.module.modules())


def test_replaced_modules_are_measured_and_restored_in_place() -> None:
    model = tiny.model("llama")
    footprint = compress(wrap, model=model)
    assert footprint.modules_touched == 6
    assert footprint.bytes == footprint.dense_bytes + 4 * 2 * (16 + 16 + 32)
    assert_restored(model)


def untie(model: LanguageModel) -> Claim:
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]
    head.weight = nn.Parameter(head.weight * 1.5, requires_grad=False)
    return Claim(targets=["lm_head"])


def test_untied_weights_restored_in_place() -> None:
    model = tiny.model("gpt2")
    footprint = compress(untie, model=model)
    assert footprint.bytes == footprint.dense_bytes + 4 * tiny.VOCABULARY * 16
    assert_restored(model)


def narrow(model: LanguageModel) -> Claim:
    model.module.half()
    return Claim(targets=named(model.weights("all")))


def test_another_dtype_halves_the_bytes_and_restored_in_place() -> None:
    model = tiny.model("llama")
    footprint = compress(narrow, model=model)
    assert footprint.bytes * 2 == footprint.dense_bytes
    assert footprint.bits == 16
    assert_restored(model)


def test_the_environment_names_what_figures_may_depend_on() -> None:
    found = tiny.model("llama").environment()
    assert found["dtype"] == "float32"
    assert found["device"] == "cpu"
    assert found["torch"] == torch.__version__
    assert all(found.values())


def test_a_model_is_compressed_from_its_first_step_until_it_is_restored() -> None:
    model = tiny.model("llama")
    assert not model.compressed
    model.compress([])
    assert not model.compressed
    with pytest.raises(RecipeError):
        model.compress([Magnitude(sparsity=0.5), RoundToNearest(bits=8), Idle()])
    assert model.compressed
    assert model.restore()
    assert not model.compressed
    model.compress([Magnitude(sparsity=0.5)])
    assert model.compressed


@dataclass(frozen=True)
class Idle:
    """A step that fails."""

    def apply(self, model: LanguageModel) -> Claim:  # noqa: ARG002
        message = "it does nothing"
        raise RecipeError(message)
