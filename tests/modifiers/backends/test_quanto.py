import itertools
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import pytest
import tiny
import torch
from adopted import built, check_adopted, fewer, halves, layer_of, loaded, logits, relative
from hypothesis import given
from hypothesis import strategies as st
from strategies import codes
from torch import Tensor

from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.backends import foreign
from pytest_compression.modifiers.backends.foreign import imported
from pytest_compression.modifiers.backends.quanto import BITS, Quanto
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.registry import build
from pytest_compression.types import Part

quanto = imported("optimum.quanto", distribution="optimum-quanto", backend="quanto")

USE = "pytest_compression.modifiers.backends.quanto:Quanto"
every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
kinds = st.sampled_from(sorted(BITS))


@every_architecture
def test_layers_compute_with_the_weight_they_store(architecture: str) -> None:
    """On GPT-2 its turned layers, too; on T5 ``wo``."""
    off, lost, footprint = check_adopted(loaded(architecture), Quanto(weights="int8"))
    assert off < 1e-6
    assert 0 < lost < 0.1
    assert 0 < footprint.weight_error < 0.01
    assert footprint.activation_bits is None


@pytest.mark.parametrize("weights", sorted(BITS))
def test_the_other_schemes(weights: Any) -> None:
    off, lost, _ = check_adopted(loaded("gpt2", torch.float16), Quanto(weights=weights))
    assert off == 0
    assert lost > 0.001


@pytest.mark.parametrize("weights", sorted(BITS))
def test_odd_shapes_in_bfloat16(weights: Any) -> None:
    """With 20 inputs quanto's own product reads beyond its tensors and ends the process."""
    module = tiny.network("llama", hidden_size=20, intermediate_size=33).bfloat16()
    model = LanguageModel(module=module, tokenizer=None, family="causal")
    off, _, _ = check_adopted(model, Quanto(weights=weights))
    assert off < 1e-6


@fewer
@given(weight=halves(), kind=kinds)
def test_each_weight_is_within_half_a_step(weight: Tensor, kind: Any) -> None:
    """Rows of zeros, of one value, of one sign, and single weights among them."""
    _, found, wrong = built(Quanto(weights=kind).build, weight, bias=True)
    assert wrong == ""
    values = weight.double()
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    largest = values.abs().amax(1, keepdim=True)
    step = {
        "int8": largest / 127,
        "float8": largest / 8,
        "int4": (high - low) / 15,
        "int2": (high - low) / 3,
    }[kind]
    # Scales and offsets are rounded to the dtype, and codes cut off at both ends.
    slack = 4 * torch.finfo(weight.dtype).eps * 2 ** BITS[kind] * largest
    allowed = step / 2 + slack + 2 * torch.finfo(weight.dtype).tiny * 2 ** BITS[kind]
    assert ((found.double() - values).abs() <= allowed).all()


@fewer
@given(data=st.data(), bits=st.sampled_from([2, 4]))
def test_codes_are_unpacked_as_quanto_packs_them(data: st.DataObject, bits: int) -> None:
    from pytest_compression.modifiers.backends.dequantizing import unpack

    drawn = data.draw(codes(bits).filter(len))
    packed = quanto.tensor.packed.pack_weights(drawn, bits)
    assert torch.equal(unpack(packed, bits)[: len(drawn)], drawn)


def test_no_compiler_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from optimum.quanto.library.extensions import extension, get_extension

    def compiles(**_: Any) -> None:
        pytest.fail("a library is compiled")

    monkeypatch.setattr(extension, "load", compiles)
    monkeypatch.setattr(get_extension("quanto_cpp"), "_lib", None)
    for weights in ("int4", "int2"):
        step: Any = Quanto(weights=weights)
        layer, _, wrong = built(step.build, torch.randn(5, 7))
        assert wrong == ""
        assert layer(torch.randn(2, 7)).shape == (2, 5)


def test_groups_are_quanto_s_unless_said() -> None:
    weight = torch.randn(8, 384)
    sizes = {
        group: Quanto(weights="int4", group_size=group).build(layer_of(weight))[1]
        for group in (None, 32, 96, 128)
    }
    assert sizes[None].nbytes == sizes[128].nbytes == 8 * 384 // 2 + 8 * 8 * 3 + 8
    assert sizes[32].nbytes == 8 * 384 // 2 + 8 * 8 * 12 + 8

    def error(stored: Any) -> float:
        return relative(stored.dequantize(), weight)

    assert error(sizes[32]) < error(sizes[96]) < error(sizes[128]) == error(sizes[None])


def test_groups_that_do_not_fit_are_told() -> None:
    model = loaded("bert")
    with pytest.raises(RecipeError, match=r"quanto cannot compress 'bert.*\[16, 16\].*128"):
        model.compress([Quanto(weights="int4", group_size=128)])
    assert model.restore()


def test_more_bits_and_smaller_groups_cost_less() -> None:
    model = loaded("llama")
    found = []
    for weights in ("int8", "float8", "int4", "int2"):
        step: Any = Quanto(weights=weights)
        footprint = model.compress([step])
        found.append((footprint.weight_error, -footprint.bytes if "int" in weights else None))
        assert model.restore()
    errors = [error for error, _ in found]
    assert errors == sorted(errors)
    assert all(one < other for one, other in itertools.pairwise(b for _, b in found if b))


def test_a_head_that_is_tied_is_untied_knowingly() -> None:
    model = loaded("gpt2")
    footprint = model.compress([Quanto(weights="int8", targets=("all", "head"))])
    assert "lm_head" in model.adopted
    assert footprint.modules_touched == footprint.modules
    module: Any = model.module
    assert torch.equal(module.get_input_embeddings().weight, model.dense["lm_head.weight"])
    assert model.restore()
    assert module.lm_head.weight is module.get_input_embeddings().weight


@pytest.mark.parametrize("architecture", sorted(tiny.TYPICAL.values()))
def test_what_is_run_beside_a_row_does_not_matter(architecture: str) -> None:
    model = loaded(architecture)
    model.compress([Quanto(weights="int4")])
    assert not model.alone
    assert relative(logits(model, slice(1)), logits(model)[:1]) < 1e-5
    assert model.restore()


def test_zeros_survive_symmetric_codes_and_losing_them_is_told() -> None:
    model = loaded("llama")
    pruned = Magnitude(sparsity=0.5)
    assert model.compress([pruned, Quanto(weights="int8")]).sparsity >= 0.5
    assert model.restore()
    with pytest.raises(RecipeError, match=r"sparsity 0.5 .* after the whole recipe"):
        model.compress([pruned, Quanto(weights="int4")])
    assert model.restore()


def test_the_version_is_part_of_the_environment_as_long_as_it_matters() -> None:
    model = loaded("bert")
    model.compress([Quanto(weights="int8")])
    assert model.environment()["optimum-quanto"] == version("optimum-quanto")
    assert model.restore()
    assert "optimum-quanto" not in model.environment()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(foreign, "version", missing)
    with pytest.raises(RecipeError) as caught:
        loaded("bert").compress([Quanto(weights="int8")])
    assert str(caught.value) == (
        "quanto needs optimum-quanto: pip install 'pytest-compression[quanto]'"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "weights"),
        ({"weights": "int3"}, "'int3'"),
        ({"weights": "int8", "group_size": 32}, "'group_size' means nothing to weights 'int8'"),
        ({"weights": "int4", "group_size": 48}, "48"),
        ({"weights": "int4", "targets": []}, "'targets' is empty"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use=USE, options=options))
