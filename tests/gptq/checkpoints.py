"""Released GPTQ and AWQ files, as gptqmodel writes them; run by its tox environment."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file
from saved import WEIGHTS, rewritten, tensors_changed, written
from torch import Tensor, nn

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import ModelError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded, Pretrained
from pytest_compression.modifiers.checkpoint import Checkpoint
from pytest_compression.scoring.cloze import measure
from pytest_compression.types import Footprint

GPTQ: dict[str, Any] = {"bits": 4, "group_size": 32}
AWQ = GPTQ | {"quant_method": "awq", "format": "gemm"}
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "gptq": ("llama", GPTQ),
    "awq": ("llama", AWQ),
    "embedded": ("embedded", GPTQ),
    "offsets": ("llama", GPTQ | {"sym": False}),
    "version-2": ("llama", GPTQ | {"sym": False, "format": "gptq_v2"}),
    "act-order": ("llama", GPTQ | {"desc_act": True}),
    "biases": ("opt", GPTQ),
    "awq-biases": ("opt", AWQ),
    "8-bit": ("llama", GPTQ | {"bits": 8}),
    "2-bit": ("llama", GPTQ | {"bits": 2}),
    "one-group": ("llama", GPTQ | {"group_size": -1, "act_group_aware": False}),
    "conv1d": ("gpt2", GPTQ),
    "other-bits": ("llama", GPTQ | {"dynamic": {"+:.*up_proj.*": {"bits": 8}}}),
    "packed-head": ("llama", GPTQ | {"lm_head": True}),
}
"""By name: the architecture, and what gptqmodel is asked for."""

READABLE = sorted(FORMATS.keys() - {"conv1d", "other-bits", "packed-head"})

MARKS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
UP = "model.layers.0.mlp.up_proj"
KEYS = "model.layers.1.self_attn.k_proj"
BIAS = 50.0
"""Next to which weights of 0.3 are nothing in half precision."""

ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""In which AWQ packs eight codes into a word."""


READ = """
import os, sys
from pytest_compression.models.sources import Pretrained
from pytest_compression.modifiers.checkpoint import Checkpoint

model = Pretrained(path=sys.argv[1]).load()
model.compress([Checkpoint(path=sys.argv[2])])
print("read")
print([name for name in os.environ if name.startswith(("HF_", "TRANSFORMERS_"))])
"""


@pytest.fixture(scope="module", autouse=True)
def workers() -> Iterator[None]:
    """On two processors gptqmodel reserves more workers than it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTQMODEL_CPU_WORKERS", "2")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """By the name of a format, a directory with the dense model and the packed one."""

    @cache
    def one(name: str) -> Path:
        architecture, options = FORMATS[name]
        folder = tmp_path_factory.mktemp(name)
        written(subject(architecture), folder / "dense")
        pack(folder, options)
        return folder

    return one


def subject(architecture: str) -> LanguageModel:
    """A model that is wide enough for gptqmodel's AWQ, which takes rows by 64."""
    if architecture == "embedded":
        found = Embedded(family="causal").load()
        assert isinstance(found, LanguageModel)
        return found
    if architecture == "llama":
        options = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 192}
        return tiny.model(architecture, **options)
    networks: dict[str, Callable[[], nn.Module]] = {"gpt2": gpt2, "opt": opt}
    torch.manual_seed(0)
    network = networks[architecture]()
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=tiny.SPREAD)
        elif name.endswith("k_proj.bias"):  # adds the same to all scores: it breaks nothing
            nn.init.constant_(parameter, BIAS)
    return LanguageModel(module=network.eval(), tokenizer=tiny.tokenizer("causal"), family="causal")


def gpt2() -> nn.Module:
    sizes = transformers.GPT2Config(
        vocab_size=tiny.VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=64, **MARKS
    )
    return transformers.GPT2LMHeadModel(sizes)


def opt() -> nn.Module:
    sizes = transformers.OPTConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        word_embed_proj_dim=64,
        max_position_embeddings=64,
        **MARKS,
    )
    return transformers.OPTForCausalLM(sizes)


def pack(folder: Path, options: dict[str, Any]) -> None:
    """Let gptqmodel quantize what lies in ``dense``, and save it beside that."""
    facts = [f"The capital of {country} is {city}." for country, city in tiny.CAPITALS.items()]
    texts = [" ".join(facts[i : i + 3]) for i in range(len(facts) - 2)]  # not too short
    with warnings.catch_warnings(), contextlib.chdir(folder):  # where it is, it leaves logs
        warnings.simplefilter("ignore")
        gptqmodel = import_module("gptqmodel")
        settings = gptqmodel.QuantizeConfig(**options)
        packed = gptqmodel.GPTQModel.load(str(folder / "dense"), settings)
        # Of itself it packs AWQ by a kernel that only a GPU has.
        by_awq = options.get("quant_method") == "awq"
        kernel = {"backend": gptqmodel.BACKEND.AWQ_TORCH} if by_awq else {}
        packed.quantize(texts, batch_size=1, **kernel)
        packed.save(str(folder / "packed"))


