"""A model that somebody compressed elsewhere, in place of the dense one."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pytest_compression.errors import ModelError, RecipeError
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.sources import Pretrained

SHARED = (
    *("path", "revision", "gguf_file"),
    *("trust_remote_code", "allow_pickle", "ignore_unexpected"),
)
"""Options that mean what they mean for a dense model."""

NUMBERED = re.compile(r"(.*?)\.(\d+)\.")
"""A list of blocks, the place in it, and what follows."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Judge a released file: read it, hold it against the dense model, and put it in its place."""

    contract: ClassVar[str] = "model"

    path: str
    """A directory (absolute, or relative to where pytest was started) or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    gguf_file: str | None = None
    """Name of a GGUF file in the directory or repository; it is dequantized."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """What it computes in: of itself the dense model's, but where weights stay packed
    (bitsandbytes, optimum-quanto, torchao, GPTQ, AWQ) that of its own configuration."""
    trust_remote_code: bool = False
    """Run code that the repository brings. Off unless the suite says so."""
    allow_pickle: bool = False
    """Read weights that are not safetensors; loading a pickle can run code."""
    ignore_unexpected: tuple[str, ...] = ()
    """Patterns of tensor names that the file may hold and the model does not use; they are not
    counted among its bytes."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Read it and put it in place of the whole network.

        Raises:
            ModelError: it cannot be read, is of another family, vocabulary or tokenizer, or holds
                NaN or infinite weights.
            RecipeError: it is not the first step, or is the dense model itself.
        """
        from pytest_compression.models.checkpoints import read, try_out
        from pytest_compression.models.filed import Filed
        from pytest_compression.modifiers.packed_layers import take_over

        refuse_changed(model)
        facts = model.environment()
        dtype, device = facts["dtype"], facts["device"]
        artifact = read(self.source(dtype, device), model, as_stored=self.dtype is None)
        stored = artifact.nbytes(self.ignore_unexpected)
        lies = artifact.lies_as_stored(stored)
        model.switch(artifact.module)
        model.origins = dict.fromkeys(renumbered(model), "")
        take_over(model, artifact.sizes)
        if not lies:
            model.filed = Filed(model, stored, artifact.sizes)
        try_out(model, self.path)
        refuse_broken(model, self.path)
        if not is_changed(model):
            message = (
                f"'{self.path}' is the dense model itself: every tensor is the same. What would be "
                "measured is the dense model."
            )
            raise RecipeError(message)
        return Claim(targets=[weight.name for weight in model.linear()])

    def source(self, dtype: str, device: str) -> "Pretrained":
        """Where it is, and how it may be read."""
        from pytest_compression.models.sources import Pretrained

        options = {name: getattr(self, name) for name in SHARED}
        return Pretrained(dtype=self.dtype or dtype, device=device, **options)  # type: ignore[arg-type]

    def environment(self) -> dict[str, str]:
        """Its files' content, for a path may hold another model tomorrow, and who reads them."""
        from pytest_compression.models.checkpoints import origin

        return origin(self.source("float32", "cpu"))


def renumbered(model: "LanguageModel") -> list[str]:
    """Layers in lists of another length than the dense model's: nothing says which is which."""
    names = [weight.name for weight in model.layers()]
    new, dense = lengths(names), lengths(model.dense)
    return [
        name
        for name in names
        if (found := NUMBERED.match(name)) and new[found[1]] != dense.get(found[1])
    ]


def lengths(names: Iterable[str]) -> dict[str, int]:
    """How many numbers follow each list's name."""
    places = {found.groups() for name in names if (found := NUMBERED.match(name))}
    return Counter(name for name, _ in places)


def is_changed(model: "LanguageModel") -> bool:
    """Whether any tensor is another than the dense model's."""
    from pytest_compression.models.snapshot import same

    live = dict(model.tensors())
    return live.keys() != model.dense.keys() or any(
        not same(tensor, model.dense[name]) for name, tensor in live.items()
    )


def refuse_broken(model: "LanguageModel", path: str) -> None:
    """Refuse packed layers that hold no numbers, which attention can hide from the logits.

    Raises:
        ModelError: a weight or bias of one is NaN or infinite.
    """
    from pytest_compression.models.completeness import listed

    broken = [
        weight.name
        for weight in model.linear()
        if weight.stored is not None
        for held in (weight.values, getattr(weight.layer, "bias", None))
        if held is not None and not held.isfinite().all()
    ]
    if broken:
        message = f"'{path}' holds NaN or infinite weights in {listed(broken)}."
        raise ModelError(message)


def refuse_changed(model: "LanguageModel") -> None:
    """Refuse to throw away what an earlier step did.

    Raises:
        RecipeError: it would be lost without a word.
    """
    if is_changed(model):
        message = (
            "Checkpoint puts another network in place of the whole, and with it of what earlier "
            "steps did: make it the first step."
        )
        raise RecipeError(message)
