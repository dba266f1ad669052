"""What optimum-quanto writes: codes and scales under names of its own, and a map of its layers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_compression.errors import ModelError
from pytest_compression.models.families import AUTO_CLASSES, family_of
from pytest_compression.models.weight_files import found, stored_as_they_are

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.sources import Pretrained

QUANTO_MAP = "quanto_qmap.json"
"""Which layers are packed, and how; ``transformers`` does not look for it."""


def read_quanto(
    source: "Pretrained", where: str, config: Any, dtype: Any, files: Sequence[Path]
) -> tuple[nn.Module, dict[str, Any]]:
    """Read what optimum-quanto wrote, and say which tensors were missing or unexpected.

    Its own reader knows causal models only, and leaves what is missing as it happens to be.

    Args:
        source: of which revision, and what messages call it.
        where: directory or hub id.
        config: of the model.
        dtype: that it computes in; ``auto`` for that of its configuration.
        files: that hold the tensors.

    Raises:
        ModelError: nothing says which layers are packed, and how.
    """
    from optimum.quanto import requantize

    layers = found(where, QUANTO_MAP, source.revision)
    if layers is None:
        message = f"'{source.path}' lacks {QUANTO_MAP}, which says how its layers are packed."
        raise ModelError(message)
    own = config.dtype or torch.float32
    module = AUTO_CLASSES[family_of(config)].from_config(
        config, dtype=own if dtype == "auto" else dtype
    )
    state = dict(stored_as_they_are(files))
    requantize(module, state, json.loads(layers.read_text(encoding="utf-8")))
    if config.get_text_config().tie_word_embeddings:
        module.tie_weights()
    needed = set(module.state_dict())
    tied = {name for name in needed - state.keys() if is_tied(module, name, state)}
    info = {
        "missing_keys": needed - state.keys() - tied,
        "unexpected_keys": state.keys() - needed,
        "mismatched_keys": (),
    }
    return module, info


def is_tied(module: nn.Module, name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is another one that was read, under a second name."""
    try:
        tensor = module.get_parameter(name)
    except AttributeError:
        return False
    names = [
        other for other, one in module.named_parameters(remove_duplicate=False) if one is tensor
    ]
    return any(other in state for other in names)


def is_quanto(model: "LanguageModel") -> bool:
    """Whether all layers of other libraries are optimum-quanto's."""
    layers = [weight.layer for weight in model.layers() if weight.name in model.adopted]
    return bool(layers) and all(hasattr(layer, "weight_qtype") for layer in layers)


def write_map(network: nn.Module, folder: Path) -> None:
    """Say which layers are packed, and how."""
    from optimum.quanto import quantization_map

    text = json.dumps(quantization_map(network), indent=2)
    (folder / QUANTO_MAP).write_text(text + "\n", encoding="utf-8")
