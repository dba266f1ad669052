"""Layers of other libraries, as their own packages write them."""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file
from saved import WEIGHTS, saved, tensors_changed, written
from torch import Tensor, nn

from pytest_compression.errors import ModelError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Pretrained
from pytest_compression.modifiers.checkpoint import Checkpoint
from pytest_compression.modifiers.packed_layers import (
    depends_on_others,
    packed_layers,
    rounded_inputs,
    take_over,
    unpacked,
)
from pytest_compression.types import Footprint

WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
"""Wide enough for groups of 32 and blocks of 64."""


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A dense model, read from its file; restored before each use."""
    return loaded(saved(tmp_path_factory.mktemp("dense"), **WIDE))


def loaded(folder: Path) -> LanguageModel:
    found = Pretrained(path=str(folder)).load()
    assert isinstance(found, LanguageModel)
    return found


def read(model: LanguageModel, folder: Path) -> Footprint:
    assert model.restore()
    return model.compress([Checkpoint(path=str(folder))])


def logits(module: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(input_ids=torch.arange(3, 20)[None]).logits
    return found.float()


def stored_bytes(folder: Path) -> int:
    return sum(tensor.nbytes for tensor in load_file(folder / WEIGHTS).values())


def gpt2() -> LanguageModel:
    """With ``Conv1D`` layers that are wide enough for blocks of 64."""
    options: dict[str, Any] = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 64}
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=tiny.VOCABULARY, **options)
    )
    return LanguageModel(module=network.eval(), tokenizer=tiny.tokenizer("causal"), family="causal")


def packed_by_bitsandbytes(source: Path, masked: bool, **options: Any) -> Any:  # noqa: FBT001
    """What ``transformers`` reads with bitsandbytes, computing alike on every processor."""
    auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    settings = transformers.BitsAndBytesConfig(**options)
    packed = auto.from_pretrained(source, quantization_config=settings, dtype=torch.float32)
    for layer in packed.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return packed


EIGHT: dict[str, Any] = {"load_in_8bit": True, "llm_int8_threshold": 0.0}
FOUR: dict[str, Any] = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": torch.float32,
}


@pytest.mark.parametrize(
    ("architecture", "options", "bits"),
    [
        ("gpt2", EIGHT, 8),
        ("gpt2", FOUR, 4),
        ("bert", EIGHT, 8),
        ("bert", FOUR | {"bnb_4bit_use_double_quant": True}, 4),
    ],
)
def test_bitsandbytes(
    tmp_path: Path, architecture: str, options: dict[str, Any], bits: int
) -> None:
    original = gpt2() if architecture == "gpt2" else tiny.model(architecture, **WIDE)
    source, folder = written(original, tmp_path / "source"), tmp_path / "packed"
    packed = packed_by_bitsandbytes(source, architecture == "bert", **options)
    packed.save_pretrained(folder)
    model = loaded(source)
    found = read(model, folder)
    expected = logits(packed)
    assert (logits(model.module) - expected).norm() < 1e-4 * expected.norm()
    assert found.bytes == stored_bytes(folder) < 0.7 * found.dense_bytes
    assert {w.stored.bits for w in model.linear() if w.stored is not None} == {bits}
    assert not model.alone
    assert found.activation_bits == (8 if bits == 8 else None)
    assert 0 < found.weight_error < 0.15
    assert model.restore()


def test_bitsandbytes_4_bit_is_right_where_its_own_kernel_is_not(tmp_path: Path) -> None:
    # Inputs that are a multiple of 16 but not of the block of 64.
    source = saved(tmp_path / "source", **WIDE | {"intermediate_size": 80})
    packed_by_bitsandbytes(source, masked=False, **FOUR).save_pretrained(tmp_path / "packed")
    model = loaded(source)
    assert read(model, tmp_path / "packed").weight_error < 0.12
    for weight in model.linear():
        given = weight.layer(torch.eye(weight.values.shape[1]))
        assert torch.allclose(given.t(), weight.values, atol=1e-6)


def test_a_scale_that_attention_hides_from_the_logits_is_refused(tmp_path: Path) -> None:
    # A row of NaN scores is a row of zeros, and the logits stay finite.
    source, folder = saved(tmp_path / "source", **WIDE), tmp_path / "packed"
    packed_by_bitsandbytes(source, masked=False, **EIGHT).save_pretrained(folder)
    name = "model.layers.1.self_attn.k_proj"
    tensors_changed(folder, lambda tensors: tensors[f"{name}.SCB"].fill_(float("nan")))
    with pytest.raises(ModelError, match=f"NaN or infinite weights in '{name}'"):
        read(loaded(source), folder)


def test_compressed_tensors(dense: LanguageModel, tmp_path: Path) -> None:
    packages = import_module("compressed_tensors.quantization")
    compressors = import_module("compressed_tensors.compressors")
    for number, (bits, symmetric) in enumerate([(4, True), (4, False), (8, True)]):
        folder = tmp_path / str(number)
        weights = packages.QuantizationArgs(
            num_bits=bits, strategy="group", group_size=32, symmetric=symmetric
        )
        inputs = packages.QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
        scheme = packages.QuantizationScheme(
            targets=["Linear"], weights=weights, input_activations=inputs if bits == 8 else None
        )
        model = tiny.model("llama", **WIDE)
        give_grids(packages, model.module, scheme)
        expected = logits(model.module)
        compressor = compressors.ModelCompressor.from_pretrained_model(model.module)
        compressor.compress_model(model.module)
        compressor.update_config(written(model, folder))
        found = read(dense, folder)
        assert torch.equal(logits(dense.module), expected)
        assert found.bytes == stored_bytes(folder) < 0.6 * found.dense_bytes
        assert found.activation_bits == (8 if bits == 8 else None)


def give_grids(packages: Any, module: Any, scheme: Any) -> None:
    """Min-max grids for groups of 32, by compressed-tensors' own functions."""
    groups = {"group_0": scheme}
    config = packages.QuantizationConfig(config_groups=groups, ignore=["lm_head"])
    packages.apply_quantization_config(module, config)
    for layer in module.modules():
        if getattr(layer, "quantization_scheme", None) is not None:
            parts = layer.weight.unflatten(1, (-1, 32))
            scale, zero = packages.utils.calculate_qparams(
                parts.amin(-1), parts.amax(-1), scheme.weights
            )
            layer.weight_scale.data = scale.float()
            if hasattr(layer, "weight_zero_point"):
                layer.weight_zero_point.data = zero.to(layer.weight_zero_point.dtype)


