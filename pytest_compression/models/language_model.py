"""A loaded model: its layers, its dense weights kept aside, and what a recipe did to them."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import RecipeError
from pytest_compression.fingerprints import digest
from pytest_compression.kernels.quantization import Quantized
from pytest_compression.models.conditions import Budget, conditions_of
from pytest_compression.models.families import linear_layers, targeted
from pytest_compression.models.footprint import check_claim, check_effect, measure
from pytest_compression.models.identity import content, identity_of
from pytest_compression.types import Claim, Family, Footprint, Identity, Modifier, Targets


def structure(module: nn.Module) -> dict[str, tuple[int, int, bool]]:
    """Which modules there are, how many hooks each has, and whether its forward is another."""
    found = {}
    for name, part in module.named_modules():
        hooks = len(part._forward_hooks) + len(part._forward_pre_hooks)  # noqa: SLF001  # no other way
        found[name] = id(part), hooks, "forward" in vars(part)
    return found


def refuse_experts(module: nn.Module) -> None:
    """Refuse mixtures of experts, whose weights are ``[experts, ...]`` and in no linear layer.

    Raises:
        RecipeError: they would be left dense without a word.
    """
    for name, part in module.named_modules():
        for key, tensor in part.named_parameters(recurse=False):
            if tensor.dim() > 2 and not isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                message = (
                    f"'{name}.{key}' has shape {list(tensor.shape)}: weights of a mixture of "
                    "experts are in no linear layer, and no step can compress them yet."
                )
                raise RecipeError(message)


class LinearWeight:
    """The weight of one linear layer, ``[out_features, in_features]`` whatever the layer."""

    def __init__(self, model: "LanguageModel", name: str, layer: nn.Module) -> None:
        self.model = model
        self.name = name
        self.layer = layer

    @property
    def values(self) -> Tensor:
        """The live tensor; a view, turned for GPT-2's ``Conv1D``."""
        weight: Tensor = self.layer.weight.data  # type: ignore[assignment]
        return weight.t() if isinstance(self.layer, Conv1D) else weight

    @property
    def dense(self) -> Tensor | None:
        """The same before compression; None if a step put the layer there."""
        weight = self.model.dense.get(f"{self.name}.weight")
        turned = weight is not None and isinstance(self.layer, Conv1D)
        return weight.t() if turned and weight is not None else weight

    @property
    def stored(self) -> Quantized | None:
        """How it would be stored packed, if its values still are what that gives back."""
        stored = self.model.stored.get(self.name)
        if stored is None:
            return None
        given = stored.dequantize()
        if torch.equal(given, self.values):
            return stored
        zeroed = stored.with_zeros(self.values == 0)  # pruned after it was quantized
        return zeroed if torch.equal(zeroed.dequantize(), self.values) else None

    def write(self, values: Tensor, stored: Quantized | None = None) -> None:
        """Replace the values, and note their packed form."""
        self.values.copy_(values)
        if stored is not None:
            self.model.stored[self.name] = stored


class LanguageModel:
    """A causal, masked or seq2seq language model that can be compressed and restored."""

    def __init__(self, *, module: nn.Module, tokenizer: Any, family: Family) -> None:
        self.module = module.requires_grad_(requires_grad=False)
        self.tokenizer = tokenizer
        self.family: Family = family
        self.ties = self.owners()
        self.dense: dict[str, Tensor] = {}
        for name, tensor in self.tensors():
            kept = self.dense.get(self.ties[name])  # tied tensors are kept once
            self.dense[name] = tensor.clone() if kept is None else kept
        self.structure = structure(module)
        self.stored: dict[str, Quantized] = {}
        self.compressed = False
        """Whether steps were applied, or begun, since it was dense."""
        self.memo: dict[Any, Any] = {}
        """Tokenized questions, which no recipe changes."""
        self.budget = Budget()
        self.progress: Callable[[int, int], None] = lambda _done, _total: None
        """Told how many questions are done, of how many."""
        self.tokens_run = 0
        """Of each row that was run through it since it was loaded."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and persistent buffers; a tied one under each of its names."""
        yield from self.module.state_dict(keep_vars=False).items()

    def owners(self) -> dict[str, str]:
        """The name under which each tensor is stored: of tied ones, the first."""
        first: dict[tuple[int, torch.Size], str] = {}
        return {
            name: first.setdefault((tensor.data_ptr(), tensor.shape), name)
            for name, tensor in self.tensors()
        }

    def linear(self) -> list[LinearWeight]:
        """Every linear layer's weight, the output head's among them."""
        return [LinearWeight(self, name, layer) for name, layer in linear_layers(self.module)]

    def weights(self, targets: Targets) -> list[LinearWeight]:
        """The weights a step works on, in the model's order.

        Raises:
            RecipeError: the model has no such layers.
        """
        refuse_experts(self.module)
        found = [LinearWeight(self, name, layer) for name, layer in targeted(self.module, targets)]
        if not found:
            names = ", ".join(weight.name for weight in self.linear()[:8]) or "none"
            message = f"no layer of this model is '{targets}'; its linear layers are: {names} ..."
            raise RecipeError(message)
        return found

    def restore(self) -> bool:
        """Put the dense weights back in place.

        Returns:
            False if a step replaced or hooked modules or untied weights, so that the model must
            be loaded again.
        """
        live = dict(self.tensors())
        self.stored.clear()
        if self.owners() != self.ties or structure(self.module) != self.structure:
            return False
        for name, tensor in live.items():
            kept = self.dense[name]
            if tensor.shape != kept.shape or tensor.dtype != kept.dtype:
                return False
            tensor.copy_(kept)
        self.compressed = False
        return True

    def compress(self, steps: Sequence[Modifier]) -> Footprint:
        """Apply the steps in order and measure what they did.

        Raises:
            RecipeError: a step touched nothing, or missed what it was asked for.
        """
        claims: list[Claim] = []
        for step in steps:
            self.compressed = True
            zeros = {weight.name: int((weight.values == 0).sum()) for weight in self.linear()}
            claim = step.apply(self)
            check_claim(type(step).__name__, claim, self.linear(), zeros)
            claims.append(claim)
        for step, claim in list(zip(steps, claims, strict=True))[:-1]:  # nothing followed the last
            check_claim(type(step).__name__, claim, self.linear(), None)
        footprint = measure(self)
        if steps:
            check_effect(self, footprint)
        return footprint

    def fingerprint(self) -> str:
        """Of names, dtypes, shapes and bytes of the dense tensors."""
        if "fingerprint" not in self.memo:
            self.memo["fingerprint"] = digest(content(self.dense))
        return str(self.memo["fingerprint"])

    def identity(self) -> Identity:
        """Of all that the answers of the model as it is now depend on; computed anew each time."""
        return identity_of(self)

    def conditions(self) -> dict[str, AbstractContextManager[None]]:
        """Other batch budgets, numbers of threads and dtypes; each can be entered once."""
        return conditions_of(self)

    def environment(self) -> dict[str, str]:
        """What figures may depend on besides weights and questions."""
        tensor = next(iter(self.dense.values()))
        return {
            "device": str(tensor.device),
            "dtype": str(getattr(self.module, "dtype", tensor.dtype)).removeprefix("torch."),
            "machine": platform.machine(),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
            "tokenizers": version("tokenizers"),
            "torch": str(torch.__version__),
            "transformers": version("transformers"),
        }
