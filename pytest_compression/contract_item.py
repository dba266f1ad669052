"""The item that checks what the steps of a recipe promise; a suite asks for it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compression import registry, suite
from pytest_compression.outcomes import ContractBroken, told
from pytest_compression.report import progress
from pytest_compression.report.properties import CONTRACT

if TYPE_CHECKING:
    from collections.abc import Callable


class Contract(pytest.Item):
    """Whether the recipe took effect on the model, and its steps keep the contract of their kind.

    It is no trial: it asks nothing, needs no baseline, and records none.
    """

    check: "Callable[..., str]"

    @classmethod
    def from_parent(cls, parent: Any, **kwargs: Any) -> "Contract":
        """As every node's."""
        node = super().from_parent(parent, name=suite.CONTRACT, **kwargs)
        node.add_marker("compression")
        node.user_properties.append((CONTRACT, node.nodeid))
        return node

    @property
    def variant(self) -> Any:
        """The variant whose recipe it is, as it was set up."""
        return self.parent

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """What headings name it."""
        return self.path, None, f"{self.variant.name}::{self.name}"

    def setup(self) -> None:
        """Find what checks it."""
        with told():
            self.check = registry.checker()

    def runtest(self) -> None:
        """Check, and fail if a rule is broken."""
        variant = self.variant
        with progress.watching(self.config, variant.model, f"{variant.name}::{self.name}"):
            broken = self.check(variant.modifiers, variant.model, variant.footprint)
        if broken:
            message = (
                f"{self.nodeid}: a contract is broken.\n\n  {broken}\n\nWhat every pruner, "
                "quantizer and step must keep: python -m pydoc pytest_compression.testing"
            )
            raise ContractBroken(message, pytrace=False)
