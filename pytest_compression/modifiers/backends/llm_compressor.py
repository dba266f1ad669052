"""llm-compressor, with a recipe of its own, taken as it is. Light to import.

It works on a copy of the network and writes a checkpoint, as it does for its users; what it wrote
is read again and judged. Several of its steps pass over what they do not know without a word, so
each kind of step has to show in what was written.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.backends.foreign import imported, quiet
from pytest_compression.modifiers.material import Material
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pytest_compression.models.checkpoints import Artifact
    from pytest_compression.models.language_model import LanguageModel

BACKEND, PACKAGE = "llm-compressor", "llmcompressor"
TRANSFORMERS = "5.17"
"""The newest that its releases admit."""
EXAMPLE = "my_stage: {my_modifiers: {GPTQModifier: {targets: [Linear], scheme: W4A16}}}"


@dataclass(frozen=True, kw_only=True)
class LlmCompressor:
    """``llmcompressor.oneshot``: GPTQ, SparseGPT, AWQ, SmoothQuant, Wanda, FP8 and others.

    Source: https://github.com/vllm-project/llm-compressor.
    """

    contract: ClassVar[str] = "model"

    recipe: str | dict[str, Any]
    """Path of a YAML file, or what would stand in it: stages, of modifiers and their options."""
    calibration: Material | None = None
    """What its steps measure activations on, one row after the other."""

    def __post_init__(self) -> None:
        """Check the outline of a recipe that stands here."""
        if not isinstance(self.recipe, str):
            check_outline(self.recipe)

    def apply(self, model: "LanguageModel") -> Claim:
        """Compress a copy, and put what was written of it in place of the network.

        Raises:
            RecipeError: it is not installed, or cannot apply this recipe to such a network, or a
                step of the recipe did nothing.
        """
        require()
        from pytest_compression.models.filed import Filed
        from pytest_compression.modifiers.backends.llm_compressor_effects import check_step
        from pytest_compression.modifiers.packed_layers import take_over

        with TemporaryDirectory(prefix="llm-compressor-") as folder, silence():
            file = Path(folder) / "recipe.yaml"
            file.write_text(self.text(), encoding="utf-8")
            steps = steps_of(file)
            copy = copied(model, Path(folder) / "dense")
            rows = [] if self.calibration is None else self.calibration.batches(model, size=1)
            compress(model, copy, rows, file)
            artifact = read(model, file.parent / "compressed")
        for step in steps:
            check_step(step, model, artifact)
        stored = artifact.nbytes(())
        lies = artifact.lies_as_stored(stored)
        model.switch(artifact.module)
        take_over(model, artifact.sizes)
        if not lies:
            model.filed = Filed(model, stored, artifact.sizes)
        return Claim(targets=[weight.name for weight in model.linear()])

    def text(self) -> str:
        """The recipe as YAML.

        Raises:
            RecipeError: there is no such file, or it is no recipe.
        """
        import yaml

        if not isinstance(self.recipe, str):
            return yaml.safe_dump(self.recipe, sort_keys=False)  # they are applied in this order
        path = Path(self.recipe).expanduser()
        try:
            found = path.read_text(encoding="utf-8")
            check_outline(yaml.safe_load(found))
        except OSError as error:
            message = (
                f"the recipe '{self.recipe}' cannot be read ({error.strerror}). A relative path is "
                f"taken from where pytest was started ({Path.cwd()})."
            )
            raise RecipeError(message) from error
        except (ValueError, yaml.YAMLError) as error:
            message = f"'{self.recipe}' is no recipe of {BACKEND}: {said(error)}"
            raise RecipeError(message) from error
        return found

    def environment(self) -> dict[str, str]:
        """Versions, and what a recipe's file says, for it may say something else tomorrow."""
        from pytest_compression.fingerprints import digest

        return {
            BACKEND: version(PACKAGE),
            "compressed-tensors": version("compressed-tensors"),
            f"{BACKEND} recipe": digest([self.text().encode()]),
        }


def check_outline(recipe: object) -> None:
    """Stages that hold groups of modifiers: llm-compressor drops all else without a word.

    Raises:
        ValueError: it is not such a recipe.
    """
    stages = recipe if isinstance(recipe, Mapping) else {}
    groups = {
        f"{stage}.{name}": group
        for stage, held in stages.items()
        if stage != "args"
        for name, group in (held.items() if isinstance(held, Mapping) else [("", None)])
    }
    for name, group in groups.items():
        stage, _, last = name.partition(".")
        if not (stage.endswith("_stage") and last.endswith("_modifiers") and group):
            message = (
                f"'{name.rstrip('.')}' would do nothing: names of stages end in '_stage', those of "
                f"groups in '_modifiers', and a group holds modifiers, as in {EXAMPLE}"
            )
            raise ValueError(message)
    if not groups:
        message = f"it holds no stage; a recipe reads like {EXAMPLE}"
        raise ValueError(message)


