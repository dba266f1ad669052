"""A network in training: its copies, its masks, its grids, and what cannot be trained."""

from typing import Any

import pytest
import tiny
import torch
from torch import nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.filed import Filed
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.activations import Activations
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import (
    Float8,
    Fp4,
    Hqq,
    Nf4,
    RoundToNearest,
    Ternary,
)
from pytest_compression.modifiers.training.fine_tuning import FineTune
from pytest_compression.modifiers.training.gradual import GradualMagnitude
from pytest_compression.modifiers.training.qat import Qat
from pytest_compression.modifiers.training.trainee import (
    Trainee,
    learnable,
    taught_layers,
    trainee_of,
    unpadded,
)
from pytest_compression.types import Modifier

FAMILIES = sorted({*tiny.TYPICAL.values(), "gpt2", "albert"})


def in_dtype(architecture: str, dtype: torch.dtype) -> LanguageModel:
    family = tiny.FAMILIES[architecture]
    network = tiny.network(architecture).to(dtype)
    return LanguageModel(module=network, tokenizer=tiny.tokenizer(family), family=family)


def answers(model: LanguageModel, given: dict[str, torch.Tensor]) -> torch.Tensor:
    module: Any = model.module
    found: torch.Tensor = module(**given).logits
    return found


def inputs(model: LanguageModel) -> dict[str, torch.Tensor]:
    ids = torch.arange(10, 22).reshape(2, 6)
    return {"input_ids": ids} | ({"labels": ids} if model.family == "seq2seq" else {})


@torch.no_grad()  # with gradients, attention is computed in another order
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_untrained_it_computes_what_the_network_computes(architecture: str) -> None:
    model = tiny.model(architecture)
    module: Any = model.module
    for embeddings in (False, True):
        trainee = trainee_of(model, embeddings=embeddings)
        assert torch.equal(trainee.logits(inputs(model)), module(**inputs(model)).logits)


@torch.no_grad()
@pytest.mark.parametrize("architecture", FAMILIES)
def test_on_a_grid_it_computes_what_the_quantized_network_computes(architecture: str) -> None:
    model = tiny.model(architecture)
    model.compress([Magnitude(sparsity=0.3), RoundToNearest(bits=3, symmetric=False)])
    module: Any = model.module
    trainee = trainee_of(model, embeddings=False)
    assert len(trainee.roundings) == len(trainee.names)
    assert torch.equal(trainee.logits(inputs(model)), module(**inputs(model)).logits)


def test_the_ends_learn_only_where_that_is_wanted() -> None:
    model = tiny.model("llama")
    whole = set(learnable(model.module))
    ends = {"model.embed_tokens.weight", "lm_head.weight"}
    assert set(trainee_of(model, embeddings=True).copies) == whole
    assert set(trainee_of(model, embeddings=False).copies) == whole - ends
    named = trainee_of(model, embeddings=False, targets=["lm_head"])
    assert set(named.copies) == whole - {"model.embed_tokens.weight"}


def test_a_tied_matrix_is_copied_once() -> None:
    model = tiny.model("gpt2")
    trainee = trainee_of(model, embeddings=True)
    assert trainee.names["lm_head"] == trainee.names["transformer.wte"] == "transformer.wte.weight"
    assert "lm_head.weight" not in trainee.copies


def test_positions_that_are_computed_do_not_learn() -> None:
    module = tiny.network("marian")
    assert not any("embed_positions" in name for name in learnable(module))
    assert any("embed_positions" in name for name, _ in module.named_parameters())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_weights_are_seen_with_outputs_first(architecture: str) -> None:
    model = tiny.model(architecture)
    trainee = trainee_of(model, embeddings=True)
    for weight in model.layers():
        assert torch.equal(trainee.weight(weight.name), weight.values)


def test_masks_hold_weights_and_gradients() -> None:
    model = tiny.model("gpt2")
    model.compress([Magnitude(sparsity=0.5)])
    trainee = trainee_of(model, embeddings=False)
    zero = {name: trainee.weight(name).detach() == 0 for name in trainee.kept}
    assert len(zero) == len(model.weights("all"))
    for copy in trainee.copies.values():
        copy.data += 1
        copy.grad = torch.ones_like(copy)
    trainee.hold()
    trainee.hold_gradients()
    for name, where in zero.items():
        gradient = trainee.copies[trainee.names[name]].grad
        assert gradient is not None
        turned = gradient.t() if trainee.names[name] in trainee.turned else gradient
        assert torch.equal(trainee.weight(name) == 0, where)
        assert torch.equal(turned == 0, where)


