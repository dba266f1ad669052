"""Layers whose weights are packed: what a format for files is asked to hold."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A layer whose weight is packed."""

    name: str
    layer: nn.Module
    stored: Any
    """Its codes, which give back the weight as it is now, bit for bit."""
    dense_bytes: int
    """Of the weight as plain numbers."""

    @property
    def saving(self) -> int:
        """Bytes that its codes save."""
        return self.dense_bytes - int(self.stored.nbytes)

    @property
    def is_turned(self) -> bool:
        """Whether it is GPT-2's, whose plain weight is ``[in_features, out_features]``."""
        return isinstance(self.layer, Conv1D)


def coded_layers(model: "LanguageModel") -> list[Coded]:
    """The layers that are packed by steps of this package, in the model's order."""
    found = []
    for weight in model.layers():
        stored = None if weight.name in model.adopted else weight.stored
        if stored is not None:
            size = weight.values.nbytes
            found.append(
                Coded(name=weight.name, layer=weight.layer, stored=stored, dense_bytes=size)
            )
    return found
