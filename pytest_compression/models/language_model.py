"""A loaded model: its layers, its dense weights kept aside, and what a recipe did to them."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.fingerprints import digest
from pytest_compression.models.conditions import SINGLE, Budget, conditions_of
from pytest_compression.models.families import ends, named_layers, targeted, untie
from pytest_compression.models.footprint import (
    Before,
    Then,
    carried,
    check_again,
    check_claim,
    check_effect,
    measure,
)
from pytest_compression.models.identity import content, identity_of
from pytest_compression.models.snapshot import Snapshot, refill, stored_tensors
from pytest_compression.models.weights import LinearWeight
from pytest_compression.types import (
    Claim,
    Depends,
    Family,
    Footprint,
    Identity,
    Modifier,
    Stored,
    Targets,
)

if TYPE_CHECKING:
    from pytest_compression.models.filed import Filed


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


def options_of(step: Modifier) -> Iterator[Any]:
    """The values of a step's options."""
    if is_dataclass(step):
        yield from (getattr(step, option.name) for option in fields(step))


def require_claim(step: Modifier, claim: object) -> None:
    """Refuse a step that does not say what it did.

    Raises:
        RecipeError: its ``apply()`` returned something else.
    """
    if not isinstance(claim, Claim):
        name = type(step).__name__
        message = (
            f"apply() of {name} returned {type(claim).__name__}, and must return a Claim "
            "(pytest_compression.types): which layers it worked on, and what can be measured there."
        )
        raise RecipeError(message)