def test_another_network_than_the_models_is_written_to() -> None:
    model, student = tiny.model("llama"), tiny.network("llama", seed=1)
    trainee = Trainee(model, student, taught_layers(student, embeddings=False))
    for copy in trainee.copies.values():
        copy.data.zero_()
    trainee.put()
    assert all(not p.any() for name, p in student.named_parameters() if name in trainee.copies)
    assert all(p.any() for p in model.module.parameters())


CODES: dict[str, Modifier] = {
    "nf4": Nf4(block_size=16),
    "fp4": Fp4(block_size=24, double_quant=True),
    "e4m3": Float8(),
    "e5m2": Float8(format="e5m2", granularity="tensor"),
    "ternary": Ternary(),
    "hqq": Hqq(bits=2, group_size=8),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_codes_it_computes_what_the_quantized_network_computes(
    kind: str, dtype: torch.dtype
) -> None:
    model = in_dtype("gpt2", dtype)
    model.compress([CODES[kind]])
    trainee = trainee_of(model, embeddings=False)
    assert trainee.roundings.keys() == trainee.names.keys()
    assert torch.equal(trainee.logits(inputs(model)), answers(model, inputs(model)))
    at_dense = [
        torch.eq(trainee.weight(weight.name), weight.dense).float().mean()  # type: ignore[arg-type]
        for weight in model.weights("all")
    ]
    assert min(at_dense) > 0.3  # the others are zero, were cut off, or would take another value
    trainee.put()
    assert torch.equal(trainee.logits(inputs(model)), answers(model, inputs(model)))


@pytest.mark.parametrize("kind", ["nf4", "fp4", "e4m3"])
def test_numbers_too_small_for_their_dtype_to_be_exact_learn(kind: str) -> None:
    model = in_dtype("llama", torch.float16)
    for weight in model.weights("all"):
        weight.write(weight.values * 1e-5)
    model.compress([CODES[kind]])
    trainee = trainee_of(model, embeddings=False)
    found = trainee.tensors()
    torch.stack([found[name].float().sum() for name in trainee.names.values()]).sum().backward()
    for name in trainee.names.values():
        gradient = trainee.copies[name].grad
        assert gradient is not None
        assert (gradient == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_rows_that_change_each_other_are_run_as_they_are_judged(architecture: str) -> None:
    model = tiny.model(architecture)
    model.compress([Activations(bits=4, granularity="tensor")])
    (batch,) = Material(facts=("language",), samples=6).batches(model)
    given = {name: tensor for name, tensor in batch.items() if name != "labels"}
    given |= {"labels": batch["labels"]} if model.family == "seq2seq" else {}
    trainee = trainee_of(model, embeddings=False)
    found = trainee.logits(given)
    rows = list(unpadded(given))
    assert len(rows) == len(found) == 6
    assert len({row["input_ids"].shape for row in rows}) > 1
    for row, logits in zip(rows, found, strict=True):
        alone = answers(model, row)
        assert torch.equal(logits[: alone.shape[1]], alone[0])
        assert not logits[alone.shape[1] :].any()
    model.alone = False
    assert not torch.equal(trainee.logits(given)[:, :2], found[:, :2])


class Foreign(nn.Linear):
    """Another library's layer, which passes gradients as any."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__(values.shape[1], values.shape[0], bias=False)
        self.weight.data = values.clone()


class Mute(Foreign):
    """One that passes none."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return super().forward(given).detach()


class Rounding(Foreign):
    """One whose gradient is zero almost everywhere."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return super().forward((8 * given).round() / 8)


class Wrong(Foreign):
    """One whose gradient is that of another weight."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        found = super().forward(given)
        wrong = nn.functional.linear(given, self.weight.flip(0))
        return wrong + (found - wrong).detach()


class Codes:
    """A packed form that nothing here knows."""

    bits, nbytes = 4, 1

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def dequantize(self) -> torch.Tensor:
        return self.values

    def with_zeros(self, _: torch.Tensor) -> None:
        return None


NAME = "model.layers.0.mlp.up_proj"


def adopted(kind: type[Foreign]) -> LanguageModel:
    """A model with one layer of another library."""
    model = tiny.model("llama")
    (weight,) = model.weights((NAME,))
    model.adopt(NAME, kind(weight.values), Codes(weight.values.clone()))
    return model


@pytest.mark.parametrize("kind", [Mute, Rounding, Wrong])
def test_what_passes_no_gradient_is_refused(kind: type[Foreign], material: Material) -> None:
    model = adopted(kind)
    before = {name: tensor.clone() for name, tensor in model.tensors()}
    said = f"no gradient passes through '{NAME}', another library's {kind.__name__}: put the step"
    with pytest.raises(RecipeError, match=said):
        FineTune(material=material, steps=1).apply(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.tensors())
    assert not any(part.training for part in model.module.modules())


def test_a_hook_that_keeps_gradients_back_is_seen(material: Material) -> None:
    model = tiny.model("llama")
    layer = model.module.get_submodule(NAME)
    layer.register_forward_pre_hook(lambda _, given: (given[0].detach(),))
    with pytest.raises(RecipeError, match=f"no gradient passes through '{NAME}', a Linear"):
        FineTune(material=material, steps=1).apply(model)


def test_a_layer_of_another_library_stays_and_what_is_before_it_learns(material: Material) -> None:
    model = adopted(Foreign)
    weights = {w.name: w.values.clone() for w in model.weights("all")}
    FineTune(material=material, steps=2, learning_rate=0.01, embeddings=True).apply(model)
    same = {w.name for w in model.weights("all") if torch.equal(w.values, weights[w.name])}
    assert same == {NAME}
    assert torch.equal(model.module.get_submodule(NAME).weight, weights[NAME])  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [Qat, GradualMagnitude], ids=lambda step: step.__name__)
def test_a_layer_of_another_library_can_be_no_target(step: Any, material: Material) -> None:
    options = {"bits": 4} if step is Qat else {"sparsity": 0.5}
    with pytest.raises(RecipeError, match=f"'{NAME}' is (another library's Foreign|quantized)"):
        step(material=material, steps=1, **options).apply(adopted(Foreign))


def test_codes_that_nobody_can_round_to_stay_and_the_rest_learns(material: Material) -> None:
    model = tiny.model("llama")
    before = {name: tensor.clone() for name, tensor in model.tensors()}
    (weight,) = model.weights((NAME,))
    weight.write(weight.values, Codes(weight.values.clone()))
    FineTune(material=material, steps=2, learning_rate=0.01).apply(model)
    same = {name for name, tensor in model.tensors() if torch.equal(tensor, before[name])}
    assert same == {f"{NAME}.weight", "model.embed_tokens.weight", "lm_head.weight"}


def test_weights_that_a_file_has_in_codes_stay_and_so_do_its_bytes(material: Material) -> None:
    model = tiny.model("gpt2")
    name = "transformer.h.0.mlp.c_fc.weight"
    sizes = {key: tensor.nbytes for key, tensor in model.tensors()}
    sizes |= {name: sizes[name] // 8, "transformer.h.0.mlp.c_proj.weight": sizes[name] // 2}
    model.filed = Filed(model, sum(sizes.values()), sizes)
    before = {key: tensor.clone() for key, tensor in model.tensors()}
    FineTune(material=material, steps=2, learning_rate=0.01).apply(model)
    same = {key for key, tensor in model.tensors() if torch.equal(tensor, before[key])}
    assert same == {name, "transformer.wte.weight", "lm_head.weight"}  # half precision is no code
    now = model.filed.now(model)
    assert now is not None
    assert now[name] == sizes[name]


def test_a_model_with_nothing_left_to_learn_is_refused(material: Material) -> None:
    model = tiny.model("llama")
    for weight in model.weights("all"):
        weight.write(weight.values, Codes(weight.values.clone()))
    for part in model.module.modules():
        if type(part).__name__.endswith("Norm"):
            held: Any = part._parameters.pop("weight")
            part.register_buffer("weight", held.detach())
    with pytest.raises(RecipeError, match="nothing is left that could learn"):
        FineTune(material=material, steps=1).apply(model)
    FineTune(material=material, steps=1, embeddings=True).apply(model)
