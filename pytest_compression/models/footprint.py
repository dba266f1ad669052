"""What a recipe did to a model: measured, and held against what its steps claim."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.snapshot import same
from pytest_compression.types import Claim, Footprint

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight

AFTER_ALL = " after the whole recipe"


@dataclass(frozen=True, kw_only=True)
class Before:
    """A model before a step."""

    zeros: Mapping[str, int]
    """Weights that are zero, by layer."""
    parameters: int

    @classmethod
    def of(cls, model: "LanguageModel") -> "Before":
        """Count them."""
        zeros = {weight.name: zeros_of(weight) for weight in model.layers()}
        return cls(zeros=zeros, parameters=parameters(model))


class Then(NamedTuple):
    """A layer when a step had been applied."""

    layer: nn.Module
    shape: torch.Size
    zeros: int
    """Weights that were zero."""

    @classmethod
    def of(cls, model: "LanguageModel") -> dict[str, "Then"]:
        """All layers, by name."""
        return {one.name: cls(one.layer, one.values.shape, zeros_of(one)) for one in model.layers()}


def carried(
    then: Mapping[str, Then], before: Mapping[str, Then], now: Mapping[str, Then]
) -> dict[str, Then]:
    """What was noted of layers when an earlier step had been applied, after a later one.

    Of a layer that the later step cut, it is what that left: those of a mask's zeros that are still
    there, and those that were missing already before the cut.

    Args:
        then: what was noted.
        before: all layers before the later step.
        now: all layers after it.
    """
    left, last = ({id(one.layer): one for one in each.values()} for each in (now, before))
    found = {}
    for name, noted in then.items():
        key = id(noted.layer)
        found[name] = noted
        if key in left and left[key].shape != noted.shape:
            missing = max(0, noted.zeros - last[key].zeros)
            found[name] = left[key]._replace(zeros=left[key].zeros + missing)
    return found


def zeros_of(weight: "LinearWeight") -> int:
    """How many of its values are zero."""
    values = weight.values
    return values.numel() - int(values.count_nonzero())


def parameters(model: "LanguageModel") -> int:
    """Of parameters and buffers, a tied one counted once."""
    owners = model.owners()
    own = sum(tensor.numel() for name, tensor in model.tensors() if owners[name] == name)
    return own + sum(weight.values.numel() for weight in foreign(model))


def foreign(model: "LanguageModel") -> list["LinearWeight"]:
    """The weights that other libraries' layers hold."""
    return [weight for weight in model.layers() if weight.name in model.adopted]


def check_claim(step: str, claim: Claim, model: "LanguageModel", before: Before) -> None:
    """Measure whether a step did what it says.

    Args:
        step: its name, for the message.
        claim: what it says.
        model: after the step.
        before: what was counted before it.

    Raises:
        RecipeError: it touched nothing, or missed what it claims.
    """
    if claim.removed is not None:
        check_removed(step, claim.removed, before.parameters - parameters(model))
    if not claim.targets:
        message = f"{step} touched nothing: no layer was compressed."
        raise RecipeError(message)
    named = {weight.name: weight for weight in model.layers()}
    strange = sorted(set(claim.targets) - named.keys())
    if strange:
        message = f"{step} claims layers that the model does not have: {', '.join(strange[:5])}."
        raise RecipeError(message)
    touched = [named[name] for name in dict.fromkeys(claim.targets)]
    check_zeros(step, claim, touched, before.zeros)
    check_formats(step, claim, touched, "")


