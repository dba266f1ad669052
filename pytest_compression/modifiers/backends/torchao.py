"""torchao's quantized tensors, as weights of ordinary linear layers."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.backends.foreign import Stored, imported, replace, stored_bytes
from pytest_compression.modifiers.targets import Targeted
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pytest_compression.models.language_model import LanguageModel

BACKEND = "torchao"
OUTPUTS = 16
"""What torchao's int4 asks the outputs to be a multiple of, on processors."""


@dataclass(frozen=True, kw_only=True)
class TorchAO(Targeted):
    """Quantize the weights of linear layers by torchao.

    Source: https://github.com/pytorch/ao.
    """

    scheme: Literal["int8-weight-only", "int8-dynamic", "int4-weight-only", "float8-weight-only"]
    """int8 and float8 (e4m3): symmetric, one scale an output; ``int8-dynamic`` rounds the inputs to
    8 bits, too, with one scale a token; int4: one scale and offset a group, on processors only, and
    not in float32."""
    group_size: Literal[32, 64, 128] | None = None
    """Inputs that share a scale; for int4 only, 128 if not said. It must divide the inputs."""

    def __post_init__(self) -> None:
        """Check that a group size is given only where it means something."""
        if self.group_size is not None and self.scheme != "int4-weight-only":
            message = f"'group_size' means nothing to scheme '{self.scheme}'"
            raise ValueError(message)
        super().__post_init__()

    def apply(self, model: "LanguageModel") -> Claim:
        """Replace the targets; bytes are those of torchao's tensors."""
        imported(BACKEND, distribution=BACKEND, backend=BACKEND, extra=BACKEND)
        weights = model.weights(self.targets, self.ignore)
        if self.scheme == "int4-weight-only":
            for weight in weights:
                self.check_layer(weight.name, weight.values)
        names = replace(model, weights, self.build, backend=BACKEND)
        if self.scheme == "int8-dynamic":
            return Claim(targets=names, bits=8, activation_bits=8)
        return Claim(targets=names, bits=self.bits)

    @property
    def bits(self) -> int:
        """Of a code."""
        return 4 if self.scheme == "int4-weight-only" else 8

    def check_layer(self, name: str, values: "Tensor") -> None:
        """Refuse what torchao's int4 would pass over without a word, fail on, or never finish.

        Raises:
            RecipeError: the shape, the device or the dtype does not suit it.
        """
        out_features, in_features = values.shape
        group = self.group_size or 128
        wrong = ""
        if values.device.type != "cpu":
            wrong = f"lies on {values.device}, where it needs the package mslk"
        elif values.dtype.itemsize > 2:
            wrong = "is float32, which takes it a hundred times as long as bfloat16"
        elif in_features % group:
            wrong = f"has {in_features} inputs, no multiple of the group size {group}"
        elif out_features % OUTPUTS:
            wrong = f"has {out_features} outputs, no multiple of {OUTPUTS}"
        if wrong:
            message = (
                f"torchao's int4 cannot compress '{name}': it {wrong}. Change that, leave it out "
                "with 'ignore', or use quanto's int4 or bitsandbytes' nf4, which take any layer."
            )
            raise RecipeError(message)

    def build(self, linear: "nn.Linear") -> "tuple[nn.Module, Stored]":
        """A linear layer whose weight is torchao's.

        Raises:
            ValueError: torchao passed over it.
        """
        import torch
        from torch import nn
        from torchao.quantization import quantize_

        layer: Any = nn.Sequential(linear)
        dense = type(linear.weight)
        quantize_(layer, self.config())
        layer = layer[0]
        if type(layer.weight) is dense:
            message = "torchao passed over it"
            raise ValueError(message)
        if self.scheme == "int8-dynamic":
            layer.activation_bits = 8

        def by_products() -> "Tensor":
            """Its codes can only be read by multiplying with them."""
            ones = torch.eye(linear.in_features, dtype=layer.weight.dtype)
            return nn.functional.linear(ones, layer.weight).t().contiguous()

        read = by_products if self.bits == 4 else layer.weight.dequantize
        return layer, Stored(nbytes=stored_bytes(layer), bits=self.bits, read=read)

    def config(self) -> Any:
        """What torchao calls the scheme; it is told to leave the settings of torch's compiler."""
        from torchao import quantization
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        if self.scheme == "int4-weight-only":
            return PrototypeInt4WeightOnlyConfig(
                group_size=self.group_size or 128, set_inductor_config=False
            )
        kinds = {
            "int8-weight-only": quantization.Int8WeightOnlyConfig,
            "int8-dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
            "float8-weight-only": quantization.Float8WeightOnlyConfig,
        }
        return kinds[self.scheme](set_inductor_config=False)

    def environment(self) -> dict[str, str]:
        """The version that decides codes and scores."""
        return {BACKEND: version(BACKEND)}
