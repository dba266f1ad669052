"""What can be seen without llm-compressor; the rest is in tests/llm_compressor."""

import importlib.metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
import yaml

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.backends import llm_compressor
from pytest_compression.modifiers.backends.llm_compressor import LlmCompressor
from pytest_compression.modifiers.material import Material
from pytest_compression.registry import build
from pytest_compression.types import Part

USE = "pytest_compression.modifiers.backends.llm_compressor:LlmCompressor"
RECIPE = {"my_stage": {"my_modifiers": {"GPTQModifier": {"targets": ["Linear"]}}}}


def test_a_recipe_stands_in_the_suite_with_its_calibration() -> None:
    options = {"recipe": RECIPE, "calibration": {"facts": ["capital"], "samples": 8}}
    made = build("modifiers", Part(use=USE, options=options))
    material = Material(facts=("capital",), samples=8)
    assert made == LlmCompressor(recipe=RECIPE, calibration=material)
    assert yaml.safe_load(made.text()) == RECIPE


def test_steps_keep_their_order() -> None:
    steps: dict[str, Any] = {"SmoothQuantModifier": {}, "AWQModifier": {}, "GPTQModifier": {}}
    made = LlmCompressor(recipe={"z_stage": {"z_modifiers": steps}})
    places = [made.text().index(name) for name in steps]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({}, "it holds no stage"),
        ({"args": {"sparsity": 0.5}}, "it holds no stage"),
        (
            {"quant": {"my_modifiers": {"GPTQModifier": {}}}},
            "'quant.my_modifiers' would do nothing",
        ),
        ({"quant_stage": {"mine": {"GPTQModifier": {}}}}, "'quant_stage.mine' would do nothing"),
        ({"quant_stage": {"my_modifiers": {}}}, "'quant_stage.my_modifiers' would do nothing"),
        ({"quant_stage": None}, "'quant_stage' would do nothing"),
        (RECIPE | {"more": {"a_modifiers": {"B": {}}}}, "'more.a_modifiers' would do nothing"),
    ],
)
def test_what_llm_compressor_would_drop_without_a_word_is_refused(
    recipe: dict[str, Any], words: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use=USE, options={"recipe": recipe}))


def test_a_recipe_is_needed() -> None:
    with pytest.raises(msgspec.ValidationError, match="recipe"):
        build("modifiers", Part(use=USE, options={}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no recipe of llm-compressor: while parsing"),
        ("some words", "it holds no stage"),
        ("a: {b: 1}", "'a.b' would do nothing"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=words) as found:
        LlmCompressor(recipe=str(file)).text()
    assert str(file) in str(found.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"missing\.yaml' cannot be read .*No such file"):
        LlmCompressor(recipe=str(tmp_path / "missing.yaml")).text()


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    text = "# my own\nmy_stage: {my_modifiers: {GPTQModifier: {scheme: W4A16}}}\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert LlmCompressor(recipe=str(tmp_path / "recipe.yaml")).text() == text


def test_where_it_is_not_installed_an_environment_of_its_own_is_advised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        if name == "llmcompressor":
            raise importlib.metadata.PackageNotFoundError(name)
        return importlib.metadata.version(name)

    monkeypatch.setattr(llm_compressor, "version", version)
    wanted = (
        r"not installed: pip install 'pytest-compression\[llm-compressor\]', in a virtual "
        rf"environment of its own, .* 5\.17 or older \({importlib.metadata.version('transformers')}"
    )
    with pytest.raises(RecipeError, match=wanted):
        LlmCompressor(recipe=RECIPE).apply(tiny.model("llama"))
