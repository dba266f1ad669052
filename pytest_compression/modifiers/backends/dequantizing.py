"""quanto's linear layer, without the kernels of its own that fail on processors.

As released (0.2.7), in bfloat16 its int8 product reads beyond its tensors where the inputs are a
multiple of 4 but not of 16, which ends the process or gives nonsense, and its int4 layout loses
digits of the offsets; rows of zeros become NaN in float8; and the first use of int4 and int2
compiles a library of two lines, for minutes, if there is a compiler. Here a layer multiplies by
its dequantized weight, which is what quanto does for every other dtype and shape.

Imported only where a recipe is applied.
"""

from types import SimpleNamespace
from typing import Self

import torch
from optimum.quanto import AbsmaxOptimizer, MaxOptimizer, QLinear, qtypes, quantize_weight
from optimum.quanto.library.extensions import get_extension
from torch import Tensor, nn


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Codes of quanto's bytes: all of the lowest bits first, then those above, and so on."""
    mask = 2**bits - 1
    return torch.cat([(packed >> shift) & mask for shift in range(0, 8, bits)])


def spare_the_compiler() -> None:
    """Unpack by :func:`unpack` what quanto would compile a library for."""
    extension = get_extension("quanto_cpp")
    if extension._lib is None:  # noqa: SLF001  # no other way
        extension._lib = SimpleNamespace(unpack=unpack)  # noqa: SLF001


class Dequantizing(QLinear):  # type: ignore[misc]  # quanto has no types
    """A ``QLinear`` that multiplies by its dequantized weight."""

    @classmethod
    def of(cls, linear: nn.Linear, *, kind: str, group_size: int | None) -> Self:
        """A layer with the codes of an ordinary one.

        Args:
            linear: of any floating dtype.
            kind: ``int8``, ``int4``, ``int2`` or ``float8``.
            group_size: inputs that share a scale, for the smaller two; quanto's rule if None.

        Raises:
            ValueError: the inputs are no multiple of the group.
        """
        spare_the_compiler()
        qtype = qtypes["qfloat8_e4m3fn" if kind == "float8" else f"q{kind}"]
        made: Self = cls.from_module(linear, weights=qtype)
        made.weight_group_size = group_size or made.weight_group_size
        weight, groups, shift = linear.weight.data, made.weight_group_size, None
        if qtype.bits == 8:
            scale = AbsmaxOptimizer()(weight, qtype=qtype, axis=0)
        else:
            scale, shift = MaxOptimizer()(weight, qtype=qtype, axis=0, group_size=groups)
        codes = quantize_weight(
            weight,
            qtype=qtype,
            axis=0,
            scale=scale.where(scale > 0, 1),  # of zeros, or of one value: any scale is right
            shift=shift,
            group_size=groups,
            optimized=False,
        )
        made.weight = nn.Parameter(codes, requires_grad=False)
        return made

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # quanto's name
        """``x W^T + b`` in the weight's dtype."""
        return nn.functional.linear(input, self.weight.dequantize(), self.bias)
