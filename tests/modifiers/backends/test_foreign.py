import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from adopted import layer_of, loaded, logits
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.backends import foreign
from pytest_compression.modifiers.backends.foreign import (
    Stored,
    as_linear,
    difference,
    imported,
    nbytes,
    replace,
    stored_bytes,
)


def stored(weight: Tensor) -> Stored:
    return Stored(nbytes=weight.nbytes, bits=32, read=lambda: weight)


def same(linear: nn.Linear) -> tuple[nn.Module, Stored]:
    return linear, stored(linear.weight.data)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of a backend that is yet to be written."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "some_backend.py"
    sys.modules.pop("some_backend", None)


def test_a_missing_package_is_told_with_what_installs_it() -> None:
    with pytest.raises(RecipeError) as caught:
        imported("x", distribution="no-such-thing", backend="some", extra="some")
    assert str(caught.value) == ("some needs no-such-thing: pip install 'pytest-compression[some]'")
    with pytest.raises(RecipeError) as caught:
        imported("x", distribution="no-such-thing", backend="some")
    assert str(caught.value) == "some needs no-such-thing: pip install no-such-thing"


def test_a_package_that_cannot_be_imported_is_told_with_the_reason(module: Path) -> None:
    module.write_text("from torch import no_such_name\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"pytest .* cannot be imported here .*no_such_name"):
        imported("some_backend", distribution="pytest", backend="some", extra="some")


def test_an_import_is_quiet_and_nothing_else_is(
    module: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module.write_text(
        "import logging, warnings\n"
        "warnings.warn('old', DeprecationWarning)\n"
        "logging.getLogger('some').warning('no such library')\n"
        "logging.getLogger('some').error('broken')\n",
        encoding="utf-8",
    )
    imported("some_backend", distribution="pytest", backend="some")
    assert [record.message for record in caplog.records] == ["broken"]
    logging.getLogger("some").warning("mine")
    assert caplog.records[-1].message == "mine"
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_copied(*, bias: bool) -> None:
    layer = nn.Linear(5, 3, bias=bias).requires_grad_(requires_grad=False)
    made = as_linear("x", layer, backend="some")
    inputs = torch.randn(2, 4, 5)
    assert torch.equal(made(inputs), layer(inputs))
    made.weight.data += 1
    if bias:
        made.bias.data += 1
    assert not torch.equal(made(inputs), layer(inputs))
    assert not made.training


def test_gpt2_s_turned_layers_become_linear_ones_without_a_change() -> None:
    model = tiny.model("gpt2")
    dense = logits(model)
    for weight in model.weights("all"):
        assert isinstance(weight.layer, Conv1D)
        made = as_linear(weight.name, weight.layer, backend="some")
        assert torch.equal(made.weight, weight.values)
        model.module.set_submodule(weight.name, made)
    assert not any(isinstance(part, Conv1D) for part in model.module.modules())
    assert torch.allclose(logits(model), dense, rtol=1e-5, atol=1e-5)


def test_other_layers_are_refused_by_name() -> None:
    model = loaded("gpt2")
    with pytest.raises(RecipeError, match=r"some compresses linear layers, .*wte' is a Embedding"):
        replace(model, model.weights("embeddings"), same, backend="some")
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(RecipeError, match=r"'x' has hooks, which some would drop"):
        as_linear("x", hooked, backend="some")


def test_two_backends_do_not_meet_in_one_layer() -> None:
    class Theirs(nn.Linear):
        pass

    with pytest.raises(RecipeError, match=r"'x' is a .*Theirs.*put this step first"):
        as_linear("x", Theirs(2, 2), backend="some")


def test_what_a_backend_says_is_told_with_the_layer() -> None:
    def fails(_: nn.Linear) -> tuple[nn.Module, Stored]:
        message = "expect N to be dividable by 16\nand more"
        raise RuntimeError(message)

    model = loaded("bert")
    name = model.weights("all")[0].name
    with pytest.raises(RecipeError) as caught:
        replace(model, model.weights("all"), fails, backend="some")
    assert str(caught.value) == (
        f"some cannot compress '{name}' [16, 16] of torch.float32 on cpu: expect N to be dividable "
        "by 16. Leave it out with 'ignore', or choose another scheme."
    )
    assert model.restore()


class Saturating(nn.Linear):
    """Adds pairs of products in so little room that some do not fit."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        products = input.unsqueeze(-2) * self.weight
        pairs: Tensor = products.unflatten(-1, (-1, 2)).sum(-1)
        return pairs.clamp(-1.5, 1.5).sum(-1)


class OneRowOnly(nn.Linear):
    """Right for one input, wrong for several."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        return super().forward(input) * (1 if len(input) == 1 else 1.1)


@pytest.mark.parametrize("kind", [Saturating, OneRowOnly])
def test_a_layer_whose_arithmetic_is_wrong_is_found(kind: type[nn.Linear]) -> None:
    linear = layer_of(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    assert difference(linear, stored(linear.weight.data), linear) == ""
    wrong = kind(8, 6, bias=False).requires_grad_(requires_grad=False)
    wrong.weight.copy_(linear.weight)
    said = difference(wrong, stored(linear.weight.data), linear)
    assert said.startswith("its arithmetic on this processor does not give the product")


def test_a_layer_that_computes_with_another_weight_is_found() -> None:
    linear = layer_of(torch.randn(6, 8), bias=True)
    other = linear.weight.data.clone()
    other[2, 3] += 1
    assert "arithmetic" in difference(linear, stored(other), linear)
    assert "shape [8, 6]" in difference(linear, stored(other.t()), linear)
    other[4] = torch.nan
    assert difference(linear, stored(other), linear).startswith("8 of its weights became NaN")


def test_a_layer_that_is_wrong_is_not_taken() -> None:
    def zeroed(linear: nn.Linear) -> tuple[nn.Module, Stored]:
        return linear, stored(torch.zeros_like(linear.weight))

    model = loaded("gpt2")
    with pytest.raises(RecipeError, match=r"some is no good for 'transformer.h.0.*its arithmetic"):
        replace(model, model.weights("all"), zeroed, backend="some")
    assert not model.adopted
    assert model.restore()


def test_bytes_are_those_of_storages_counted_once() -> None:
    whole = torch.zeros(10, 4)
    assert nbytes(whole) == nbytes(whole, whole.t()) == nbytes(whole[:1]) == 160
    assert nbytes(whole, whole.clone(), None) == 320
    assert nbytes() == 0


def test_a_layer_s_bytes_leave_out_its_bias() -> None:
    assert stored_bytes(nn.Linear(8, 4)) == stored_bytes(nn.Linear(8, 4, bias=False)) == 128


def test_progress_is_told() -> None:
    model = loaded("bert")
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    names = replace(model, model.weights("attention"), same, backend="some")
    assert told == [(done, len(names)) for done in range(len(names))]
    model.progress = lambda _done, _total: None
    assert model.restore()


def test_the_module_is_light() -> None:
    assert "torch" not in vars(foreign)
