"""What must hold after a pruner, a quantizer or any other step was applied to a model.

Each property takes what was seen of one application and raises :class:`ContractError`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_compression.errors import RecipeError
from pytest_compression.models.footprint import Before, check_claim
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.snapshot import bit_pattern, same
from pytest_compression.models.weights import LinearWeight
from pytest_compression.types import Claim

CONSTANT_ERROR = 1 / 8
"""Share of a constant's magnitude by which it may come back otherwise: the coarsest format that
scales to the largest magnitude, e5m2 with an inexact scale, misses it by less."""


class ContractError(AssertionError):
    """A step breaks a rule that every one of its kind must keep."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A model at one moment: copies of all that steps may change."""

    tensors: Mapping[str, Tensor]
    matrices: Mapping[str, Tensor]
    """Weights of layers by name, ``[out_features, in_features]``."""
    modules: Mapping[str, type]
    counted: Before

    @classmethod
    def of(cls, model: LanguageModel) -> "State":
        """Copy it."""
        return cls(
            tensors={name: tensor.clone() for name, tensor in model.tensors()},
            matrices={weight.name: weight.values.clone() for weight in model.layers()},
            modules={name: type(part) for name, part in model.module.named_modules()},
            counted=Before.of(model),
        )

    def difference(self, other: "State") -> str:
        """What is not the same bit by bit; empty if all is."""
        for mine, theirs in ((self.tensors, other.tensors), (self.matrices, other.matrices)):
            for name in {**mine, **theirs}:
                if name not in mine or name not in theirs or not same(mine[name], theirs[name]):
                    return f"'{name}'"
        for name, kind in self.modules.items():
            if other.modules.get(name) is not kind:
                return f"the class of '{name}'"
        return "" if self.modules.keys() == other.modules.keys() else "the modules"


@dataclass(frozen=True, kw_only=True)
class Applied:
    """One application of a step."""

    step: Any
    claim: Claim
    before: State
    model: LanguageModel
    """As the step left it."""

    def targets(self) -> Iterator[tuple[LinearWeight, Tensor]]:
        """Each weight that is claimed, and what its matrix was."""
        claimed = set(self.claim.targets)
        for weight in self.model.layers():
            if weight.name in claimed:
                yield weight, self.before.matrices[weight.name]


Property = Callable[[Applied], None]


def require(kept: object, broken: str) -> None:
    """Raise with what is broken, unless it is kept."""
    if not kept:
        raise ContractError(broken)


# Of every step


def claim_is_true(done: Applied) -> None:
    """What the step says it did can be measured."""
    require(isinstance(done.claim, Claim), "apply() must return a Claim.")
    try:
        check_claim("The step", done.claim, done.model, done.before.counted)
    except RecipeError as error:
        raise ContractError(str(error)) from error


def model_can_be_asked(done: Applied) -> None:
    """The network is in evaluation mode, and nothing is left of hooks and gradients."""
    for name, part in done.model.module.named_modules():
        require(not part.training, f"'{name}' is left in training mode.")
        hooks = (*part._forward_hooks, *part._forward_pre_hooks)  # noqa: SLF001  # no other way
        require(not hooks, f"a hook is left on '{name}'.")
    for name, parameter in done.model.module.named_parameters():
        require(parameter.grad is None, f"a gradient is left on '{name}'.")


# Of pruners and quantizers


def nothing_else_changes(done: Applied) -> None:
    """All tensors but the targets' weights are what they were, bit by bit."""
    live, owners = dict(done.model.tensors()), done.model.owners()
    mine = {f"{name}.weight" for name in done.claim.targets}
    tied = {owners[name] for name in mine if name in owners}
    for name, tensor in done.before.tensors.items():
        if name in mine or owners.get(name) in tied:
            continue
        kept = name in live and same(live[name], tensor)
        require(kept, f"'{name}' is not among the targets it claims, and was changed.")


# Of pruners


def kept_weights_are_untouched(done: Applied) -> None:
    """A weight is zero or what it was, bit by bit."""
    for weight, before in done.targets():
        values = weight.values
        kept = values != 0
        changed = int((bit_pattern(values)[kept] != bit_pattern(before)[kept]).sum())
        require(
            changed == 0,
            f"{changed} weights of '{weight.name}' are neither zero nor what they were: a pruner "
            "keeps or clears.",
        )


