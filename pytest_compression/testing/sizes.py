"""Sizes of the plain model that a step must take.

A step may ask for more blocks, heads, neurons or inputs than a small model has, and be right for
the model it is meant for: so larger ones are tried before a refusal is held against it.
"""

import copy
import math
from typing import Any, Final

from pytest_compression.models.families import role
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.testing.specimens import Size

SIZES: Final = (
    Size(),
    Size(hidden=256, inner=1024, heads=32),
    Size(heads=8, shared=4, layers=12),
)
"""Small, broad and deep; tried in this order."""
LEAST = 64
"""Hidden numbers of a size that is made like a model's."""


def sizes_like(model: LanguageModel) -> tuple[Size, ...]:
    """Sizes to try for a step that a model took: small, as deep as the model, as broad, others.

    They have its blocks and heads; the first also its ratio of neurons to hidden numbers, the
    second all its neurons. Of a model that does not say its dimensions there are none.
    """
    config, inner = dense_config(model), neurons(model)
    heads = getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", None)
    if not (isinstance(heads, int) and isinstance(layers, int) and inner):
        return SIZES
    unit = 2 * heads  # a head has an even size, for rotary positions
    hidden = unit * math.ceil(LEAST / unit)
    shared = heads // (getattr(config, "num_key_value_heads", None) or heads)
    like = {"hidden": hidden, "heads": heads, "shared": max(1, shared)}
    in_ratio = max(1, round(hidden * inner / config.hidden_size))
    deep, broad = Size(inner=in_ratio, layers=layers, **like), Size(inner=inner, **like)
    return (SIZES[0], deep, broad, *SIZES[1:])


def dense_config(model: LanguageModel) -> Any:
    """The configuration of a model before its recipe, which may have changed it; or None."""
    live = getattr(model.snapshot.module, "config", None)
    for config, values in model.snapshot.settings:
        if config is live:
            found = copy.copy(config)
            vars(found).update(values)
            return found.get_text_config()
    return None


def neurons(model: LanguageModel) -> int:
    """How many a dense feed-forward block has; 0 if none is known."""
    sides = [
        max(tensor.shape)
        for name, tensor in model.dense.items()
        if tensor.dim() == 2
        and name.endswith(".weight")
        and role(name.removesuffix(".weight")) == "feed-forward"
    ]
    return min(sides, default=0)  # a layer may hold two for each: the gate's, too
