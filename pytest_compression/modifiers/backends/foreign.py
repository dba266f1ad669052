"""What backends share: their import, the layer they are given, and what they store.

A backend is handed ``nn.Linear`` layers one by one, so that targets mean the same as everywhere.
GPT-2's ``Conv1D`` is no ``nn.Linear``, and most backends pass over it without a word; it is
turned into one first, which changes no value.

What comes back is believed only after it was tried: a layer must compute with the very weight
that it says it stores. Kernels of several released versions do not, on some shapes or processors.
"""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pytest_compression.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight

ROWS = 32
"""Inputs that a layer is tried on; kernels differ for one and for several."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The weight of a backend's layer, as the backend stores it."""

    nbytes: int
    """Of codes, scales, offsets and tables; the bias is not among them."""
    bits: int
    """Of a code."""
    read: "Callable[[], Tensor]"
    """Gives the float weight that the layer computes with."""

    def dequantize(self) -> "Tensor":
        """The float weight that the layer computes with, ``[out_features, in_features]``."""
        return self.read()

    def with_zeros(self, zero: "Tensor") -> None:
        """None: codes of another library are not ours to change."""


Build = Callable[["nn.Linear"], "tuple[nn.Module, Stored]"]
"""Makes a backend's layer of an ordinary one that is its own to take apart."""


def imported(module: str, *, distribution: str, backend: str, extra: str = "") -> Any:
    """A module of a backend, without what it prints and warns of while it is imported.

    Args:
        module: its dotted name.
        distribution: the name under which it is installed.
        backend: how a recipe calls it, for messages.
        extra: the extra of this package that installs it; none if it comes with the package.

    Raises:
        RecipeError: it is not installed, or cannot be imported.
    """
    wanted = f"'pytest-compression[{extra}]'" if extra else distribution
    try:
        found = version(distribution)
    except PackageNotFoundError as error:
        message = f"{backend} needs {distribution}: pip install {wanted}"
        raise RecipeError(message) from error
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        message = (
            f"{backend} needs {distribution}, and {distribution} {found} cannot be imported here "
            f"({error}). Install a version that suits this torch: pip install {wanted}"
        )
        raise RecipeError(message) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines below errors, for as long as it lasts."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def replace(
    model: "LanguageModel", weights: "Sequence[LinearWeight]", build: Build, *, backend: str
) -> list[str]:
    """Put a backend's layer in place of each weight's.

    Args:
        model: it adopts the layers.
        weights: what to replace.
        build: makes one layer.
        backend: how a recipe calls it, for messages.

    Returns:
        The names of the layers.

    Raises:
        RecipeError: the backend cannot take a layer, or its own does not compute with what it
            stores.
    """
    for done, weight in enumerate(weights):
        model.progress(done, len(weights))
        linear = as_linear(weight.name, weight.layer, backend=backend)
        shape = linear.weight.shape
        if not linear.weight.isfinite().all():
            message = f"'{weight.name}' holds NaN or infinite weights: {backend} cannot round them."
            raise RecipeError(message)
        try:
            layer, stored = build(linear)
            wrong = difference(layer.eval(), stored, linear)
        except (AssertionError, ImportError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            message = (
                f"{backend} cannot compress '{weight.name}' {list(shape)} of {linear.weight.dtype} "
                f"on {linear.weight.device}: {reason}. Leave it out with 'ignore', or choose "
                "another scheme."
            )
            raise RecipeError(message) from error
        if wrong:
            message = f"{backend} is no good for '{weight.name}' {list(shape)} here: {wrong}."
            raise RecipeError(message)
        model.adopt(weight.name, layer, stored)
    return [weight.name for weight in weights]


def as_linear(name: str, layer: "nn.Module", *, backend: str) -> "nn.Linear":
    """A new ``nn.Linear`` that computes what the layer does; the layer itself is left alone.

    Args:
        name: dotted, for messages.
        layer: an ``nn.Linear``, or a ``Conv1D``, whose weight is stored turned.
        backend: how a recipe calls it, for messages.

    Raises:
        RecipeError: it is another kind of layer, or does more than its weight and bias say.
    """
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    hooked = layer._forward_hooks or layer._forward_pre_hooks  # noqa: SLF001  # no other way
    if not isinstance(layer, (nn.Linear, Conv1D)) or type(layer) not in (nn.Linear, Conv1D):
        message = (
            f"{backend} compresses linear layers, and '{name}' is a {type(layer).__qualname__}. "
            "Leave it out with 'ignore'; if an earlier step put it there, put this step first."
        )
        raise RecipeError(message)
    if hooked:
        message = f"'{name}' has hooks, which {backend} would drop: put this step first."
        raise RecipeError(message)
    weight = layer.weight.detach()
    weight = weight.t() if isinstance(layer, Conv1D) else weight
    out_features, in_features = weight.shape
    made = nn.Linear(in_features, out_features, bias=layer.bias is not None, device="meta")
    # Copies: a backend may write into what it is given, and the layer may be put back.
    values = weight.clone(memory_format=torch.contiguous_format)
    made.weight = nn.Parameter(values, requires_grad=False)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return made.eval()


def difference(layer: "nn.Module", stored: Stored, linear: "nn.Linear") -> str:
    """What is wrong with a backend's layer, if anything is.

    It is tried on the signs of its own rows, one and several: inputs of plus and minus one are
    all but exact in 8 bits, too, and the products of a row add up, so that saturated sums show.

    Args:
        layer: the backend's.
        stored: what it says it computes with.
        linear: the ordinary layer that it was made of.

    Returns:
        Nothing, or the reason why its scores would not be those of its weight.
    """
    import torch

    weight = stored.dequantize()
    if weight.shape != linear.weight.shape:
        return f"it stores a weight of shape {list(weight.shape)}"
    broken = weight.numel() - int(weight.isfinite().sum())
    if broken:
        return (
            f"{broken} of its weights became NaN or infinite, as rows of zeros and very large "
            "weights do in some formats"
        )
    dtype = linear.weight.dtype
    exact = dtype == torch.float32 and not getattr(layer, "activation_bits", None)
    tolerance = 1e-3 if exact else 2e-2
    weight = weight.float()
    bias = torch.zeros(len(weight), device=weight.device)
    bias = bias if linear.bias is None else linear.bias.float()
    inputs = torch.where(weight[:ROWS] < 0, -1.0, 1.0)
    bound = tolerance * (weight.abs().sum(1) + bias.abs())
    for rows in (inputs[:1], inputs):
        with torch.no_grad():
            found = layer(rows.to(dtype)).float()
        if not ((found - rows @ weight.t() - bias).abs() <= bound).all():
            return (
                "its arithmetic on this processor does not give the product with the weight that "
                "it stores. Use a scheme that leaves the inputs as they are, or another backend"
            )
    return ""


def stored_bytes(layer: "nn.Module") -> int:
    """Bytes of all that a layer would save, but for its bias."""
    return nbytes(*(tensor for name, tensor in layer.state_dict().items() if name != "bias"))


def nbytes(*tensors: "Tensor | None") -> int:
    """Bytes that tensors hold, those inside a tensor subclass among them; shared ones once."""
    storages = [inner.untyped_storage() for tensor in tensors for inner in plain(tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def plain(tensor: "Tensor | None") -> "Iterator[Tensor]":
    """The ordinary tensors that a tensor consists of, by torch's protocol for subclasses."""
    if tensor is None:
        return
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from plain(getattr(tensor, name))
