"""A model's identity: whatever its answers depend on changes it, or it has none."""

import copy
from collections.abc import Callable
from functools import cache, partial, partialmethod, wraps
from typing import Any, Final

import pytest
import tiny
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, masking_utils
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

from pytest_compression.models import identity
from pytest_compression.models.conditions import SINGLE
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.scoring.cloze import measure
from pytest_compression.types import Keyed, Modifier

every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))


def known(model: LanguageModel) -> str:
    """The digest, which there is."""
    found = model.identity()
    assert found.unknown == ""
    assert len(found.digest) == 32
    return found.digest


@every_architecture
def test_a_model_is_known_and_asking_it_changes_nothing(architecture: str) -> None:
    model = tiny.model(architecture)
    assert isinstance(model, Keyed)
    before = known(model)
    measure(model, tiny.questions(), "ranked")
    model.tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert known(model) == before
    assert known(tiny.model(architecture)) == before
    assert known(tiny.model(architecture, seed=1)) != before


RECIPES: Final[dict[str, list[Modifier]]] = {
    "pruned": [Magnitude(sparsity=0.5)],
    "more": [Magnitude(sparsity=0.51)],
    "int8": [RoundToNearest(bits=8)],
    "int4": [RoundToNearest(bits=4)],
}


@every_architecture
def test_each_recipe_has_its_own_and_the_dense_one_comes_back(architecture: str) -> None:
    model = tiny.model(architecture)
    found = {"dense": known(model)}
    for name, steps in RECIPES.items():
        model.compress(steps)
        found[name] = known(model)
        assert model.restore()
        assert known(model) == found["dense"]
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_one_bit_of_any_tensor_is_another_model(architecture: str) -> None:
    model = tiny.model(architecture)
    before = known(model)
    buffers = dict(model.module.named_buffers())  # also those that are not stored
    for name, tensor in {**dict(model.module.named_parameters()), **buffers}.items():
        flat = tensor.detach().reshape(-1)
        kept = flat[-1].clone()
        raw = flat[-1:].view(torch.uint8)
        raw[0] ^= 1
        assert known(model) != before, name
        flat[-1] = kept
    assert known(model) == before


def test_nothing_is_the_same_as_a_zeroed_head() -> None:
    model = tiny.model("llama")
    before = known(model)
    head: Any = model.module.lm_head
    head.weight.data.zero_()
    assert known(model) != before


