"""A network in training: single-precision copies of its parameters, and what binds them.

The network itself is not touched, and holds no gradients, until the copies are put into it.
Weights that are zero stay zero, and weights in codes are rounded to them in each forward pass,
while gradients go straight through to the copies. Layers of other libraries do not learn; what
lies before them does, for gradients pass through them, which is tried first.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.embedded.batches import IGNORED
from pytest_compression.errors import RecipeError
from pytest_compression.kernels.straight_through import straight_through
from pytest_compression.models import families
from pytest_compression.modifiers.training.codings import Coding, fixed
from pytest_compression.modifiers.training.gradients import refuse_dead_ends

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight


class Trainee:
    """Copies of the parameters of a network that learn, tied ones once."""

    def __init__(
        self,
        model: "LanguageModel",
        module: nn.Module,
        layers: Mapping[str, nn.Module],
        held: Collection[nn.Parameter] = (),
    ) -> None:
        """Copy the parameters of a network.

        Args:
            model: whose family and tokenizer the network has.
            module: the network, which may be another one than the model's.
            layers: those with a weight ``[out_features, in_features]`` that learns.
            held: parameters that do not learn.
        """
        self.model = model
        self.module = module
        weights = {id(layer.weight) for layer in layers.values()}
        ends = {id(getattr(layer, "weight", None)) for layer in families.ends(module)}
        still = {id(parameter) for parameter in held} | (ends - weights)
        self.parameters = {
            name: parameter
            for name, parameter in learnable(module).items()
            if id(parameter) not in still
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
        self.roundings: dict[str, Coding] = {}
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
            name, weight = self.names[layer], self.weight(layer)
            values = weight.detach()
            rounded = straight_through(weight, rounding.nearest(values), rounding.reaches(values))
            found[name] = rounded.t() if name in self.turned else rounded
        return {name: tensor.to(self.parameters[name].dtype) for name, tensor in found.items()}

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """One pass, ``[rows, tokens, vocabulary]``; one a row, where rows change each other."""
        tensors = self.tensors()
        if not self.model.alone:
            return self.run(tensors, inputs)
        found = [self.run(tensors, row) for row in unpadded(inputs)]
        tokens = inputs["labels" if self.model.family == "seq2seq" else "input_ids"].shape[1]
        missing = [(0, 0, 0, tokens - row.shape[1]) for row in found]
        return torch.cat([nn.functional.pad(*one) for one in zip(found, missing, strict=True)])

    def run(self, tensors: dict[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """The logits of the network with other tensors in place of its own."""
        output: Any = torch.func.functional_call(self.module, tensors, kwargs=dict(inputs))
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
                packed = rounding.with_values(self.weight(weight.name).detach())
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


def unpadded(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Each row of a batch that is filled up on the right, by itself and no longer than it is."""
    reads = inputs["attention_mask"].sum(1).tolist()
    for place, read in enumerate(reads):
        row = {name: tensor[place : place + 1] for name, tensor in inputs.items()}
        cut = {name: tensor[:, :read] for name, tensor in row.items() if name != "labels"}
        if "labels" in row:  # of a decoder, which is as long as what it answers
            learned = (row["labels"] != IGNORED).nonzero()
            cut["labels"] = row["labels"][:, : int(learned[:, 1].max()) + 1]
        yield cut


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
        RecipeError: a layer passes no gradient, a target is another library's, or there is nothing
            left that could learn.
    """
    refuse_foreign(model, targets)
    refuse_dead_ends(model)
    weights = {weight.name: weight for weight in model.layers()}
    stored = {name: weight.stored for name, weight in weights.items()}
    unmoved = sorted(fixed(model, stored).difference(targets))
    held = [
        *parameters_of(model, model.adopted),
        *(model.module.get_parameter(f"{name}.weight") for name in unmoved),
    ]
    still = {id(parameter) for parameter in held}
    layers = taught_layers(model.module, embeddings=embeddings, besides=targets)
    layers = {
        name: layer
        for name, layer in layers.items()
        if name not in model.adopted and id(layer.weight) not in still
    }
    trainee = Trainee(model, model.module, layers, held)
    if not trainee.copies:
        message = (
            "nothing is left that could learn: every parameter belongs to codes that cannot be "
            "trained. Put the step that learns first, or let 'embeddings' learn."
        )
        raise RecipeError(message)
    if keep_zeros:
        trainee.keep_zeros()
    for name in layers:
        form = stored[name]
        if isinstance(form, Coding):
            trainee.roundings[name] = form
            begin_off_grid(trainee, weights[name], form)
    trainee.hold()
    return trainee


def refuse_foreign(model: "LanguageModel", targets: Collection[str]) -> None:
    """Refuse to train what other libraries hold.

    Raises:
        RecipeError: a target is one of their layers.
    """
    for name in targets:
        if name in model.adopted:
            kind = type(model.module.get_submodule(name)).__name__
            message = (
                f"'{name}' is another library's {kind} by now, whose weight cannot learn: put the "
                "step that learns before the one that put it there, or leave it out with 'ignore'."
            )
            raise RecipeError(message)


def parameters_of(model: "LanguageModel", names: Collection[str]) -> Iterator[nn.Parameter]:
    """All that some layers hold."""
    for name in names:
        yield from model.module.get_submodule(name).parameters()


@torch.no_grad()
def begin_off_grid(trainee: Trainee, weight: "LinearWeight", coding: Coding) -> None:
    """Let a weight begin at its dense value, where that is rounded to the value it has.

    From the middle between two thresholds a short training would seldom reach either.
    """
    dense = weight.dense
    if dense is not None and dense.shape == weight.values.shape:
        alike = coding.nearest(dense) == weight.values
        inside = coding.reaches(dense)
        copy = trainee.weight(weight.name)
        copy.copy_(dense.float().where(alike if inside is None else alike & inside, copy))
