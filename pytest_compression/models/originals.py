"""Whether the code that a model runs is that of installed packages, or was replaced in memory.

A version number names code only while nobody assigns other functions to a package's modules,
classes and registries. So what stands in these places is compared with where it comes from: the
code of a function must lie in the file of the module whose globals it reads. Which function stands
where is described, so that two of a package's own cannot be exchanged unseen.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import torch
from transformers.utils.generic import GeneralInterface

VERSIONED = {"huggingface_hub", "pytest_compression", "tokenizers", "torch", "transformers"}
"""Packages whose code is known by its version; whoever keeps answers must note those."""

KNOWN = VERSIONED | (sys.stdlib_module_names - {"__main__"})

USED = KNOWN | {
    *("accelerate", "jinja2", "numpy", "packaging", "safetensors", "torchvision", "tqdm"),
    *("_regex", "regex", "typing_extensions"),
}
"""Packages that the known ones import; no answer depends on what they import from them."""

OURS = "pytest_compression"

PLAIN = {
    *(type(None), bool, int, float, str, bytes, ModuleType),
    *(ClassMethodDescriptorType, GetSetDescriptorType, MemberDescriptorType),
    *(MethodDescriptorType, MethodWrapperType, WrapperDescriptorType),
}
"""Kinds of values that are no code, or code written in C."""

FOLLOWED = "transformers"
"""Package of which the modules that functions come from are looked through, too."""

MADE = ("<string>", "<frozen ")
"""Files of code that dataclasses, named tuples and Python itself make."""

ALWAYS = ("torch", "torch.nn.functional")
"""Modules whose functions all models call."""

STATES = "transformers.cache_utils"
"""Module whose classes all causal models make when they run."""

NOT_CODE = {"__dict__", "__weakref__", "__abstractmethods__", "_abc_impl"}
"""Attributes that Python gives to classes."""

WRAPPERS: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    MethodType: ("__func__",),
    property: ("fget", "fset", "fdel"),
    functools.cached_property: ("func",),
    functools.partial: ("func", "args", "keywords"),
    type(functools.cache(len)): ("__wrapped__",),
}
"""Where things that stand for functions hold them."""


class ReplacedError(Exception):
    """Something is of no package that is known."""


@functools.cache
def package(module: object) -> str:
    """The package of a module's name."""
    return module.partition(".")[0] if isinstance(module, str) else ""


def ours(value: object) -> bool:
    """Whether it is a function of this package, which registers some when it first needs them."""
    return isinstance(value, FunctionType) and package(value.__globals__.get("__name__")) == OURS


class Originals:
    """What stands in modules and classes, each looked through once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        """What was found where."""
        self.seen: dict[int, object] = {}
        """What was looked through, held so that nothing else takes its place in memory."""
        self.homes: set[str] = set()
        """Modules that functions come from."""
        self.looks: dict[type, Callable[[Any, str], None]] = {
            FunctionType: self.function,
            BuiltinFunctionType: self.builtin,
            CellType: self.cell,
            dict: self.mapping,
            list: self.sequence,
            tuple: self.sequence,
            **dict.fromkeys(WRAPPERS, self.wrapper),
        }

    def of_kinds(self, kinds: set[type]) -> Iterator[bytes]:
        """Describe classes, their modules, and the functions that these call.

        Args:
            kinds: classes of everything that a model holds.

        Raises:
            ReplacedError: something is of no package that is known.
        """
        every = {one for kind in kinds for one in kind.__mro__}
        for one in sorted(every, key=lambda one: (one.__module__, one.__qualname__)):
            self.kind(one)
        self.kind(torch.Tensor)
        for name in sorted({*ALWAYS, *(one.__module__ for one in every)}):
            self.module(name)
        for name in sorted(self.homes):  # once: all of a package can be reached by going on
            self.module(name)
        yield "\n".join(sorted(self.lines)).encode()

    def new(self, value: object) -> bool:
        """Whether it was not met before."""
        met = id(value) in self.seen
        self.seen[id(value)] = value
        return not met

    def module(self, name: str) -> None:
        """Look through a module of a known package."""
        module = sys.modules.get(name)
        if module is None or not self.new(module) or package(name) not in VERSIONED:
            return
        for attribute, value in list(vars(module).items()):
            if not attribute.startswith("__"):
                self.look(value, f"{name}.{attribute}")

    def kind(self, value: type) -> None:
        """Look through a class."""
        if not self.new(value):
            return
        where = f"{value.__module__}.{value.__qualname__}"
        for attribute, held in list(vars(value).items()):
            if attribute not in NOT_CODE:
                self.look(held, f"{where}.{attribute}")

    def look(self, value: Any, where: str) -> None:
        """Look at what stands somewhere."""
        kind = type(value)
        if kind in PLAIN:
            return
        if kind in self.looks:
            self.looks[kind](value, where)
        elif isinstance(value, type):
            self.require(value.__module__, where, value)
            self.lines.append(f"{where}: {value.__module__}.{value.__qualname__}")
            if value.__module__ == STATES:
                self.kind(value)
        elif isinstance(value, GeneralInterface):
            others = {key: item for key, item in value.items() if not ours(item)}
            self.mapping(others, where)
        else:
            self.require(type(value).__module__, where, value)
            if isinstance(value, functools.partialmethod):
                message = f"{where} is a partialmethod"
                raise ReplacedError(message)

    def function(self, value: FunctionType, where: str) -> None:
        """The code lies in the file of its module, as does that of the functions it wraps."""
        home, code = value.__globals__, value.__code__
        name = home.get("__name__", "")
        self.lines.append(f"{where}: {name}.{value.__qualname__} {code.co_firstlineno}")
        if not self.new(value):
            return
        file = code.co_filename
        if not name.startswith("namedtuple_"):
            self.require(name, where, value)
        if file != home.get("__file__") and not file.startswith(MADE):
            message = f"{where} is {value.__qualname__} of '{file}', not of {name}"
            raise ReplacedError(message)
        if package(name) == FOLLOWED:
            self.homes.add(name)
        for cell in value.__closure__ or ():
            self.cell(cell, where)

    def cell(self, value: CellType, where: str) -> None:
        """What an inner function sees, if it is set."""
        try:
            held = value.cell_contents
        except ValueError:  # not yet
            return
        if self.new(value):
            self.look(held, f"{where} (inside)")

    def wrapper(self, value: Any, where: str) -> None:
        """The functions that it holds."""
        for name in WRAPPERS[type(value)]:
            self.look(getattr(value, name), where)

    def builtin(self, value: Any, where: str) -> None:
        """Written in C: only its name is known."""
        self.lines.append(f"{where}: {value.__module__}.{value.__qualname__}")

    def mapping(self, value: dict[Any, Any], where: str) -> None:
        """A registry of functions."""
        if not self.new(value):
            return
        for key, item in value.items():
            if type(item) in self.looks:
                self.look(item, f"{where}.{key}")

    def sequence(self, value: Any, where: str) -> None:
        """Several functions."""
        if not self.new(value):
            return
        for place, item in enumerate(value):
            if type(item) in self.looks:
                self.look(item, f"{where}.{place}")

    def require(self, module: object, where: str, value: object) -> None:
        """Refuse what comes from a package that is not known."""
        if package(module) not in USED:
            shown = getattr(value, "__qualname__", type(value).__qualname__)
            message = f"{where} is {shown}, and no version says what code of '{module}' does"
            raise ReplacedError(message)
