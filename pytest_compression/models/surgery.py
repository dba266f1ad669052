"""Taking units and blocks out of a network, and telling its modules and its configuration so.

Numbers are read from the tensors that are left and written where modules and configurations keep
them, so that the network runs, and so that what is saved is loaded again as it is. Where a
configuration has no words for it, the network runs all the same, and cannot be saved.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.models.anatomy import Stack, blocks_of, stacks_of
from pytest_compression.models.snapshot import settings_of
from pytest_compression.models.units import Units, edge, foreign, has, head_counts
from pytest_compression.models.weights import LinearWeight
from pytest_compression.types import Stored

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

BY_BLOCK = ("layer_types", "no_rope_layers")
"""Settings that are lists with one entry a block."""


@runtime_checkable
class Cuttable(Stored, Protocol):
    """A packed form that can be cut with its weight."""

    def kept(self, axis: int, places: Tensor) -> Stored:
        """Some of its rows (axis 0) or columns (axis 1), ascending; each value stays as it is."""


def check_cuttable(model: "LanguageModel", units: Units) -> None:
    """Refuse units with a share of a weight that cannot be cut.

    Raises:
        RecipeError: another library holds it, or its packed form can only be read whole.
    """
    for one in units.edges:
        if one.name in model.adopted:
            raise RecipeError(foreign(one.name, one.layer))
        stored = model.stored.get(one.name)
        if stored is not None and not isinstance(stored, Cuttable):
            message = (
                f"'{one.name}' is stored as {type(stored).__name__} by now, which has no method "
                "'kept' to cut it by: put this step before the one that quantizes."
            )
            raise RecipeError(message)


def cut(model: "LanguageModel", units: Units, kept: Tensor) -> None:
    """Keep some units, in the layers and in the packed forms of their weights."""
    for one in units.edges:
        if one.name in model.stored:
            now = LinearWeight(model, one.name, one.layer).stored  # what later steps left of it
            del model.stored[one.name]
            if isinstance(now, Cuttable):
                model.stored[one.name] = now.kept(one.axis, one.places(kept, units.count))
    units.cut(kept)


def settings(module: nn.Module) -> Iterator[Any]:
    """The configuration, and the copies of it that two stacks have."""
    config: Any = module.config
    for one in settings_of(module):
        if getattr(one, "model_type", None) == config.model_type:
            yield one


def correct(thing: Any, numbers: dict[str, int]) -> None:
    """Write those numbers that a module or a configuration has, and that are others now."""
    for name, number in numbers.items():
        if name and getattr(thing, name, number) != number:
            setattr(thing, name, number)


def note_heads(module: nn.Module) -> None:
    """Write down how many heads the attentions have."""
    for stack in stacks_of(module):
        for block in blocks_of(module, stack).values():
            for attention in stack.attentions:
                heads, shared, size = head_counts(attention, block)
                owner = block.get_submodule(attention.module)
                correct(owner, dict.fromkeys(("num_heads", "n_heads"), heads))
                correct(owner, {"num_attention_heads": heads, "num_key_value_heads": shared})
                correct(owner, {"num_key_value_groups": heads // shared})
                width = heads * size
                correct(owner, dict.fromkeys(("all_head_size", "inner_dim", "split_size"), width))
        for config in settings(module):
            if stack.heads and getattr(config, stack.heads) != heads:
                setattr(config, stack.head_size, size)  # or it would follow from their number
                setattr(config, stack.heads, heads)
                correct(config, {stack.key_value_heads: shared})


def note_neurons(module: nn.Module) -> None:
    """Write down how many neurons the feed-forward parts have."""
    for stack in stacks_of(module):
        part = stack.feed_forward
        for block in blocks_of(module, stack).values():
            neurons = edge(block, "", part.output, rows=False).matrix.shape[1]
            owner = block.get_submodule(part.output.rpartition(".")[0])
            correct(owner, {"intermediate_size": neurons})
        for config in settings(module):
            correct(config, {stack.neurons: neurons})


def note_blocks(module: nn.Module) -> None:
    """Write down how many blocks the stacks have."""
    stacks = {stack: list(blocks_of(module, stack)) for stack in stacks_of(module)}
    for stack, names in stacks.items():
        for config in settings(module):
            correct(config, {stack.layers: len(names)})
    for stack, names in stacks.items():
        owner: Any = module.get_submodule(names[0].rsplit(".", 2)[0])
        correct(owner, {"n_layers": len(names)})
        if stack.own_layers:
            correct(owner.config, {stack.own_layers: len(names)})


def keep_blocks(module: nn.Module, stack: Stack, kept: Sequence[int]) -> dict[str, str]:
    """Take all other blocks out of a stack.

    Those that stay are counted anew, for a cache finds their keys and values by number.

    Args:
        module: the network.
        stack: one of its stacks.
        kept: places of the blocks that stay, ascending.

    Returns:
        New names of those that stay, by their old ones.
    """
    blocks = blocks_of(module, stack)
    names = list(blocks)
    stay = [blocks[names[place]] for place in kept]
    keep_bias(stack, blocks[names[0]], stay[0])
    inside = names[0].rpartition(".")[0]
    module.set_submodule(inside, nn.ModuleList(stay).train(stay[0].training))
    for number, block in enumerate(stay):
        for part in block.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = number  # type: ignore[assignment]
    for config in settings(module):
        for name in BY_BLOCK:
            entries = getattr(config, name, None)
            if entries is not None:
                setattr(config, name, [entries[place] for place in kept])
    note_blocks(module)
    return {names[place]: f"{inside}.{number}" for number, place in enumerate(kept)}


def keep_bias(stack: Stack, first: nn.Module, stays: nn.Module) -> None:
    """Hand a bias of distances, which belongs to all blocks, on to the first that stays."""
    for attention in stack.attentions:
        if has(first, attention.bias) and not has(stays, attention.bias):
            stays.set_submodule(attention.bias, first.get_submodule(attention.bias))
            owner: Any = stays.get_submodule(attention.module)
            owner.has_relative_attention_bias = True
