"""What a model measures of what steps claim, and what steps may put in place of its layers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bodies
import pytest
import tiny
import torch
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.quantization import Quantized, quantize
from pytest_compression.models.filed import Filed
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import Hqq, RoundToNearest
from pytest_compression.modifiers.structured import Neurons
from pytest_compression.types import Claim, Modifier


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a test does, as a step of a recipe."""

    run: Callable[[LanguageModel], Claim]

    def apply(self, model: LanguageModel) -> Claim:
        return self.run(model)


def compress(model: LanguageModel, *runs: Callable[[LanguageModel], Claim]) -> Any:
    return model.compress([Step(run=run) for run in runs])


def zero_first_inputs(model: LanguageModel, **claimed: Any) -> Claim:
    """Make the first two of each run of four inputs zero."""
    weights = model.weights("feed-forward")
    for weight in weights:
        kept = torch.arange(weight.values.shape[1]) % 4 >= 2
        weight.write(weight.values * kept)
    return Claim(targets=[weight.name for weight in weights], **claimed)


def half_of(model: LanguageModel) -> int:
    return sum(weight.values.numel() for weight in model.weights("feed-forward")) // 2


def test_an_exact_number_of_zeros_is_counted() -> None:
    model = tiny.model("gpt2")
    count = half_of(model)
    compress(model, lambda m: zero_first_inputs(m, zeros=count))
    for wrong in (count - 1, count + 1):
        assert model.restore()
        with pytest.raises(RecipeError, match=f"\\({count} zeros of"):
            compress(model, partial(zero_first_inputs, zeros=wrong))


