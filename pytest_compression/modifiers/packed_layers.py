"""Layers of other libraries as they come from a file: their weights, bytes and arithmetic.

Some of their kernels are wrong on a processor, or end the process: there a layer is made to
multiply by its dequantized weight, which is what the kernel stands for.
"""

import functools
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_compression.models.filed import of_layer
from pytest_compression.modifiers.backends.foreign import Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_compression.models.language_model import LanguageModel

GROUPS = (32, 64, 128, 256)
"""Inputs to a scale for which torch has a product with packed codes of 4 bits on a processor."""


def take_over(model: "LanguageModel", sizes: "Mapping[str, int]") -> None:
    """Adopt every packed layer of the network, and note what it does to its inputs.

    Args:
        model: whose network was read from a file.
        sizes: bytes of each tensor in that file, by name.
    """
    for name, layer in packed_layers(model.module).items():
        mend(layer)
        stored = of_layer(sizes, name)
        read = functools.partial(unpacked, layer)
        bits = bits_of(layer) or max(1, 8 * stored // read().numel())
        model.adopt(name, layer, Stored(nbytes=stored, bits=bits, read=read))
    for layer in model.module.modules():
        rounded = rounded_inputs(layer)
        if rounded is not None:
            layer.activation_bits = rounded  # type: ignore[assignment]
        model.alone |= depends_on_others(layer)


def packed_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Linear layers whose weight is no plain matrix, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if hasattr(layer, "in_features") and hasattr(layer, "out_features") and not is_plain(layer)
    }


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer's weight is an ordinary matrix of floats."""
    weight: Any = getattr(layer, "weight", None)
    return type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()


def is_four_bit(layer: nn.Module) -> bool:
    """Whether it is bitsandbytes' layer of 4 bits."""
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def is_eight_bit(layer: nn.Module) -> bool:
    """Whether it is bitsandbytes' layer of 8 bits."""
    return hasattr(getattr(layer, "weight", None), "SCB")


def is_quanto(layer: nn.Module) -> bool:
    """Whether it is optimum-quanto's."""
    return hasattr(layer, "weight_qtype")


def is_gptqmodel(layer: nn.Module) -> bool:
    """Whether it is gptqmodel's, of GPTQ or AWQ."""
    return type(layer).__module__.startswith("gptqmodel.")


def mend(layer: Any) -> None:
    """Keep a layer from kernels that are wrong or crash on a processor."""
    if is_gptqmodel(layer):
        mend_gptqmodel(layer)
    if is_eight_bit(layer):
        from pytest_compression.modifiers.backends.bitsandbytes import is_news
        from pytest_compression.modifiers.backends.tokenwise import TokenWise

        logging.getLogger("bitsandbytes.autograd._functions").addFilter(is_news)
        layer.threshold = layer.state.threshold
        layer.init_8bit_state()  # else the first forward moves codes and scales
        layer.__class__ = TokenWise
    if is_quanto(layer):
        from pytest_compression.modifiers.backends.dequantizing import spare_the_compiler

        spare_the_compiler()
    mended = is_four_bit(layer) or is_quanto(layer)
    if mended and layer.weight.device.type == "cpu":
        if is_four_bit(layer):
            layer.quant_state = layer.weight.quant_state
            layer.support_avx512bf16_for_cpu = False  # no packing anew, also not when it is saved
        layer.forward = functools.partial(multiply, layer)


def mend_gptqmodel(layer: Any) -> None:
    """Neither compile what unpacks a weight, nor use a kernel that refuses the layer's shape."""
    if layer.qweight.device.type != "cpu":
        return
    vars(layer).pop("dequantize_weight", None)  # half a minute to compile, for the same weight
    fits = (
        layer.group_size in GROUPS
        and layer.in_features % layer.group_size == 0
        and layer.out_features % 16 == 0
    )
    if hasattr(layer, "linear_mode") and not fits:
        layer.linear_mode = "train"  # it unpacks the weight for each product


def multiply(layer: Any, inputs: Tensor) -> Tensor:
    """``x W^T + b`` in the dtype of the inputs."""
    bias = None if layer.bias is None else layer.bias.to(inputs.dtype)
    return nn.functional.linear(inputs, unpacked(layer).to(inputs.dtype), bias)


def unpacked(layer: Any) -> Tensor:
    """The float weight that a packed layer stands for, ``[out_features, in_features]``."""
    weight: Any = getattr(layer, "weight", None)
    found: Tensor
    if is_four_bit(layer):
        from pytest_compression.modifiers.backends.blockwise import Blockwise

        found = Blockwise.dequantized(layer)
    elif is_eight_bit(layer):
        found = layer.dequantized()
    elif type(weight) not in (Tensor, nn.Parameter) and isinstance(weight, Tensor):
        found = weight.dequantize()  # optimum-quanto's and torchao's are tensors of their own
    else:
        found = answered(layer)
    result: Tensor = found.detach()
    return result


def answered(layer: Any) -> Tensor:
    """The matrix that a linear layer multiplies by, found by asking it: GPTQ's and others.

    Each unit vector gives one column. The bias is taken off meanwhile: in half precision, a large
    one would leave nothing of a column.
    """
    tensors = [*layer.parameters(), *layer.buffers()]
    floats = [one.dtype for one in tensors if one.is_floating_point() and one.itemsize > 1]
    asked = torch.eye(layer.in_features, dtype=floats[0] if floats else None)
    asked = asked.to(tensors[0].device)
    bias = getattr(layer, "bias", None)
    layer.bias = None
    answers: Tensor = layer(asked)
    layer.bias = bias
    return answers.t().contiguous()


def bits_of(layer: Any) -> int | None:
    """Of a code, if the library says it."""
    if is_four_bit(layer):
        return 4
    if is_eight_bit(layer):
        return 8
    if is_gptqmodel(layer):
        return int(layer.bits)
    return int(layer.weight_qtype.bits) if is_quanto(layer) else None


def rounded_inputs(layer: Any) -> int | None:
    """To how many bits a layer of another library rounds its inputs; None if it does not."""
    scheme = getattr(layer, "quantization_scheme", None)  # of compressed-tensors
    inputs = getattr(scheme, "input_activations", None)
    if inputs is not None:
        return int(inputs.num_bits)
    kind = getattr(layer, "activation_qtype", None)  # of optimum-quanto
    if kind is not None:
        return int(kind.bits)
    made = getattr(getattr(layer, "weight", None), "act_quant_kwargs", None)  # of torchao
    return 8 if made is not None or is_eight_bit(layer) else None


def depends_on_others(layer: Any) -> bool:
    """Whether a layer rounds all its inputs by one scale, which it finds anew each time."""
    scheme = getattr(layer, "quantization_scheme", None)
    inputs = getattr(scheme, "input_activations", None)
    if inputs is not None:
        return bool(inputs.dynamic is True and inputs.strategy == "tensor")
    weight = getattr(layer, "weight", None)
    granularity = getattr(getattr(weight, "act_quant_kwargs", None), "granularity", None)
    fixed = getattr(weight, "act_quant_scale", None) is not None
    return type(granularity).__name__ == "PerTensor" and not fixed
