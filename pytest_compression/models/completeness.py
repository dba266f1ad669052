"""Whether a network was wholly read from its file: every tensor, and as it is stored there.

A tensor that is missing is left at random, and evaluating such a head is the classic silent
mistake: the layers of a pruned model that keep their masks (``torch.nn.utils.prune`` without
``remove``) are stored under other names than the model asks for.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_compression.errors import ModelError
from pytest_compression.models.places import NO_TOKENIZER
from pytest_compression.models.snapshot import stored_tensors
from pytest_compression.models.weight_files import stored_as_they_are

if TYPE_CHECKING:
    from pytest_compression.models.sources import Pretrained

LISTED = 5
"""Tensor names that an error shows."""

UNFINISHED = (
    ("_orig", "_mask", "torch.nn.utils.prune.remove(layer, '{}')"),
    (".original", "", "torch.nn.utils.parametrize.remove_parametrizations(layer, '{}')"),
    (".original0", "", "torch.nn.utils.parametrize.remove_parametrizations(layer, '{}')"),
)
"""Endings of tensors that stand for another while masks or parametrizations are on a layer, of
what lies beside them, and what takes these off."""


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:LISTED]) + more


def check_keys(source: "Pretrained", info: Mapping[str, Any]) -> None:
    """Refuse a model that was not wholly read from its file.

    Args:
        source: where it comes from, and which tensors it may hold beyond its own.
        info: the loading info of ``transformers``.

    Raises:
        ModelError: a tensor is missing, of another shape, or unexpected.
    """
    unexpected = [
        key
        for key in sorted(info["unexpected_keys"])
        if not any(fnmatchcase(key, pattern) for pattern in source.ignore_unexpected)
    ]
    missing = sorted(info["missing_keys"])
    check_finished(source, unexpected, missing)
    other = [
        f"{name} (stored {list(stored)}, needed {list(needed)})"
        for name, stored, needed in sorted(info["mismatched_keys"])
    ]
    if other:
        message = (
            f"'{source.path}' has tensors of another shape than its configuration asks for: "
            f"{listed(other)}."
        )
        raise ModelError(message)
    if missing:
        message = (
            f"'{source.path}' lacks {listed(missing)}, which would be left at random. The file "
            "was saved from another architecture or under other names."
        )
        raise ModelError(message)
    if unexpected:
        message = (
            f"'{source.path}' holds {listed(unexpected)}, which the model does not use. If that is "
            "right, name them in ignore_unexpected (patterns such as 'cls.seq_relationship.*')."
        )
        raise ModelError(message)


def check_finished(source: "Pretrained", unexpected: Sequence[str], missing: Sequence[str]) -> None:
    """Refuse a model that was saved while masks or parametrizations were on its layers.

    Raises:
        ModelError: it holds what a weight is computed of, in place of the weight.
    """
    for (held, beside, remedy), name in itertools.product(UNFINISHED, unexpected):
        stem = name.removesuffix(held)
        whole = stem.replace("parametrizations.", "")
        if stem == name or whole not in missing or (beside and stem + beside not in unexpected):
            continue
        layer, _, parameter = whole.rpartition(".")
        message = (
            f"'{source.path}' holds '{name}' in place of '{whole}', which would be left at random: "
            f"it was saved while '{layer}' still computed its {parameter} of that, with a mask or "
            f"another function. Call {remedy.format(parameter)} on each such layer before saving."
        )
        raise ModelError(message)


def check_finite(source: "Pretrained", module: nn.Module) -> None:
    """Refuse weights that no recipe could rank or round.

    Raises:
        ModelError: some are NaN or infinite.
    """
    broken = [
        name
        for name, p in module.named_parameters()
        if type(p) is nn.Parameter and not is_finite(p)  # not those of another library
    ]
    if broken:
        message = f"'{source.path}' holds NaN or infinite weights in {listed(broken)}."
        raise ModelError(message)


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; of 8-bit floats torch cannot say so itself."""
    wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
    return bool(wide.isfinite().all())


def check_as_stored(source: "Pretrained", module: nn.Module, files: Iterable[Path]) -> None:
    """Refuse a network that holds other values than its safetensors, where names are the same.

    A loader may tie what was stored untied, or compute anew what it believes to know.

    Raises:
        ModelError: a tensor is another than the stored one.
    """
    live: dict[str, Tensor] = dict(stored_tensors(module))
    broken = [
        name
        for name, stored in stored_as_they_are(files)
        if name in live
        and live[name].shape == stored.shape
        and not torch.equal(live[name].data, stored.to(live[name]))
    ]
    if broken:
        message = (
            f"'{source.path}' stores other values of {listed(broken)} than transformers gives the "
            "model: it ties or computes them. Correct the configuration (tie_word_embeddings?)."
        )
        raise ModelError(message)


def refuse_wordless(source: "Pretrained", tokenizer: Any) -> None:
    """Refuse a tokenizer that drops every word.

    Raises:
        ModelError: it knows special tokens only.
    """
    if is_wordless(tokenizer):
        message = f"'{source.path}' {NO_TOKENIZER}"
        raise ModelError(message)


def is_wordless(tokenizer: Any) -> bool:
    """Whether a tokenizer was made of nothing.

    Without files, ``transformers`` makes some of special tokens alone; T5's also knows a space.
    """
    return len(tokenizer) <= len(tokenizer.all_special_ids) + 1
