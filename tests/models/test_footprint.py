import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.structured import Neurons


class Small(nn.Module):
    """Two layers of 3 -> 4 and 4 -> 2 without bias, an embedding tied to a head, and a buffer."""

    counted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.mlp = nn.Module()
        self.mlp.up = nn.Linear(3, 4, bias=False)
        self.mlp.down = nn.Linear(4, 3, bias=True)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("counted", torch.zeros(2, dtype=torch.int64))
        self.embedding.weight.data = torch.arange(1.0, 16).reshape(5, 3)
        self.mlp.up.weight.data = torch.arange(1.0, 13).reshape(4, 3)
        self.mlp.down.weight.data = torch.arange(-12.0, 0).reshape(3, 4)
        self.mlp.down.bias.data = torch.tensor([0.0, 1.0, 2.0])

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def get_input_embeddings(self) -> None:
        return None


FLOATS = 15 + 12 + 12 + 3
DENSE_BYTES = 4 * FLOATS + 2 * 8


def small() -> LanguageModel:
    return LanguageModel(module=Small(), tokenizer=None, family="causal")


def test_a_dense_model_s_bytes_count_tied_weights_once() -> None:
    footprint = small().compress([])
    assert footprint.bytes == footprint.dense_bytes == DENSE_BYTES
    assert footprint.parameters == FLOATS + 2
    assert footprint.zeros == 1 + 2
    assert footprint.modules == 3
    assert footprint.modules_touched == 0


def test_pruning_by_hand() -> None:
    footprint = small().compress([Magnitude(sparsity=0.5)])
    assert footprint.bytes == footprint.dense_bytes == DENSE_BYTES
    assert footprint.zeros == 3 + 12
    assert footprint.modules_touched == 2
    assert footprint.sparsity == 0.5
    assert footprint.bits == 32
    # The magnitudes are 1 to 12 twice; 1 to 6 are gone twice.
    lost, all_of_it = sum(n * n for n in range(1, 7)), sum(n * n for n in range(1, 13))
    assert footprint.weight_error == pytest.approx(math.sqrt(lost / all_of_it), rel=1e-5)


def test_per_layer_and_targets_count_their_own_layers_only() -> None:
    model = small()
    footprint = model.compress([Magnitude(sparsity=0.25, scope="layer", targets="feed-forward")])
    assert footprint.zeros == 3 + 3 + 3
    assert footprint.sparsity == 0.25


@pytest.mark.parametrize(
    ("options", "codes", "scales", "zero_points"),
    [
        ({"bits": 8}, 24, 4 + 3, 0),
        ({"bits": 4}, 12, 4 + 3, 0),
        ({"bits": 3}, 5 + 5, 4 + 3, 0),  # 36 bits are 4.5 bytes, in each layer
        ({"bits": 4, "granularity": "tensor", "symmetric": False}, 12, 2, 2),
        # rows of 3 in groups of 2 are two groups; rows of 4 as well
        (
            {"bits": 2, "granularity": "group", "group_size": 2, "symmetric": False},
            3 + 3,
            4 * 2 + 3 * 2,
            4 * 2 + 3 * 2,
        ),
    ],
    ids=["int8", "int4", "int3", "tensor-affine", "group-affine"],
)
def test_quantizing_by_hand(
    options: dict[str, Any], codes: int, scales: int, zero_points: int
) -> None:
    footprint = small().compress([RoundToNearest(**options)])
    stored = codes + 4 * scales + zero_points
    assert footprint.bytes == DENSE_BYTES - 4 * 24 + stored
    assert footprint.bits == pytest.approx(8 * stored / 24)
    assert footprint.modules_touched == 2


def test_the_error_of_two_bits_by_hand() -> None:
    # Symmetric 2 bit has the codes -1, 0 and 1, and a row's largest magnitude as scale; half of
    # it, as in the last row, goes to even, which is 0.
    model = small()
    footprint = model.compress([RoundToNearest(bits=2)])
    up, down = model.weights("all")
    assert up.values.tolist() == [[0, 3, 3], [6, 6, 6], [9, 9, 9], [12, 12, 12]]
    assert down.values.tolist() == [[-12] * 4, [-8] * 4, [-4, -4, 0, 0]]
    distance = (2 + 5 + 5 + 5) + (14 + 14 + 6)
    norm = 2 * sum(n * n for n in range(1, 13))
    assert footprint.weight_error == pytest.approx(math.sqrt(distance / norm), rel=1e-5)
    assert footprint.sparsity == 3 / 24


