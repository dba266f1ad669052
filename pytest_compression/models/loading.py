"""Loading through ``transformers``, with every trap turned into one clear sentence."""

from typing import TYPE_CHECKING, Any

import torch
import transformers

from pytest_compression.errors import ModelError
from pytest_compression.models.completeness import (
    check_as_stored,
    check_finite,
    check_keys,
    refuse_wordless,
)
from pytest_compression.models.families import AUTO_CLASSES, family_of
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.places import first_line, place, quiet, told
from pytest_compression.models.quanto_files import QUANTO_MAP
from pytest_compression.models.weight_files import found, weight_files

if TYPE_CHECKING:
    from pytest_compression.models.sources import Pretrained


def load(source: "Pretrained") -> LanguageModel:
    """Load a dense model and its tokenizer.

    Raises:
        ModelError: it is not there, is no language model, is stored in a way that the suite
            did not allow, or its tensors are not those that the model needs.
    """
    where, gguf = place(source)
    shared = shared_options(source, gguf)
    with told(source, where), quiet():
        config = configuration(where, shared)
        if gguf is None:
            refuse_quantized(source, quantization_of(config, where, source.revision))
        family = family_of(config)
        module, info = AUTO_CLASSES[family].from_pretrained(
            where, **weight_options(source, gguf), **shared
        )
        check_keys(source, info)
        check_finite(source, module)
        check_as_stored(source, module, weight_files(where, source.revision, gguf=gguf))
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **shared)
        refuse_wordless(source, tokenizer)
        if gguf is not None:
            forget_quantization(module)
        module = module.to(source.device)
    return LanguageModel(module=module.eval(), tokenizer=tokenizer, family=family)


def forget_quantization(module: Any) -> None:
    """Note that floats were made of a GGUF file's codes, so that the model can be saved as such."""
    del module.hf_quantizer, module.config.quantization_config
    module.is_quantized, module.quantization_method = False, None


def shared_options(source: "Pretrained", gguf: str | None) -> dict[str, Any]:
    """What configuration, network and tokenizer are loaded with."""
    shared = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    return shared if gguf is None else {**shared, "gguf_file": gguf}


def weight_options(source: "Pretrained", gguf: str | None) -> dict[str, Any]:
    """What the network is loaded with besides."""
    options: dict[str, Any] = {
        "dtype": getattr(torch, source.dtype),
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # refused by check_keys, by name
    }
    if gguf is None and not source.allow_pickle:
        options["use_safetensors"] = True
    return options


def configuration(where: str, shared: dict[str, Any]) -> Any:
    """What ``config.json``, or a GGUF file, says.

    Raises:
        ValueError: a value is of a type that it cannot have.
    """
    try:
        return transformers.AutoConfig.from_pretrained(where, **shared)
    except (AttributeError, TypeError) as error:
        message = f"config.json holds a value of a wrong type ({first_line(error)})"
        raise ValueError(message) from error


def quantization_of(config: Any, where: str, revision: str | None) -> dict[str, Any] | None:
    """How a checkpoint says that it is quantized: ``quant_method`` and more; None if it is not."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        packed = found(where, QUANTO_MAP, revision)
        return None if packed is None else {"quant_method": "quanto"}
    return dict(settings if isinstance(settings, dict) else settings.to_dict())


def refuse_quantized(source: "Pretrained", settings: dict[str, Any] | None) -> None:
    """A checkpoint that is compressed already is no dense model."""
    if settings is not None:
        message = (
            f"'{source.path}' is quantized already (quant_method: {settings.get('quant_method')}); "
            "name its dense original, and judge this one as a recipe: use: checkpoint."
        )
        raise ModelError(message)
