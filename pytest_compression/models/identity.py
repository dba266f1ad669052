"""What a model's answers are determined by, as one digest, so that they can be kept.

Tensors, classes, settings and tokenizer are described wholly, by walking everything that the
module and the tokenizer hold. Nothing is guessed: where something is met that cannot be
described, such as a hook, a tensor of a foreign kind or code that no version number names, the
model has no identity, and the reason is said.
"""

import enum
import functools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import tokenizers
import torch
from torch import Tensor, nn

from pytest_compression.fingerprints import digest
from pytest_compression.models.originals import KNOWN, Originals, ReplacedError, package
from pytest_compression.types import Identity

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)
"""Values whose ``repr`` says all."""

TENSORS = (Tensor, nn.Parameter, nn.Buffer)
"""Other kinds may hold more than their values."""

AUTOCAST = ("cpu", "cuda")
"""Devices of which torch may be told to compute in another precision."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks")

ASIDE = {
    *HOOKS,  # there are none
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_name_or_path",
    "name_or_path",
    "_original_object_hash",  # differs from process to process
}
"""What no answer depends on: hooks of other occasions, and where files lay."""


Describer = Callable[[Any, str], Iterable[bytes | memoryview]]
"""Gives a value and all that it holds as bytes."""


class UndescribedError(Exception):
    """Something is met that cannot be described."""


def identity_of(model: "LanguageModel") -> Identity:
    """The identity of a model as it is now, compressed or not."""
    try:
        return Identity(digest=digest(described(model)))
    except (UndescribedError, ReplacedError) as error:
        return Identity(digest="", unknown=str(error))


def content(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Names, dtypes, shapes and bytes of tensors, sorted by name."""
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        yield tensor.reshape(-1).view(torch.uint8).numpy().data


def described(model: "LanguageModel") -> Iterator[bytes | memoryview]:
    """All that answers depend on.

    Raises:
        ReplacedError: a part of the code is not that of an installed package.
        UndescribedError: something is met that cannot be described.
    """
    if any(vars(torch.nn.modules.module)[f"_global{name}"] for name in HOOKS):
        message = "hooks on all modules"
        raise UndescribedError(message)
    if any(map(torch.is_autocast_enabled, AUTOCAST)):
        message = "torch.autocast is on"
        raise UndescribedError(message)
    walk = Walk()
    yield from walk.kind(type(model), "model")
    yield repr(sorted(model.environment().items())).encode()
    yield repr((model.family, torch.get_float32_matmul_precision())).encode()
    yield repr({device_name(tensor.device) for tensor in model.dense.values()}).encode()
    yield from walk.value(model.module, "model")
    yield from walk.value(model.tokenizer, "tokenizer")
    yield from Originals().of_kinds(walk.kinds)