def check_again(step: str, claim: Claim, model: "LanguageModel", then: Mapping[str, Then]) -> None:
    """Measure after the whole recipe whether a step's work is still there.

    Later steps may add zeros and lower the bits, but undo neither. Layers that a later step
    removed cannot be held against the earlier one; all others can.

    Args:
        step: its name, for the message.
        claim: what it said.
        model: after all steps.
        then: all layers when the step had been applied, those that were cut since as they were
            behind the cut.

    Raises:
        RecipeError: it is not.
    """
    now = {weight.name: weight for weight in model.layers()}
    moved = {id(weight.layer): weight for weight in now.values()}
    switched = model.module is not model.snapshot.module
    touched, zeros = [], 0
    for name in dict.fromkeys(claim.targets):
        weight = moved.get(id(then[name].layer))
        if weight is None and (name in model.adopted or switched):
            weight = now.get(name)
        if weight is not None and weight.values.shape == then[name].shape:
            touched.append(weight)
            zeros += then[name].zeros
        elif weight is not None and claim.pattern is not None:  # of another network
            check_pattern(step, claim.pattern, weight, AFTER_ALL)
    if claim.zeros is not None or claim.sparsity is not None:
        check_zeros(step, Claim(targets=(), zeros=zeros), touched, None)
    check_formats(step, claim, touched, AFTER_ALL)


def check_removed(step: str, claimed: int, found: int) -> None:
    """So many parameters must be gone."""
    if found != claimed:
        message = (
            f"{step} was to remove {claimed} parameters, and {found} are gone: they were only "
            "masked, or something else changed its shape."
        )
        raise RecipeError(message)


def check_zeros(
    step: str,
    claim: Claim,
    touched: Sequence["LinearWeight"],
    before: Mapping[str, int] | None,
) -> None:
    """Count the zeros; without what was there before, there may be any number more."""
    total = sum(weight.values.numel() for weight in touched)
    if claim.zeros is not None:
        wanted, slack = float(claim.zeros), 0.0
    elif claim.sparsity is not None:
        wanted, slack = claim.sparsity * total, 0.5 * len(touched)
    else:
        return
    zeros = sum(zeros_of(weight) for weight in touched)
    most = float(total)
    if before is not None:
        most = wanted + slack + sum(before.get(weight.name, 0) for weight in touched)
    if not wanted - slack <= zeros <= most:
        when = AFTER_ALL if before is None else " after the step"
        message = (
            f"{step} was asked for sparsity {wanted / max(1, total):g} and "
            f"{zeros / max(1, total):.4f} was "
            f"measured{when} ({zeros} zeros of {total} weights in {len(touched)} layers)."
        )
        raise RecipeError(message)


def check_formats(step: str, claim: Claim, touched: Sequence["LinearWeight"], when: str) -> None:
    """Pattern, bits, and bits of the inputs, of each layer."""
    for weight in touched:
        if claim.pattern is not None:
            check_pattern(step, claim.pattern, weight, when)
        if claim.bits is not None:
            check_bits(step, claim.bits, weight, when)
        if claim.activation_bits is not None:
            found = getattr(weight.layer, "activation_bits", None)
            if found != claim.activation_bits:
                message = (
                    f"{step} was asked to round inputs to {claim.activation_bits} bits, but those "
                    f"of '{weight.name}' are {f'rounded to {found}' if found else 'not'}{when}."
                )
                raise RecipeError(message)


def check_pattern(step: str, pattern: tuple[int, int], weight: "LinearWeight", when: str) -> None:
    """No run of inputs may hold more weights than the pattern keeps."""
    keep, run = pattern
    values = weight.values
    runs = nn.functional.pad(values != 0, (0, -values.shape[1] % run)).unflatten(1, (-1, run))
    most = int(runs.sum(-1).max())
    if most > keep:
        message = (
            f"{step} was asked for the pattern {keep}:{run}, but '{weight.name}' has {most} "
            f"weights that are not zero in a run of {run}{when}."
        )
        if when:
            message += " A later step undid it: put the step with the pattern behind it."
        raise RecipeError(message)


def check_bits(step: str, bits: int, weight: "LinearWeight", when: str) -> None:
    """The weight must be what its packed codes give back, bit for bit."""
    stored = weight.stored
    if stored is not None and (stored.bits == bits or (when and stored.bits < bits)):
        return
    found = "lies on no grid" if stored is None else f"is stored in {stored.bits} bits"
    message = f"{step} was asked for {bits} bits, but '{weight.name}' {found}{when}."
    raise RecipeError(message)


