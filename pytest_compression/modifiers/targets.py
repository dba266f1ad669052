"""Which weights a step works on, as far as that can be checked before a model is there."""

from dataclasses import dataclass
from typing import get_args

from pytest_compression.errors import OptionError, nearest
from pytest_compression.types import Targets, TargetSet

SETS: tuple[str, ...] = get_args(TargetSet)


def listed(targets: Targets) -> tuple[str, ...]:
    """One or several, always as several."""
    return (targets,) if isinstance(targets, str) else targets


def check_targets(
    targets: Targets, ignore: tuple[str, ...] = (), *, option: str = "targets"
) -> None:
    """Refuse names that are neither a set of weights nor a pattern of module names.

    Raises:
        OptionError: there is none, or a name without any of ``.*?[`` is no set.
    """
    if not listed(targets):
        message = f"'{option}' is empty"
        raise OptionError(message, option=option)
    for name in listed(targets):
        if name not in SETS and not set(name) & set(".*?["):
            message = (
                f"'{name}' is no set of weights ({', '.join(SETS)}) and no pattern of module "
                f"names, such as 'model.layers.0.*'. {nearest(name, SETS)}"
            )
            raise OptionError(message, option=option)
    for pattern in ignore:
        if pattern in SETS:
            message = f"'ignore' takes patterns of module names; '{pattern}' is a set"
            raise OptionError(message, option="ignore")


@dataclass(frozen=True, kw_only=True)
class Targeted:
    """Which weights a step works on."""

    targets: Targets = "all"
    """One or several named sets of weights, or patterns of module names."""
    ignore: tuple[str, ...] = ()
    """Patterns of module names that are left out."""

    def __post_init__(self) -> None:
        """Check the names."""
        check_targets(self.targets, self.ignore)
