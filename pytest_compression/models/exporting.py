"""Writing a compressed model down, so that ``transformers`` gives the same model again.

Plain tensors are written in their dtype, whatever they were rounded to; bitsandbytes' layers as
bitsandbytes writes them. What no file of ``transformers`` could hold is refused by name, for it
would come back as another model.
"""

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedModel

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.quantization import Quantized
from pytest_compression.models.completeness import listed
from pytest_compression.models.families import ends
from pytest_compression.models.pack_quantized import configuration, packable, tensors_of
from pytest_compression.models.places import first_line, quiet
from pytest_compression.models.quanto_files import is_quanto, write_map
from pytest_compression.models.snapshot import stored_tensors

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


def save(model: "LanguageModel", folder: Path) -> None:
    """Write network, configuration and tokenizer.

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
    settings = bitsandbytes(model) if model.adopted and not quanto else None
    with settings_put_back(network), quiet():
        tensors = untied(network)
        check_shapes(network, model.adopted)
        packed = {} if model.adopted else packable(model)
        if packed:
            network.config.quantization_config = configuration(model, packed)
            tensors = replaced(network.state_dict() if tensors is None else tensors, packed)
        elif quanto:
            write_map(network, folder)
        elif settings:
            network.config.quantization_config = settings
        try:
            network.save_pretrained(folder, state_dict=tensors)
            model.tokenizer.save_pretrained(folder)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            message = f"the model could not be written: {first_line(error)}"
            raise RecipeError(message) from error


@contextlib.contextmanager
def settings_put_back(network: PreTrainedModel) -> Iterator[None]:
    """Let nothing be left out, and put back what saving changes in the live network.

    Marian leaves out its positions, for it believes that it can compute them.
    """
    attributes, settings = dict(vars(network)), copy.deepcopy(vars(network.config))
    network._keys_to_ignore_on_save = None  # noqa: SLF001  # no other way
    try:
        yield
    finally:
        vars(network).clear()
        vars(network).update(attributes)
        vars(network.config).clear()
        vars(network.config).update(settings)


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


def bitsandbytes(model: "LanguageModel") -> Any:
    """What a configuration must say so that bitsandbytes' layers come back.

    Raises:
        RecipeError: they are not all of one library and kind, or ``transformers`` cannot save them.
    """
    weights = [weight for weight in model.linear() if weight.name in model.adopted]
    settings = {repr(one): one for one in map(bitsandbytes_settings, weights)}
    found = next(iter(settings.values()))
    if found is None or len(settings) > 1:
        kinds = sorted({kind_of(one.layer) for one in weights})
        message = (
            f"layers of the kind {', '.join(kinds)} cannot be exported"
            f"{' together' if len(settings) > 1 else ''}: of other libraries' layers only those "
            "of bitsandbytes (one kind for all) and optimum-quanto are. Save such a model with its "
            "own library, and judge the file: use: checkpoint."
        )
        raise RecipeError(message)
    kept = [weight.name for weight in model.linear() if weight.name not in model.adopted]
    never = set(getattr(model.module, "_keep_in_fp32_modules", None) or ())
    plain = [weight.name for weight in weights if never & set(weight.name.split("."))]
    if plain:
        message = (
            f"transformers keeps {listed(plain)} in single precision, and would not read what is "
            "packed: leave them out with 'ignore'."
        )
        raise RecipeError(message)
    return BitsAndBytesConfig(llm_int8_skip_modules=[f"{name}$" for name in kept], **found)


def bitsandbytes_settings(weight: Any) -> dict[str, Any] | None:
    """What bitsandbytes' layer was made with; None if it is another library's."""
    layer: Any = weight.layer
    if hasattr(layer.weight, "SCB"):
        return {"load_in_8bit": True, "llm_int8_threshold": layer.threshold}
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return None
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": state.quant_type,
        "bnb_4bit_use_double_quant": state.nested,
        "bnb_4bit_quant_storage": layer.weight.dtype,
        "bnb_4bit_compute_dtype": state.dtype,
    }


def kind_of(layer: Any) -> str:
    """What a layer is, with its weight; or with its module, if it shows none as a tensor."""
    kind = type(layer)
    if isinstance(layer.weight, Tensor):
        return f"{kind.__name__} of {type(layer.weight).__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"


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


def replaced(tensors: Mapping[str, Tensor], packed: Mapping[str, Quantized]) -> dict[str, Tensor]:
    """The tensors with what stands for the weights of packed layers in place of these."""
    written: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if layer != name and layer in packed:
            written |= tensors_of(layer, packed[layer])
        else:
            written[name] = tensor
    return written