ORDERS = {
    "prune-then-quantize": lambda step: [Magnitude(sparsity=0.5), step],
    "quantize-then-prune": lambda step: [step, Magnitude(sparsity=0.5)],
}


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5"])
@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_pruned_and_quantized_weights_stay_packed_and_zero(
    architecture: str, order: str, *, symmetric: bool
) -> None:
    step = RoundToNearest(bits=4, granularity="group", group_size=8, symmetric=symmetric)
    model = tiny.model(architecture)
    alone = model.compress([step])
    assert model.restore()
    both = model.compress(ORDERS[order](step))
    assert both.bytes == alone.bytes
    assert both.bits == alone.bits
    assert both.modules_touched == alone.modules_touched
    assert both.sparsity >= 0.5 - 1e-3
    assert both.weight_error > alone.weight_error
    for weight in model.weights("all"):
        assert weight.stored is not None
        assert torch.equal(weight.stored.dequantize(), weight.values)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_the_figures_of_every_architecture_agree_with_its_state_dict(architecture: str) -> None:
    model = tiny.model(architecture)
    module: Any = model.module
    distinct = {t.data_ptr(): t for t in module.state_dict().values()}.values()
    dense = model.compress([])
    assert dense.bytes == sum(t.numel() * t.element_size() for t in distinct)
    assert dense.parameters == sum(t.numel() for t in distinct)
    targets = model.weights("all")
    expected = dense.bytes
    for weight in targets:
        out, into = weight.values.shape
        expected += math.ceil(out * into * 3 / 8) + 4 * out - 4 * out * into
    assert model.compress([RoundToNearest(bits=3)]).bytes == expected
    assert len(targets) == len(list(model.linear())) - 1


def test_half_precision_counts_two_bytes_a_weight() -> None:
    model = LanguageModel(module=Small().bfloat16(), tokenizer=None, family="causal")
    footprint = model.compress([Magnitude(sparsity=0.5)])
    assert footprint.dense_bytes == 2 * FLOATS + 2 * 8
    assert footprint.bits == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_packed_as_well(dtype: torch.dtype) -> None:
    model = LanguageModel(module=Small().to(dtype), tokenizer=None, family="causal")
    footprint = model.compress([RoundToNearest(bits=4), Magnitude(sparsity=0.5)])
    assert footprint.bytes == 2 * (15 + 3) + 2 * 8 + 12 + 4 * 7
    assert {weight.values.dtype for weight in model.weights("all")} == {dtype}


@pytest.mark.parametrize("architecture", ["bart", "llama", "marian"])
def test_a_matrix_that_is_stored_once_counts_once(architecture: str) -> None:
    model = tiny.model(architecture)
    footprint = model.compress([RoundToNearest(bits=8, targets=("all", "embeddings", "head"))])
    kept = sum(
        tensor.nbytes
        for name, tensor in model.tensors()
        if model.owners()[name] == name and name.removesuffix(".weight") not in packed(model)
    )
    # Each matrix: a byte a weight, and a float32 scale an output channel.
    matrices = {
        (one.values.data_ptr(), one.values.shape): one.values for one in model.layers()
    }.values()
    coded = sum(values.numel() + 4 * values.shape[0] for values in matrices)
    assert footprint.bytes == kept + coded
    assert footprint.bits == pytest.approx(8 * coded / sum(v.numel() for v in matrices))
    assert footprint.modules_touched == footprint.modules == len(matrices)


@pytest.mark.parametrize("architecture", ["bart", "bert", "llama", "t5"])
def test_a_tied_head_is_a_linear_layer(architecture: str) -> None:
    model = tiny.model(architecture)
    footprint = model.compress([RoundToNearest(bits=8)])
    assert footprint.modules == footprint.modules_touched + 1 == len(model.linear())


def packed(model: LanguageModel) -> set[str]:
    """Layers on a grid, and those tied to them."""
    owners = model.owners()
    return {owners[f"{name}.weight"].removesuffix(".weight") for name in model.stored}


def test_layers_that_were_cut_are_not_compared_with_the_dense_ones() -> None:
    model = tiny.model("llama")
    cut = model.compress([Neurons(sparsity=0.5), RoundToNearest(bits=2, targets="feed-forward")])
    assert cut.reshaped == cut.modules_touched == 6
    assert model.restore()
    assert model.compress([RoundToNearest(bits=2)]).reshaped == 0


@pytest.mark.parametrize("sparsity", [0.1, 0.25])
def test_a_pattern_that_is_cut_apart_is_no_pattern_any_more(sparsity: float) -> None:
    model = tiny.model("llama")
    with pytest.raises(RecipeError, match=r"2:4.*after the whole recipe. A later step undid it"):
        model.compress([Magnitude(pattern="2:4"), Neurons(sparsity=sparsity)])
    assert model.restore()
    model.compress([Neurons(sparsity=0.25), Magnitude(pattern="2:4")])
