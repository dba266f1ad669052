"""What the steps of an llm-compressor recipe left in what was written, if anything.

Some pass over layers and whole architectures that they do not know, and say nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compression.errors import RecipeError

if TYPE_CHECKING:
    from pytest_compression.models.checkpoints import Artifact
    from pytest_compression.models.language_model import LanguageModel

SMOOTHING = ("AWQModifier", "SmoothQuantModifier")
"""Steps that move scales from one layer to the one before it, a norm most often."""
CODES = (".weight_packed", ".weight_scale")
"""Endings of names of tensors that only quantized layers have."""
SLACK = 0.02
"""Share of weights by which a layer may miss its sparsity: rounding, and blocks of columns."""


def check_step(step: Any, model: "LanguageModel", artifact: "Artifact") -> None:
    """See in what was written that a modifier of the recipe did something.

    Raises:
        RecipeError: it passed over the network.
    """
    from llmcompressor.modifiers.quantization import QuantizationMixin

    name, kind = type(step).__name__, type(model.module).__name__
    wanted = getattr(step, "sparsity", None)
    if name in SMOOTHING and not smoothed(model, artifact):
        missed = "it moved no scales into norms. Give it 'mappings' for this architecture"
    elif wanted and not pruned(model, artifact, wanted):
        missed = (
            f"no layer but the head, if any, has a share of {wanted} zeros. It knows layers of "
            "type Linear, not GPT-2's Conv1D, and blocks by name: use 'magnitude' or 'wanda'"
        )
    elif wanted and (wrong := pruned_against(step.ignore, model, artifact)):
        missed = f"it pruned '{wrong}', which it was to ignore. Name blocks of layers in 'targets'"
    elif isinstance(step, QuantizationMixin) and not quantized(model, artifact):
        missed = (
            "no layer is stored in codes but the output head, if any. It knows layers of type "
            "Linear, not GPT-2's Conv1D: use 'rtn', or a backend that takes one layer at a time"
        )
    else:
        return
    message = f"llm-compressor: {name} does not do what it says to this {kind}: {missed}."
    raise RecipeError(message)


def smoothed(model: "LanguageModel", artifact: "Artifact") -> bool:
    """Whether the weight of any norm is another."""
    from pytest_compression.models.snapshot import same, stored_tensors

    live = dict(model.tensors())
    found = dict(stored_tensors(artifact.module))
    norms = [name for name in live.keys() & found.keys() if live[name].dim() == 1]
    return any(not same(live[name], found[name]) for name in norms)


def pruned(model: "LanguageModel", artifact: "Artifact", wanted: Any) -> bool:
    """Whether any layer but the head is as sparse as was asked, by one number or by several."""
    listed = wanted.values() if isinstance(wanted, Mapping) else wanted
    least = min(listed) if isinstance(listed, Iterable) else listed
    found = dict(artifact.module.named_parameters())
    weights = [found[f"{name}.weight"] for name in body(model) if f"{name}.weight" in found]
    return any(float((one == 0).float().mean()) >= least - SLACK for one in weights)


def pruned_against(
    ignore: Sequence[str], model: "LanguageModel", artifact: "Artifact"
) -> str | None:
    """A layer that was to be ignored and has more zeros now.

    Where ``targets`` names layers and not blocks of them, llm-compressor looks for what to ignore
    under names that do not exist.
    """
    from compressed_tensors.utils import match_named_modules

    live = {name for name, _ in match_named_modules(model.module, ignore)}
    for weight in model.layers():
        found = dict(artifact.module.named_modules()).get(weight.name)
        tensor: Any = getattr(found, "weight", None)
        more = tensor is not None and int((tensor == 0).sum()) > int((weight.values == 0).sum())
        if weight.name in live and more:
            return weight.name
    return None


def quantized(model: "LanguageModel", artifact: "Artifact") -> bool:
    """Whether any layer but the output head is stored in codes."""
    return any(f"{name}{ending}" in artifact.sizes for name in body(model) for ending in CODES)


def body(model: "LanguageModel") -> Iterable[str]:
    """The names of all linear layers but the output head."""
    from pytest_compression.models.families import targeted

    return targeted(model.module, ("all",))