def require() -> None:
    """See that it is installed.

    Raises:
        RecipeError: it is not; then it needs an environment of its own.
    """
    try:
        version(PACKAGE)
    except PackageNotFoundError as error:
        message = (
            f"{BACKEND} is not installed: pip install 'pytest-compression[{BACKEND}]', in a "
            f"virtual environment of its own, for it needs transformers {TRANSFORMERS} or older "
            f"({version('transformers')} is installed here)."
        )
        raise RecipeError(message) from error
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")  # read when it is imported
    imported(PACKAGE, distribution=PACKAGE, backend=BACKEND, extra=BACKEND)


@contextmanager
def silence() -> Iterator[None]:
    """Neither logs nor progress bars."""
    from loguru import logger

    from pytest_compression.models import places

    speakers = (PACKAGE, "compressed_tensors")
    for name in speakers:
        logger.disable(name)
    try:
        with quiet(), places.quiet():
            yield
    finally:
        for name in speakers:
            logger.enable(name)


def steps_of(file: Path) -> list[Any]:
    """The modifiers that llm-compressor makes of a recipe.

    Raises:
        RecipeError: it does not understand it.
    """
    from llmcompressor.recipe import Recipe

    try:
        return list(Recipe.create_instance(str(file)).modifiers)
    except Exception as error:
        message = f"{BACKEND} does not understand this recipe: {said(error)}"
        raise RecipeError(message) from error


def copied(model: "LanguageModel", folder: Path) -> "nn.Module":
    """The network as it is now, written and read again.

    Raises:
        RecipeError: what is read is not what was written.
    """
    from pytest_compression.models.snapshot import same, stored_tensors

    network: Any = model.module
    if model.adopted:
        message = (
            f"{BACKEND} works on plain weights, and another library holds those of "
            f"'{next(iter(model.adopted))}': leave out one of the two steps."
        )
        raise RecipeError(message)
    network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    copy: nn.Module = type(network).from_pretrained(folder, dtype=network.dtype)
    live, read = dict(model.tensors()), dict(stored_tensors(copy))
    for name in live.keys() | read.keys():
        if name not in live or name not in read or not same(live[name], read[name]):
            message = (
                f"{BACKEND} cannot be given this network: an earlier step made of it what no file "
                f"holds ('{name}' is another when it is read again)."
            )
            raise RecipeError(message)
    return copy.eval()


def compress(
    model: "LanguageModel",
    copy: "nn.Module",
    rows: "Sequence[dict[str, Tensor]]",
    recipe: Path,
) -> None:
    """Let llm-compressor work, and write its result beside the recipe.

    Raises:
        RecipeError: it cannot.
    """
    from llmcompressor import oneshot
    from torch.utils.data import DataLoader

    learned = () if model.family == "seq2seq" else ("labels",)  # else the decoder reads nothing
    given = [{k: v for k, v in row.items() if k not in learned} for row in rows]
    try:
        with unpinned():
            oneshot(
                model=copy,
                tokenizer=model.tokenizer,
                recipe=str(recipe),
                dataset=DataLoader(given, batch_size=None) if given else None,  # type: ignore[arg-type]
                num_calibration_samples=len(given),
                output_dir=str(recipe.parent / "compressed"),
            )
    except Exception as error:
        message = f"{BACKEND} cannot apply this recipe to a {type(copy).__name__}: {said(error)}"
        if model.family == "seq2seq" and rows:
            message += (
                ". It follows what is computed layer by layer, which it cannot do for "
                "encoder-decoders: use steps that need no calibration."
            )
        elif not rows:
            message += ". If one of its steps has to be calibrated, give 'calibration'."
        raise RecipeError(message) from error


@contextmanager
def unpinned() -> Iterator[None]:
    """Without an accelerator, do not pin memory for one: AWQ tries to in any case, and fails."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    pin = IntermediatesCache.pin_memory
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = pin


def read(model: "LanguageModel", folder: Path) -> "Artifact":
    """What was written.

    Raises:
        RecipeError: it cannot be read.
    """
    from pytest_compression.models import checkpoints
    from pytest_compression.models.sources import Pretrained

    facts = model.environment()
    source = Pretrained(path=str(folder), dtype=facts["dtype"], device=facts["device"])  # type: ignore[arg-type]
    try:
        return checkpoints.read(source, model, as_stored=False)
    except Exception as error:
        message = (
            f"what {BACKEND} wrote of this {type(model.module).__name__} cannot be read by "
            f"transformers: {said(error)}. Use another scheme, or another backend."
        )
        raise RecipeError(message) from error


def said(error: Exception) -> str:
    """What an error says, briefly."""
    lines = str(error).strip().splitlines() or [repr(error)]
    return " ".join(line.strip() for line in lines[:3])