# Of quantizers


def values_are_what_is_stored(done: Applied) -> None:
    """The packed form gives the values back, each time."""
    for weight, _ in done.targets():
        stored = weight.stored
        require(
            stored is not None,
            f"'{weight.name}' is not what its packed form gives back: write(values, stored) with "
            "values = stored.dequantize().",
        )
        assert stored is not None  # noqa: S101
        first, second = stored.dequantize(), stored.dequantize()
        require(same(first, second), f"'{weight.name}' is dequantized otherwise each time.")
        require(first.isfinite().all(), f"'{weight.name}' holds NaN or infinities.")


def bytes_are_honest(done: Applied) -> None:
    """So many codes cannot take less room, nor so few values stand for more."""
    for weight, before in done.targets():
        stored = weight.stored
        assert stored is not None  # noqa: S101
        codes = math.ceil(before.numel() * stored.bits / 8)
        require(
            stored.nbytes >= codes,
            f"'{weight.name}' claims {stored.nbytes} bytes for {before.numel()} codes of "
            f"{stored.bits} bits, which take {codes}.",
        )
        # Whatever tells blocks apart takes a byte each at least.
        most = 2**stored.bits * max(1, stored.nbytes - codes)
        found = len((weight.values + 0.0).unique())
        require(
            found <= most,
            f"'{weight.name}' holds {found} values, and {stored.bits} bits with "
            f"{stored.nbytes - codes} bytes of scales tell {most} apart at most.",
        )


def zeros_are_honest(done: Applied) -> None:
    """A format that has a zero keeps the zeros there were, and takes more of them."""
    for weight, before in done.targets():
        stored = weight.stored
        assert stored is not None  # noqa: S101
        zero = before == 0
        zero[:, ::2] = True  # as a mask would
        pruned = stored.with_zeros(zero)
        if pruned is None:
            continue
        lost = int((weight.values[before == 0] != 0).sum())
        require(lost == 0, f"{lost} zeros of '{weight.name}' are none any more, so a mask is lost.")
        expected = weight.values.masked_fill(zero, 0)
        require(
            torch.equal(pruned.dequantize(), expected) and pruned.bits == stored.bits,
            f"with_zeros() of '{weight.name}' is not the same weight with exact zeros.",
        )


def nothing_is_worse_than_zeros(done: Applied) -> None:
    """The error is not larger than if all weights had been dropped; a constant comes back."""
    for weight, before in done.targets():
        exact = before.double()
        error = (weight.values.double() - exact).norm() / exact.norm().clamp(min=1e-300)
        require(
            error <= 1,
            f"the error of '{weight.name}' is {float(error):.3g} of its norm: zeros were closer.",
        )
        low, high = float(exact.min()), float(exact.max())
        if low == high != 0 and abs(low) > torch.finfo(torch.float16).tiny:
            worst = float((weight.values.double() - exact).abs().max())
            require(
                worst <= CONSTANT_ERROR * abs(low),
                f"'{weight.name}' holds {low:.4g} everywhere and came back off by {worst:.4g}: its "
                "range is wrong where all weights have one sign.",
            )


def error_within(share: float) -> Property:
    """No weight is off by more than a share of the largest magnitude of its matrix."""

    def property_(done: Applied) -> None:
        for weight, before in done.targets():
            exact = before.double()
            worst = float((weight.values.double() - exact).abs().max())
            slack = torch.finfo(before.dtype).eps + 1e-6
            most = (share + slack) * float(exact.abs().max())
            require(
                worst <= most,
                f"a weight of '{weight.name}' is off by {worst:.4g}; {most:.4g} is promised.",
            )

    return property_


OF_ANY: tuple[Property, ...] = (claim_is_true, model_can_be_asked)
OF_PRUNERS: tuple[Property, ...] = (nothing_else_changes, kept_weights_are_untouched)
OF_QUANTIZERS: tuple[Property, ...] = (
    nothing_else_changes,
    values_are_what_is_stored,
    bytes_are_honest,
    zeros_are_honest,
    nothing_is_worse_than_zeros,
)
