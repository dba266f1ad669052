"""How files of compressed-tensors are read whose layers are of several kinds.

``transformers`` (5.23) decompresses every layer as the first group of the configuration says. Here
each is read as its own group says. Imported only where such a file is read.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.utils.match import match_targets
from torch import nn
from transformers.integrations.compressed_tensors import CompressedTensorsDequantize
from transformers.quantizers.quantizer_compressed_tensors import CompressedTensorsHfQuantizer

from pytest_compression.models.completeness import listed


class OfItsGroup(CompressedTensorsDequantize):
    """Decompresses a weight as the group of its layer says.

    Args:
        hf_quantizer: knows the groups.
        tell: is told of a packed layer that is in none. A function, for ``transformers`` copies a
            conversion with all that it holds.
    """

    def __init__(self, hf_quantizer: Any, *, tell: Callable[[str], None]) -> None:
        super().__init__(hf_quantizer)  # type: ignore[no-untyped-call]
        self.tell = tell

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """The weight that the tensors of a layer stand for.

        Raises:
            KeyError: no group says what they are.
        """
        if full_layer_name and "weight_scale" in input_dict:
            name = full_layer_name.rpartition(".")[0]
            groups = self.hf_quantizer.compressor.quantization_config.config_groups
            self.scheme = scheme_of(name, others["model"].get_submodule(name), groups)
            if self.scheme is None:
                self.tell(name)
                raise KeyError(name)
        return super().convert(
            input_dict, source_patterns, target_patterns, full_layer_name, **others
        )


def scheme_of(
    name: str, layer: nn.Module, groups: dict[str, QuantizationScheme]
) -> QuantizationScheme | None:
    """What the group says that fits a layer best: by its name, a pattern of names, or its class."""
    by_target = {target: group for group in groups.values() for target in group.targets}
    fitting = match_targets(name, layer, by_target)
    return by_target[fitting[0]] if fitting else None


@contextlib.contextmanager
def each_by_its_group() -> Iterator[None]:
    """Read each layer as its group says, as long as this lasts.

    Raises:
        ValueError: a layer is packed that is in no group.
    """
    reader: Any = CompressedTensorsHfQuantizer
    before, strangers = reader.get_load_operations, list[str]()
    operation = functools.partial(OfItsGroup, tell=strangers.append)
    reader.get_load_operations = lambda _: {"dequantize": operation}
    try:
        yield
    except RuntimeError as error:  # transformers tells the reason only to its log
        if not strangers:
            raise
        message = f"no group of its configuration says how {listed(strangers)} is packed"
        raise ValueError(message) from error
    finally:
        reader.get_load_operations = before
