"""ONNX Runtime's dynamic int8: the whole network exported, quantized, and run by it.

Weights are quantized once, inputs of matrix products anew in each call, on one affine range for all
that is run together (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
As that range depends on what is run beside a row, each row is run alone. Light to import.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.backends.foreign import imported, quiet
from pytest_compression.modifiers.targets import Targeted, listed
from pytest_compression.types import Claim, Targets

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight
    from pytest_compression.modifiers.backends.onnx_codes import Codes, Use
    from pytest_compression.modifiers.backends.onnx_export import Graph
    from pytest_compression.modifiers.backends.onnx_network import Session

BACKEND = "onnxruntime"
LARGE = 2**30
"""Bytes from which on tensors are kept beside a graph: a file of this format ends at 2 GiB."""
STRAYED = 0.5
"""Relative error of codes beyond which they stand for something else."""


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Targeted):
    """``onnxruntime.quantization.quantize_dynamic``; the last step of a recipe.

    Source: https://onnxruntime.ai.
    """

    contract: ClassVar[str] = "model"

    per_channel: bool = True
    """One scale for each output of a matrix, or one for all; embeddings have one in any case."""
    weight_type: Literal["int8", "uint8"] = "int8"
    """Symmetric, or affine. Inputs are affine in any case."""
    reduce_range: bool = False
    """Weights of 7 bits: where a processor has no VNNI, sums of 8 bits times 8 may saturate."""
    targets: Targets = ("all", "embeddings", "head")
    """What the library does by itself. Embeddings of positions are treated as those of tokens."""

    def apply(self, model: "LanguageModel") -> Claim:
        """Put a network that ONNX Runtime runs in place of the model's.

        Raises:
            RecipeError: it is not installed, cannot do it, or would run something else.
        """
        imported("onnx", distribution="onnx", backend=BACKEND, extra="onnx")
        imported("onnxruntime", distribution="onnxruntime", backend=BACKEND, extra="onnx")
        from pytest_compression.models.families import targeted
        from pytest_compression.models.language_model import refuse_experts
        from pytest_compression.modifiers.backends.onnx_export import graphs_of, prepare

        refuse_experts(model.module)
        check_model(model)
        chosen = targeted(model.module, listed(self.targets), self.ignore).keys()
        prepare(model.module)
        made: list[Quantized] = []
        with TemporaryDirectory(prefix="onnxruntime-") as folder:
            graphs = graphs_of(model)
            for done, graph in enumerate(graphs):
                made.append(quantized(self, model, graph, chosen, Path(folder)))
                model.progress(done + 1, len(graphs))
        replace(model, made, chosen)
        return Claim(targets=list(chosen), bits=8)

    def environment(self) -> dict[str, str]:
        """The version that runs it."""
        return {"onnxruntime": version("onnxruntime")}


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """One graph of a network, quantized and loaded."""

    name: str
    session: "Session"
    layers: "dict[str, Codes | None]"
    """Codes of weights, by layer; None of those that are still held as they were."""
    others: "list[Tensor]"
    """Tensors of no such layer."""


def check_model(model: "LanguageModel") -> None:
    """Refuse what cannot be exported.

    Raises:
        RecipeError: another library holds a layer, its inputs are rounded, or it is not in single
            precision on a processor.
    """
    if model.adopted:
        message = (
            f"{BACKEND} takes the network as a whole, and another library holds "
            f"'{next(iter(model.adopted))}': leave out one of the two steps."
        )
        raise RecipeError(message)
    for weight in model.layers():
        if getattr(weight.layer, "activation_bits", None) is not None:
            message = (
                f"{BACKEND} rounds inputs by itself, and those of '{weight.name}' are rounded "
                "already: leave out one of the two steps."
            )
            raise RecipeError(message)
        kind = str(weight.values.dtype).removeprefix("torch.")
        if kind != "float32" or weight.values.device.type != "cpu":
            message = (
                f"{BACKEND} computes in float32 on processors here, and '{weight.name}' is {kind} "
                f"on {weight.values.device}: load it with 'dtype: float32' and 'device: cpu'."
            )
            raise RecipeError(message)


def quantized(
    step: OnnxRuntime,
    model: "LanguageModel",
    graph: "Graph",
    chosen: AbstractSet[str],
    folder: Path,
) -> Quantized:
    """Export a graph, see that it is right, and quantize it.

    Raises:
        RecipeError: it cannot be exported, or computes something else.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from pytest_compression.modifiers.backends.onnx_codes import inline, uses
    from pytest_compression.modifiers.backends.onnx_export import check, export
    from pytest_compression.modifiers.backends.onnx_network import Session

    dense, small = folder / f"{graph.name}.onnx", folder / f"{graph.name}-int8.onnx"
    export(graph, model.module, dense)
    check(graph, model.module, Session(dense))
    document = onnx.load(str(dense))
    inline(document.graph)
    found = list(uses(document.graph, model.layers()))
    with quiet():  # it advises to simplify the graph first, which changes no score
        quantize_dynamic(
            document,
            str(small),
            per_channel=step.per_channel,
            reduce_range=step.reduce_range,
            weight_type=QuantType.QInt8 if step.weight_type == "int8" else QuantType.QUInt8,
            nodes_to_exclude=[node for use in found for node in left_out(use, model, chosen)],
            use_external_data_format=sum(t.nbytes for t in model.dense.values()) > LARGE,
        )
    return read_back(graph.name, Session(small), onnx.load(str(small)).graph, found)


