"""Which packed layers of a model a file can hold as packed, and in which format.

A file has one format. What that one cannot hold is written as the plain numbers that it stands for,
and it is said why.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from pytest_compression.models.bitsandbytes_files import FourBits
from pytest_compression.models.checkpoints import PACKAGES
from pytest_compression.models.coded import Coded, coded_layers
from pytest_compression.models.compressed_tensors import CompressedTensors

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


class Format(Protocol):
    """A way to write packed layers."""

    @property
    def name(self) -> str:
        """As configurations call it."""

    @property
    def kinds(self) -> tuple[type, ...]:
        """Packed forms that it may hold, and no other format does."""

    def unfit(self, network: nn.Module, layer: Coded) -> str:
        """Why it cannot hold a layer of one of its kinds; nothing if it can."""

    def tensors(self, layer: Coded) -> dict[str, Tensor]:
        """What a file holds in place of a layer's weight, by the last parts of its name."""

    def settings(self, layers: Sequence[Coded], others: Sequence[str]) -> Any:
        """What the configuration says of the packed layers, and of all other linear ones."""


FORMATS: tuple[Format, ...] = (CompressedTensors(), FourBits())


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How the packed layers of a model are written."""

    settings: Any = None
    """What the configuration says; None if nothing is packed."""
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """By layer: what stands in the file for its weight, by the last parts of its name."""
    plain: Mapping[str, str] = field(default_factory=dict)
    """Layers that are packed, but written as plain numbers, and why."""


def packing_of(model: "LanguageModel") -> Packing:
    """Each layer in the format that knows its codes, if that is the one that saves most."""
    plain: dict[str, str] = {}
    fitting: dict[Format, list[Coded]] = {form: [] for form in FORMATS}
    for layer in coded_layers(model):
        known = next((form for form in FORMATS if isinstance(layer.stored, form.kinds)), None)
        reason = why_not(known, model.module, layer)
        if known is None or reason:
            plain[layer.name] = reason
        else:
            fitting[known].append(layer)
    form, layers = max(fitting.items(), key=lambda one: sum(layer.saving for layer in one[1]))
    if model.adopted:
        layers, said = [], "another library's layers are in the file, which has one format"
    else:
        said = f"a file has one format, and {form.name} saves more of this model"
    packed = {layer.name: form.tensors(layer) for layer in layers}
    for layer in itertools.chain(*fitting.values()):
        if layer.name not in packed:
            plain[layer.name] = said
    others = [weight.name for weight in model.linear() if weight.name not in packed]
    settings = form.settings(layers, others) if layers else None
    return Packing(settings=settings, tensors=packed, plain=plain)


def why_not(form: Format | None, network: nn.Module, layer: Coded) -> str:
    """Why a format cannot hold a layer; nothing if it can."""
    if form is None:
        return f"no format holds codes of the kind {type(layer.stored).__name__}"
    missing = [name for name in PACKAGES[form.name] if not is_installed(name)]
    if missing:
        return f"{form.name} is read with {missing[0]}: pip install {' '.join(missing)}"
    return form.unfit(network, layer)


def is_installed(package: str) -> bool:
    """Whether a package is there."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def written(tensors: Mapping[str, Tensor], packing: Packing) -> dict[str, Tensor]:
    """The tensors of a model as they are written.

    A matrix that is tied is packed once, under the name of its layer; the other names go.

    Args:
        tensors: all, by name; tied ones under each of their names.
        packing: what stands for the weights of packed layers.
    """
    packed = {tensors[f"{name}.weight"].data_ptr() for name in packing.tensors}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, last = name.rpartition(".")
        if last == "weight" and layer in packing.tensors:
            found |= {f"{layer}.{key}": one for key, one in packing.tensors[layer].items()}
        elif tensor.data_ptr() not in packed:
            found[name] = tensor
    return found
