"""What passes through parts of a model when it reads calibration material."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.structured import block_influence, contributions, second_moments
from pytest_compression.models.units import Units

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

Batch = Mapping[str, Tensor]
See = Callable[[Tensor, Tensor], None]
"""Is shown a part's input and output, ``[tokens, features]`` each, padding left out."""


def contributions_of(
    model: "LanguageModel", units: Sequence[Units], batches: Sequence[Batch]
) -> list[Tensor]:
    """How much each unit adds to the output of its layer, over all tokens: ``[count]`` each.

    All are measured in one pass, on the model as it is.

    Raises:
        RecipeError: activations are NaN or infinite.
    """
    sums: dict[str, Tensor] = {}

    def watch(one: Units) -> See:
        def see(before: Tensor, _after: Tensor) -> None:
            found = second_moments(before, one.count)
            sums[one.name] = sums[one.name] + found if one.name in sums else found

        return see

    run(model, batches, [(one.edges[-1].layer, one.decodes, watch(one)) for one in units])
    for name, found in sums.items():
        check_finite(name, found)
    return [contributions(sums[one.name], one.edges[-1].matrix) for one in units]


def influences_of(
    model: "LanguageModel",
    blocks: Mapping[str, tuple[nn.Module, bool]],
    batches: Sequence[Batch],
) -> dict[str, Tensor]:
    """How much each block turns the hidden states, on average over tokens.

    Args:
        model: as it is.
        blocks: by name, and whether their tokens are those of the answer.
        batches: what its module takes.

    Raises:
        RecipeError: activations are NaN or infinite.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in blocks}

    def watch(name: str) -> See:
        return lambda before, after: found[name].append(block_influence(before, after))

    run(model, batches, [(*block, watch(name)) for name, block in blocks.items()])
    means = {name: torch.cat(each).mean() for name, each in found.items()}
    for name, mean in means.items():
        check_finite(name, mean)
    return means


def check_finite(name: str, found: Tensor) -> None:
    """Refuse what nothing can be ranked by."""
    if not found.isfinite().all():
        message = f"activations at '{name}' are NaN or infinite: nothing can be ranked by them."
        raise RecipeError(message)


@torch.no_grad()
def run(
    model: "LanguageModel",
    batches: Sequence[Batch],
    watches: Sequence[tuple[nn.Module, bool, See]],
) -> None:
    """Run batches through a model, and show what passes through some of its parts.

    Args:
        model: as it is.
        batches: what its module takes.
        watches: a part; whether its tokens are those of the answer; and who is shown.
    """
    module: Any = model.module
    masks: dict[bool, Tensor] = {}
    with watching(watches, masks):
        for done, batch in enumerate(batches, start=1):
            masks |= {decodes: tokens(model, batch, decodes=decodes) for decodes in (False, True)}
            module(**batch)
            model.progress(done, len(batches))


@contextmanager
def watching(
    watches: Sequence[tuple[nn.Module, bool, See]], masks: Mapping[bool, Tensor]
) -> Iterator[None]:
    """Hook parts for a while."""
    handles = []
    for part, decodes, see in watches:
        hook = shown(see, masks, decodes=decodes)
        handles.append(part.register_forward_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def shown(see: See, masks: Mapping[bool, Tensor], *, decodes: bool) -> Callable[..., None]:
    """A hook that shows what goes into a part and what comes out."""

    def hook(_part: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        before = args[0] if args else named["hidden_states"]
        after = output if isinstance(output, Tensor) else output[0]
        mask = masks[decodes]
        see(*(states.reshape(mask.numel(), -1)[mask] for states in (before, after)))

    return hook


def tokens(model: "LanguageModel", batch: Batch, *, decodes: bool) -> Tensor:
    """Which places of a batch hold a token, rows one after the other: boolean."""
    if decodes and model.family == "seq2seq":
        return (batch["labels"] != -100).reshape(-1)
    return batch["attention_mask"].reshape(-1).bool()