def read_back(name: str, session: "Session", graph: Any, found: "Sequence[Use]") -> Quantized:
    """What a quantized graph holds."""
    from pytest_compression.modifiers.backends.onnx_codes import Codes, parts, read_by, tensors_of

    tensors = tensors_of(graph)
    layers: dict[str, Codes | None] = {}
    mine: set[str] = set()
    for use, matrix in read_by(graph, found).items():
        names = parts(matrix)
        whole = len(names) == 1
        codes = None if whole else Codes(*[tensors[n] for n in names], product=bool(use.place))
        for layer in use.layers:  # of which no use may be left as it was
            layers[layer] = codes if layers.get(layer, codes) is not None else None
        mine.update(names if use.layers else ())
    others = [tensor for name, tensor in tensors.items() if name not in mine]
    return Quantized(name=name, session=session, layers=layers, others=others)


def left_out(use: "Use", model: "LanguageModel", chosen: AbstractSet[str]) -> list[str]:
    """The names of a node that is not to be quantized; none if it is."""
    from pytest_compression.models.families import named_layers
    from pytest_compression.modifiers.backends.onnx_codes import MADE

    layers = use.layers or named_layers(model.module)[1:2]
    return [] if chosen & set(layers) else [use.node + ending for ending in MADE]


def replace(model: "LanguageModel", graphs: Sequence[Quantized], chosen: AbstractSet[str]) -> None:
    """Put the network in place, with its layers as the graphs hold them.

    Raises:
        RecipeError: a layer that was to be quantized was not.
    """
    from torch import nn

    from pytest_compression.models.families import named_layers
    from pytest_compression.modifiers.backends.onnx_codes import Codes, plain
    from pytest_compression.modifiers.backends.onnx_network import NETWORKS

    network = NETWORKS[model.family](model.module, {one.name: one.session for one in graphs})
    held: dict[str, Codes | None] = {}
    for graph in graphs:
        held |= graph.layers
        for tensor in graph.others:
            network.tensors.append(nn.Parameter(tensor, requires_grad=False))
    codes = {}
    for weight in model.layers():
        found = held.get(weight.name)
        if weight.name in chosen:
            codes[weight.name] = checked(weight, found)
        if weight.name in held:
            network.place(weight.name, plain(weight) if found is None else found)
    _, embeddings, head = named_layers(model.module)
    network.embeddings, network.head = (one if one in held else "" for one in (embeddings, head))
    network.keep_positions(model.module)
    model.switch(network)
    for name, layer in codes.items():
        model.adopt(name, layer, layer.stored())
    model.alone = True


def checked(weight: "LinearWeight", found: "Codes | None") -> "Codes":
    """What a graph holds of a layer, if that is the layer's weight in codes.

    Raises:
        RecipeError: it is not.
    """
    if found is None:
        message = (
            f"{BACKEND} left '{weight.name}' as it was: its graph has no matrix of this name that "
            "could be quantized. Leave it out with 'ignore', or use another backend."
        )
        raise RecipeError(message)
    values = weight.values
    apart = float((found.weight() - values).norm() / values.norm().clamp(min=1e-30))
    if not apart < STRAYED:
        message = (
            f"{BACKEND}: the codes of '{weight.name}' are not those of its weight (relative error "
            f"{apart:.2g})."
        )
        raise RecipeError(message)
    return found
