"""What files of bitsandbytes hold: its own layers, and NF4 and FP4 of this package.

For a layer of 4 bits a file holds ``weight``, two codes a byte, the first in the high half;
``weight.absmax``; ``weight.quant_map``, the 16 levels; ``weight.quant_state.bitsandbytes__nf4`` or
``__fp4``, all else as JSON; with double quantization also ``weight.nested_absmax`` and
``weight.nested_quant_map``. Each layer says its own kind, so that they may differ. GPT-2's
``Conv1D`` comes back as a layer of bitsandbytes, so its codes are those of ``[out_features,
in_features]``.

Source: the package bitsandbytes, https://github.com/bitsandbytes-foundation/bitsandbytes (2021).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.absmax import BLOCK, DoubleQuantized, dynamic_levels
from pytest_compression.kernels.codebooks import BlockCoded, levels_of
from pytest_compression.models.coded import Coded
from pytest_compression.models.completeness import listed

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

NAME = "bitsandbytes"
BLOCKS = (32, 64, 128, 256, 512, 1024)
"""Values to an absmax for which it has a kernel on every device."""


@dataclass(frozen=True, kw_only=True)
class FourBits:
    """Writes NF4 and FP4 as bitsandbytes does."""

    name: str = NAME
    kinds: tuple[type, ...] = (BlockCoded,)

    def unfit(self, network: nn.Module, layer: Coded) -> str:
        """Why it cannot hold a layer; nothing if it can."""
        if isinstance(layer.layer, nn.Embedding):
            return f"{NAME} packs no embeddings"
        if is_cut(layer.stored):
            return "its blocks were cut to differing lengths"
        if layer.stored.block not in BLOCKS:
            return f"{NAME} has no blocks of {layer.stored.block}"
        if is_kept_whole(network, layer.name):
            return "transformers keeps it in single precision"
        return ""

    def tensors(self, layer: Coded) -> dict[str, Tensor]:
        """What a file holds in place of a layer's weight, by the last parts of its name."""
        state = quant_state(layer.stored).as_dict(packed=True)
        return {
            "weight": pairs(layer.stored.codes()),
            **{f"weight.{key}": tensor for key, tensor in state.items()},
        }

    def settings(self, layers: Sequence[Coded], others: Sequence[str]) -> BitsAndBytesConfig:
        """What ``config.json`` says: of kinds that differ, the most frequent."""
        kinds = [(one.stored.codebook, is_double(one.stored)) for one in layers]
        codebook, double = max(kinds, key=kinds.count)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=codebook,
            bnb_4bit_use_double_quant=double,
            bnb_4bit_quant_storage=torch.uint8,
            bnb_4bit_compute_dtype=layers[0].stored.dtype,
            llm_int8_skip_modules=skipped(others),
        )


def is_double(stored: BlockCoded) -> bool:
    """Whether the absmax of its blocks are in 8 bits."""
    return isinstance(stored.absmax, DoubleQuantized)


def is_cut(stored: BlockCoded) -> bool:
    """Whether values were cut out of its blocks, or scales out of theirs."""
    absmax = stored.absmax
    if isinstance(absmax, DoubleQuantized) and (
        absmax.lengths is not None or absmax.block != BLOCK
    ):
        return True
    return stored.lengths is not None


def quant_state(stored: BlockCoded) -> Any:
    """How bitsandbytes describes a weight, and all of it but its codes."""
    functional: Any = import_module("bitsandbytes.functional")
    device, absmax = stored.packed.device, stored.absmax
    described = {  # tables of its own, for no two tensors of a file may be one in memory
        "shape": stored.shape,
        "code": levels_of(stored.codebook, device).clone(),
        "blocksize": stored.block,
        "quant_type": stored.codebook,
        "dtype": stored.dtype,
    }
    if isinstance(absmax, Tensor):
        return functional.QuantState(absmax, **described)
    scales = functional.QuantState(
        absmax.absmax,
        code=dynamic_levels(device).clone(),
        blocksize=absmax.block,
        dtype=torch.float32,
    )
    return functional.QuantState(absmax.codes, offset=absmax.offset, state2=scales, **described)


def pairs(codes: Tensor) -> Tensor:
    """Uint8 codes below 16 as bytes ``[ceil(numel / 2), 1]``, the first of two in the high half."""
    flat = codes.reshape(-1)
    both = nn.functional.pad(flat, (0, flat.numel() % 2)).view(-1, 2)
    return (both[:, :1] << 4) | both[:, 1:]


def skipped(names: Collection[str]) -> list[str]:
    """Patterns of these layers and of no other: ``transformers`` matches where names begin."""
    return [f"{name}$" for name in names]


def is_kept_whole(network: nn.Module, name: str) -> bool:
    """Whether ``transformers`` reads a layer's weight in single precision, packed or not."""
    never = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    never |= set(getattr(network, "_keep_in_fp32_modules_strict", None) or ())
    return bool(never & set(name.split(".")))


def own_settings(model: "LanguageModel") -> BitsAndBytesConfig:
    """What a configuration must say so that bitsandbytes' own layers come back.

    Raises:
        RecipeError: they are not all of one library and kind, or ``transformers`` cannot save them.
    """
    weights = [weight for weight in model.linear() if weight.name in model.adopted]
    settings = {repr(one): one for one in map(made_with, weights)}
    found = next(iter(settings.values()))
    if found is None or len(settings) > 1:
        kinds = sorted({kind_of(one.layer) for one in weights})
        message = (
            f"layers of the kind {', '.join(kinds)} cannot be exported"
            f"{' together' if len(settings) > 1 else ''}: of other libraries' layers only those "
            "of bitsandbytes (one kind for all) and optimum-quanto are. Save such a model with its "
            "own library, and judge the file: use: checkpoint."
        )
        raise RecipeError(message)
    plain = [weight.name for weight in weights if is_kept_whole(model.module, weight.name)]
    if plain:
        message = (
            f"transformers keeps {listed(plain)} in single precision, and would not read what is "
            "packed: leave them out with 'ignore'."
        )
        raise RecipeError(message)
    kept = [weight.name for weight in model.linear() if weight.name not in model.adopted]
    return BitsAndBytesConfig(llm_int8_skip_modules=skipped(kept), **found)


def made_with(weight: Any) -> dict[str, Any] | None:
    """What bitsandbytes' layer was made with; None if it is another library's."""
    layer: Any = weight.layer
    if hasattr(layer.weight, "SCB"):
        return {"load_in_8bit": True, "llm_int8_threshold": layer.threshold}
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return None
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": state.quant_type,
        "bnb_4bit_use_double_quant": state.nested,
        "bnb_4bit_quant_storage": layer.weight.dtype,
        "bnb_4bit_compute_dtype": state.dtype,
    }


def kind_of(layer: Any) -> str:
    """What a layer is, with its weight; or with its module, if it shows none as a tensor."""
    kind = type(layer)
    if isinstance(layer.weight, Tensor):
        return f"{kind.__name__} of {type(layer.weight).__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"
