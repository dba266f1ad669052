"""Integer grids and 8-bit floats in the format of compressed-tensors.

The configuration describes groups of layers, each with one kind of codes; a layer that is in no
group is plain. Integer grids are written as ``pack-quantized``
(:mod:`~pytest_compression.models.pack_quantized`), 8-bit floats (e4m3 alone) as
``naive-quantized``: the floats themselves under the name of the weight, and ``weight_scale``.

Source: the package compressed-tensors, https://github.com/vllm-project/compressed-tensors (2024).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from pytest_compression.kernels.float8 import Float8
from pytest_compression.kernels.quantization import Quantized
from pytest_compression.models import pack_quantized
from pytest_compression.models.coded import Coded

NAME = "compressed-tensors"
FLOATS = "naive-quantized"
SEVERAL = "mixed-precision"
"""What the format of a file is called that has several."""


@dataclass(frozen=True, kw_only=True)
class CompressedTensors:
    """Writes packed layers as compressed-tensors does."""

    name: str = NAME
    kinds: tuple[type, ...] = (Quantized, Float8)

    def unfit(self, _: nn.Module, layer: Coded) -> str:
        """Why it cannot hold a layer; nothing if it can."""
        stored = layer.stored
        if layer.is_turned:
            return f"{NAME} packs no Conv1D layers"
        if isinstance(stored, Float8):
            exact = stored.values.dtype == torch.float8_e4m3fn
            return "" if exact else f"the 8-bit floats of {NAME} are e4m3"
        return pack_quantized.unfit(stored)

    def tensors(self, layer: Coded) -> dict[str, Tensor]:
        """What a file holds in place of a layer's weight, by the last part of its name."""
        stored = layer.stored
        if isinstance(stored, Float8):
            scale = stored.scale if len(stored.scale) > 1 else stored.scale.reshape(-1)
            return {"weight": stored.values, "weight_scale": scale}
        return pack_quantized.tensors_of(stored)

    def settings(self, layers: Sequence[Coded], others: Sequence[str]) -> dict[str, Any]:
        """What ``config.json`` says of the packed layers, and which it leaves out."""
        kinds: dict[str, list[Coded]] = {}
        for layer in layers:
            kinds.setdefault(json.dumps(described(layer)), []).append(layer)
        groups = {
            f"group_{number}": {
                "targets": targets(alike, alone=len(kinds) == 1),
                "weights": json.loads(kind),
                "input_activations": None,
                "output_activations": None,
                "format": format_of(alike[0]),
            }
            for number, (kind, alike) in enumerate(kinds.items())
        }
        formats = {format_of(layer) for layer in layers}
        return {
            "quant_method": NAME,
            "version": version(NAME),
            "format": formats.pop() if len(formats) == 1 else SEVERAL,
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": list(others),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
            "sparsity_config": {},
            "transform_config": {},
        }


def described(layer: Coded) -> dict[str, Any]:
    """How a configuration describes a layer's codes."""
    stored = layer.stored
    if not isinstance(stored, Float8):
        return pack_quantized.described(stored)
    return {
        "num_bits": stored.bits,
        "type": "float",
        "symmetric": True,
        "strategy": "channel" if len(stored.scale) > 1 else "tensor",
        "group_size": None,
        "dynamic": False,
    }


def format_of(layer: Coded) -> str:
    """How a layer is written."""
    return FLOATS if isinstance(layer.stored, Float8) else pack_quantized.FORMAT


def targets(layers: Sequence[Coded], *, alone: bool) -> list[str]:
    """What a group is for: all linear layers that are not ignored, or these by name."""
    linear = all(isinstance(layer.layer, nn.Linear) for layer in layers)
    return ["Linear"] if alone and linear else [layer.name for layer in layers]