def test_what_was_zero_before_is_allowed_for() -> None:
    model = tiny.model("llama")
    half = half_of(model)

    def next_input(m: LanguageModel) -> Claim:
        weights = m.weights("feed-forward")
        for weight in weights:
            weight.write(weight.values * (torch.arange(weight.values.shape[1]) % 4 != 2))
        return Claim(targets=[weight.name for weight in weights], zeros=half // 2)

    footprint = compress(model, lambda m: zero_first_inputs(m, zeros=half), next_input)
    assert footprint.sparsity == 0.75


def test_a_pattern_is_checked_in_every_run() -> None:
    model = tiny.model("bert")
    compress(model, lambda m: zero_first_inputs(m, pattern=(2, 4)))
    assert model.restore()
    with pytest.raises(RecipeError, match=r"pattern 1:4, but '.*' has 2 weights that are not zero"):
        compress(model, lambda m: zero_first_inputs(m, pattern=(1, 4)))


def test_a_mask_that_a_later_step_undoes_is_missed() -> None:
    model = tiny.model("llama")

    def refill(m: LanguageModel) -> Claim:
        weight = m.weights("feed-forward")[0]
        weight.write(torch.ones_like(weight.values))
        return Claim(targets=[weight.name])

    with pytest.raises(RecipeError, match=r"2:4.* after the whole recipe"):
        compress(model, lambda m: zero_first_inputs(m, pattern=(2, 4)), refill)


def narrow(model: LanguageModel, rows: int = 3, claimed: int | None = None) -> Claim:
    """Take rows out of the first gate and up projection, and columns out of the down one."""
    mlp: Any = model.module.get_submodule("model.layers.0.mlp")
    before = sum(parameter.numel() for parameter in mlp.parameters())
    for layer in (mlp.gate_proj, mlp.up_proj):
        layer.weight = nn.Parameter(layer.weight[rows:].clone())
    mlp.down_proj.weight = nn.Parameter(mlp.down_proj.weight[:, rows:].clone())
    gone = before - sum(parameter.numel() for parameter in mlp.parameters())
    names = [f"model.layers.0.mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    return Claim(targets=names, removed=gone if claimed is None else claimed)


def test_parameters_that_are_gone_are_counted() -> None:
    model = tiny.model("llama")
    dense = model.compress([])
    footprint = compress(model, narrow)
    assert footprint.parameters == dense.parameters - 3 * 3 * 16
    assert footprint.bytes == dense.bytes - 4 * 3 * 3 * 16
    assert footprint.modules_touched == 3
    assert model.restore()
    with pytest.raises(RecipeError, match="was to remove 100 parameters, and 144 are gone"):
        compress(model, lambda m: narrow(m, claimed=100))


def test_what_a_later_step_removes_is_not_held_against_an_earlier_one() -> None:
    model = tiny.model("llama")
    half = half_of(model)
    compress(model, lambda m: zero_first_inputs(m, zeros=half), narrow)


def test_a_layer_that_moved_keeps_its_dense_weight_and_its_claims() -> None:
    model = tiny.model("llama")
    network: Any = model.module

    def prune_second(m: LanguageModel) -> Claim:
        weights = m.weights("model.layers.1.*")
        for weight in weights:
            weight.write(weight.values.where(weight.values > 0, 0))
        zeros = sum(int((weight.values == 0).sum()) for weight in weights)
        return Claim(targets=[weight.name for weight in weights], zeros=zeros)

    def drop_first(_: LanguageModel) -> Claim:
        first = network.model.layers[0]
        del network.model.layers[0]
        targets = [f"model.layers.0.{n}" for n, p in first.named_modules() if hasattr(p, "weight")]
        linear = [name for name in targets if "norm" not in name]
        return Claim(targets=linear, removed=sum(p.numel() for p in first.parameters()))

    footprint = compress(model, prune_second, drop_first)
    assert footprint.weight_error == pytest.approx(0.7, abs=0.1)  # half the weights, not others

    def fill_up(m: LanguageModel) -> Claim:
        weight = m.weights("model.layers.0.*")[0]
        weight.write(torch.ones_like(weight.values))
        return Claim(targets=[weight.name])

    assert model.restore()
    with pytest.raises(RecipeError, match="after the whole recipe"):
        compress(model, prune_second, drop_first, fill_up)


def test_what_is_left_of_a_mask_is_checked_where_a_part_was_cut() -> None:
    def undo(m: LanguageModel) -> Claim:
        weight = m.weights("model.layers.1.mlp.up_proj")[0]
        weight.write(torch.ones_like(weight.values))
        return Claim(targets=[weight.name])

    model = tiny.model("llama")
    half = half_of(model)
    with pytest.raises(RecipeError, match="after the whole recipe"):
        compress(model, lambda m: zero_first_inputs(m, zeros=half), narrow, undo)


def test_a_step_that_writes_nothing_unties_nothing() -> None:
    model = tiny.model("llama", tie_word_embeddings=True)
    network: Any = model.module
    assert [one.name for one in model.weights("head", writes=False)] == ["lm_head"]
    assert network.lm_head.weight is network.model.embed_tokens.weight


class Rounding(nn.Linear):
    """A layer that says that it rounds its inputs."""

    activation_bits = 8


def round_inputs(model: LanguageModel, bits: int = 8) -> Claim:
    weights = model.weights("attention")
    for weight in weights:
        weight.layer.__class__ = Rounding
    return Claim(targets=[weight.name for weight in weights], activation_bits=bits)


def test_rounded_inputs_are_an_effect_and_are_checked() -> None:
    model = tiny.model("bert")
    footprint = compress(model, round_inputs)
    assert footprint.activation_bits == 8
    assert footprint.modules_touched == 8
    assert footprint.bytes == footprint.dense_bytes
    assert model.restore()
    with pytest.raises(RecipeError, match=r"round inputs to 4 bits, but those of .* rounded to 8"):
        compress(model, lambda m: round_inputs(m, bits=4))


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
@pytest.mark.parametrize("end", ["head", "embeddings"])
def test_a_tied_end_that_is_targeted_alone_is_untied_and_the_bytes_say_so(
    architecture: str, end: str
) -> None:
    model = tiny.model(architecture, tie_word_embeddings=True)
    network: Any = model.module
    head, table = network.get_output_embeddings(), network.get_input_embeddings()
    assert head.weight is table.weight
    dense = model.compress([]).bytes

    def double(m: LanguageModel) -> Claim:
        (weight,) = m.weights(end)
        weight.write(2 * weight.values)
        return Claim(targets=[weight.name])

    footprint = compress(model, double)
    changed, other = (head, table) if end == "head" else (table, head)
    assert torch.equal(changed.weight, 2 * other.weight)
    shared = 0 if architecture not in {"albert", "bert", "roberta"} else head.bias.nbytes
    assert footprint.bytes == dense + head.weight.nbytes + shared
    assert footprint.modules_touched == 1
    assert model.restore()
    assert head.weight is table.weight
    assert model.compress([]).bytes == dense


def test_both_ends_stay_tied_and_are_worked_on_once() -> None:
    model = tiny.model("llama", tie_word_embeddings=True)
    assert [weight.name for weight in model.weights(("embeddings", "head"))] == [
        "model.embed_tokens"
    ]
    network: Any = model.module
    assert network.lm_head.weight is network.model.embed_tokens.weight


class Foreign(nn.Module):
    """Another library\'s layer, which keeps its weight packed."""

    def __init__(self, layer: Any, packed: Quantized) -> None:
        super().__init__()
        self.bias = layer.bias
        self.packed = packed

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.packed.dequantize(), self.bias)


def adopt(model: LanguageModel) -> Claim:
    weights = model.weights("feed-forward")
    for weight in weights:
        packed = quantize(weight.values, bits=8, granularity="channel", symmetric=True)
        model.adopt(weight.name, Foreign(weight.layer, packed), packed)
    return Claim(targets=[weight.name for weight in weights], bits=8)


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5"])
def test_layers_of_another_library_are_measured_and_taken_out_again(architecture: str) -> None:
    model = tiny.model(architecture)
    dense = model.compress([])
    weights = model.weights("feed-forward")
    sizes = sum(weight.values.numel() for weight in weights)
    scales = sum(weight.values.shape[0] for weight in weights)
    footprint = compress(model, adopt)
    assert footprint.modules_touched == len(weights)
    assert footprint.modules == dense.modules
    assert footprint.parameters == dense.parameters
    assert footprint.bytes == dense.bytes - 4 * sizes + sizes + 4 * scales
    assert 0 < footprint.weight_error < 0.01
    assert model.identity().digest == ""
    with pytest.raises(RecipeError, match="is a Foreign of another library by now"):
        model.weights("feed-forward")[0].write(torch.zeros(1))
    assert model.restore()
    assert model.compress([]) == dense


def test_another_network_takes_the_place_of_the_whole() -> None:
    model = tiny.model("llama")
    smaller = tiny.network("llama", num_hidden_layers=1)

    def switch(m: LanguageModel) -> Claim:
        m.switch(smaller)
        m.filed = Filed(m, 1000, {})
        return Claim(targets=[weight.name for weight in m.weights("all")])

    footprint = compress(model, switch)
    assert footprint.bytes == 1000
    assert footprint.parameters == sum(tensor.numel() for tensor in smaller.parameters())
    assert footprint.bits == 8 * 1000 / footprint.parameters
    assert model.restore()
    assert model.module is not smaller
    assert model.compress([]).bytes > 1000


def test_what_is_run_beside_a_row_may_matter_until_the_model_is_restored() -> None:
    model = tiny.model("llama")
    roomy = model.budget
    model.alone = True
    assert (model.budget.rows, model.budget.tokens) == (1, 1)
    assert model.restore()
    assert model.budget == roomy


@dataclass(frozen=True, kw_only=True)
class Versioned(Step):
    """A step that names the version of a library."""

    def environment(self) -> dict[str, str]:
        return {"somelib": "1.2"}


def test_the_environment_names_what_steps_depend_on() -> None:
    model = tiny.model("bert")
    dense = model.environment()
    model.compress([Versioned(run=round_inputs)])
    assert model.environment() == dense | {"somelib": "1.2"}
    assert model.restore()
    assert model.environment() == dense


@dataclass(frozen=True, kw_only=True)
class Taught(Step):
    """A step with an option that is read from a file."""

    material: Material


def test_the_environment_names_the_texts_that_steps_read(tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    model = tiny.model("bert")
    found = set()
    for text in ("Oslo is the capital of Norway.", "Bergen is the capital of Norway."):
        file.write_text(text, encoding="utf-8")
        model.compress([Taught(run=round_inputs, material=Material(text=str(file)))])
        found.add(model.environment()[f"text {file}"])
        assert model.restore()
    assert len(found) == 2
    model.compress([Taught(run=round_inputs, material=Material(facts=("capital",)))])
    assert not any(name.startswith("text") for name in model.environment())


HALF = Magnitude(sparsity=0.5, targets="feed-forward")
LOST = Hqq(bits=3, group_size=5, targets="feed-forward")
FEWER = Neurons(sparsity=0.3)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([LOST, HALF, FEWER], "Hqq was asked for 3 bits, but .* lies on no grid after the whole"),
        ([HALF, FEWER, LOST], "Magnitude was asked for sparsity .* after the whole recipe"),
        ([HALF, LOST, FEWER], "Magnitude was asked for sparsity .* after the whole recipe"),
    ],
)
def test_what_was_undone_is_seen_although_it_was_cut(steps: list[Modifier], words: str) -> None:
    model = bodies.model("llama")
    model.module.float()
    with pytest.raises(RecipeError, match=words):
        model.compress(steps)


@pytest.mark.parametrize("later", [[FEWER], [FEWER, FEWER], [RoundToNearest(bits=4), FEWER]])
def test_a_mask_may_be_cut(later: list[Modifier]) -> None:
    model = bodies.model("llama")
    model.module.float()
    model.compress([HALF, *later])
