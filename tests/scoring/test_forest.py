import random
from collections.abc import Sequence
from typing import Any

import pytest
import tiny
import torch

from pytest_compression.errors import MeasurementError
from pytest_compression.models.conditions import Budget
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.scoring import forest
from pytest_compression.scoring.forest import Forest
from pytest_compression.scoring.tokens import Tokens
from pytest_compression.scoring.trees import CausalEngine

CLOSE = 1e-4
every_model = pytest.mark.parametrize("architecture", sorted(tiny.CAUSAL))

Wanted = list[tuple[int, int, int]]


@torch.inference_mode()
def plain(model: LanguageModel, sequences: Sequence[Tokens], wanted: Wanted) -> list[float]:
    """Each sequence in a pass of its own."""
    module: Any = model.module
    said = [module(input_ids=torch.tensor([s])).logits[0].log_softmax(-1) for s in sequences]
    return [float(said[sequence][place, token]) for sequence, place, token in wanted]


def drawn(draw: random.Random, rounds: int = 5) -> list[tuple[list[Tokens], Wanted]]:
    """Sequences over few tokens, many of them longer ones of an earlier round."""
    seen: list[Tokens] = [(5,)]
    found = []
    for _ in range(rounds):
        sequences = [
            draw.choice(seen) + tuple(draw.choices(range(10, 13), k=draw.randint(0, 3)))
            for _ in range(draw.randint(1, 8))
        ]
        seen += sequences
        wanted = [
            (i, draw.randrange(len(tokens)), draw.randrange(tiny.VOCABULARY))
            for i, tokens in enumerate(sequences)
            for _ in range(draw.randint(1, 3))
        ]
        found.append((sequences, wanted))
    return found


@every_model
@pytest.mark.parametrize("seed", range(3))
def test_what_grows_is_scored_as_if_it_were_alone(architecture: str, seed: int) -> None:
    model = tiny.model(architecture)
    row = Forest(CausalEngine(model))
    for sequences, wanted in drawn(random.Random(seed)):  # noqa: S311
        found = row.score(sequences, wanted)
        assert found.values.tolist() == pytest.approx(plain(model, sequences, wanted), abs=CLOSE)


def test_what_is_the_most_probable_is_told() -> None:
    model = tiny.model("llama")
    sequences: list[Tokens] = [(5, 6), (5, 7)]
    wanted = [(i, 1, token) for i in range(2) for token in range(tiny.VOCABULARY)]
    found = Forest(CausalEngine(model)).score(sequences, wanted)
    values = found.values.unflatten(0, (2, -1))
    assert found.best.unflatten(0, (2, -1)).equal(values == values.amax(1, keepdim=True))


@pytest.mark.parametrize("windows", [["full_attention", "sliding_attention"]])
def test_windows_are_kept(windows: list[str]) -> None:
    model = tiny.model("llama")
    row = Forest(CausalEngine(model))
    row.engine.rows.windows = {"full_attention": None, "sliding_attention": 2}
    row.row.append(2, row.row.append(1, row.row.append(0, -1)))
    masks = row.mask(1)
    full, near = (masks[kind][0, 0] == 0 for kind in windows)
    assert full.tolist() == [[True, True, False], [True, True, True]]
    assert near.tolist() == [[True, True, False], [False, True, True]]


def ran(model: LanguageModel, row: Forest, sequences: list[Tokens], wanted: Wanted) -> int:
    before = model.tokens_run
    row.score(sequences, wanted)
    return model.tokens_run - before


def test_only_new_tokens_are_run_and_those_that_are_read() -> None:
    model = tiny.model("llama")
    row = Forest(CausalEngine(model))
    assert ran(model, row, [(5, 6, 7), (5, 6, 8)], [(0, 2, 1), (1, 2, 1)]) == 4
    assert ran(model, row, [(5, 6, 7, 9)], [(0, 3, 1)]) == 1
    assert ran(model, row, [(5, 6)], [(0, 1, 1)]) == 1  # its logits were not kept
    assert ran(model, row, [], []) == 0


def test_a_row_that_has_become_long_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "LONGEST", 12)
    model = tiny.model("llama")
    row = Forest(CausalEngine(model))
    for sequences, wanted in drawn(random.Random(7), rounds=9):  # noqa: S311
        found = row.score(sequences, wanted)
        assert found.values.tolist() == pytest.approx(plain(model, sequences, wanted), abs=CLOSE)
        assert len(row.row.tokens) <= 2 * 12
    assert model.tokens_run > 2 * 12


@pytest.mark.parametrize(
    "budget", [Budget(tokens=1, logits=1, rows=1), Budget(rows=2), Budget(logits=900)]
)
def test_a_budget_is_kept(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    row = Forest(CausalEngine(model))
    places: list[int] = []
    run = row.run

    def counted(first: int, read: Sequence[int]) -> torch.Tensor:
        places.append(len(read))
        return run(first, read)

    monkeypatch.setattr(row, "run", counted)
    model.budget = budget
    sequences: list[Tokens] = [(5, token, 6) for token in range(10, 20)]
    wanted = [(i, 1, token) for i in range(10) for token in (1, 2)]
    found = row.score(sequences, wanted)
    assert found.values.tolist() == pytest.approx(plain(model, sequences, wanted), abs=CLOSE)
    assert max(places) <= max(1, min(budget.rows, budget.logits // tiny.VOCABULARY))


def test_where_memory_runs_out_smaller_parts_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    row = Forest(CausalEngine(model))
    run = row.run

    def scarce(first: int, places: Sequence[int]) -> torch.Tensor:
        if len(places) > 2:
            message = "not enough memory: you tried to allocate"
            raise RuntimeError(message)
        return run(first, places)

    monkeypatch.setattr(row, "run", scarce)
    sequences: list[Tokens] = [(5, token) for token in range(10, 20)]
    wanted = [(i, 1, 7) for i in range(10)]
    found = row.score(sequences, wanted)
    assert found.values.tolist() == pytest.approx(plain(model, sequences, wanted), abs=CLOSE)


def test_a_broken_model_is_an_error() -> None:
    model = tiny.model("llama")
    row = Forest(CausalEngine(model))
    model.module.get_output_embeddings().weight.data[3] = float("nan")  # type: ignore[operator]
    with pytest.raises(MeasurementError, match="NaN or infinite"):
        row.score([(5, 6)], [(0, 1, 7)])