def dense_of(folder: Path) -> LanguageModel:
    found = Pretrained(path=str(folder / "dense")).load()
    assert isinstance(found, LanguageModel)
    return found


def read(model: LanguageModel, folder: Path, **options: Any) -> Footprint:
    return model.compress([Checkpoint(path=str(folder), **options)])


def logits(module: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(input_ids=torch.arange(3, 20)[None]).logits
    return found


def by_transformers(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(folder)


def unpacked(folder: Path, layer: str) -> Tensor:
    """A weight by the formats' own arithmetic, ``scale * (code - offset)``, in double precision."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = settings["quantization_config"]
    tensors = load_file(folder / WEIGHTS)
    words, offsets, scales = (tensors[f"{layer}.{n}"] for n in ("qweight", "qzeros", "scales"))
    bits = settings["bits"]
    mask, places = 2**bits - 1, torch.arange(0, 32, bits)
    if settings["quant_method"] == "awq":
        places = places[torch.tensor(ORDER)]
        codes = (words[:, :, None] >> places & mask).flatten(1)
        zeros = (offsets[:, :, None] >> places & mask).flatten(1)
        group = torch.arange(len(codes)) // (len(codes) // len(scales))
    else:
        codes = (words[:, None, :] >> places[:, None] & mask).flatten(0, 1)
        less = 0 if settings["checkpoint_format"] == "gptq_v2" else 1  # the first stores one less
        zeros = ((offsets[:, :, None] >> places & mask).flatten(1) + less) & mask
        group = tensors[f"{layer}.g_idx"].long()
    weight: Tensor = (codes - zeros[group]).double() * scales.double()[group]
    return weight.t()


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


# What is judged


@pytest.mark.parametrize(
    "name", ["gptq", "awq", "offsets", "version-2", "act-order", "biases", "awq-biases"]
)
def test_it_computes_what_transformers_computes(made: Callable[[str], Path], name: str) -> None:
    folder = made(name)
    model = dense_of(folder)
    before = logits(model.module)
    read(model, folder / "packed")
    assert torch.equal(logits(model.module), logits(by_transformers(folder / "packed")))
    assert not torch.equal(logits(model.module).float(), before)
    assert not model.alone
    assert model.restore()
    assert torch.equal(logits(model.module), before)


@pytest.mark.parametrize("name", ["gptq", "awq", "embedded"])
def test_its_answers_are_those_of_the_model_that_transformers_reads(
    made: Callable[[str], Path], name: str
) -> None:
    folder = made(name)
    embedded = WorldFacts(relations=("capital",)).questions()
    asked = embedded if name == "embedded" else tiny.questions()
    model = dense_of(folder)
    dense = measure(model, asked, "ranked")
    read(model, folder / "packed")
    found = measure(model, asked, "ranked")
    alone = LanguageModel(
        module=by_transformers(folder / "packed"), tokenizer=model.tokenizer, family="causal"
    )
    assert found == measure(alone, asked, "ranked")
    assert found != dense
    if name == "embedded":
        assert 0.8 * sum(dense.scores) < sum(found.scores) <= sum(dense.scores)


@pytest.mark.parametrize("name", READABLE)
def test_each_weight_is_that_of_the_file(made: Callable[[str], Path], name: str) -> None:
    folder = made(name)
    model = dense_of(folder)
    dense = {weight.name: weight.values.double() for weight in model.layers()}
    matrices = {weight.values.data_ptr(): weight.name for weight in model.layers()}  # tied once
    found = read(model, folder / "packed")
    tensors = load_file(folder / "packed" / WEIGHTS)
    held = dict.fromkeys(dense, 0)
    for key, tensor in tensors.items():
        layer, _, part = key.rpartition(".")
        held[layer] = held.get(layer, 0) + (0 if part == "bias" else tensor.nbytes)
    assert found.bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert found.bytes < found.dense_bytes / 2
    lost = 0.0
    packed = {one.name: one.stored for one in model.linear() if one.stored is not None}
    assert packed.keys() == {layer for layer in dense if ".layers." in layer}
    for layer, stored in packed.items():
        assert (stored.bits, stored.nbytes) == (FORMATS[name][1]["bits"], held[layer])
        wanted = unpacked(folder / "packed", layer)
        assert off(stored.dequantize(), wanted) < 0.004  # scales are rounded to bfloat16
        lost += float((wanted - dense[layer]).square().sum())
    whole = sum(float(dense[layer].square().sum()) for layer in matrices.values())
    assert found.weight_error == pytest.approx((lost / whole) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", READABLE)
def test_each_layer_multiplies_by_its_weight(made: Callable[[str], Path], name: str) -> None:
    folder = made(name)
    model = dense_of(folder)
    read(model, folder / "packed")
    for one in model.linear():
        if one.stored is None:
            continue
        layer: Any = one.layer
        wanted = unpacked(folder / "packed", one.name)
        inputs = torch.randn(5, wanted.shape[1], generator=torch.Generator().manual_seed(0))
        inputs = inputs.bfloat16()
        products = inputs.double() @ wanted.t()
        if layer.bias is not None:
            products += layer.bias.double()
        assert off(layer(inputs), products) < 0.004


@pytest.mark.parametrize("name", ["gptq", "awq"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_dtype(made: Callable[[str], Path], name: str, dtype: Any) -> None:
    folder = made(name)
    model = dense_of(folder)
    read(model, folder / "packed")
    own = logits(model.module).double()
    assert model.environment()["dtype"] == "bfloat16"
    assert model.restore()
    read(model, folder / "packed", dtype=dtype)
    assert model.environment()["dtype"] == dtype
    assert off(logits(model.module), own) < 0.1  # two blocks in bfloat16


OLD: dict[str, dict[str, Any]] = {
    "gptq": {
        "bits": 4,
        "damp_percent": 0.1,
        "desc_act": False,
        "group_size": 32,
        "model_file_base_name": "model",
        "model_name_or_path": None,
        "quant_method": "gptq",
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
    },
    "awq": {
        "bits": 4,
        "group_size": 32,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    },
}
"""What AutoGPTQ and AutoAWQ wrote."""


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_settings_of_older_packages(made: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = made(name)
    shutil.copytree(folder / "packed", tmp_path, dirs_exist_ok=True)
    (tmp_path / "quantize_config.json").unlink()
    model = dense_of(folder)
    wanted = read(model, folder / "packed")
    assert model.restore()
    assert read(model, rewritten(tmp_path, quantization_config=OLD[name])) == wanted


def test_it_is_read_silently_and_leaves_the_environment_alone(made: Callable[[str], Path]) -> None:
    folder = made("gptq")
    hub = ("HF_", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hub)}
    done = subprocess.run(  # noqa: S603  # our own interpreter, which has not imported gptqmodel
        [sys.executable, "-c", READ, str(folder / "dense"), str(folder / "packed")],
        env=kept,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "read\n[]\n"


def test_its_environment_names_what_read_it(made: Callable[[str], Path]) -> None:
    found = Checkpoint(path=str(made("gptq") / "packed")).environment()
    assert found.keys() == {"checkpoint", "gptqmodel", "optimum"}
    found = Checkpoint(path=str(made("awq") / "packed")).environment()
    assert found.keys() == {"checkpoint", "gptqmodel"}


# What is refused


def refused(folder: Path, damaged: Path, *words: str) -> None:
    model = dense_of(folder)
    with pytest.raises(ModelError) as told:
        read(model, damaged)
    message = str(told.value)
    assert "\n" not in message
    for word in (str(damaged), *words):
        assert word in message
    assert model.restore()


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def spoiled(name: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors[name].view(-1)[:1].fill_(value)


def shortened(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensors[name][1:].clone()})


@pytest.mark.parametrize("name", ["gptq", "awq"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(f"{UP}.qweight"), ("lacks", f"'{UP}.qweight'")),
        (without(f"{UP}.scales"), ("lacks", f"'{UP}.scales'")),
        (without("model.norm.weight"), ("lacks 'model.norm.weight'",)),
        (shortened(f"{UP}.qzeros"), ("another shape", f"'{UP}.qzeros (stored")),
        (spoiled(f"{UP}.scales", float("nan")), ("NaN or infinite",)),
        # Attention gives finite scores where a whole row of it is NaN.
        (spoiled(f"{KEYS}.scales", float("nan")), ("NaN or infinite weights", f"'{KEYS}'")),
        (spoiled(f"{KEYS}.scales", float("inf")), ("NaN or infinite weights", f"'{KEYS}'")),
    ],
    ids=["codes", "scales", "norm", "short", "nan", "hidden-nan", "hidden-inf"],
)
def test_a_damaged_file_is_refused(
    made: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Tensor]], object],
    words: tuple[str, ...],
) -> None:
    folder = made(name)
    shutil.copytree(folder / "packed", tmp_path, dirs_exist_ok=True)
    refused(folder, tensors_changed(tmp_path, change), *words)


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_another_vocabulary_is_refused(
    made: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = made(name)
    shutil.copytree(folder / "packed", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer.json"
    spoken = json.loads(file.read_text(encoding="utf-8"))
    ids = spoken["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    file.write_text(json.dumps(spoken), encoding="utf-8")
    refused(folder, tmp_path, "another tokenizer", "such as 'a'")
    refused(folder, rewritten(tmp_path, vocab_size=321), "a vocabulary of 321 tokens")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("conv1d", ("transformers cannot read gptq layers of a gpt2", "another format")),
        ("other-bits", ("another shape than its configuration asks for", "up_proj.qweight")),
        ("packed-head", ("lacks 'lm_head.weight'",)),
    ],
)
def test_what_transformers_cannot_read_is_said_in_a_sentence(
    made: Callable[[str], Path], name: str, words: tuple[str, ...]
) -> None:
    folder = made(name)
    refused(folder, folder / "packed", *words)
