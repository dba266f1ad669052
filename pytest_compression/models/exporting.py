"""Writing a compressed model down, so that ``transformers`` gives the same model again.

Packed layers are written packed where a format holds them, other libraries' layers as these
libraries write them, all else in its dtype, whatever it was rounded to. What no file of
``transformers`` could hold is refused by name, for it would come back as another model.
"""

import contextlib
import copy
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from pytest_compression.errors import RecipeError
from pytest_compression.models.bitsandbytes_files import own_settings
from pytest_compression.models.completeness import listed
from pytest_compression.models.families import ends
from pytest_compression.models.packing import packing_of, written
from pytest_compression.models.places import first_line, quiet
from pytest_compression.models.quanto_files import is_quanto, write_map
from pytest_compression.models.snapshot import stored_tensors

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

CARD = "compression.json"
"""Where it is said which packed layers are plain; the command adds all else to it."""


def save(model: "LanguageModel", folder: Path) -> None:
    """Write network, configuration and tokenizer, and which packed layers became plain numbers.

    Args:
        model: as it is now.
        folder: that exists and is empty.

    Raises:
        RecipeError: no file could hold it.
    """
    network = model.module
    if not isinstance(network, PreTrainedModel):
        message = f"a {type(network).__name__} is no network of transformers, and cannot be saved."
        raise RecipeError(message)
    refuse_rounded_inputs(model)
    quanto = is_quanto(model)
    settings = own_settings(model) if model.adopted and not quanto else None
    packing = packing_of(model)
    with settings_put_back(network), quiet():
        tensors = untied(network)
        check_shapes(network, model.adopted)
        if packing.settings is not None:
            settings = packing.settings
            tensors = written(network.state_dict() if tensors is None else tensors, packing)
        if settings is not None:
            network.config.quantization_config = settings
        try:
            network.save_pretrained(folder, state_dict=tensors)
            model.tokenizer.save_pretrained(folder)
            if quanto:
                write_map(network, folder)
            write_plain(packing.plain, folder)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            message = f"the model could not be written: {first_line(error)}"
            raise RecipeError(message) from error


def write_plain(plain: Mapping[str, str], folder: Path) -> None:
    """Say which packed layers are written as plain numbers, if any, and why."""
    if plain:
        text = json.dumps({"plain": plain}, indent=2)
        (folder / CARD).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def settings_put_back(network: PreTrainedModel) -> Iterator[None]:
    """Let nothing be left out, and put back what saving changes in the live network.

    Marian leaves out its positions, for it believes that it can compute them; and what was done
    to packed weights when they were read, ``transformers`` (5.23) would undo and cannot.
    """
    attributes, settings = dict(vars(network)), copy.deepcopy(vars(network.config))
    network._keys_to_ignore_on_save = None  # noqa: SLF001  # no other way
    conversions: Any = getattr(network, "_weight_conversions", None)
    if conversions is not None:
        vars(network)["_weight_conversions"] = [one for one in conversions if not is_one_way(one)]
    try:
        yield
    finally:
        vars(network).clear()
        vars(network).update(attributes)
        vars(network.config).clear()
        vars(network.config).update(settings)


def is_one_way(conversion: Any) -> bool:
    """Whether it is a quantizer's, which made layers of what a file holds."""
    operations = getattr(conversion, "operations", ())
    return any(hasattr(operation, "hf_quantizer") for operation in operations)


def refuse_rounded_inputs(model: "LanguageModel") -> None:
    """Refuse layers that round their inputs, unless their library's own file says so.

    Raises:
        RecipeError: no file would say it.
    """
    names = [
        weight.name
        for weight in model.linear()
        if getattr(weight.layer, "activation_bits", None) and weight.name not in model.adopted
    ]
    if names:
        message = (
            f"{listed(names)} round their inputs while they compute, which the file would not "
            "tell: the model would come back without it. Export a recipe of weights alone."
        )
        raise RecipeError(message)


def untied(network: PreTrainedModel) -> dict[str, Tensor] | None:
    """Make the configuration say that the head is untied, if it is.

    It speaks of all ties at once, so a bias that is tied besides is written twice. Where a matrix
    is (in encoder-decoders), it is left as it was: ``transformers`` ties none that are stored with
    different values.

    Returns:
        The tensors to write, if they are others than the network's own.
    """
    head, embeddings = ends(network)
    if head is None or embeddings is None or head.weight is embeddings.weight:
        return None
    tensors: dict[str, Tensor] = network.state_dict()
    first: dict[int, str] = {}
    shared = {
        name for name, one in tensors.items() if first.setdefault(one.data_ptr(), name) != name
    }
    if any(tensors[name].dim() > 1 for name in shared):
        return None
    network.config.tie_word_embeddings = False
    return {name: one.clone() if name in shared else one for name, one in tensors.items()}


def check_shapes(network: PreTrainedModel, adopted: Collection[str]) -> None:
    """Refuse a network that its own configuration does not describe.

    Args:
        network: what is to be saved.
        adopted: layers of other libraries, which are stored in shapes of their own.

    Raises:
        RecipeError: a network made by the configuration has other tensors.
    """
    with torch.device("meta"):
        made = type(network)(copy.deepcopy(network.config))
    foreign = tuple(f"{name}." for name in adopted)
    described, found = (
        {
            name: list(one.shape)
            for name, one in stored_tensors(each)
            if not name.startswith(foreign)
        }
        for each in (made, network)
    )
    broken = [
        f"{name} ({found.get(name, 'none')}, described as {described.get(name, 'none')})"
        for name in sorted(described.keys() | found.keys())
        if described.get(name) != found.get(name)
    ]
    if broken:
        message = (
            f"the configuration of a {type(network).__name__} cannot describe this model, so that "
            f"it could not be loaded again: {listed(broken)}."
        )
        raise RecipeError(message)