CHANGES: Final[dict[str, Callable[[Any], object]]] = {
    "family": lambda model: setattr(model, "family", "masked"),
    "config": lambda model: setattr(model.module.config, "rms_norm_eps", 0.1),
    "attention": lambda model: setattr(model.module.config, "_attn_implementation", "eager"),
    "a module's own value": lambda model: setattr(model.module.model.norm, "eps", 0.1),
    "a module's class": lambda model: setattr(
        model.module.model.layers[0].mlp, "act_fn", nn.GELU().eval()
    ),
    "order of layers": lambda model: model.module.model.layers.insert(
        0, model.module.model.layers[1]
    ),
    "a word": lambda model: model.tokenizer.add_tokens(["Ouagadougou"]),
    "a mark": lambda model: setattr(model.tokenizer, "eos_token", model.tokenizer.pad_token),
    "tokenizer's settings": lambda model: setattr(model.tokenizer, "padding_side", "left"),
    "tokenizer": lambda model: setattr(model, "tokenizer", tiny.tokenizer("masked")),
    "dtype": lambda model: model.module.to(torch.bfloat16),
    "more": lambda model: setattr(model.module, "extra", torch.ones(2)),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_what_else_answers_depend_on_is_another_model(change: str) -> None:
    model = fresh()
    before = known(model)
    CHANGES[change](model)
    assert known(model) != before


def fresh() -> LanguageModel:
    """One whose tokenizer may be changed."""
    model = tiny.model("llama")
    model.tokenizer = copy.deepcopy(model.tokenizer)
    return model


def test_threads_and_precision_are_part_of_it() -> None:
    model, threads = tiny.model("llama"), torch.get_num_threads()
    before = known(model)
    try:
        torch.set_num_threads(threads + 1)
        assert known(model) != before
    finally:
        torch.set_num_threads(threads)
    try:
        torch.set_float32_matmul_precision("medium")
        assert known(model) != before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert known(model) == before


class Foreign(nn.Linear):
    """Computes what it likes."""


class Odd(torch.Tensor):
    """Holds what it likes."""


def nothing(*_args: Any) -> None:
    """A hook."""


def put(model: Any, name: str, value: object) -> None:
    """Set an attribute of the first layer's feed-forward block."""
    vars(model.module.model.layers[0].mlp)[name] = value


UNKNOWN: Final[dict[str, tuple[Callable[[Any], object], str]]] = {
    "hook": (
        lambda model: model.module.lm_head.register_forward_hook(nothing),
        "hooks on model._modules.lm_head",
    ),
    "pre-hook": (
        lambda model: model.module.model.register_forward_pre_hook(nothing),
        "hooks on model._modules.model",
    ),
    "forward": (
        lambda model: put(model, "forward", nothing),
        "the forward of model._modules.model._modules.layers._modules.0._modules.mlp was replaced",
    ),
    "class": (
        lambda model: setattr(model.module, "lm_head", Foreign(16, 320)),
        "model._modules.lm_head is of test_identity.Foreign, and no version says what code of 'te",
    ),
    "function": (lambda model: put(model, "act", nothing), "mlp.act is <function nothing at "),
    "lambda": (lambda model: put(model, "act", nn.Module().__dict__.get), "mlp.act is <built-in"),
    "partial": (
        lambda model: put(model, "act", partial(nothing, 1)),
        "mlp.act is of functools.partial, which does not show what it holds",
    ),
    "tensor": (
        lambda model: put(model, "extra", torch.ones(2).as_subclass(Odd)),
        "mlp.extra is a tensor of a foreign kind (test_identity.Odd)",
    ),
    "sparse": (
        lambda model: put(model, "extra", torch.eye(2).to_sparse()),
        "mlp.extra is a tensor of a foreign kind (torch.Tensor)",
    ),
    "set": (
        lambda model: put(model, "extra", {nothing}),
        "mlp.extra is a set of things that have no order",
    ),
    "training": (
        lambda model: model.module.model.train(),
        "model._modules.model is in training mode, so that it may answer at random",
    ),
    "subclass": (
        lambda model: setattr(model, "__class__", Subclass),
        "model is of test_identity.Subclass, and no version says what",
    ),
}


class Subclass(LanguageModel):
    """Answers as it likes."""


@pytest.mark.parametrize("change", sorted(UNKNOWN))
def test_what_cannot_be_described_has_no_identity(change: str) -> None:
    model = fresh()
    act, message = UNKNOWN[change]
    act(model)
    found = model.identity()
    assert found.digest == ""
    assert message in found.unknown.replace("tests.models.", "")


def test_hooks_on_all_modules_leave_no_identity() -> None:
    model = tiny.model("llama")
    handle = nn.modules.module.register_module_forward_hook(nothing)
    try:
        assert model.identity().unknown == "hooks on all modules"
    finally:
        handle.remove()
    known(model)


def test_a_method_that_was_replaced_leaves_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")

    def forward(self: nn.Linear, values: Tensor) -> Tensor:  # noqa: ARG001
        return values

    monkeypatch.setattr(nn.Linear, "forward", forward)
    said = model.identity().unknown
    assert "is of torch.nn.modules.linear.Linear, and no version says what code of" in said


def test_devices_of_one_number_may_be_different(monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["A100", "H100"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: next(names))
    one, other = (identity.device_name.__wrapped__(torch.device("cuda:0")) for _ in range(2))
    assert one != other


# Code that was replaced in memory


def halved(*arguments: Any, **options: Any) -> Any:
    """Computes something else."""
    return torch.nn.functional.relu(*arguments, **options)


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that still bears the name of the one it replaces."""

    @wraps(function)
    def inner(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return inner


class Descriptor:
    """Gives what it likes when it is called for."""

    def __get__(self, _instance: object, _kind: type) -> Any:
        return halved


PLACES: Final[dict[str, tuple[Any, str]]] = {
    "module": (modeling_llama, "apply_rotary_pos_emb"),
    "module that is called": (masking_utils, "sdpa_mask"),
    "torch": (torch, "matmul"),
    "torch's functions": (nn.functional, "silu"),
    "tensors": (Tensor, "transpose"),
    "class": (modeling_llama.LlamaMLP, "forward"),
    "class of states": (DynamicLayer, "update"),
}
OTHERS: Final[dict[str, Callable[[Any], Any]]] = {
    "function": lambda _old: halved,
    "wraps": wrapped,
    "known wrapper": lambda _old: torch.no_grad()(halved),
    "cached": lambda _old: cache(halved),
    "static": lambda _old: staticmethod(halved),
    "property": lambda _old: property(halved),
    "partial": lambda _old: partial(halved, 1),
    "partial method": lambda old: partialmethod(old, 1),
    "descriptor": lambda _old: Descriptor(),
    "object": lambda _old: Descriptor,
}


@pytest.mark.parametrize(
    ("place", "other"),
    [
        *((place, "wraps") for place in PLACES),
        *(("class", other) for other in OTHERS if other != "wraps"),
    ],
)
def test_code_that_was_replaced_anywhere_leaves_no_identity(
    place: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("llama")
    before = known(model)
    owner, name = PLACES[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, OTHERS[other](getattr(owner, name)))
        found = model.identity()
    assert (found.digest, bool(found.unknown)) == ("", True)
    assert known(model) == before


@pytest.mark.parametrize("place", sorted(PLACES))
def test_two_functions_of_one_package_that_were_exchanged_are_another_model(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("llama")
    before = known(model)
    monkeypatch.setattr(*PLACES[place], modeling_llama.rotate_half)
    assert known(model) != before


def test_attention_that_was_registered_anew_leaves_no_identity() -> None:
    model = tiny.model("llama")
    before = known(model)
    own = ALL_ATTENTION_FUNCTIONS["sdpa"]
    try:
        AttentionInterface.register("sdpa", halved)
        assert "ALL_ATTENTION_FUNCTIONS.sdpa is halved" in model.identity().unknown
        AttentionInterface.register("sdpa", modeling_llama.eager_attention_forward)
        assert known(model) != before
    finally:
        AttentionInterface.register("sdpa", own)
    assert known(model) == before


def test_another_precision_of_the_moment_leaves_no_identity() -> None:
    model = tiny.model("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.identity().unknown == "torch.autocast is on"
    known(model)


def test_how_much_is_read_at_once_decides_no_answer() -> None:
    model = tiny.model("llama")
    before = known(model)
    model.budget = SINGLE
    assert known(model) == before
