"""The training script: a small lesson is learned, saved, and loaded as any model is."""

from pathlib import Path

import pytest

from pytest_compression.embedded import train
from pytest_compression.models.sources import Pretrained

FEW = train.sentences()[::80]
"""Some of every relation."""


@pytest.mark.parametrize("family", sorted(train.PLANS))
def test_a_lesson_is_learned_and_saved(
    family: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(train, "sentences", lambda: list(FEW))
    short, taught = (train.train(family, seed=3, epochs=epochs) for epochs in (1, 8))
    assert taught.training.loss < 0.9 * short.training.loss
    train.save(taught, tmp_path)
    assert Pretrained(path=str(tmp_path)).load().family == family