@pytest.mark.parametrize(
    ("kind", "bits", "dtype"),
    [
        ("qint8", 8, torch.bfloat16),  # its own kernel for these crashes
        ("qint4", 4, torch.bfloat16),
        ("qfloat8", 8, torch.float32),
    ],
)
def test_optimum_quanto(
    dense: LanguageModel, tmp_path: Path, kind: str, bits: int, dtype: torch.dtype
) -> None:
    quanto = import_module("optimum.quanto")
    model = tiny.model("llama", **WIDE)
    model.module.to(dtype)
    packed = quanto.QuantizedModelForCausalLM.quantize(
        model.module, weights=getattr(quanto, kind), exclude="lm_head"
    )
    packed.save_pretrained(tmp_path)
    found = read(dense, tmp_path)
    assert found.bytes == stored_bytes(tmp_path) < 0.6 * found.dense_bytes
    assert {w.stored.bits for w in dense.linear() if w.stored is not None} == {bits}
    assert 0 < found.weight_error < 0.12
    assert dense.environment()["dtype"] == str(dtype).removeprefix("torch.")


def test_a_checkpoint_of_optimum_quanto_with_a_missing_tensor_is_refused(
    dense: LanguageModel, tmp_path: Path
) -> None:
    # Its own reader would leave it as it happens to be.
    quanto = import_module("optimum.quanto")
    model = tiny.model("llama", **WIDE)
    quanto.QuantizedModelForCausalLM.quantize(
        model.module, weights=quanto.qint8, exclude="lm_head"
    ).save_pretrained(tmp_path)
    tensors_changed(tmp_path, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ModelError, match=r"lacks 'model\.norm\.weight'"):
        read(dense, tmp_path)