@functools.cache
def device_name(device: torch.device) -> str:
    """What computes: two accelerators of one number may be different ones."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


class Walk:
    """Describes values and all that they hold; each object once."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        """Places of objects in the order in which they were met."""
        self.kept: list[Any] = []
        """Those objects, so that no other takes the place of one in memory."""
        self.kinds: set[type] = set()
        self.exact: dict[type, Describer] = {
            **dict.fromkeys((dict, OrderedDict), self.mapping),
            **dict.fromkeys((list, tuple), self.sequence),
            **dict.fromkeys((set, frozenset), self.unordered),
            **dict.fromkeys((FunctionType, BuiltinFunctionType, MethodType), self.function),
            tokenizers.Tokenizer: self.backend,
            tokenizers.AddedToken: self.shown,
        }

    def value(self, value: Any, where: str) -> Iterator[bytes | memoryview]:
        """Describe any value.

        Args:
            value: it and all that it holds is described.
            where: it was met, for messages.

        Raises:
            UndescribedError: it cannot be described.
        """
        if type(value) in PLAIN:
            yield f"{type(value).__name__} {value!r}".encode()
            return
        if id(value) in self.seen:
            yield f"again {self.seen[id(value)]}".encode()
            return
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        yield from self.describer(value)(value, where)

    def describer(self, value: Any) -> Describer:
        """What describes such a value."""
        if type(value) in self.exact:
            return self.exact[type(value)]
        if isinstance(value, Tensor):
            return self.tensor
        if isinstance(value, type):
            return self.kind
        return self.shown if isinstance(value, enum.Enum) else self.thing

    def tensor(self, value: Tensor, where: str) -> Iterator[bytes | memoryview]:
        """Its dtype, shape and bytes."""
        odd = value.layout != torch.strided or value.is_quantized or value.is_meta
        if type(value) not in TENSORS or odd:
            message = f"{where} is a tensor of a foreign kind ({named(type(value))})"
            raise UndescribedError(message)
        yield from content({"tensor": value})

    def mapping(self, value: dict[Any, Any], where: str) -> Iterator[bytes | memoryview]:
        """Its items in their order."""
        yield f"mapping {len(value.keys() - ASIDE)}".encode()
        for key, item in value.items():
            if key not in ASIDE:
                yield from self.value(key, where)
                yield from self.value(item, f"{where}.{key}")

    def sequence(self, value: Any, where: str) -> Iterator[bytes | memoryview]:
        """Its items."""
        yield f"{type(value).__name__} {len(value)}".encode()
        for place, item in enumerate(value):
            yield from self.value(item, f"{where}.{place}")

    def unordered(self, value: Any, where: str) -> Iterator[bytes | memoryview]:
        """Its items, sorted; only plain ones have an order that lasts."""
        if any(type(item) not in PLAIN for item in value):
            message = f"{where} is a set of things that have no order"
            raise UndescribedError(message)
        yield f"set {sorted(map(repr, value))}".encode()

    def kind(self, value: type, where: str) -> Iterator[bytes | memoryview]:
        """A class of a known package, as are its own functions."""
        if value not in self.kinds:
            for one in value.__mro__:
                functions = [f for f in vars(one).values() if isinstance(f, FunctionType)]
                origins = {function.__globals__.get("__name__", "") for function in functions}
                for origin in (one.__module__, *sorted(origins)):
                    self.require_known(origin, f"{where} is of {named(one)}")
            self.kinds.add(value)
        yield f"class {named(value)}".encode()

    def function(self, value: Any, where: str) -> Iterator[bytes | memoryview]:
        """A function of a known package, or a method of an object."""
        self.require_known(value.__module__ or "", f"{where} is {value!r}")
        if "<" in value.__qualname__:  # lambdas and inner functions hold what one does not see
            message = f"{where} is {value.__qualname__} of {value.__module__}"
            raise UndescribedError(message)
        yield f"function {value.__module__} {value.__qualname__}".encode()
        if isinstance(value, MethodType):
            yield from self.value(value.__self__, where)

    def backend(self, value: tokenizers.Tokenizer, where: str) -> Iterator[bytes | memoryview]:  # noqa: ARG002
        """A tokenizer but for what each call sets anew."""
        document = json.loads(value.to_str())
        document |= {"padding": None, "truncation": None}
        yield json.dumps(document).encode()

    def shown(self, value: Any, where: str) -> Iterator[bytes | memoryview]:
        """What its ``repr`` shows."""
        yield from self.kind(type(value), where)
        yield repr(value).encode()

    def thing(self, value: Any, where: str) -> Iterator[bytes | memoryview]:
        """An object of a known class: all of its attributes."""
        yield from self.kind(type(value), where)
        held = getattr(value, "__dict__", None)
        if held is None or hides(type(value)):
            message = f"{where} is of {named(type(value))}, which does not show what it holds"
            raise UndescribedError(message)
        if isinstance(value, nn.Module):
            if any(held[name] for name in HOOKS):
                message = f"hooks on {where}"
                raise UndescribedError(message)
            if value.training:
                message = f"{where} is in training mode, so that it may answer at random"
                raise UndescribedError(message)
            if "forward" in held:
                message = f"the forward of {where} was replaced"
                raise UndescribedError(message)
        yield from self.mapping(held, where)

    def require_known(self, module: str, said: str) -> None:
        """Refuse code that no version number names."""
        if package(module) not in KNOWN:
            message = f"{said}, and no version says what code of '{module}' does"
            raise UndescribedError(message)


class Bare:
    """Holds nothing but its attributes."""


def hides(kind: type) -> bool:
    """Whether instances hold more than their ``__dict__``: slots, or what is written in C."""
    slots = any(vars(one).get("__slots__") for one in kind.__mro__)
    return slots or bool(kind.__itemsize__) or kind.__basicsize__ > Bare.__basicsize__


def named(kind: type) -> str:
    """A class with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"
