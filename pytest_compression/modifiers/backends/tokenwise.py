"""bitsandbytes' 8-bit layer, with outliers that are found for each token by itself.

LLM.int8() keeps inputs of large magnitude out of the rounding. bitsandbytes keeps out the whole
column of such an input, for all tokens that are run at once: what a token is answered then depends
on its neighbours in the batch. Here each token is treated as bitsandbytes treats one that is run
alone, as when text is generated.

Imported only where a recipe is applied.
"""

from typing import Any, Self

from bitsandbytes.functional import int8_vectorwise_dequant
from bitsandbytes.nn.modules import Int8Params, Linear8bitLt
from torch import Tensor, nn


class TokenWise(Linear8bitLt):
    """A ``Linear8bitLt`` whose outputs for a token do not depend on other tokens."""

    threshold: float
    """Inputs of this magnitude are not rounded; 0 if all are."""
    activation_bits = 8

    @classmethod
    def of(cls, linear: nn.Linear, *, threshold: float) -> Self:
        """A layer with the codes of an ordinary one.

        Raises:
            ValueError: it has one input, with which torch's product of 8-bit matrices (2.13) is
                whatever the memory held.
        """
        if linear.in_features == 1:
            message = "torch cannot multiply 8-bit matrices of one input"
            raise ValueError(message)
        make: Any = cls
        made: Any = make(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            has_fp16_weights=False,
            device="meta",
        )
        # It quantizes on the way from the processor's memory, wherever that leads.
        values: Any = Int8Params(linear.weight.cpu(), requires_grad=False)
        made.weight, made.bias = values.to(linear.weight.device), linear.bias
        made.init_8bit_state()  # else the first forward moves codes and scales
        made.threshold = threshold
        found: Self = made
        return found

    def dequantized(self) -> Tensor:
        """The weight that the codes stand for, float32 ``[out_features, in_features]``."""
        state: Any = self.state
        found: Tensor = int8_vectorwise_dequant(state.CB, state.SCB)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b``, inputs rounded to 8 bits, one scale a token, but for its outliers."""
        if self.threshold == 0:
            return self.rounded(x)
        large = x.half().abs() >= self.threshold
        if not large.any():
            return self.rounded(x)
        weight = self.dequantized().to(x.dtype)
        rest = nn.functional.linear(x.masked_fill(~large, 0), weight)
        return self.rounded(x.masked_fill(large, 0)) + rest

    def rounded(self, x: Tensor) -> Tensor:
        """The product as bitsandbytes computes it, all inputs rounded."""
        found: Tensor = super().forward(x)  # type: ignore[no-untyped-call,unused-ignore]
        return found
