"""What a step says of itself, and the shorter form in which it is tried."""

import dataclasses
from typing import Any, Final, Literal, get_args

import msgspec

from pytest_compression.testing.properties import ContractError, require

Exactness = Literal["exact", "adjusts", "model"]
"""What a step says of itself by the class attribute ``contract``: it prunes or rounds and changes
nothing else (if it says nothing); it also adjusts other weights, as training and second-order
methods do; it suits one model alone, as a checkpoint does, and is tried on no other."""

KINDS: Final[tuple[Exactness, ...]] = get_args(Exactness)

ROWS, TOKENS = 4, 32
"""What a step calibrates on or learns from here, at most: it is to be tried, not to be good."""
COURSE = {"steps": 12, "epochs": 1}
"""How long it learns, at most, by the names of the options that say so."""


def exactness(step: Any) -> Exactness:
    """What a step says of itself.

    Raises:
        ContractError: it says something else.
    """
    said: Any = getattr(type(step), "contract", "exact")
    require(
        said in KINDS,
        f"{type(step).__name__} says contract = {said!r}: a step says one of {', '.join(KINDS)}, "
        "or nothing, which is 'exact'.",
    )
    found: Exactness = said
    return found


def brief(step: Any) -> tuple[Any, bool]:
    """The step with less to calibrate on or to learn from, and whether it does either."""
    less: dict[str, Any] = {
        field.name: msgspec.structs.replace(
            given, samples=min(ROWS, given.samples), length=min(TOKENS, given.length)
        )
        for field in dataclasses.fields(step)
        if hasattr(given := getattr(step, field.name), "batches")
    }
    if less:
        for name, most in COURSE.items():
            given = getattr(step, name, None)
            if isinstance(given, int):
                less[name] = min(most, given)
    return dataclasses.replace(step, **less), bool(less)


def by_itself(step: Any) -> Any | None:
    """The step with its weights counted by themselves, if it counts those of others.

    A small model may have no layers of these names, or too few weights.
    """
    counts = any(
        field.name == "count_of" and field.default is None for field in dataclasses.fields(step)
    )
    if not counts or step.count_of is None:
        return None
    return dataclasses.replace(step, count_of=None)


def require_options(step: Any) -> None:
    """A step is a frozen dataclass, and a suite can write all of its options."""
    kind = type(step)
    parameters = getattr(kind, "__dataclass_params__", None)
    require(
        parameters is not None and parameters.frozen,
        f"{kind.__name__} must be a dataclass with frozen=True: its fields are its options.",
    )
    try:
        read = msgspec.convert(msgspec.to_builtins(step), kind)
    except (msgspec.ValidationError, TypeError) as error:
        message = f"{kind.__name__} has options that no suite can write: {error}."
        raise ContractError(message) from error
    require(read == step, f"{kind.__name__} is another step when a suite writes its options.")
