"""lm-eval's own backends, in place of our engine."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import lm_eval.models  # noqa: F401  # makes the backends known
from lm_eval.api.registry import model_registry

from pytest_compression.benchmarks.harness_tasks import first_line, quiet
from pytest_compression.errors import MeasurementError, nearest

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


def save(model: "LanguageModel", folder: str) -> None:
    """Save a model and its tokenizer, so that a backend can load just these weights.

    Raises:
        MeasurementError: loaded again it would be another model.
    """
    if not model.built_as_loaded():
        message = (
            "a step of the recipe replaced, hooked or untied modules of this model, so that what "
            "is saved would be loaded as another one; leave out the runner."
        )
        raise MeasurementError(message)
    module: Any = model.module
    with quiet():
        module.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)


def backend(name: str, arguments: Mapping[str, Any]) -> Any:
    """One of lm-eval's model classes, with its ``model_args``.

    Raises:
        MeasurementError: lm-eval has no such backend, or it cannot be started.
    """
    if name not in model_registry:
        message = f"lm-eval has no backend '{name}'. {nearest(name, model_registry.keys())}"
        raise MeasurementError(message)
    with failing(name, "could not be started"), quiet():
        return model_registry.get(name).create_from_arg_obj(dict(arguments))


@contextlib.contextmanager
def failing(name: str, said: str) -> Iterator[None]:
    """Say which backend failed, whatever it raises: its code and its server are not ours.

    Raises:
        MeasurementError: it did.
    """
    try:
        yield
    except MeasurementError:
        raise
    except Exception as error:
        message = f"lm-eval's backend '{name}' {said}: {first_line(error)}"
        raise MeasurementError(message) from error
