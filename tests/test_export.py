"""``pytest-compression export``: what was judged is what is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pytest_compression import cli
from pytest_compression.export import differences
from pytest_compression.models.places import quiet
from pytest_compression.models.sources import Embedded, Pretrained
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.types import Measurement, Question

SUITE = """\
version: 1
models:
  decoder: {use: embedded, family: causal}
recipes:
  half: {use: magnitude, sparsity: 0.3}
  mixed:
    steps:
    - {use: rtn, bits: 8, targets: attention}
    - {use: rtn, bits: 4, granularity: group, group_size: 32, symmetric: false,
       targets: feed-forward}
  int4: {use: rtn, bits: 4, granularity: group, group_size: 32}
  nf4: {use: nf4}
  hqq: {use: hqq}
  spoilt: {use: "spoiling:Spoil"}
  narrow: {use: "spoiling:Narrow"}
  taught: {use: "spoiling:Taught"}
benchmarks:
  capitals: {use: worldfacts, relations: [capital], limit: 12}
  all: {use: worldfacts, relations: [capital]}
  symbols: {use: worldfacts, relations: [symbol], limit: 6}
"""
SPOILING = """\
import torch
from dataclasses import dataclass
from pytest_compression.types import Claim


@dataclass(frozen=True, kw_only=True)
class Spoil:
    def apply(self, model):
        weight = model.weights("feed-forward")[0]
        weight.layer.register_forward_hook(lambda module, inputs, output: output * 3)
        weight.write(weight.values * 1.001)
        return Claim(targets=[weight.name])


@dataclass(frozen=True, kw_only=True)
class Narrow:
    def apply(self, model):
        mlp = model.module.model.layers[0].mlp
        for layer in (mlp.gate_proj, mlp.up_proj):
            layer.weight = torch.nn.Parameter(layer.weight[:8].clone(), requires_grad=False)
        mlp.down_proj.weight = torch.nn.Parameter(
            mlp.down_proj.weight[:, :8].clone(), requires_grad=False
        )
        return Claim(targets=["model.layers.0.mlp.up_proj"])


@dataclass(frozen=True, kw_only=True)
class Taught(Spoil):
    def lessons(self):
        return ["The capital of Ghana is Accra."]
