"""The contracts of a pruner, of a quantizer and of any step, for everybody's own.

::

    from pytest_compression.testing import check_pruner

    def test_mine():
        check_pruner(MyPruner(sparsity=0.5))

The step is tried on small real models of each family, whose weights are what breaks thresholds
and quantizers: equal, zero, of one sign, tiny, in half precision, in matrices of one element. A
broken rule is a :class:`ContractError` that says which, where, and on what.

What every step keeps: it is a frozen dataclass whose options a suite can write; it takes effect,
and what it claims can be measured; it does the same each time, whatever torch's global seed; no
hook, gradient or training mode is left; the dense model can be restored bit by bit; what it cannot
do it refuses by a ``RecipeError``, for the shape of a model but not for the weights it holds. A
plain model it must take; larger ones are tried where it refuses the smallest.

A pruner also prunes exactly as many as it claims, and no more or fewer where weights are equal than
where all differ (those that were zero before may stay besides); with the options ``sparsity`` and
``scope`` (global, layer, row) that share, up to half a weight a ranking. It leaves what it keeps
and all else untouched bit by bit, refuses NaN, and changes nothing the second time. A quantizer
also gives back what it stores, takes as many bytes as it must, tells no more values apart than its
bits can, keeps zeros if it can hold them, brings constants back, and refuses NaN and infinities.

A step that also adjusts other weights, as training and second-order methods do, says so by the
class attribute ``contract: ClassVar[str] = "adjusts"``; one that suits a single model, as a
checkpoint does, by ``"model"``: a suite's contract tries it on no other.
"""

from collections.abc import Collection
from typing import Any

from pytest_compression.testing.contracts import ALL, Contract, Kind, architectures_of
from pytest_compression.testing.importing import check_light
from pytest_compression.testing.options import brief
from pytest_compression.testing.properties import ContractError, Property, error_within
from pytest_compression.testing.specimens import Plan, Size, Specimen, build
from pytest_compression.testing.strategies import plans, weights
from pytest_compression.types import Family

__all__ = [
    "ContractError",
    "Plan",
    "Size",
    "Specimen",
    "build",
    "check_light",
    "check_modifier",
    "check_pruner",
    "check_quantizer",
    "plans",
    "weights",
]


def check_pruner(
    step: Any,
    *,
    families: Collection[Family] = ALL,
    idempotent: bool = True,
    examples: int = 20,
) -> None:
    """Check a step that sets weights to zero.

    Args:
        step: with its options.
        families: of models that it supports.
        idempotent: whether applying it twice is applying it once.
        examples: models to draw, beside the chosen ones.

    Raises:
        ContractError: it breaks a rule.
        ValueError: the families are none, or unknown.
    """
    check(step, "pruner", families, examples, twice_is_once=idempotent)


def check_quantizer(
    step: Any,
    *,
    families: Collection[Family] = ALL,
    max_error: float | None = None,
    examples: int = 20,
) -> None:
    """Check a step that stores weights in a few bits.

    Args:
        step: with its options.
        families: of models that it supports.
        max_error: how far a weight may be off, as a share of its matrix's largest magnitude; half
            a step of a symmetric grid is ``1 / (2**bits - 2)``.
        examples: models to draw, beside the chosen ones.

    Raises:
        ContractError: it breaks a rule.
        ValueError: the families are none, or unknown.
    """
    more = () if max_error is None else (error_within(max_error),)
    check(step, "quantizer", families, examples, more=more)


def check_modifier(step: Any, *, families: Collection[Family] = ALL, examples: int = 20) -> None:
    """Check any step: all that it claims, and what every step keeps.

    Args:
        step: with its options.
        families: of models that it supports.
        examples: models to draw, beside the chosen ones.

    Raises:
        ContractError: it breaks a rule.
        ValueError: the families are none, or unknown.
    """
    check(step, "modifier", families, examples)


def check(  # noqa: PLR0913  # what the three have in common
    step: Any,
    kind: Kind,
    families: Collection[Family],
    examples: int,
    *,
    more: tuple[Property, ...] = (),
    twice_is_once: bool = False,
) -> None:
    """Check a step of a kind.

    Raises:
        ValueError: the families are none, or unknown.
    """
    given = {families} if isinstance(families, str) else set(families)
    if not given or given - set(ALL):
        message = f"families={families!r}: name one or several of {', '.join(ALL)}."
        raise ValueError(message)
    shorter, learns = brief(step)
    Contract(
        step=shorter,
        kind=kind,
        architectures=architectures_of([one for one in ALL if one in given]),
        more=more,
        twice_is_once=twice_is_once,
        examples=examples,
        learns=learns,
    ).check()
