"""What quantized graphs hold: which tensor is which layer's weight, and its codes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pytest_compression.fingerprints import digest
from pytest_compression.models.weights import LinearWeight
from pytest_compression.modifiers.backends.foreign import Stored, nbytes

QUANTIZED, SCALE, ZERO_POINT = "_quantized", "_scale", "_zero_point"
"""Endings of the names of what takes the place of a weight."""
MADE = ("", "_quant", "_MatMul", "_MatMul_quant")
"""Endings of the names of what takes the place of a node, itself or as a product without a bias."""
INPUT_BITS = 8


class Use(NamedTuple):
    """Where a graph uses a matrix."""

    node: str
    place: int
    """Of the matrix among what the node reads."""
    layers: tuple[str, ...]
    """Dotted names of those whose weight it is, several if they are equal; none of embeddings
    other than those of tokens."""


def inline(graph: Any) -> None:
    """Let every node read tensors by the name under which they are stored.

    The exporter keeps equal tensors once and copies them in the graph, and the quantizer passes
    over copies without a word: of ALBERT's layers, which are one, it would quantize the first.
    """
    held = {tensor.name: tensor.name for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in held:
            held[node.output[0]] = held[node.input[0]]
            continue
        node.input[:] = [held.get(name, name) for name in node.input]
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def uses(graph: Any, weights: Sequence[LinearWeight]) -> Iterator[Use]:
    """Every use of a matrix in a graph as it was exported.

    Matrices are known by their values, for they are stored turned, under names that say nothing.
    """
    matrices = {n: content(t) for n, t in tensors_of(graph).items() if t.dim() == 2}
    products: dict[str, set[str]] = {}
    tables: dict[str, set[str]] = {}
    for weight in weights:
        if isinstance(weight.layer, nn.Embedding):
            tables.setdefault(content(weight.values), set()).add(weight.name)
        else:
            for form in (weight.values, weight.values.t()):
                products.setdefault(content(form), set()).add(weight.name)
    for node in graph.node:
        product = node.op_type in ("MatMul", "Gemm")
        place = int(product)
        if (product or node.op_type == "Gather") and len(node.input) > 1:
            found = matrices.get(node.input[place])
            names = (products if product else tables).get(found or "", set())
            if names or (found and not product):
                yield Use(node.name, place, tuple(sorted(names)))


def content(tensor: Tensor) -> str:
    """A digest of shape and values."""
    flat = tensor.detach().cpu().contiguous()
    return digest([repr(tuple(flat.shape)).encode(), flat.view(-1).view(torch.uint8).numpy().data])


class Codes(nn.Module):
    """The weight of a layer as a graph holds it; measured, never called."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bias = None

    def __init__(self, *held: Tensor, product: bool) -> None:
        super().__init__()
        for name, tensor in zip(("codes", "scale", "zero_point"), held, strict=True):
            self.register_buffer(name, tensor)
        self.product = product
        if product:
            self.activation_bits = INPUT_BITS

    def weight(self) -> Tensor:
        """``[out_features, in_features]``; of embeddings ``[vocabulary, hidden]``."""
        steps = self.codes.float() - self.zero_point.float()
        values = steps * self.scale  # a scale for each output is one for each column
        return values.t().contiguous() if self.product else values

    def stored(self) -> Stored:
        """With all that is kept of it."""
        return Stored(
            nbytes=nbytes(self.codes, self.scale, self.zero_point), bits=8, read=self.weight
        )


def tensors_of(graph: Any) -> dict[str, Tensor]:
    """All tensors that a graph holds, copied, by name."""
    from onnx import numpy_helper

    return {one.name: torch.tensor(numpy_helper.to_array(one)) for one in graph.initializer}


def read_by(graph: Any, found: Sequence[Use]) -> dict[Use, str]:
    """Names of the matrices that a quantized graph reads in place of the former ones."""
    nodes = {node.name: node for node in graph.node}
    return {
        use: nodes[use.node + ending].input[use.place]
        for use in found
        for ending in MADE
        if use.node + ending in nodes
    }


def parts(name: str) -> tuple[str, ...]:
    """Names of all that is kept of a matrix; of one that is not quantized it is one."""
    if not name.endswith(QUANTIZED):
        return (name,)
    return tuple(name.removesuffix(QUANTIZED) + ending for ending in (QUANTIZED, SCALE, ZERO_POINT))


def plain(weight: LinearWeight) -> nn.Module:
    """A layer with the weight that a graph holds as it was."""
    values = weight.values.clone(memory_format=torch.contiguous_format)
    if isinstance(weight.layer, nn.Embedding):
        table: nn.Embedding = nn.Embedding.from_pretrained(values)
        return table
    out_features, in_features = values.shape
    made = nn.Linear(in_features, out_features, bias=False, device="meta")
    made.weight = nn.Parameter(values, requires_grad=False)
    return made
