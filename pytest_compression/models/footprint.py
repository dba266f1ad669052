"""What a recipe did to a model: measured, and held against what its steps claim."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pytest_compression.errors import RecipeError
from pytest_compression.types import Claim, Footprint

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel, LinearWeight


def check_claim(
    step: str,
    claim: Claim,
    weights: Sequence["LinearWeight"],
    zeros_before: Mapping[str, int] | None,
) -> None:
    """Measure whether a step did what it says.

    Args:
        step: its name, for the message.
        claim: what it says.
        weights: all linear weights of the model.
        zeros_before: how many weights of each layer were zero before the step, or None when
            later steps have run: they may add zeros and lower the bits, but not undo either.

    Raises:
        RecipeError: it touched nothing, or missed its sparsity or its bits.
    """
    if not claim.targets:
        message = f"{step} touched nothing: no layer was compressed."
        raise RecipeError(message)
    named = {weight.name: weight for weight in weights}
    touched = [named[name] for name in claim.targets if name in named]
    if len(touched) < len(claim.targets):
        strange = sorted(set(claim.targets) - named.keys())
        message = f"{step} claims layers that the model does not have: {', '.join(strange[:5])}."
        raise RecipeError(message)
    if claim.sparsity is not None:
        check_sparsity(step, claim.sparsity, touched, zeros_before)
    if claim.bits is not None:
        check_bits(step, claim.bits, touched, later=zeros_before is None)


def check_sparsity(
    step: str,
    sparsity: float,
    touched: Sequence["LinearWeight"],
    zeros_before: Mapping[str, int] | None,
) -> None:
    """Count the zeros; half a weight a layer is allowed for rounding."""
    total = sum(weight.values.numel() for weight in touched)
    zeros = sum(int((weight.values == 0).sum()) for weight in touched)
    wanted, slack = sparsity * total, 0.5 * len(touched)
    most = float(total)
    if zeros_before is not None:
        most = wanted + slack + sum(zeros_before.get(weight.name, 0) for weight in touched)
    if not wanted - slack <= zeros <= most:
        when = "after the step" if zeros_before is not None else "after the whole recipe"
        message = (
            f"{step} was asked for sparsity {sparsity:g} and {zeros / total:.4f} was measured "
            f"{when} ({zeros} zeros of {total} weights in {len(touched)} layers)."
        )
        raise RecipeError(message)


def check_bits(step: str, bits: int, touched: Sequence["LinearWeight"], *, later: bool) -> None:
    """Each weight must be what its packed codes give back, bit for bit."""
    for weight in touched:
        stored = weight.stored
        if stored is not None and (stored.grid.bits == bits or (later and stored.grid.bits < bits)):
            continue
        found = "lies on no grid" if stored is None else f"is stored in {stored.grid.bits} bits"
        when = " after the whole recipe" if later else ""
        message = f"{step} was asked for {bits} bits, but '{weight.name}' {found}{when}."
        raise RecipeError(message)


def same(tensor: Tensor, dense: Tensor | None) -> bool:
    """Whether a tensor is still the dense one."""
    if dense is None or (tensor.shape, tensor.dtype) != (dense.shape, dense.dtype):
        return False
    return torch.equal(tensor, dense)


def check_effect(model: "LanguageModel", footprint: Footprint) -> None:
    """A recipe must leave some trace: a changed tensor, or fewer bytes.

    Raises:
        RecipeError: the compressed model is the dense one.
    """
    changed = any(not same(tensor, model.dense.get(name)) for name, tensor in model.tensors())
    if not changed and footprint.bytes >= footprint.dense_bytes:
        message = (
            "the recipe changed nothing: every weight is what it was and no byte is saved. "
            "What would be measured is the dense model."
        )
        raise RecipeError(message)


def measure(model: "LanguageModel") -> Footprint:
    """Bytes, zeros, bits and error of the model as it is now, against its dense weights."""
    weights = model.linear()
    stored = {weight.name: weight.stored for weight in weights}
    packed = {f"{name}.weight": found.nbytes for name, found in stored.items() if found}
    touched = [
        weight
        for weight in weights
        if stored[weight.name] is not None or not same(weight.values, weight.dense)
    ]
    sizes = {weight.name: weight.values.nbytes for weight in touched}
    sizes |= {name: found.nbytes for name, found in stored.items() if found}
    total = parameters = zeros = 0
    owners = model.owners()
    for name, tensor in model.tensors():
        if owners[name] != name:  # tied: stored once
            continue
        total += packed.get(name, tensor.nbytes)
        parameters += tensor.numel()
        zeros += int((tensor == 0).sum())
    count = sum(weight.values.numel() for weight in touched)
    return Footprint(
        bytes=total,
        dense_bytes=sum(t.nbytes for name, t in model.dense.items() if model.ties[name] == name),
        parameters=parameters,
        zeros=zeros,
        modules_touched=len(touched),
        modules=len(weights),
        sparsity=sum(int((w.values == 0).sum()) for w in touched) / count if count else 0.0,
        bits=8 * sum(sizes.values()) / count if count else 0.0,
        weight_error=relative_error(touched),
    )


def relative_error(weights: Sequence["LinearWeight"]) -> float:
    """``||dense - compressed|| / ||dense||`` in the Frobenius norm, over all weights at once."""
    distance = norm = 0.0
    for weight in weights:
        if weight.dense is None or weight.dense.shape != weight.values.shape:
            continue  # a step put another layer there
        dense = weight.dense.double()
        distance += float((weight.values.double() - dense).square().sum())
        norm += float(dense.square().sum())
    ratio = (distance / norm) ** 0.5 if norm else 0.0
    return float(f"{ratio:.6g}")  # the rest is the processor's order of summation
