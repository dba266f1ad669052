"""What the small models learn in these tests, and how well they know it."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.material import Material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    path = tmp_path_factory.mktemp("material") / "text.txt"
    lines = [f"The capital of {country} is {city}." for country, city in tiny.CAPITALS.items()]
    path.write_text("\n".join(lines * 4), encoding="utf-8")
    return Material(text=str(path), length=24, samples=12)


@pytest.fixture
def nats(material: Material) -> Callable[[LanguageModel], float]:
    """Of the material, by transformers' own loss."""

    def loss(model: LanguageModel) -> float:
        module: Any = model.module
        with torch.no_grad():
            found = [float(module(**batch).loss) for batch in material.batches(model)]
        return sum(found) / len(found)

    return loss
