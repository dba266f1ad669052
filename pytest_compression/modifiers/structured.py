"""Structured pruning steps: heads, neurons and layers that are really gone.

The options are light to import; torch comes with ``apply``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.material import Material
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pytest_compression.models.anatomy import Stack
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.units import Units
    from pytest_compression.models.weights import LinearWeight

Share = Annotated[float, Meta(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Remove the attention heads that matter least: as many of each attention.

    Of a T5, whose blocks share one bias of positions by head, all blocks of a stack lose the same
    heads.

    Source: Michel et al. 2019, https://arxiv.org/abs/1905.10650.
    """

    sparsity: Share
    """Of ``n`` heads of an attention, ``round(sparsity * n)`` go; those that go together count as
    one, and query heads that go alone are counted among those that share."""
    importance: Literal["norm", "activations"] = "norm"
    """The norm of all weights that would go, or of what the head adds to the attention's output
    over the tokens of ``calibration``."""
    calibration: Material | None = None
    unit: Literal["head", "query"] = "head"
    """What goes together where several query heads share a key and a value head: all of these, or
    single query heads, equally many of those that share, so that keys and values stay."""

    def __post_init__(self) -> None:
        """Check that there is material where it is needed."""
        check_calibration(self.importance, self.calibration)

    def apply(self, model: "LanguageModel") -> Claim:
        """Cut the matrices, and the codes of those that are quantized, in place."""
        from pytest_compression.models.surgery import note_heads
        from pytest_compression.models.units import heads_of

        claim = remove(model, heads_of(model.module, self.unit), self)
        note_heads(model.module)
        return claim


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """Remove the feed-forward neurons that matter least: as many of each block.

    Source: Fang et al. 2023, https://arxiv.org/abs/2301.12900.
    """

    sparsity: Share
    """Of ``n`` neurons of a block, ``round(sparsity * n)`` go."""
    importance: Literal["norm", "activations"] = "norm"
    """The norm of all weights that would go, or of what the neuron adds to the block's output over
    the tokens of ``calibration``."""
    calibration: Material | None = None

    def __post_init__(self) -> None:
        """Check that there is material where it is needed."""
        check_calibration(self.importance, self.calibration)

    def apply(self, model: "LanguageModel") -> Claim:
        """Cut the matrices, and the codes of those that are quantized, in place."""
        from pytest_compression.models.surgery import note_neurons
        from pytest_compression.models.units import neurons_of

        claim = remove(model, neurons_of(model.module), self)
        note_neurons(model.module)
        return claim


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Remove whole blocks: as many, or the same share, of the encoder and of the decoder.

    Source: Men et al. 2024, https://arxiv.org/abs/2403.03853.
    """

    sparsity: Share | None = None
    """Of ``n`` blocks of a stack, ``round(sparsity * n)`` go."""
    count: Annotated[int, Meta(ge=1)] | None = None
    """How many blocks of a stack go; exactly one of both is said."""
    importance: Literal["norm", "activations", "depth"] = "norm"
    """The norm of a block's weights; how far it turns the hidden states of ``calibration``, which
    is the Block Influence of Men et al. 2024, https://arxiv.org/abs/2403.03853; or how early it
    comes, so that the last ones go (Sajjad et al. 2020, https://arxiv.org/abs/2004.03844)."""
    calibration: Material | None = None

    def __post_init__(self) -> None:
        """Check that it is said how many, and that there is material where it is needed."""
        if (self.sparsity is None) == (self.count is None):
            message = "exactly one of 'sparsity' and 'count' is needed"
            raise ValueError(message)
        check_calibration(self.importance, self.calibration)

    def apply(self, model: "LanguageModel") -> Claim:
        """Take the blocks out, and count the others anew."""
        import torch

        from pytest_compression.kernels.structured import keep_units
        from pytest_compression.models.anatomy import blocks_of, stacks_of
        from pytest_compression.models.surgery import keep_blocks

        stacks = stacks_of(model.module)
        before, targets = sizes(model), list[str]()
        blocks = [blocks_of(model.module, stack) for stack in stacks]
        shares = [self.share(stack, list(each)) for stack, each in zip(stacks, blocks, strict=True)]
        ranks = self.ranked(model, list(zip(stacks, blocks, strict=True)))
        for stack, each, share in zip(stacks, blocks, shares, strict=True):
            rank = torch.stack([ranks[name] for name in each])
            kept = keep_units(rank.unsqueeze(0), share)
            names = keep_blocks(model.module, stack, kept.tolist())
            rename(model, list(each), names)
            targets += [one.name for name in names.values() for one in inside(model, name)]
        left = sizes(model)
        removed = sum(size for key, size in before.items() if key not in left)
        return Claim(targets=targets, removed=removed)

    def share(self, stack: "Stack", names: Sequence[str]) -> float:
        """How many of a stack's blocks go.

        Raises:
            RecipeError: none or all would go, or the blocks share their weights.
        """
        if not stack.layers:
            message = (
                f"'{names[0]}' is run again and again: its layers share their weights, so removing "
                "some saves nothing."
            )
            raise RecipeError(message)
        found = self.count / len(names) if self.count is not None else self.sparsity or 0.0
        check_share(found, len(names), f"blocks from '{names[0]}' on")
        return found

    def ranked(
        self,
        model: "LanguageModel",
        stacks: Sequence[tuple["Stack", Mapping[str, "nn.Module"]]],
    ) -> dict[str, "Tensor"]:
        """The importance of each block, by name."""
        import torch

        from pytest_compression.kernels.structured import joint_norm, unit_norms
        from pytest_compression.models.activations import influences_of

        if self.calibration is not None:
            watched = {
                name: (block, stack.decodes)
                for stack, each in stacks
                for name, block in each.items()
            }
            return influences_of(model, watched, self.calibration.batches(model))
        names = [name for _, each in stacks for name in each]
        if self.importance == "depth":
            return {name: torch.tensor(-float(place)) for place, name in enumerate(names)}
        return {
            name: joint_norm(unit_norms(one.values.unsqueeze(0)) for one in inside(model, name))[0]
            for name in names
        }


def check_calibration(importance: str, calibration: Material | None) -> None:
    """Refuse activations without material, and material for anything else.

    Raises:
        ValueError: one is there without the other.
    """
    if (importance == "activations") != (calibration is not None):
        message = "'calibration' is needed for importance 'activations', and for no other"
        raise ValueError(message)


def check_share(sparsity: float, count: int, what: str) -> None:
    """Refuse to remove none or all.

    Raises:
        RecipeError: that is what rounding comes to.
    """
    gone = round(sparsity * count)
    if not 0 < gone < count:
        message = (
            f"of the {count} {what}, {gone} would be removed: at least one must go, and one stay. "
            "Choose another number."
        )
        raise RecipeError(message)


def remove(
    model: "LanguageModel", bundles: Sequence[Sequence["Units"]], step: Heads | Neurons
) -> Claim:
    """Cut out the least important units.

    Args:
        model: to be changed in place.
        bundles: units of several places that must keep the same ones.
        step: how many, and what is important.
    """
    from pytest_compression.kernels.structured import joint_norm, keep_units
    from pytest_compression.models.surgery import check_cuttable, cut

    every = [units for bundle in bundles for units in bundle]
    what = type(step).__name__.lower()
    for units in every:
        check_cuttable(model, units)
        check_share(step.sparsity, units.count // units.groups, f"{what} at '{units.name}'")
    ranks = dict(zip([units.name for units in every], ranked(model, every, step), strict=True))
    removed, targets = 0, list[str]()
    for bundle in bundles:
        rank = joint_norm(ranks[units.name] for units in bundle)
        kept = keep_units(rank.unflatten(0, (bundle[0].groups, -1)), step.sparsity)
        for units in bundle:
            removed += (units.count - len(kept)) * units.parameters()
            cut(model, units, kept)
            targets += [edge.name for edge in units.edges]
    worked_on = set(targets)
    return Claim(
        targets=[one.name for one in model.layers() if one.name in worked_on], removed=removed
    )


def ranked(
    model: "LanguageModel", every: Sequence["Units"], step: Heads | Neurons
) -> list["Tensor"]:
    """The importance of all units."""
    from pytest_compression.kernels.structured import joint_norm, unit_norms
    from pytest_compression.models.activations import contributions_of

    if step.calibration is not None:
        return contributions_of(model, every, step.calibration.batches(model))
    return [
        joint_norm(
            unit_norms(tensor) for edge in units.edges for tensor in edge.of_units(units.count)
        )
        for units in every
    ]


def inside(model: "LanguageModel", block: str) -> list["LinearWeight"]:
    """The weights of a block."""
    return [weight for weight in model.layers() if weight.name.startswith(f"{block}.")]


def sizes(model: "LanguageModel") -> dict[int, int]:
    """How many parameters each tensor, and each layer of another library, has: by address."""
    found = {tensor.data_ptr(): tensor.numel() for _, tensor in model.tensors()}
    foreign = [weight for weight in model.layers() if weight.name in model.adopted]
    return found | {id(weight.layer): weight.values.numel() for weight in foreign}


def rename(model: "LanguageModel", blocks: Sequence[str], names: dict[str, str]) -> None:
    """Carry over what earlier steps noted of layers by name.

    Args:
        model: of which blocks were removed.
        blocks: names that its blocks had.
        names: new ones of those that are left.
    """
    for held in (model.stored, model.adopted, model.origins):
        noted: dict[str, Any] = dict(held)
        held.clear()
        for name, value in noted.items():
            block = next((block for block in blocks if name.startswith(f"{block}.")), "")
            if not block:
                held[name] = value
            elif block in names:
                held[names[block] + name.removeprefix(block)] = value