@pytest.mark.parametrize("inputs", ["WeightOnly", "DynamicActivationInt8Weight"])
def test_torchao(dense: LanguageModel, tmp_path: Path, inputs: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchao = pytest.importorskip("torchao.quantization")
        made = transformers.TorchAoConfig(getattr(torchao, f"Int8{inputs}Config")())
        packed = transformers.AutoModelForCausalLM.from_pretrained(
            saved(tmp_path / "source", **WIDE), quantization_config=made, dtype=torch.float32
        )
        packed.save_pretrained(tmp_path / "packed")
    found = read(dense, tmp_path / "packed")
    assert torch.equal(logits(dense.module), logits(packed))
    assert found.bytes == stored_bytes(tmp_path / "packed") < 0.6 * found.dense_bytes
    assert found.activation_bits == (8 if "Dynamic" in inputs else None)
    assert 0 < found.weight_error < 0.02


# A kernel that nobody knows


class Kernel(nn.Module):
    """As GPTQ's: codes in no tensor called weight, and nothing that unpacks them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.scale = nn.Buffer(linear.weight.data.abs().amax(1, keepdim=True) / 127)
        self.codes = nn.Buffer((linear.weight.data / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.codes * self.scale, self.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_the_weight_of_an_unknown_kernel_is_found_by_asking_it(*, bias: bool) -> None:
    linear = nn.Linear(24, 7, bias=bias).requires_grad_(requires_grad=False)
    kernel = Kernel(linear)
    assert torch.allclose(unpacked(kernel), kernel.codes * kernel.scale, atol=1e-6)
    assert unpacked(kernel).shape == (7, 24)


def test_a_large_bias_leaves_the_weight_of_an_unknown_kernel_alone() -> None:
    linear = nn.Linear(24, 7).requires_grad_(requires_grad=False)
    linear.bias.fill_(500.0)  # in bfloat16 the sum with a weight is 500 again
    kernel = Kernel(linear.bfloat16())
    assert torch.equal(unpacked(kernel), kernel.codes * kernel.scale)
    assert kernel.bias is linear.bias


def test_an_unknown_kernel_is_taken_over_with_the_bytes_of_its_file() -> None:
    model = tiny.model("llama")
    for block in model.module.model.layers:  # type: ignore[union-attr]
        block.mlp.up_proj = Kernel(block.mlp.up_proj)
    assert packed_layers(model.module).keys() == {f"model.layers.{i}.mlp.up_proj" for i in (0, 1)}
    sizes = {f"model.layers.{i}.mlp.up_proj.{name}": 640 for i in (0, 1) for name in ("a", "bias")}
    take_over(model, sizes)
    found = [weight for weight in model.linear() if weight.stored is not None]
    assert [(weight.stored.nbytes, weight.stored.bits) for weight in found] == [(640, 10)] * 2  # type: ignore[union-attr]


# What layers do to their inputs


def layer(**attributes: Any) -> Any:
    return type("Layer", (), attributes)()


@pytest.mark.parametrize(
    ("dynamic", "strategy", "alone"),
    [(True, "tensor", True), (True, "token", False), (False, "tensor", False)],
)
def test_one_scale_for_all_inputs_depends_on_what_is_beside(
    *, dynamic: bool, strategy: str, alone: bool
) -> None:
    inputs = layer(num_bits=8, dynamic=dynamic, strategy=strategy)
    found = layer(quantization_scheme=layer(input_activations=inputs))
    assert (rounded_inputs(found), depends_on_others(found)) == (8, alone)


def test_plain_layers_round_nothing() -> None:
    assert rounded_inputs(nn.Linear(2, 2)) is None
    assert not depends_on_others(nn.Linear(2, 2))
