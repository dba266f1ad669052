"""bitsandbytes' 4-bit layer, with an arithmetic that is right and the same on every processor.

Its own (0.50.2) has four faults on processors, none of which is told:

- The kernel that reads the codes takes the scales of other blocks where the inputs are a multiple
  of 16 but not of the block. Read as one row, the codes come out right.
- Where the processor can multiply in bfloat16, the first forward packs the codes anew, computes
  in bfloat16 whatever the model's dtype is, and fails on odd shapes; saving then spoils the
  weights.
- Odd numbers of inputs are read by code that is compiled first, for half a minute.
- Codes are stored as bytes, and T5 turns the inputs of a layer into the dtype of its weight.

Imported only where a recipe is applied.
"""

import copy
from typing import Any, Self

import torch
from bitsandbytes import functional
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import Tensor, nn


class Blockwise(Linear4bit):
    """A ``Linear4bit`` that multiplies by its dequantized weight."""

    @classmethod
    def of(cls, linear: nn.Linear, *, kind: str, block_size: int, double_quant: bool) -> Self:
        """A layer with the codes of an ordinary one.

        Args:
            linear: of float16, bfloat16 or float32.
            kind: ``nf4`` or ``fp4``.
            block_size: weights that share a scale, across rows.
            double_quant: whether the scales are stored in 8 bits.
        """
        dtype = linear.weight.dtype
        made = cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=dtype,
            compress_statistics=double_quant,
            quant_type=kind,
            quant_storage=dtype,
            device="meta",
        )
        codes, made.quant_state = functional.quantize_4bit(
            linear.weight.data,
            blocksize=block_size,
            compress_statistics=double_quant,
            quant_type=kind,
        )
        # Bytes that look like numbers of the model's dtype: see T5 above.
        codes = nn.functional.pad(codes.reshape(-1), (0, -codes.numel() % dtype.itemsize))
        made.weight = Params4bit(
            codes.view(dtype).unsqueeze(1),
            quant_state=made.quant_state,
            blocksize=block_size,
            compress_statistics=double_quant,
            quant_type=kind,
            quant_storage=dtype,
            module=made,
            bnb_quantized=True,
        )
        made.bias = linear.bias
        made.support_avx512bf16_for_cpu = False  # no packing anew, also not when it is saved
        return made

    def dequantized(self) -> Tensor:
        """The weight that the codes stand for, ``[out_features, in_features]``."""
        count = self.out_features * self.in_features
        state: Any = copy.copy(self.quant_state)
        state.shape = torch.Size([1, count + count % 2])  # one row; codes come in pairs
        codes = self.weight.data.view(torch.uint8).reshape(-1, 1)[: (count + 1) // 2]
        flat: Tensor = functional.dequantize_4bit(codes, state).reshape(-1)
        return flat[:count].reshape(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b`` in the weight's dtype."""
        return nn.functional.linear(x, self.dequantized(), self.bias)