def check_effect(model: "LanguageModel", footprint: Footprint) -> None:
    """A recipe must leave some trace: a changed tensor, rounded inputs, or fewer bytes.

    Raises:
        RecipeError: the compressed model is the dense one.
    """
    live = dict(model.tensors())
    changed = live.keys() != model.dense.keys() or any(
        not same(tensor, model.dense[name]) for name, tensor in live.items()
    )
    rounded = footprint.activation_bits is not None
    if not changed and not rounded and footprint.bytes >= footprint.dense_bytes:
        message = (
            "the recipe changed nothing: every weight is what it was and no byte is saved. "
            "What would be measured is the dense model."
        )
        raise RecipeError(message)


def is_touched(weight: "LinearWeight", *, packed: bool) -> bool:
    """Whether a step left a trace on a layer."""
    if packed or getattr(weight.layer, "activation_bits", None) is not None:
        return True
    return weight.dense is None or not same(weight.values, weight.dense)


def measure(model: "LanguageModel") -> Footprint:
    """Bytes, zeros, bits and error of the model as it is now, against its dense weights."""
    layers = model.layers()
    packed = {one.name: stored.nbytes for one in layers if (stored := one.stored) is not None}
    owners = model.owners()
    # A tied matrix is stored once; what says most of it is its packed form, or else the head.
    ranked = sorted(layers, key=lambda one: (one.name in packed, not is_embedding(one)))
    matrices = {owners.get(f"{one.name}.weight", one.name): one for one in ranked}
    touched = {
        owner: weight
        for owner, weight in matrices.items()
        if is_touched(weight, packed=weight.name in packed)
    }
    own = {name: tensor for name, tensor in model.tensors() if owners[name] == name}
    sizes = {name: tensor.nbytes for name, tensor in own.items()}
    filed = {} if model.filed is None else model.filed.now(model)
    sizes |= {name: size for name, size in (filed or {}).items() if name in own}
    sizes |= {owner: packed[one.name] for owner, one in matrices.items() if one.name in packed}
    total, count = sum(sizes.values()), parameters(model)
    weights = sum(weight.values.numel() for weight in touched.values())
    bits = 8 * sum(sizes[owner] for owner in touched) / weights if weights else 0.0
    if model.filed is not None and filed is None:
        # A file says what all tensors take, but not always what each does.
        total = model.filed.total
        bits = 8 * total / count
    zeros = sum(tensor.numel() - int(tensor.count_nonzero()) for tensor in own.values())
    comparable = [weight for weight in touched.values() if has_dense(weight)]
    return Footprint(
        bytes=total,
        dense_bytes=sum(t.nbytes for name, t in model.dense.items() if model.ties[name] == name),
        parameters=count,
        zeros=zeros + sum(map(zeros_of, foreign(model))),
        modules_touched=len(touched),
        modules=sum(
            owner in touched or not is_embedding(weight) for owner, weight in matrices.items()
        ),
        sparsity=sum(map(zeros_of, touched.values())) / weights if weights else 0.0,
        bits=bits,
        weight_error=relative_error(comparable),
        activation_bits=activation_bits(touched.values()),
        reshaped=len(touched) - len(comparable),
    )


def activation_bits(touched: Iterable["LinearWeight"]) -> int | None:
    """Of the inputs that are rounded; the most, where they differ."""
    found = [getattr(weight.layer, "activation_bits", None) for weight in touched]
    return max((bits for bits in found if bits is not None), default=None)


def is_embedding(weight: "LinearWeight") -> bool:
    """Whether it is a table that is looked up, and no layer that multiplies."""
    return isinstance(weight.layer, nn.Embedding)


def has_dense(weight: "LinearWeight") -> bool:
    """Whether the dense model has this weight, in this shape."""
    return weight.dense is not None and weight.dense.shape == weight.values.shape


def relative_error(weights: Sequence["LinearWeight"]) -> float:
    """``||dense - compressed|| / ||dense||`` in the Frobenius norm, over all weights at once."""
    distance = norm = 0.0
    for weight in weights:
        if weight.dense is None:
            continue
        dense = weight.dense.double()
        distance += float((weight.values.double() - dense).square().sum())
        norm += float(dense.square().sum())
    ratio = (distance / norm) ** 0.5 if norm else 0.0
    return float(f"{ratio:.6g}")  # the rest is the processor's order of summation
