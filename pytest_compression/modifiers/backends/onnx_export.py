"""A network as ONNX graphs: traced on a few tokens, and tried on others.

An encoder-decoder becomes two graphs, so that a context is encoded once; any other one. Graphs take
rows without padding and keep nothing between calls: there is no cache.

What a trace sees is what it records: a length that the code reads as a number stays that number
in the graph. So each graph is run on rows of other lengths than it was traced on, and has to give
what the network gives.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning  # the public name of it is not exported
from transformers.modeling_outputs import BaseModelOutput

from pytest_compression.errors import RecipeError

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

OPSET = 17
OUTPUT = "output"
"""What each graph gives."""
TRACED = (2, 7)
"""Rows and tokens that a network is traced on."""
TRIED = ((1, 1), (1, 12), (3, 5))
"""Rows and tokens that its graph is tried on."""
ALIKE = 1e-3
"""Relative error, ``||graph - network|| / ||network||``, beyond which they are not the same."""


class Reader(nn.Module):
    """Causal and masked models: tokens to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """``[rows, tokens]`` to ``[rows, tokens, vocabulary]``."""
        kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        # Without a mask, transformers looks for several sequences in a row.
        mask = torch.ones_like(input_ids)
        logits: Tensor = self.network(input_ids=input_ids, attention_mask=mask, **kinds).logits
        return logits


class Encoder(nn.Module):
    """Tokens to the encoder's states."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder = network.get_encoder()

    def forward(self, input_ids: Tensor) -> Tensor:
        """``[rows, tokens]`` to ``[rows, tokens, hidden]``."""
        mask = torch.ones_like(input_ids)
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return states


class Decoder(nn.Module):
    """The encoder's states and tokens to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, states: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """``[rows, read, hidden]`` and ``[rows, tokens]`` to ``[rows, tokens, vocabulary]``."""
        logits: Tensor = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones_like(states[..., 0], dtype=torch.long),
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=torch.ones_like(decoder_input_ids),
            use_cache=False,
        ).logits
        return logits


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One of the graphs that a network becomes."""

    name: str
    traced: nn.Module
    inputs: tuple[str, ...]
    """Names of what it takes: the encoder's ``states``, tokens, kinds of tokens."""


def graphs_of(model: "LanguageModel") -> list[Graph]:
    """The graphs of a network."""
    network: Any = model.module
    if model.family == "seq2seq":
        return [
            Graph(name="encoder", traced=Encoder(network).eval(), inputs=("input_ids",)),
            Graph(
                name="decoder",
                traced=Decoder(network).eval(),
                inputs=("states", "decoder_input_ids"),
            ),
        ]
    kinds = getattr(network.config, "type_vocab_size", 1) > 1
    accepted = "token_type_ids" in inspect.signature(network.forward).parameters
    more = ("token_type_ids",) if model.family == "masked" and kinds and accepted else ()
    return [Graph(name="model", traced=Reader(network).eval(), inputs=("input_ids", *more))]


def example(graph: Graph, network: Any, rows: int, tokens: int) -> dict[str, Tensor]:
    """Inputs of so many rows and tokens, of which any two differ; made by a fixed seed."""
    generator = torch.Generator().manual_seed(rows * 1000 + tokens)
    config = network.config.get_text_config()

    def drawn(below: int, *size: int) -> Tensor:
        return torch.randint(below, size, generator=generator)

    made = {}
    for name in graph.inputs:
        if name == "states":
            read = tokens + 2  # none of the two lengths may stand for the other
            made[name] = torch.randn(rows, read, config.hidden_size, generator=generator)
        elif name == "token_type_ids":
            made[name] = drawn(config.type_vocab_size, rows, tokens)
        else:
            made[name] = drawn(config.vocab_size, rows, tokens)
    return made


def prepare(network: Any) -> None:
    """Attention written out in full, since other kinds choose once for all lengths; no cache."""
    network.set_attn_implementation("eager")
    network.config.use_cache = False


@contextmanager
def quiet() -> Iterator[None]:
    """Do not show what the exporter says of its age, of traces, and, at length, of failures.

    What a trace may have missed is found by :func:`check`.
    """
    with warnings.catch_warnings(), mute():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        warnings.filterwarnings("ignore", "Exporting aten::", UserWarning)
        yield


@contextmanager
def mute() -> Iterator[None]:
    """Drop what is written to standard output, also by code that is not Python's."""
    sys.stdout.flush()
    output = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(output, 1)
        os.close(output)


def export(graph: Graph, network: Any, file: Path) -> None:
    """Write a graph.

    Raises:
        RecipeError: torch cannot write what the network computes.
    """
    inputs = example(graph, network, *TRACED)
    names = (*inputs, OUTPUT)
    axes = {name: {0: "rows", 1: f"tokens of {name}"} for name in names}
    try:
        with quiet(), torch.inference_mode():
            torch.onnx.export(
                graph.traced,
                tuple(inputs.values()),
                str(file),
                input_names=list(inputs),
                output_names=[OUTPUT],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:
        message = f"{refused(network)}: torch cannot export it as ONNX: {first_line(error)}"
        raise RecipeError(message) from error


def check(graph: Graph, network: Any, run: "Callable[[Mapping[str, Tensor]], Tensor]") -> None:
    """Compare a graph with the network, on rows that it was not traced on.

    Raises:
        RecipeError: it computes something else, or nothing.
    """
    for rows, tokens in TRIED:
        inputs = example(graph, network, rows, tokens)
        with torch.inference_mode():
            wanted: Tensor = graph.traced(*inputs.values())
        try:
            found = run(inputs)
        except Exception as error:
            message = (
                f"{refused(network)}: its ONNX graph fails on rows of {tokens} tokens: "
                f"{first_line(error)}"
            )
            raise RecipeError(message) from error
        same = found.shape == wanted.shape
        apart = float((found - wanted).norm() / wanted.norm()) if same else float("inf")
        if not apart <= ALIKE:
            message = (
                f"{refused(network)}: on rows of {tokens} tokens its ONNX graph does not compute "
                f"what it computes (relative error {apart:.2g})"
            )
            raise RecipeError(message)


def refused(network: nn.Module) -> str:
    """How messages begin."""
    return f"onnxruntime cannot run this {type(network).__name__}"


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