class LanguageModel:
    """A causal, masked or seq2seq language model that can be compressed and restored."""

    def __init__(self, *, module: nn.Module, tokenizer: Any, family: Family) -> None:
        self.module = module.requires_grad_(requires_grad=False)
        self.tokenizer = tokenizer
        self.family: Family = family
        self.memo: dict[Any, Any] = {}
        """Tokenized questions, which no recipe changes."""
        self.progress: Callable[[int, int], None] = lambda _done, _total: None
        """Told how many questions or steps are done, of how many."""
        self.tokens_run = 0
        """Of each row that was run through it since it was loaded."""
        self.roomy = Budget()
        """How much may be run at once."""
        self.as_dense()
        self.ties = self.owners()
        self.dense: dict[str, Tensor] = {}
        for name, tensor in self.tensors():
            kept = self.dense.get(self.ties[name])  # tied tensors are kept once
            self.dense[name] = tensor.clone() if kept is None else kept
        self.snapshot = Snapshot(module)

    def as_dense(self) -> None:
        """Forget what steps noted."""
        self.compressed = False
        """Whether steps were applied, or begun, since it was dense."""
        self.stored: dict[str, Stored] = {}
        """Packed forms, by layer."""
        self.origins: dict[str, str] = {}
        """Names that the dense model has for what such layers took the place of."""
        self.adopted: dict[str, Tensor | None] = {}
        """Layers of other libraries that took the place of linear ones, with their biases."""
        self.filed: Filed | None = None
        """What a file takes, if the network was read from one that is packed."""
        self.alone = False
        """Whether what is run beside a row would change its logits."""
        self.taught: list[str] = []
        """What it learned that no material says, such as a teacher's answers."""
        self.steps_environment: dict[str, str] = {}
        """What figures depend on because of the steps, such as the version of a library."""

    @property
    def budget(self) -> Budget:
        """How much is run at once."""
        return SINGLE if self.alone else self.roomy

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self.roomy = budget

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and persistent buffers, those of other libraries' layers left out.

        A tied one comes under each of its names.
        """
        foreign = tuple(f"{name}." for name in self.adopted)
        for name, tensor in stored_tensors(self.module):
            if not name.startswith(foreign):
                yield name, tensor.data
        for name, bias in self.adopted.items():
            if bias is not None:
                yield f"{name}.bias", bias

    def owners(self) -> dict[str, str]:
        """The name under which each tensor is stored: of tied ones, the first."""
        first: dict[tuple[int, torch.Size], str] = {}
        return {
            name: first.setdefault((tensor.data_ptr(), tensor.shape), name)
            for name, tensor in self.tensors()
        }

    def layers(self) -> list[LinearWeight]:
        """Every weight that a step may be told to work on: linear layers, head, embeddings."""
        found, _, _ = named_layers(self.module, self.adopted)
        return [LinearWeight(self, name, layer) for name, layer in found.items()]

    def linear(self) -> list[LinearWeight]:
        """Every linear layer's weight, the output head's among them."""
        return [one for one in self.layers() if not isinstance(one.layer, nn.Embedding)]

    def weights(
        self, targets: Targets, ignore: Sequence[str] = (), *, writes: bool = True
    ) -> list[LinearWeight]:
        """The weights a step works on, in the model's order.

        Where the output head is tied to the embeddings and only one of them is a target, they are
        untied: the other keeps the values it has, and both have to be stored. So has a bias that
        the head shares, as BERT's does: a configuration speaks of all ties at once.

        Args:
            targets: sets and patterns.
            ignore: patterns of what is left out.
            writes: whether the step changes values; if not, nothing is untied.

        Raises:
            RecipeError: the model has no such layers.
        """
        refuse_experts(self.module)
        names = (targets,) if isinstance(targets, str) else targets
        found = targeted(self.module, names, ignore, self.adopted)
        head, embeddings = ends(self.module)
        if head is not None and embeddings is not None and head.weight is embeddings.weight:
            tied = [name for name, layer in found.items() if layer in (head, embeddings)]
            if len(tied) == 1 and writes:
                untie(self.module, head)
            for name in tied[1:]:  # one matrix, worked on once
                del found[name]
        return [LinearWeight(self, name, layer) for name, layer in found.items()]

    def adopt(self, name: str, layer: nn.Module, stored: Stored) -> None:
        """Put another library's layer in place of a linear one.

        Args:
            name: dotted name of the linear layer.
            layer: what takes its place, with the same bias.
            stored: the weight that it holds: real bytes, bits, and the matrix it stands for.
        """
        old = self.module.get_submodule(name)
        self.origins[name] = self.snapshot.name_of(old) or self.origins.get(name, name)
        bias = old.bias
        self.module.set_submodule(name, layer.eval().requires_grad_(requires_grad=False))
        self.adopted[name] = None if bias is None else bias.data  # type: ignore[assignment]
        self.stored[name] = stored

    def switch(self, module: nn.Module) -> None:
        """Put another network, which takes the same tokens, in place of the whole."""
        self.module = module.eval().requires_grad_(requires_grad=False)
        self.stored.clear()
        self.adopted.clear()
        self.filed = None

    def restore(self) -> bool:
        """Put the dense model back in place: modules, settings and weights.

        Returns:
            False if that did not give every tensor back bit by bit, so that the model must be
            loaded again.
        """
        self.module = self.snapshot.put_back()
        self.as_dense()
        live = dict(stored_tensors(self.module))
        if live.keys() != self.dense.keys() or not refill(live, self.dense):
            return False
        return self.owners() == self.ties

    def built_as_loaded(self) -> bool:
        """Whether steps changed nothing but the values of weights."""
        return self.snapshot.untouched(self.module) and self.owners() == self.ties

    def compress(self, steps: Sequence[Modifier]) -> Footprint:
        """Apply the steps in order and measure what they did.

        Raises:
            RecipeError: a step touched nothing, or missed what it was asked for.
        """
        done: list[tuple[str, Claim, dict[str, Then]]] = []
        for step in steps:
            self.compressed = True
            before = Before.of(self)
            claim = step.apply(self)
            require_claim(step, claim)
            for part in (step, *options_of(step)):
                if isinstance(part, Depends):
                    self.steps_environment |= part.environment()
            check_claim(type(step).__name__, claim, self, before)
            now = Then.of(self)
            last = done[-1][-1] if done else now
            done = [(name, said, carried(then, last, now)) for name, said, then in done]
            done.append((type(step).__name__, claim, now))
        for name, claim, layers in done[:-1]:  # nothing followed the last
            check_again(name, claim, self, layers)
        footprint = measure(self)
        if steps:
            check_effect(self, footprint)
        return footprint

    def save(self, folder: Path) -> None:
        """Write the model as it is now, with its tokenizer, so that it can be loaded again.

        Raises:
            RecipeError: no file could hold it.
        """
        from pytest_compression.models.exporting import save

        save(self, folder)

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
            **self.steps_environment,
        }
