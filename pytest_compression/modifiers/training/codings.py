"""How weights in codes are rounded while they learn, and which cannot."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from pytest_compression.kernels.grids import Grid, decode, encode
from pytest_compression.kernels.quantization import Quantized
from pytest_compression.models.filed import digests

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.types import Stored

SMALLEST_FLOAT = 2
"""Bytes: what takes less in a file is in codes."""


@runtime_checkable
class Coding(Protocol):
    """How a weight ``[out_features, in_features]`` is rounded; packed forms of ours are such."""

    def nearest(self, values: Tensor) -> Tensor:
        """The rounded weight."""

    def with_values(self, values: Tensor) -> "Stored":
        """The packed form that gives it back."""

    def reaches(self, values: Tensor) -> Tensor | None:
        """Where a value is rounded and not cut off, so that it gets a gradient; None if all."""


@dataclass(frozen=True, kw_only=True)
class FittedAnew:
    """A coding whose grid is that of the weight as it is, so that nothing is cut off."""

    fit: Callable[[Tensor], Grid]
    dtype: torch.dtype
    """Of the packed form."""

    def nearest(self, values: Tensor) -> Tensor:
        """The rounded weight."""
        grid = self.fit(values)
        return decode(encode(values, grid), grid)

    def with_values(self, values: Tensor) -> Quantized:
        """The packed form that gives it back."""
        return replace(Quantized.on(self.fit(values), values), dtype=self.dtype)

    def reaches(self, _: Tensor) -> None:
        """None: everywhere."""


def fixed(model: "LanguageModel", stored: "Mapping[str, Stored | None]") -> set[str]:
    """Layers in codes that cannot say how other values are rounded to them.

    They are of packed forms that are not ours, and of files whose weights were unpacked when read.
    """
    found = {
        name
        for name, form in stored.items()
        if form is not None and not isinstance(form, Coding) and name not in model.adopted
    }
    if model.filed is None:
        return found
    read = digests(model)
    for name in stored.keys() - model.adopted.keys():
        key = f"{name}.weight"
        count = model.module.get_parameter(key).numel()
        size = model.filed.sizes.get(read[key])
        if size is not None and size < SMALLEST_FLOAT * count:
            found.add(name)
    return found
