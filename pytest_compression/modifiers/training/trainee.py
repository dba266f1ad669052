"""A network in training: single-precision copies of its parameters, and what binds them.

The network itself is not touched, and holds no gradients, until the copies are put into it.
Weights that are zero stay zero, and weights on a grid are rounded to it in each forward pass,
while gradients go straight through to the copies.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.grids import Grid, decode, encode
from pytest_compression.kernels.quantization import Quantized
from pytest_compression.kernels.straight_through import straight_through, within
from pytest_compression.models import families

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How a weight is rounded in each forward pass."""

    grid: Callable[[Tensor], Grid]
    """From the weight ``[out_features, in_features]`` as it is."""
    clips: bool = False
    """Whether a weight beyond the grid gets no gradient."""

    def __call__(self, weight: Tensor) -> Tensor:
        """The rounded weight; gradients go straight through."""
        grid = self.grid(weight.detach())
        inside = within(weight, grid) if self.clips else None
        return straight_through(weight, decode(encode(weight, grid), grid), inside)


class Trainee:
    """Copies of the parameters of a network that learn, tied ones once."""

    def __init__(
        self, model: "LanguageModel", module: nn.Module, layers: Mapping[str, nn.Module]
    ) -> None:
        """Copy the parameters of a network.

        Args:
            model: whose family and tokenizer the network has.
            module: the network, which may be another one than the model's.
            layers: those with a weight ``[out_features, in_features]`` that learns.
        """
        self.model = model
        self.module = module
        weights = {id(layer.weight) for layer in layers.values()}
        ends = {id(layer.weight) for layer in families.ends(module) if layer is not None}
        self.parameters = {
            name: parameter
            for name, parameter in learnable(module).items()
            if id(parameter) in weights or id(parameter) not in ends
        }
        self.copies = {
            name: parameter.detach().float().clone().requires_grad_()
            for name, parameter in self.parameters.items()
        }
        owners = {id(parameter): name for name, parameter in self.parameters.items()}
        self.names = {name: owners[id(layer.weight)] for name, layer in layers.items()}
        """Parameters by the name of their layer."""
        self.turned = {
            self.names[name] for name, layer in layers.items() if isinstance(layer, Conv1D)
        }
        self.kept: dict[str, Tensor] = {}
        """Masks, True where a weight may be other than zero, by layer."""
        self.roundings: dict[str, Rounding] = {}
        """By layer."""

    def weight(self, layer: str) -> Tensor:
        """The copy of a layer's weight, ``[out_features, in_features]``: a view."""
        name = self.names[layer]
        return self.copies[name].t() if name in self.turned else self.copies[name]

    def keep_zeros(self) -> None:
        """Let weights that are zero stay zero, in every layer."""
        for layer in self.names:
            weight = self.weight(layer).detach()
            if not weight.all():
                self.kept[layer] = weight != 0

    def hold(self) -> None:
        """Put masked weights back to zero."""
        with torch.no_grad():
            for layer, kept in self.kept.items():
                self.weight(layer).masked_fill_(~kept, 0)

    def hold_gradients(self) -> None:
        """Leave masked weights out of the gradients, which are clipped by their norm."""
        for layer, kept in self.kept.items():
            name = self.names[layer]
            gradient = self.copies[name].grad
            if gradient is not None:
                gradient.masked_fill_(~(kept.t() if name in self.turned else kept), 0)

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter as the forward pass uses it, in the network's dtype."""
        found = dict(self.copies)
        for layer, rounding in self.roundings.items():
            name = self.names[layer]
            rounded = rounding(self.weight(layer))
            found[name] = rounded.t() if name in self.turned else rounded
        return {name: tensor.to(self.parameters[name].dtype) for name, tensor in found.items()}

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """One pass, ``[rows, tokens, vocabulary]``."""
        output: Any = torch.func.functional_call(self.module, self.tensors(), kwargs=dict(inputs))
        logits: Tensor = output.logits
        return logits

    def put(self) -> None:
        """Write the copies into the network; those that are rounded as packed codes."""
        rounded = {self.names[layer] for layer in self.roundings}
        for name, parameter in self.parameters.items():
            if name not in rounded:
                parameter.data.copy_(self.copies[name].detach())
        for weight in self.model.layers():
            rounding = self.roundings.get(weight.name)
            if rounding is not None:
                learned = self.weight(weight.name).detach()
                packed = Quantized.on(rounding.grid(learned), learned)
                packed = replace(packed, dtype=weight.values.dtype)
                weight.write(packed.dequantize(), packed)


def learnable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn: not those that are computed, such as Marian's positions."""
    computed = getattr(module, "_keys_to_ignore_on_save", None) or ()
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.is_floating_point() and name not in computed
    }


def taught_layers(
    module: nn.Module, *, embeddings: bool, besides: Collection[str] = ()
) -> dict[str, nn.Module]:
    """The layers whose weights learn: all linear ones, and the two ends where that is wanted."""
    layers, first, last = families.named_layers(module)
    left_out = set() if embeddings else {first, last} - {*besides}
    return {name: layer for name, layer in layers.items() if name not in left_out}


def trainee_of(
    model: "LanguageModel",
    *,
    embeddings: bool,
    targets: Collection[str] = (),
    keep_zeros: bool = True,
) -> Trainee:
    """The model's network in training, bound by what earlier steps of the recipe did.

    Args:
        model: as they left it.
        embeddings: whether token embeddings and output head learn, too.
        targets: layers that learn in any case.
        keep_zeros: whether weights that are zero stay zero.

    Raises:
        RecipeError: a layer of another library, rounded inputs, or codes of a kind that cannot be
            learned on.
    """
    refuse_untrainable(model)
    layers = taught_layers(model.module, embeddings=embeddings, besides=targets)
    trainee = Trainee(model, model.module, layers)
    if keep_zeros:
        trainee.keep_zeros()
    for weight in model.layers():
        stored = weight.stored if weight.name in layers else None
        if isinstance(stored, Quantized):
            trainee.roundings[weight.name] = staying_on(stored.grid)
            begin_off_grid(trainee, weight, stored)
        elif stored is not None:
            message = (
                f"'{weight.name}' is stored as {type(stored).__name__}, whose codes cannot be "
                "trained: put the step that learns before the one that quantizes."
            )
            raise RecipeError(message)
    trainee.hold()
    return trainee


@torch.no_grad()
def begin_off_grid(trainee: Trainee, weight: "LinearWeight", stored: Quantized) -> None:
    """Let a weight begin at its dense value, where that rounds to the code it has.

    From the middle between two thresholds a short training would seldom reach either.
    """
    dense = weight.dense
    if dense is not None and dense.shape == weight.values.shape:
        alike = encode(dense, stored.grid) == stored.codes()
        copy = trainee.weight(weight.name)
        copy.copy_(dense.float().where(alike, copy))


def staying_on(grid: Grid) -> Rounding:
    """Rounding to a grid that does not move."""
    return Rounding(grid=lambda _: grid, clips=True)


def refuse_untrainable(model: "LanguageModel") -> None:
    """Refuse what passes no gradient.

    Raises:
        RecipeError: a layer of another library, or one that rounds its inputs.
    """
    for name, layer in model.module.named_modules():
        rounds = getattr(layer, "activation_bits", None) is not None
        if name in model.adopted or rounds:
            what = "rounds its inputs" if rounds else f"is another library's {type(layer).__name__}"
            message = (
                f"'{name}' {what}, and no gradient passes through it: put the step that learns "
                "before the one that quantizes."
            )
            raise RecipeError(message)
