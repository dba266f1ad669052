"""Which layers are written packed, in which format, and why others are not."""

from typing import Any

import pytest
import tiny

from pytest_compression.models.packing import Packing, packing_of
from pytest_compression.modifiers.backends.bitsandbytes import BitsAndBytes
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import Float8, Hqq, Nf4, RoundToNearest
from pytest_compression.types import Modifier

INT8, INT4 = RoundToNearest(bits=8), RoundToNearest(bits=4, targets="attention")
NF4 = Nf4(targets="feed-forward")
WHOLE = "no common format holds zero points that are no whole numbers"
CONV1D = "compressed-tensors packs no Conv1D layers"
FOUR_BITS = "a file has one format, and bitsandbytes saves more of this model"
GRIDS = "a file has one format, and compressed-tensors saves more of this model"
E4M3 = "the 8-bit floats of compressed-tensors are e4m3"
KEPT = "transformers keeps it in single precision"


def packing(architecture: str, *steps: Modifier) -> Packing:
    model = tiny.model(architecture)
    model.compress(list(steps))
    return packing_of(model)


@pytest.mark.parametrize(
    ("architecture", "steps", "count", "plain"),
    [
        ("llama", [INT8], 14, {}),
        ("llama", [INT4], 8, {}),
        ("llama", [Magnitude(sparsity=0.5), INT8], 14, {}),
        ("llama", [INT8, Magnitude(sparsity=0.5)], 14, {}),
        ("llama", [INT8, Float8(targets="*.q_proj"), INT4], 14, {}),
        ("llama", [RoundToNearest(bits=8, targets=("all", "embeddings", "head"))], 16, {}),
        ("llama", [Magnitude(sparsity=0.5)], 0, {}),
        ("llama", [Hqq(group_size=8)], 0, {WHOLE: 14}),
        ("llama", [Hqq(group_size=8), INT4], 8, {WHOLE: 6}),
        ("llama", [Float8(format="e5m2"), INT4], 8, {E4M3: 6}),
        ("llama", [INT4, NF4], 6, {FOUR_BITS: 8}),
        ("llama", [INT8, Nf4(targets="*.q_proj")], 12, {GRIDS: 2}),
        ("gpt2", [INT8], 0, {CONV1D: 8}),
        ("gpt2", [INT8, RoundToNearest(bits=8, targets="head")], 1, {CONV1D: 8}),
        ("gpt2", [Nf4()], 8, {}),
        ("t5", [Nf4()], 32, {KEPT: 4}),
    ],
)
def test_what_fits_is_packed_and_what_does_not_is_said(
    architecture: str, steps: list[Modifier], count: int, plain: dict[str, int]
) -> None:
    found = packing(architecture, *steps)
    reasons = list(found.plain.values())
    assert len(found.tensors) == count
    assert {reason: reasons.count(reason) for reason in reasons} == plain
    assert not found.plain.keys() & found.tensors.keys()
    assert (found.settings is None) == (count == 0)


def test_all_linear_layers_but_the_packed_are_left_out() -> None:
    for step in (INT4, Nf4(targets="attention")):
        model = tiny.model("llama")
        model.compress([step])
        found = packing_of(model)
        said: Any = found.settings if step is INT4 else found.settings.to_dict()
        left = said["ignore" if step is INT4 else "llm_int8_skip_modules"]
        names = {weight.name for weight in model.linear()}
        assert {name.removesuffix("$") for name in left} == names - found.tensors.keys()


def test_another_library_s_layers_decide_the_format() -> None:
    theirs = BitsAndBytes(scheme="nf4", targets="feed-forward")
    found = packing("llama", Nf4(targets="attention"), theirs)
    assert not found.tensors
    said = "another library's layers are in the file, which has one format"
    assert set(found.plain.values()) == {said}
    assert len(found.plain) == 8


@pytest.mark.parametrize(("step", "name"), [(INT8, "compressed-tensors"), (Nf4(), "bitsandbytes")])
def test_nothing_is_packed_where_nothing_could_read_it(
    monkeypatch: pytest.MonkeyPatch, step: Modifier, name: str
) -> None:
    packages = {name: ("no-such-package", "another")}
    monkeypatch.setattr("pytest_compression.models.packing.PACKAGES", packages)
    monkeypatch.setattr(
        "pytest_compression.models.packing.is_installed", lambda package: package == "another"
    )
    found = packing("llama", step)
    assert (found.settings, len(found.tensors)) == (None, 0)
    said = f"{name} is read with no-such-package: pip install no-such-package"
    assert set(found.plain.values()) == {said}


class Unknown:
    """Codes that nobody else knows."""

    nbytes, bits = 1, 8


def test_codes_of_an_unknown_kind_are_plain() -> None:
    model = tiny.model("llama")
    weight: Any = model.weights("feed-forward")[0]
    unknown: Any = Unknown()
    unknown.dequantize = weight.values.clone
    weight.write(weight.values, unknown)
    assert packing_of(model).plain == {weight.name: "no format holds codes of the kind Unknown"}
