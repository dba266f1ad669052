"""The weight of one layer, as steps see it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import RecipeError
from pytest_compression.types import Stored

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


class LinearWeight:
    """The weight of one layer, ``[out_features, in_features]`` whatever the layer.

    Of the token embeddings it is ``[vocabulary, hidden]``.
    """

    def __init__(self, model: "LanguageModel", name: str, layer: nn.Module) -> None:
        self.model = model
        self.name = name
        self.layer = layer

    @property
    def foreign(self) -> Stored | None:
        """The packed form, if another library's layer holds it."""
        return self.model.stored[self.name] if self.name in self.model.adopted else None

    @property
    def values(self) -> Tensor:
        """The live tensor, a view, turned for GPT-2's ``Conv1D``; of a foreign layer a new one."""
        if self.foreign is not None:
            given: Tensor = self.foreign.dequantize()
            return given
        weight: Tensor = self.layer.weight.data  # type: ignore[assignment]
        return weight.t() if isinstance(self.layer, Conv1D) else weight

    @property
    def dense(self) -> Tensor | None:
        """The same before compression; None if the dense model has no such layer.

        A layer that was moved is known by what it is, one that was replaced by its name.
        """
        new = self.model.origins.get(self.name, self.name)
        name = self.model.snapshot.name_of(self.layer) or new
        weight = self.model.dense.get(f"{name}.weight")
        turned = weight is not None and isinstance(self.model.snapshot.layer(name), Conv1D)
        return weight.t() if turned and weight is not None else weight

    @property
    def stored(self) -> Stored | None:
        """How it would be stored packed, if its values still are what that gives back."""
        stored = self.model.stored.get(self.name)
        if stored is None or self.foreign is not None:
            return stored
        values = self.values
        if torch.equal(stored.dequantize(), values):
            return stored
        zeroed = stored.with_zeros(values == 0)  # pruned after it was quantized
        return zeroed if zeroed is not None and torch.equal(zeroed.dequantize(), values) else None

    def write(self, values: Tensor, stored: Stored | None = None) -> None:
        """Replace the values, and note their packed form.

        Raises:
            RecipeError: another library's layer holds them.
        """
        if self.foreign is not None:
            message = (
                f"'{self.name}' is a {type(self.layer).__name__} of another library by now, whose "
                "weight no step can change: put that library's step last."
            )
            raise RecipeError(message)
        self.values.copy_(values)
        if stored is not None:
            self.model.stored[self.name] = stored
