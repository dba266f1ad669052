"""Rows with masks: each gets what a plain pass of its own gives, and equal rows are run once."""

import random
from typing import Any

import pytest
import tiny
import torch
import transformers as tf

from pytest_compression.errors import MeasurementError
from pytest_compression.models.conditions import SINGLE, Budget
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.scoring.pseudo import Hidden, hidden_log_probabilities


def drawn(seed: int) -> list[Hidden]:
    """Rows of a few lengths, some of them equal but read elsewhere."""
    draw = random.Random(seed)  # noqa: S311
    found = []
    for _ in range(12):
        row = tuple(draw.choices(range(3, 60), k=draw.randint(2, 6)))
        for _ in range(draw.randint(1, 3)):
            places = tuple(draw.choices(range(len(row)), k=draw.randint(1, 3)))
            found.append(Hidden(row, places, tuple(draw.choices(range(60), k=len(places)))))
    draw.shuffle(found)
    return found


def alone(model: LanguageModel, hidden: Hidden) -> list[float]:
    """By one plain pass, with all logits."""
    module: Any = model.module
    options = {"token_type_ids": torch.tensor([hidden.segments])} if hidden.segments else {}
    with torch.inference_mode():
        values = module(input_ids=torch.tensor([hidden.row]), **options).logits[0].log_softmax(-1)
    return [float(values[p, t]) for p, t in zip(hidden.places, hidden.tokens, strict=True)]


@pytest.mark.parametrize("architecture", list(tiny.MASKED))
@pytest.mark.parametrize("budget", [Budget(), SINGLE, Budget(logits=700)], ids=["", "1", "few"])
def test_each_row_gets_what_it_gets_alone(architecture: str, budget: Budget) -> None:
    model = tiny.model(architecture)
    model.budget = budget
    rows = drawn(1)
    for found, hidden in zip(hidden_log_probabilities(model, rows), rows, strict=True):
        assert found == pytest.approx(alone(model, hidden), abs=1e-5)


def test_a_head_that_is_not_called_as_a_module_is_read_all_the_same() -> None:
    module = tf.MobileBertForMaskedLM(
        tf.MobileBertConfig(
            vocab_size=tiny.VOCABULARY,
            embedding_size=16,
            intra_bottleneck_size=16,
            **tiny.HIDDEN | {"num_attention_heads": 2, "hidden_size": 32},
        )
    ).eval()
    model = LanguageModel(module=module, tokenizer=tiny.tokenizer("masked"), family="masked")
    rows = drawn(2)
    for found, hidden in zip(hidden_log_probabilities(model, rows), rows, strict=True):
        assert found == pytest.approx(alone(model, hidden), abs=1e-5)


def test_segments_are_told_to_the_model() -> None:
    model = tiny.model("bert")
    first = Hidden((5, 6, 7, 8), (1,), (9,))
    rows = [first, first._replace(segments=(0, 0, 1, 1))]
    (one,), (other,) = hidden_log_probabilities(model, rows)
    assert one == pytest.approx(alone(model, rows[0])[0], abs=1e-5)
    assert other == pytest.approx(alone(model, rows[1])[0], abs=1e-5)
    assert one != pytest.approx(other, abs=1e-3)


def test_equal_rows_are_run_once() -> None:
    model = tiny.model("bert")
    hidden_log_probabilities(model, [Hidden((5, 6, 7), (1,), (token,)) for token in range(60)])
    assert model.tokens_run == 3


def test_a_broken_model_is_an_error() -> None:
    model = tiny.model("bert")
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]
    head.weight.data[7] = float("nan")
    with pytest.raises(MeasurementError, match="NaN or infinite logits"):
        hidden_log_probabilities(model, [Hidden((5, 6), (1,), (9,))])
