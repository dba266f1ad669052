"""Integer grids in the format ``pack-quantized`` of compressed-tensors, byte for byte.

For each linear layer ``[out, in]`` a file holds, in place of its weight: ``weight_packed``, the
codes of each row as a stream of bits, the lowest first, filled up to words of 32 bits;
``weight_scale``, ``[out, blocks]``; ``weight_zero_point``, packed alike but down its columns; and
``weight_shape``. The configuration describes them: one kind of grid for all layers that it does
not ignore.

Source: the package compressed-tensors, https://github.com/vllm-project/compressed-tensors (2024).
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_compression.kernels.packing import pack
from pytest_compression.kernels.quantization import Quantized

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight

PACKAGE = "compressed-tensors"
FORMAT = "pack-quantized"
WORD = 32
"""Codes are filled up to a multiple of these, so that each row ends with a whole word."""


def packable(model: "LanguageModel") -> dict[str, Quantized]:
    """The packed weights of a model, by layer, if this format can hold all of them; else none.

    It cannot where the package that reads it is not installed.
    """
    found = [weight for weight in model.layers() if weight.stored is not None]
    kinds = {str(described(weight)) for weight in found}
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return {}
    if len(kinds) != 1 or "None" in kinds:
        return {}
    return {weight.name: weight.stored for weight in found if isinstance(weight.stored, Quantized)}


def described(weight: "LinearWeight") -> dict[str, Any] | None:
    """How a configuration describes a weight's grid; None if the format does not know it."""
    stored = weight.stored
    if not isinstance(stored, Quantized) or type(weight.layer) is not nn.Linear:
        return None
    grid, (rows, columns) = stored.grid, stored.shape
    if grid.is_real or (columns % grid.block and grid.block < columns):
        return None
    if grid.zero_point is not None and rows * grid.bits <= WORD:
        return None  # its reader (0.20.0) fails at zero points of one word a column
    strategy = "group" if grid.block < columns else "channel"
    if len(grid.scale) == 1 and rows > 1:
        strategy = "tensor"
    return {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.zero_point is None,
        "strategy": strategy,
        "group_size": grid.block if strategy == "group" else None,
        "dynamic": False,
    }


def configuration(model: "LanguageModel", packed: Mapping[str, Quantized]) -> dict[str, Any]:
    """What ``config.json`` says of the packed layers, and which it leaves out."""
    (kind, *_) = (described(one) for one in model.linear() if one.name in packed)
    group = {
        "targets": ["Linear"],
        "weights": kind,
        "input_activations": None,
        "output_activations": None,
        "format": FORMAT,
    }
    return {
        "quant_method": PACKAGE,
        "version": version(PACKAGE),
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [one.name for one in model.linear() if one.name not in packed],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "sparsity_config": {},
        "transform_config": {},
    }


def tensors_of(name: str, stored: Quantized) -> dict[str, Tensor]:
    """What a file holds in place of a layer's weight."""
    grid, codes = stored.grid, stored.codes()
    whole = len(grid.scale) == 1 and len(codes) > 1  # one scale for the matrix
    # Stored codes count from -2^(bits-1); ours of a symmetric grid from one above.
    tensors = {
        "weight_packed": words(codes if grid.zero_point is not None else codes + 1, grid.bits),
        "weight_scale": grid.scale.reshape(-1) if whole else grid.scale,
        "weight_shape": torch.tensor(stored.shape),
    }
    if grid.zero_point is not None:
        zeros = grid.zero_point
        tensors["weight_zero_point"] = (
            (zeros.to(torch.int16) - 2 ** (grid.bits - 1)).to(torch.int8).reshape(-1)
            if whole
            else words(zeros.t(), grid.bits).t().contiguous()
        )
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def words(codes: Tensor, bits: int) -> Tensor:
    """Uint8 codes ``[rows, columns]`` as int32 ``[rows, ceil(columns * bits / 32)]``."""
    rows, columns = codes.shape
    filled = nn.functional.pad(codes, (0, -columns % WORD)).contiguous()
    streams = pack(filled, bits).view(torch.int32).view(rows, -1)
    return streams[:, : -(-columns * bits // WORD)].contiguous()
