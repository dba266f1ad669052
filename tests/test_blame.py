"""Each thing that can be to blame, produced for real on an embedded model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shipped import Gate

import pytest_compression
from pytest_compression.store.packing import pack_bits, unpack_bits

WEIGHTS = Path(pytest_compression.__file__).parent / "embedded/weights/causal"
DECODER = "decoder: {use: embedded, family: causal}"


def line(text: str) -> str:
    """A report without its line breaks."""
    return " ".join(text.split())


def another_torch(record: dict[str, Any]) -> None:
    record["environment"]["torch"] = "2.12.0+cpu"


def other_answers(record: dict[str, Any]) -> None:
    """As if an older torch had answered ten more capitals wrongly."""
    another_torch(record)
    part = record["scores"]["capital"]
    scores = unpack_bits(part["bits"], part["questions"])
    wrong = [i for i, score in enumerate(scores) if score][:10]
    scores = [0 if i in wrong else score for i, score in enumerate(scores)]
    record["scores"]["capital"] = {**part, "bits": pack_bits(scores), "right": sum(scores)}


def test_another_torch_that_gives_the_same_answers_is_nobody_s_fault(gate: Gate) -> None:
    for recipe in ("dense", "int8"):
        gate.record(f"decoder/{recipe}::countries", another_torch)
    status, outcomes, _ = gate.run("decoder/int8::countries")
    assert status == 0
    assert outcomes == {"decoder/int8::countries": "PASSED"}


def test_another_torch_that_gives_other_answers_is_environment_drift(gate: Gate) -> None:
    gate.record("decoder/dense::countries", other_answers)
    status, outcomes, text = gate.run("decoder/int8::countries")
    assert status == 1
    assert outcomes == {"decoder/int8::countries": "ERROR"}
    assert "environment drift: the same dense weights answer 10 of 337 questions otherwise" in line(
        text
    )
    assert f"torch 2.12.0+cpu -> {torch.__version__}" in text
    assert "accept it: pytest --compress-suite 'suites/embedded.yaml::decoder/dense::count" in line(
        text
    )
    assert "No recipe is to blame" in text


def test_an_edited_question_is_a_stale_baseline(gate: Gate) -> None:
    gate.edit("relations: [capital, language]}", "relations: [capital, language], phrasing: 1}")
    status, outcomes, text = gate.run("decoder/int8::countries")
    assert status == 1
    assert outcomes == {"decoder/int8::countries": "ERROR"}
    assert "stale baseline" in text
    assert "the questions are not those of the baseline." in line(text)
    assert "dense weights are not" not in line(text)


def test_an_edited_weight_is_a_stale_baseline(gate: Gate) -> None:
    folder = gate.folder / "edited"
    folder.mkdir()
    for path in WEIGHTS.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if tensors[name].dim() == 2)
    tensors[name][0, 0] += 1e-6 + tensors[name][0, 0].abs() / 100
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    gate.edit(DECODER, "decoder: {path: ./edited}")
    status, outcomes, text = gate.run("decoder/int8::countries")
    assert status == 1
    assert outcomes == {"decoder/int8::countries": "ERROR"}
    assert "the dense weights are not those of the baseline." in line(text)
    assert "questions are not" not in line(text)


def test_another_dtype_is_environment_drift(gate: Gate) -> None:
    gate.edit(DECODER, "decoder: {use: embedded, family: causal, dtype: bfloat16}")
    status, outcomes, text = gate.run("decoder/int8::countries")
    assert status == 1
    assert outcomes == {"decoder/int8::countries": "ERROR"}
    drift = "environment drift: the dense model is loaded as bfloat16 and was accepted as float32"
    assert drift in line(text)
    assert "weights are not those" not in line(text)


def test_one_bit_less_is_a_regression_of_the_recipe_though_above_the_floor(gate: Gate) -> None:
    gate.edit("int4: {use: rtn, bits: 4}", "int4: {use: rtn, bits: 3}")
    status, outcomes, text = gate.run("decoder/int4")
    assert status == 1
    assert outcomes == {
        "decoder/int4::countries": "FAILED",
        "decoder/int4::cities": "PASSED",
        "decoder/int4::elements": "PASSED",
    }
    said = line(text)
    assert "decoder/int4::countries: a regression: 2.37% of the answers were lost" in said
    assert "recipe: changed from rtn bits=4 to rtn bits=3" in said
    assert "To blame: the recipe: it was edited" in said
    assert re.search(r"\n  \S.* \| capital \| then \S.*, now \S", text)
    assert re.search(r"decoder/int4::countries .* REGRESSED", text)


ONE_BY_ONE = """\
from dataclasses import dataclass

from pytest_compression.models.sources import Embedded


@dataclass(frozen=True, kw_only=True)
class Alone(Embedded):
    batch: str = "batch budget 1"

    def load(self):
        model = super().load()
        model.conditions()[self.batch].__enter__()
        return model
"""


@pytest.mark.parametrize(("batch", "threads"), [("batch budget 1", "2"), ("batch budget x4", "1")])
def test_another_batch_and_thread_count_is_never_red_nor_inconclusive(
    gate: Gate, batch: str, threads: str
) -> None:
    (gate.folder / "alone.py").write_text(ONE_BY_ONE, encoding="utf-8")
    for family in ("causal", "masked", "seq2seq"):
        gate.edit(
            f"{{use: embedded, family: {family}}}",
            f'{{use: "alone:Alone", family: {family}, batch: {batch}}}',
        )
    recipes = ("dense", "int4", "magnitude-0.3", "pruned-int8")
    chosen = [
        f"{m}/{r}::elements" for m in ("decoder", "encoder", "encoder-decoder") for r in recipes
    ]
    status, outcomes, text = gate.run(
        *chosen, "pooled", env={"OMP_NUM_THREADS": threads, "PYTHONPATH": str(gate.folder)}
    )
    assert status == 0, text
    assert set(outcomes.values()) == {"PASSED"}
    assert len(outcomes) == len(chosen) + 1
    assert "INCONCLUSIVE" not in text
