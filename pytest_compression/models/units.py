"""Heads and neurons as units that can be taken out of the layers they have a share of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.structured import members
from pytest_compression.models.anatomy import Attention, Stack, blocks_of, stacks_of
from pytest_compression.models.layers import RoundedConv1D, RoundedLinear

Unit = Literal["head", "query"]

SIZES: dict[type, tuple[str, str]] = {
    nn.Linear: ("out_features", "in_features"),
    RoundedLinear: ("out_features", "in_features"),
    Conv1D: ("nf", "nx"),
    RoundedConv1D: ("nf", "nx"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}
"""What layers call the two sides of their matrix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Edge:
    """The side of a layer's matrix that is made of units."""

    name: str
    layer: nn.Module
    rows: bool
    """Its outputs, with their biases; otherwise its inputs."""
    parts: int = 1
    """How many times the units come one after the other."""

    @property
    def matrix(self) -> Tensor:
        """``[out_features, in_features]``."""
        weight: Tensor = self.layer.weight.data  # type: ignore[assignment]
        return weight.t() if isinstance(self.layer, Conv1D) else weight

    @property
    def bias(self) -> Tensor | None:
        """``[out_features]``, if it is the units'."""
        return getattr(self.layer, "bias", None) if self.rows else None

    def of_units(self, units: int) -> Iterator[Tensor]:
        """What each unit holds: ``[units, parts, size, other side]``, and of biases."""
        matrix = self.matrix if self.rows else self.matrix.t()
        for tensor in (matrix, self.bias):
            if tensor is not None:
                yield tensor.unflatten(0, (self.parts, units, -1)).transpose(0, 1)

    @property
    def axis(self) -> int:
        """Of the matrix, along which the units lie."""
        return 0 if self.rows else 1

    def places(self, kept: Tensor, units: int) -> Tensor:
        """Where on this axis the units lie that are kept, ascending."""
        return members(kept, units, self.matrix.shape[self.axis], self.parts)

    def cut(self, places: Tensor) -> None:
        """Keep what lies at some places of the axis, in new and smaller tensors."""
        matrix, bias = self.matrix.index_select(self.axis, places), self.bias
        turned = matrix.t() if isinstance(self.layer, Conv1D) else matrix
        self.layer.weight = nn.Parameter(turned.contiguous(), requires_grad=False)
        if bias is not None:
            self.layer.bias = nn.Parameter(bias.data[places], requires_grad=False)
        for name, size in zip(SIZES[type(self.layer)], matrix.shape, strict=True):
            setattr(self.layer, name, size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """The heads of one attention, or the neurons of one feed-forward part."""

    name: str
    """Of the layer that sums them up."""
    count: int
    edges: tuple[Edge, ...]
    """The last is the one that sums them up."""
    groups: int = 1
    """The units come in so many groups, of which each must keep the same number."""
    decodes: bool = False
    """Whether their tokens are those of the answer, in a model of two stacks."""

    def parameters(self) -> int:
        """How many belong to one unit."""
        return sum(one[0].numel() for edge in self.edges for one in edge.of_units(self.count))

    def cut(self, kept: Tensor) -> None:
        """Keep some of them."""
        for edge in self.edges:
            edge.cut(edge.places(kept, self.count))


def neurons_of(module: nn.Module) -> list[list[Units]]:
    """The neurons of each feed-forward part.

    Raises:
        RecipeError: the architecture is not known, or a layer cannot be cut.
    """
    found = []
    for stack in stacks_of(module):
        part = stack.feed_forward
        for name, block in known_blocks(module, stack).items():
            inputs = [path for path in part.inputs if has(block, path)]
            edges = [edge(block, name, path, parts=part.parts) for path in inputs]
            edges.append(edge(block, name, part.output, rows=False))
            found.append([units(edges, edges[-1].matrix.shape[1], stack)])
    return found


def heads_of(module: nn.Module, unit: Unit) -> list[list[Units]]:
    """The heads of each attention; those in one list must keep the same ones.

    Args:
        module: the network.
        unit: ``head`` takes keys and values along, and all query heads that share them;
            ``query`` leaves keys and values where they are.

    Raises:
        RecipeError: the architecture is not known, its heads are no such units, or a layer cannot
            be cut.
    """
    found = []
    for stack in stacks_of(module):
        blocks = known_blocks(module, stack)
        for attention in stack.attentions:
            each = [
                of_attention(stack, attention, name, block, unit) for name, block in blocks.items()
            ]
            biases = sum(has(block, attention.bias) for block in blocks.values())
            shared = 0 < biases < len(blocks)  # one bias serves the heads of all blocks
            found += [each] if shared else [[one] for one in each]
    return found


def of_attention(
    stack: Stack, attention: Attention, name: str, block: nn.Module, unit: Unit
) -> Units:
    """The heads of one attention."""
    heads, shared, _ = head_counts(attention, block, name)
    if unit == "query" and heads == shared:
        message = (
            f"the query heads of '{name}' have a key and value head each, so none can go alone: "
            "write unit: head."
        )
        raise RecipeError(message)
    if unit == "head" and shared == 1 < heads:
        message = (
            f"all query heads of '{name}' share one key and value head, which must stay: write "
            "unit: query."
        )
        raise RecipeError(message)
    inputs = attention.inputs[:1] if unit == "query" else attention.inputs
    parts = attention.parts if len(inputs) == 1 else 1
    edges = [edge(block, name, path, parts=parts) for path in inputs]
    if has(block, attention.bias):
        edges.append(edge(block, name, attention.bias, rows=False))
    edges.append(edge(block, name, attention.output, rows=False))
    if unit == "query":
        return units(edges, heads, stack, groups=shared)
    return units(edges, shared, stack)


def head_counts(attention: Attention, block: nn.Module, name: str = "") -> tuple[int, int, int]:
    """How many query heads there are, how many key and value heads, and a head's features.

    Raises:
        RecipeError: a layer, called by the block's ``name``, cannot be cut.
    """
    size: int = getattr(block.get_submodule(attention.module), attention.size)
    heads = edge(block, name, attention.output, rows=False).matrix.shape[1] // size
    if len(attention.inputs) == 1:
        return heads, heads, size
    return heads, edge(block, name, attention.inputs[1]).matrix.shape[0] // size, size


def units(edges: list[Edge], count: int, stack: Stack, groups: int = 1) -> Units:
    """Units with their edges, the last of which sums them up."""
    return Units(
        name=edges[-1].name, count=count, edges=tuple(edges), groups=groups, decodes=stack.decodes
    )


def edge(block: nn.Module, name: str, path: str, *, rows: bool = True, parts: int = 1) -> Edge:
    """An edge, by the name of its layer inside a block.

    Raises:
        RecipeError: an earlier step made the layer one that cannot be cut.
    """
    layer, called = block.get_submodule(path), f"{name}.{path}"
    if type(layer) not in SIZES:  # it may not even have a matrix
        raise RecipeError(foreign(called, layer))
    return Edge(name=called, layer=layer, rows=rows, parts=parts)


def foreign(name: str, layer: nn.Module) -> str:
    """Why another library's layer cannot be cut, and what to do."""
    return (
        f"'{name}' is a {type(layer).__name__} of another library by now, out of which nothing can "
        "be cut: put this step before that library's."
    )


def has(block: nn.Module, path: str) -> bool:
    """Whether a block has a layer of this name."""
    return any(name == path for name, _ in block.named_modules() if name)


def known_blocks(module: nn.Module, stack: Stack) -> dict[str, nn.Module]:
    """The blocks of a stack by dotted name, if they are what the table says.

    Raises:
        RecipeError: a block has linear layers besides.
    """
    paths = {*stack.feed_forward.inputs, stack.feed_forward.output}
    for attention in stack.attentions:
        paths |= {*attention.inputs, attention.output}
    found = blocks_of(module, stack)
    for name, block in found.items():
        for path, layer in block.named_modules():
            if isinstance(layer, (nn.Linear, Conv1D)) and path not in paths:
                message = (
                    f"'{name}.{path}' is a layer that blocks of this architecture do not have "
                    "otherwise: what depends on their heads and neurons is not known, so none can "
                    "be removed."
                )
                raise RecipeError(message)
    return found
