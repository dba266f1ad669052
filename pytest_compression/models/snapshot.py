"""How a network was when it was loaded, so that it can be put back in place.

Steps may write to tensors, replace modules, change their classes, attributes and settings, hook
them, or untie weights. All of that is undone without reading a file again: every module gets back
its class and what it held, and every tensor its dense values.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig

Held = dict[str, Any]
Settings = PretrainedConfig | GenerationConfig
PARTS = (dict, OrderedDict, list, set)
"""Containers that a module fills and empties; what is in them is remembered, too."""
BUILD = ("_modules", "_forward_hooks", "_forward_pre_hooks")
"""Attributes of a module that say what is run."""
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes an element."""


def held_by(thing: object) -> Held:
    """The attributes of a module, containers copied one level deep."""
    return {
        name: copy.copy(value) if type(value) in PARTS else value
        for name, value in vars(thing).items()
    }


def settings_of(module: nn.Module) -> Iterator[Settings]:
    """Every configuration that a part of the network holds, and those within."""
    found: dict[int, Settings] = {}
    ahead = [value for part in module.modules() for value in vars(part).values()]
    while ahead:
        value = ahead.pop()
        if isinstance(value, Settings) and id(value) not in found:
            found[id(value)] = value
            ahead += vars(value).values()
    yield from found.values()


class Snapshot:
    """A network's modules, what they held, and its settings."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.layers = dict(module.named_modules(remove_duplicate=False))
        self.names = {id(part): name for name, part in module.named_modules()}
        self.modules = [(part, type(part), held_by(part)) for part in module.modules()]
        self.settings = [(one, copy.deepcopy(plain(one))) for one in settings_of(module)]
        self.buffers = [(buffer, buffer.clone()) for _, buffer in unsaved(module)]

    def layer(self, name: str) -> nn.Module | None:
        """What stood under a name."""
        return self.layers.get(name)

    def name_of(self, layer: nn.Module) -> str | None:
        """The name under which a layer stood; None if it is a new one."""
        return self.names.get(id(layer))

    def untouched(self, module: nn.Module) -> bool:
        """Whether all modules are those that were there, with no hooks and no other forward."""
        return module is self.module and all(
            type(part) is kind
            and vars(part).keys() == held.keys()
            and all(vars(part)[name] == held[name] for name in BUILD)
            for part, kind, held in self.modules
        )

    def put_back(self) -> nn.Module:
        """Undo whatever was done to modules and settings.

        Stored tensors keep the values that they have now; buffers that no file holds, such as
        rotary frequencies, get back theirs.

        Returns:
            The network.
        """
        for part, kind, held in self.modules:
            part.__class__ = kind
            vars(part).clear()
            vars(part).update({k: copy.copy(v) if type(v) in PARTS else v for k, v in held.items()})
        for one, values in self.settings:
            for name in plain(one).keys() - values.keys():
                delattr(one, name)
            vars(one).update(copy.deepcopy(values))
        for buffer, kept in self.buffers:
            buffer.copy_(kept)
        return self.module


def plain(settings: Settings) -> Held:
    """What a configuration holds, but for other configurations."""
    return {k: v for k, v in vars(settings).items() if not isinstance(v, Settings)}


def unsaved(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that are not stored with the weights."""
    for prefix, part in module.named_modules():
        for name in part._non_persistent_buffers_set:  # noqa: SLF001  # no other way
            buffer = part._buffers.get(name)  # noqa: SLF001
            if buffer is not None:
                yield f"{prefix}.{name}", buffer


def stored_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers; a tied one under each of its names.

    As ``state_dict``, whose hooks change the weights of some backends.
    """
    for prefix, part in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for name, parameter in part._parameters.items():  # noqa: SLF001  # named_ has no duplicates
            if parameter is not None:
                yield f"{dot}{name}", parameter
        for name, buffer in part._buffers.items():  # noqa: SLF001
            if buffer is not None and name not in part._non_persistent_buffers_set:  # noqa: SLF001
                yield f"{dot}{name}", buffer


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are alike bit by bit, in shape and dtype, too."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(bit_pattern(one.data), bit_pattern(other.data))


def bit_pattern(tensor: Tensor) -> Tensor:
    """A view by which zeros of two signs differ."""
    return tensor.view(WORDS[tensor.itemsize]) if tensor.is_floating_point() else tensor


def refill(tensors: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> bool:
    """Write the dense values into the tensors that differ from them.

    Returns:
        Whether each of them is then its dense one, bit by bit.
    """
    for name, live in tensors.items():
        kept = dense[name]
        live.requires_grad_(False).grad = None  # noqa: FBT003  # a tensor's takes no keyword
        if (live.shape, live.dtype) != (kept.shape, kept.dtype):
            live.data = kept.clone()
        elif not same(live, kept):
            live.copy_(kept)
    return all(same(live, dense[name]) for name, live in tensors.items())
