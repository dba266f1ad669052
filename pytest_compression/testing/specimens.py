"""Small models on which a step is tried: real architectures, with weights that break things.

Thresholds and quantizers go wrong where weights are equal, all of one sign, all zero, or tiny
beside each other, and in matrices of odd shapes. A specimen is built in milliseconds.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import RecipeError
from pytest_compression.models.families import AUTO_CLASSES
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.weights import LinearWeight
from pytest_compression.types import Family, Targets

Filling = Literal[
    "normal", "constant", "few values", "zeros", "one sign", "grid", "wide", "distinct"
]
"""What a matrix holds: numbers without structure; one number; a handful of them, among them zeros
of both signs; nothing but zeros; positive numbers away from zero; whole numbers of both signs;
magnitudes from denormal to large; magnitudes of which, in single precision, no two of the whole
model are equal."""
FILLINGS: Final[tuple[Filling, ...]] = tuple(one for one in get_args(Filling) if one != "distinct")
"""What is drawn; distinct magnitudes are what the others are held against."""

Architecture = Literal["llama", "gpt2", "bert", "t5"]
FAMILIES: Final[dict[Architecture, Family]] = {
    "llama": "causal",
    "gpt2": "causal",  # its layers are stored turned
    "bert": "masked",
    "t5": "seq2seq",
}

FEW = (0.0, -0.0, 0.5, -0.5, 0.1, -0.1, 0.3)
CONSTANT = 0.3
"""No power of two, so that it lies on no grid by chance."""
SMALLEST = 0x3D000000
"""The bits of 1/32, the smallest of distinct magnitudes."""
POSITIONS = 512
"""Tokens that a specimen reads at once."""
MARKS: Final[dict[str, Any]] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Dimensions of a specimen."""

    hidden: int = 64
    """Of the stream between the layers; with one head any number will do."""
    inner: int = 128
    """Feed-forward neurons."""
    heads: int = 4
    shared: int = 1
    """Query heads that have a key and a value head together, of an architecture with such."""
    layers: int = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a specimen is made of."""

    architecture: Architecture
    size: Size = Size()
    dtype: torch.dtype = torch.float32
    fillings: tuple[Filling, ...] = ("normal",)
    """Of the matrices in turn."""
    seed: int = 0

    def __str__(self) -> str:
        """How messages call it."""
        dtype = str(self.dtype).removeprefix("torch.")
        held = ", ".join(dict.fromkeys(self.fillings))
        shape = f"{self.size.hidden} x {self.size.inner}"
        return f"a {self.architecture} of {shape} in {dtype}, its weights: {held}"


class Specimen(LanguageModel):
    """A small model that stands for any other, whatever its layers are called."""

    def weights(
        self, targets: Targets, ignore: Sequence[str] = (), *, writes: bool = True
    ) -> list[LinearWeight]:
        """As every model's, but patterns of another model's names mean all linear layers."""
        try:
            return super().weights(targets, ignore, writes=writes)
        except RecipeError:
            return super().weights("all", writes=writes)


def build(plan: Plan, tokenizer: Any = None) -> Specimen:
    """A specimen.

    Args:
        plan: what it is made of.
        tokenizer: it can be asked for what this one writes; by default that of an embedded model.
    """
    family = FAMILIES[plan.architecture]
    known = own_tokenizer(family) if tokenizer is None else tokenizer
    module = copy.deepcopy(network(plan.architecture, plan.size, len(known))).to(plan.dtype)
    fill(module, plan)
    return Specimen(module=module, tokenizer=known, family=family)


@lru_cache(maxsize=16)
def network(architecture: Architecture, size: Size, vocabulary: int) -> nn.Module:
    """A network of an architecture; to be copied, for steps change what they are given."""
    config = CONFIGS[architecture](size, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = AUTO_CLASSES[FAMILIES[architecture]].from_config(config)
    return made.eval()


def fill(module: nn.Module, plan: Plan) -> None:
    """Overwrite every matrix, and every bias with numbers without structure."""
    generator = torch.Generator().manual_seed(plan.seed)
    apart = distinct(module, generator) if "distinct" in plan.fillings else []
    matrices = 0
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(part, (nn.Linear, Conv1D)) and name == "weight":
                filling = plan.fillings[matrices % len(plan.fillings)]
                if filling == "distinct":
                    values = apart[matrices].reshape(parameter.shape)
                else:
                    values = filled(parameter.shape, filling, generator)
                parameter.data = values.to(plan.dtype)
                matrices += 1
            elif name == "bias":
                parameter.data.normal_(0, 0.1, generator=generator)


def distinct(module: nn.Module, generator: torch.Generator) -> Sequence[Tensor]:
    """Numbers for each matrix of a network: consecutive floats of random sign, in random order."""
    parts = [part for part in module.modules() if isinstance(part, (nn.Linear, Conv1D))]
    sizes = [part.weight.numel() for part in parts]
    order = torch.randperm(sum(sizes), generator=generator)
    signs = 1 - 2 * torch.randint(2, order.shape, generator=generator)
    numbers = (SMALLEST + order).to(torch.int32).view(torch.float32) * signs
    return torch.split(numbers, sizes)


def filled(shape: Sequence[int], filling: Filling, generator: torch.Generator) -> Tensor:
    """A float32 tensor of a kind; all numbers are finite in half precision, too."""
    normal = torch.randn(*shape, generator=generator)
    made: dict[Filling, Callable[[], Tensor]] = {
        "normal": lambda: 0.3 * normal,
        "constant": lambda: torch.full_like(normal, CONSTANT),
        "few values": lambda: torch.tensor(FEW)[whole_numbers(0, len(FEW))],
        "zeros": lambda: torch.zeros_like(normal),
        "one sign": lambda: 0.5 + 0.3 * torch.rand(*shape, generator=generator),
        "grid": lambda: whole_numbers(-7, 8) / 8,
        "wide": lambda: normal * torch.pow(2.0, whole_numbers(-130, 10)),
    }

    def whole_numbers(low: int, high: int) -> Tensor:
        return torch.randint(low, high, normal.shape, generator=generator)

    return made[filling]()


@cache
def own_tokenizer(family: Family) -> Any:
    """That of the embedded model of a family."""
    folder = Path(str(files("pytest_compression.embedded"))) / "weights" / family
    return transformers.AutoTokenizer.from_pretrained(folder)


def llama(size: Size, vocabulary: int) -> Any:
    """A Llama; rotary positions need heads of an even size, whatever the hidden one."""
    return transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // size.shared,
        head_dim=2 * max(1, size.hidden // size.heads // 2),
        max_position_embeddings=POSITIONS,
        **MARKS,
    )


def gpt2(size: Size, vocabulary: int) -> Any:
    """A GPT-2."""
    return transformers.GPT2Config(
        vocab_size=vocabulary,
        n_embd=size.hidden,
        n_inner=size.inner,
        n_layer=size.layers,
        n_head=size.heads,
        n_positions=POSITIONS,
        **MARKS,
    )


def bert(size: Size, vocabulary: int) -> Any:
    """A BERT."""
    return transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=POSITIONS,
        **MARKS,
    )


def t5(size: Size, vocabulary: int) -> Any:
    """A T5."""
    options: dict[str, Any] = {
        "d_model": size.hidden,
        "d_ff": size.inner,
        "d_kv": max(1, size.hidden // size.heads),
        "num_heads": size.heads,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    return transformers.T5Config(vocab_size=vocabulary, num_layers=size.layers, **options)


CONFIGS: Final[dict[Architecture, Callable[[Size, int], Any]]] = {
    "llama": llama,
    "gpt2": gpt2,
    "bert": bert,
    "t5": t5,
}
