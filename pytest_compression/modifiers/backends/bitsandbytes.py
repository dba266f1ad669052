"""LLM.int8(), NF4 and FP4 as bitsandbytes computes them.

Sources: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339 (LLM.int8()); Dettmers et al.
2023, https://arxiv.org/abs/2305.14314 (NF4, double quantization).
"""

import logging
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.modifiers.backends.foreign import Stored, imported, replace, stored_bytes
from pytest_compression.modifiers.targets import Targeted
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from torch import nn

    from pytest_compression.models.language_model import LanguageModel

BACKEND = "bitsandbytes"


def is_news(record: logging.LogRecord) -> bool:
    """Whether a log line is another than the one of each layer and each forward."""
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")


@dataclass(frozen=True, kw_only=True)
class BitsAndBytes(Targeted):
    """Replace linear layers by those of bitsandbytes.

    Source: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339; Dettmers et al. 2023,
    https://arxiv.org/abs/2305.14314.
    """

    scheme: Literal["int8", "nf4", "fp4"]
    """``int8``: one scale an output, and inputs in 8 bits, one scale a token; ``nf4``, ``fp4``: 4
    bits, one scale a block, and inputs as they are."""
    double_quant: bool | None = None
    """Store the scales of the blocks in 8 bits, too; for 4 bits only, false if not said."""
    block_size: Literal[32, 64, 128, 256, 512, 1024] | None = None
    """Weights that share a scale; for 4 bits only, 64 if not said."""
    threshold: Annotated[float, Meta(ge=0)] | None = None
    """Inputs of this magnitude are outliers and not rounded; for int8 only, 6 if not said, and 0
    rounds all."""

    def __post_init__(self) -> None:
        """Check that each option is given only where it means something."""
        four = ("double_quant", "block_size")
        for name in four if self.scheme == "int8" else ("threshold",):
            if getattr(self, name) is not None:
                message = f"'{name}' means nothing to scheme '{self.scheme}'"
                raise ValueError(message)
        super().__post_init__()

    def apply(self, model: "LanguageModel") -> Claim:
        """Replace the targets; bytes are those that bitsandbytes would save."""
        imported(BACKEND, distribution=BACKEND, backend=BACKEND)
        weights = model.weights(self.targets, self.ignore)
        if self.scheme != "int8":
            names = replace(model, weights, self.four_bit, backend=BACKEND)
            return Claim(targets=names, bits=4)
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(is_news)
        names = replace(model, weights, self.eight_bit, backend=BACKEND)
        return Claim(targets=names, bits=8, activation_bits=8)

    def eight_bit(self, linear: "nn.Linear") -> "tuple[nn.Module, Stored]":
        """A ``Linear8bitLt`` with the codes of a layer."""
        from pytest_compression.modifiers.backends.tokenwise import TokenWise

        dtype = linear.weight.dtype
        layer = TokenWise.of(linear, threshold=6.0 if self.threshold is None else self.threshold)
        return layer, Stored(
            nbytes=stored_bytes(layer), bits=8, read=lambda: layer.dequantized().to(dtype)
        )

    def four_bit(self, linear: "nn.Linear") -> "tuple[nn.Module, Stored]":
        """A ``Linear4bit`` with the codes of a layer."""
        from pytest_compression.modifiers.backends.blockwise import Blockwise

        layer = Blockwise.of(
            linear,
            kind=self.scheme,
            block_size=self.block_size or 64,
            double_quant=bool(self.double_quant),
        )
        return layer, Stored(nbytes=stored_bytes(layer), bits=4, read=layer.dequantized)

    def environment(self) -> dict[str, str]:
        """The version that decides codes and scores."""
        return {BACKEND: version(BACKEND)}
