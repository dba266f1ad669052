"""What a network that was read from a file takes in that file, as long as nothing changes it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_compression.fingerprints import digest
from pytest_compression.models.identity import content

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


class Filed:
    """Bytes of a file, and of those of its tensors that the network has as they are."""

    def __init__(self, model: "LanguageModel", total: int, sizes: Mapping[str, int]) -> None:
        """Note a network that was just read.

        Args:
            model: with the network in place, its packed layers adopted.
            total: bytes of all tensors in the file.
            sizes: of each of them, by name.
        """
        self.total = total
        self.adopted = dict(model.stored)
        self.digests = digests(model)
        self.sizes: dict[str, int] = {}
        """By digest, for later steps move layers to other names."""
        for name, found in self.digests.items():
            size = sizes.get(name) or of_layer(sizes, name.removesuffix(".weight"))
            if size:
                self.sizes[found] = size

    def now(self, model: "LanguageModel") -> dict[str, int] | None:
        """Bytes of the tensors that are still as they were read; None if all are.

        One whose file has it under a name that is not the network's, as GGUF's have, is not among
        them: then it counts as it lies in memory.
        """
        found = digests(model)
        if found == self.digests and model.stored == self.adopted:
            return None
        return {name: self.sizes[one] for name, one in found.items() if one in self.sizes}


def digests(model: "LanguageModel") -> dict[str, str]:
    """Of each tensor's dtype, shape and bytes, by name."""
    return {name: digest(content({"": tensor})) for name, tensor in model.tensors()}


def of_layer(sizes: Mapping[str, int], layer: str) -> int:
    """Bytes of all that a file stores of a layer but its bias."""
    return sum(
        size
        for name, size in sizes.items()
        if name.startswith(f"{layer}.") and name != f"{layer}.bias"
    )
