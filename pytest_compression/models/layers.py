"""Linear layers that round their inputs to a few bits, as they do where both factors are integers.

An existing layer becomes one by taking on another class: its weight and bias stay the same
parameters under the same names.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.kernels.activations import Granularity, extent, round_inputs


class RoundedInputs(nn.Module):
    """What a layer with rounded inputs has besides a linear one."""

    activation_bits: int
    """Bits of an input."""
    activation_granularity: Granularity
    """What has a dynamic range of its own."""
    activation_symmetric: bool
    input_range: Tensor | None
    """The lower end and the upper of the static range, ``[2]``; None if it is dynamic."""

    def forward(self, inputs: Tensor) -> Any:
        """The linear map of the rounded inputs, ``[..., in_features]``."""
        if self.input_range is None:
            low, high = extent(inputs, self.activation_granularity)
        else:
            low, high = self.input_range
        rounded = round_inputs(
            inputs, low, high, bits=self.activation_bits, symmetric=self.activation_symmetric
        )
        return super().forward(rounded)


class RoundedLinear(RoundedInputs, nn.Linear):
    """``torch.nn.Linear`` with rounded inputs."""


class RoundedConv1D(RoundedInputs, Conv1D):
    """GPT-2's transposed layer with rounded inputs."""


KINDS: dict[type[nn.Module], type[RoundedInputs]] = {
    nn.Linear: RoundedLinear,
    Conv1D: RoundedConv1D,
}
"""What each kind of layer becomes. Others may do more than multiply, or never be called: the
output projection of ``torch.nn.MultiheadAttention`` only lends its weight."""


def round_inputs_of(
    layer: nn.Module,
    *,
    bits: int,
    granularity: Granularity,
    symmetric: bool,
    static: tuple[float, float] | None = None,
) -> None:
    """Make a layer round its inputs from now on.

    Args:
        layer: of one of ``KINDS`` exactly.
        bits: 2 to 8.
        granularity: what has a dynamic range of its own.
        symmetric: a range that is equal on both sides of zero; otherwise affine.
        static: the range to use in place of a dynamic one.
    """
    layer.__class__ = KINDS[type(layer)]
    layer.activation_bits = bits  # type: ignore[assignment]
    layer.activation_granularity = granularity  # type: ignore[assignment]
    layer.activation_symmetric = symmetric  # type: ignore[assignment]
    device = next(layer.parameters()).device
    found = None if static is None else torch.tensor(static, device=device)
    layer.register_buffer("input_range", found)