"""

NAMED = ("--benchmark", "capitals", "--benchmark", "symbols")
Export = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Export:
    """Exit code, lines and errors of an export into ``release``."""
    (tmp_path / "x.yaml").write_text(SUITE, encoding="utf-8")
    (tmp_path / "spoiling.py").write_text(SPOILING, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(variant: str, *options: str, to: str = "release") -> tuple[int, list[str], str]:
        code = cli.main(["export", "x.yaml", "--variant", variant, "--to", to, *options])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return run


def left(folder: Path) -> set[str]:
    """What there is beside the suite."""
    return {path.name for path in folder.iterdir()} - {"x.yaml", "spoiling.py", "__pycache__"}


def test_a_pruned_model_is_written_and_answers_alike(export: Export, tmp_path: Path) -> None:
    code, said, error = export("decoder/half", *NAMED)
    assert (code, error) == (0, "")
    assert said == [
        "decoder/half -> release",
        "  capitals: 12 of 12 questions score the same; largest difference 0",
        "  symbols: 6 of 6 questions score the same; largest difference 0",
        "  tensors: 4264448 bytes in the files, 4264448 judged (1.00 and 1.00 of the dense model)",
    ]
    assert left(tmp_path) == {"release"}
    release = tmp_path / "release"
    loaded: Any = Pretrained(path=str(release)).load()
    zeros = sum(int((weight.values == 0).sum()) for weight in loaded.weights("all"))
    count = sum(weight.values.numel() for weight in loaded.weights("all"))
    assert zeros == round(0.3 * count)
    card = json.loads((release / "compression.json").read_text(encoding="utf-8"))
    assert card["variant"] == "decoder/half"
    assert card["recipe"] == [{"use": "magnitude", "sparsity": 0.3}]
    assert card["judged"] == card["in_these_files"]
    assert card["scores"]["capitals"]["questions"] == 12
    assert "- magnitude sparsity=0.3" in (release / "README.md").read_text(encoding="utf-8")
    (tmp_path / "other").mkdir()
    assert release.stat().st_mode == (tmp_path / "other").stat().st_mode


SAME = "  symbols: 6 of 6 questions score the same; largest difference "


@pytest.mark.parametrize(
    ("recipe", "method", "read_by"),
    [
        ("mixed", "compressed-tensors", "reads several kinds of layers"),
        ("nf4", "bitsandbytes", "Needs `pip install bitsandbytes accelerate`."),
    ],
)
def test_a_quantized_model_is_written_packed(
    export: Export, tmp_path: Path, recipe: str, method: str, read_by: str
) -> None:
    code, said, error = export(f"decoder/{recipe}", "--benchmark", "symbols", to="new/release")
    assert (code, error) == (0, "")
    assert said[1].startswith(SAME)
    assert float(said[1].removeprefix(SAME)) < 1e-5
    assert len(said) == 3
    release = tmp_path / "new" / "release"
    card = json.loads((release / "compression.json").read_text(encoding="utf-8"))
    files, judged = (card[name]["bytes"] for name in ("in_these_files", "judged"))
    assert said[2].startswith(f"  tensors: {files} bytes in the files, {judged} judged (0.4")
    assert files <= 1.02 * judged
    assert card["plain"] == {}
    config = json.loads((release / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"]["quant_method"] == method
    assert read_by in (release / "README.md").read_text(encoding="utf-8")


def test_codes_of_one_kind_are_read_as_the_directory_says(export: Export, tmp_path: Path) -> None:
    code, _, error = export("decoder/int4", "--benchmark", "symbols")
    assert (code, error) == (0, "")
    release = tmp_path / "release"
    said = (release / "README.md").read_text(encoding="utf-8")
    assert "quantization_config=CompressedTensorsConfig(dequantize=True)" in said
    options: Any = {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)}
    with quiet():
        read: Any = transformers.AutoModelForCausalLM.from_pretrained(release, **options)
    judged: Any = Embedded(family="causal").load()
    judged.compress([RoundToNearest(bits=4, granularity="group", group_size=32)])
    for weight in judged.weights("all"):
        assert torch.equal(read.get_submodule(weight.name).weight, weight.values)


def test_what_is_written_as_plain_numbers_is_said(export: Export, tmp_path: Path) -> None:
    code, said, error = export("decoder/hqq", "--benchmark", "symbols")
    reason = "no common format holds zero points that are no whole numbers"
    assert (code, error) == (0, "")
    assert said[1].startswith(SAME)
    assert float(said[1].removeprefix(SAME)) < 1e-5
    names = ", ".join(f"model.layers.0.self_attn.{one}_proj" for one in "qkvo")
    assert said[3].startswith(f"  written as plain numbers: {names}, ")
    assert said[3].endswith(f" and 23 more ({reason})")
    assert len(said) == 4
    card = json.loads((tmp_path / "release" / "compression.json").read_text(encoding="utf-8"))
    assert list(card["plain"].values()) == [reason] * 28


def test_a_model_that_answers_otherwise_is_red_and_leaves_nothing(
    export: Export, tmp_path: Path
) -> None:
    code, said, _ = export("decoder/spoilt", *NAMED)
    assert code == 1
    assert said[0] == (
        "decoder/spoilt was not exported: read again from its files, it answers otherwise."
    )
    assert said[1].startswith("  capitals: ")
    assert "0 of 12 questions score the same" in said[1]
    assert "read again" in said[2]
    assert said[7] == "    and 7 more"
    assert left(tmp_path) == set()


def test_a_model_that_no_file_can_hold_leaves_nothing(export: Export, tmp_path: Path) -> None:
    code, said, error = export("decoder/narrow")
    assert (code, said) == (2, [])
    assert "the configuration of a LlamaForCausalLM cannot describe this model" in error
    assert left(tmp_path) == set()


def test_what_was_taught_its_questions_is_refused(export: Export, tmp_path: Path) -> None:
    code, _, error = export("decoder/taught", "--benchmark", "all")
    assert code == 2
    assert "Taught would learn from what is asked (1 of 203 of 'all' questions)" in error
    assert left(tmp_path) == set()


def test_a_disk_that_is_full_leaves_nothing(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    code, said, error = export("decoder/half", *NAMED)
    assert (code, said) == (2, [])
    assert "the model could not be written: [Errno 28] No space left on device" in error
    assert left(tmp_path) == set()


def test_a_disk_that_is_full_at_last_leaves_nothing(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pytest_compression.export.write_card", full)
    code, said, error = export("decoder/half", "--benchmark", "symbols")
    assert (code, said) == (2, [])
    assert "'release' could not be written: No space left on device." in error
    assert left(tmp_path) == set()


def test_a_directory_that_holds_something_is_left_as_it_is(export: Export, tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "mine").write_text("x", encoding="utf-8")
    code, said, error = export("decoder/half")
    assert (code, said) == (2, [])
    assert error == (
        "pytest-compression export: 'release' is not empty: name a new directory, or remove what "
        "is in it.\n"
    )
    assert (tmp_path / "release" / "mine").read_text(encoding="utf-8") == "x"


def test_the_current_directory_is_never_replaced(export: Export) -> None:
    code, said, error = export("decoder/half", to=".")
    assert (code, said) == (2, [])
    assert "the current directory cannot be replaced" in error


def test_a_file_in_the_way_is_left_as_it_is(export: Export, tmp_path: Path) -> None:
    (tmp_path / "release").write_text("x", encoding="utf-8")
    for to in ("release", "release/below"):
        code, said, error = export("decoder/half", to=to)
        assert (code, said) == (2, [])
        assert f"'{to}'" in error
    assert (tmp_path / "release").read_text(encoding="utf-8") == "x"


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("decoder/hlaf", (), "x.yaml has no variant 'decoder/hlaf'. Did you mean 'decoder/half'?"),
        ("decoder", (), "x.yaml has no variant 'decoder'. "),
        ("decoder/dense", (), "'decoder/dense' is the model itself, which is there already."),
        ("decoder/half", ("--benchmark", "capital"), "no benchmark 'capital'. Did you mean"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    export: Export, variant: str, options: tuple[str, ...], message: str
) -> None:
    code, said, error = export(variant, *options)
    assert (code, said) == (2, [])
    assert message in error
    assert left(Path.cwd()) == set()


def test_a_suite_that_is_not_there_is_refused(export: Export, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").unlink()
    code, _, error = export("decoder/half")
    assert code == 2
    assert "x.yaml" in error


# What counts as the same


def question(name: str) -> Question:
    return Question(
        id=name, subject=name, stem="", end="", answer="a", candidates=("a", "b"), cluster="c"
    )


def measured(margins: list[float], given: list[str] | None = None) -> Measurement:
    return Measurement(
        metric="m",
        questions=tuple(question(f"q{i}") for i in range(len(margins))),
        margins=tuple(margins),
        given=tuple(given or ["a" if margin > 0 else "b" for margin in margins]),
        scoring="s",
        left_out={},
    )


@given(margins=st.lists(st.floats(-5, 5), min_size=1, max_size=6), shift=st.floats(-0.1, 0.1))
def test_scores_are_the_same_up_to_a_near_tie_and_no_answer_turns(
    margins: list[float], shift: float
) -> None:
    before, after = measured(margins), measured([margin + shift for margin in margins])
    differ, largest = differences(before, after, 0.01)
    gaps = [abs((margin + shift) - margin) for margin in margins]
    turned = [(margin > 0) != (margin + shift > 0) for margin in margins]
    assert len(differ) == sum(gap > 0.01 or turn for gap, turn in zip(gaps, turned, strict=True))
    assert largest == max(gaps)
    assert differences(before, before, 0.0) == ([], 0.0)


def test_another_answer_is_another_answer_however_wrong() -> None:
    before, after = measured([-1.0, 1.0], ["b", "a"]), measured([-1.0, 1.0], ["c", "a"])
    differ, largest = differences(before, after, 0.01)
    assert differ == ["q0: b (-1.0000), read again c (-1.0000)"]
    assert largest == 0


def test_infinite_margins_are_the_same() -> None:
    endless = measured([float("inf"), float("-inf")])
    assert differences(endless, endless, 0.0) == ([], 0.0)


def test_questions_that_were_asked_of_one_only_differ() -> None:
    differ, _ = differences(measured([1.0, 1.0]), measured([1.0]), 0.01)
    assert differ == ["q0: not asked of both", "q1: not asked of both"]


def test_graded_scores_are_compared_too() -> None:
    graded = replace(measured([1.0]), margins=(), values=(0.5,))
    differ, largest = differences(graded, replace(graded, values=(0.6,)), 0.01)
    assert len(differ) == 1
    assert largest == pytest.approx(0.1)
