"""The blocks of a network as they are called: in which order, with what, and from where.

A block is a member of a ``ModuleList`` that is in no other one. Blocks follow each other in chains:
each is given the hidden states that the one before it returned, the very same tensor. Where
anything stands between two calls, such as a norm, a projection, or the beginning of the decoder, a
chain ends.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Batch = dict[str, Any]
STATES = "hidden_states"
"""The first argument of a block, if it is named."""


@dataclass(frozen=True)
class Given:
    """What a module was called with."""

    args: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def states(self) -> Any:
        """The hidden states: the first argument."""
        return self.args[0] if self.args else self.named.get(STATES)

    @property
    def others(self) -> list[Any]:
        """All other arguments."""
        return [*self.args[1:], *(value for name, value in self.named.items() if name != STATES)]

    def on(self, states: Any) -> "Given":
        """The same with other hidden states."""
        if self.args:
            return Given((states, *self.args[1:]), self.named)
        return Given((), self.named | {STATES: states})


@dataclass(frozen=True)
class Call:
    """A call in a run of the model."""

    module: nn.Module
    """A block, or a layer outside of all blocks."""
    linked: bool
    """Whether its hidden states are what the call before it returned."""
    leans_on: int
    """The last call whose hidden states it was given besides, as cross-attention is; or -1."""


Step = list[Call]
"""Calls of the same modules, and of no other step's: mostly one."""


class EnoughError(Exception):
    """Ends a run of the model."""


@torch.inference_mode()
def run(
    model: "LanguageModel",
    batch: Batch,
    modules: Sequence[nn.Module],
    note: Callable[[nn.Module, Given, Any], None],
) -> None:
    """Run the model, and tell of each call of these modules, until told that it is enough."""

    def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        note(module, Given(args, named), hidden(out))

    handles = [part.register_forward_hook(hook, with_kwargs=True) for part in modules]
    try:
        with contextlib.suppress(EnoughError):
            model.module(**batch)
    finally:
        for handle in handles:
            handle.remove()


def hidden(output: Any) -> Any:
    """The hidden states that a block returns, alone or before other things."""
    return output[0] if isinstance(output, tuple) else output


def calls_of(model: "LanguageModel", batch: Batch, modules: Sequence[nn.Module]) -> list[Call]:
    """The calls of these modules in a run of the model, in order."""
    calls, returned = list[Call](), list[Any]()

    def note(module: nn.Module, given: Given, output: Any) -> None:
        others = {id(value) for value in given.others}
        leans_on = max((at for at, one in enumerate(returned) if id(one) in others), default=-1)
        calls.append(Call(module, bool(returned) and given.states is returned[-1], leans_on))
        returned.append(output)

    one = {name: value[:1] if isinstance(value, Tensor) else value for name, value in batch.items()}
    run(model, one, modules, note)
    return calls


def given_to(
    model: "LanguageModel", batch: Batch, modules: Sequence[nn.Module], span: range
) -> list[Given]:
    """What some calls of these modules were given; the run ends with the last of them.

    Of the hidden states only the first call's are kept: all would fill the memory.
    """
    found, done = list[Given](), 0

    def note(_: nn.Module, given: Given, __: Any) -> None:
        nonlocal done
        if done >= span.start:
            found.append(given.on(None) if found else given)
        done += 1
        if done == span.stop:
            raise EnoughError

    run(model, batch, modules, note)
    return found


@torch.inference_mode()
def passed(step: Step, rows: Sequence[Sequence[Given]], states: Sequence[Any]) -> list[Any]:
    """What comes out of a step's last call, of each batch.

    Args:
        step: calls, each linked to the one before it.
        rows: of each batch, what these calls were given.
        states: of each batch, what the call before returned; None at the beginning of a chain.
    """
    found = []
    for row, before in zip(rows, states, strict=True):
        state = before
        for call, given in zip(step, row, strict=True):
            now = given if state is None else given.on(state)
            state = hidden(call.module(*now.args, **now.named))
        found.append(state)
    return found


def units_of(module: nn.Module, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The blocks of each stack that holds one of the layers, and layers outside of all blocks."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, part in module.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(part, nn.ModuleList) and not inner:
            stacks[name] = part
    blocks = [b for stack in stacks.values() if set(stack.modules()) & {*layers} for b in stack]
    inside = {part for block in blocks for part in block.modules()}
    return list(dict.fromkeys(blocks + [layer for layer in layers if layer not in inside]))


def steps_of(calls: Sequence[Call]) -> list[Step]:
    """Calls in order, cut wherever no module before the cut is called again behind it."""
    last = {call.module: at for at, call in enumerate(calls)}
    steps, end = list[Step](), -1
    for at, call in enumerate(calls):
        if at > end:
            steps.append([])
        steps[-1].append(call)
        end = max(end, last[call.module])
    return steps


def chains_of(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps in order, cut where one needs more of the chain than the last hidden states."""
    chains, begun, at = list[list[Step]](), 0, 0
    for step in steps:
        whole = chains and is_linked(chains[-1][0], begun)
        if whole and is_linked(step, begun) and step[0].linked:
            chains[-1].append(step)
        else:
            chains.append([step])
            begun = at
        at += len(step)
    return chains


def is_linked(step: Step, begun: int) -> bool:
    """Whether a step's calls need no more than the last hidden states of a chain.

    Args:
        step: calls; if they begin the chain, the first needs no link.
        begun: the number of the chain's first call in a run.
    """
    return all(call.linked for call in step[1:]) and all(call.leans_on < begun for call in step)
