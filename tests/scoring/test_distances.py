import inspect
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn.functional import kl_div

from pytest_compression.errors import MeasurementError
from pytest_compression.models.conditions import SINGLE, Budget
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.scoring import distances as module
from pytest_compression.scoring.distances import Reading, distances, read_logits, statistics
from pytest_compression.scoring.distributions import Distances

ARCHITECTURES = [*tiny.CAUSAL, *tiny.MASKED]


def readings(*, seed: int = 0, count: int = 9, longest: int = 30) -> list[Reading]:
    draw = random.Random(seed)  # noqa: S311
    found = []
    for _ in range(count):
        row = tuple(draw.choices(range(3, 80), k=draw.randint(2, longest)))
        places = tuple(sorted(draw.sample(range(len(row)), draw.randint(1, len(row)))))
        found.append(Reading(row, places, tuple(draw.choices(range(3, 80), k=len(places)))))
    return found


def by_hand(model: LanguageModel, asked: list[Reading]) -> torch.Tensor:
    """All log-probabilities, a row at a time."""
    rows = [model.module(input_ids=torch.tensor([one.row])).logits[0] for one in asked]
    return torch.cat(
        [row[list(one.places)].log_softmax(-1) for row, one in zip(rows, asked, strict=True)]
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("budget", [Budget(), SINGLE, Budget(tokens=40, logits=3000, rows=3)])
def test_every_place_is_read_once_whatever_the_budget(
    architecture: str, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POSITIONS", 5)
    model = tiny.model(architecture)
    model.budget = budget
    asked = readings()
    expected = by_hand(model, asked)
    seen = torch.zeros(len(expected))
    for where, values in read_logits(model, asked, lambda *found: found):
        assert len(where) == len(values) <= 5
        seen[where] += 1
        torch.testing.assert_close(values, expected[where], atol=2e-4, rtol=1e-4)
    assert (seen == 1).all()
    assert model.tokens_run == sum(len(one.row) for one in asked)


@pytest.mark.parametrize("architecture", tiny.CAUSAL)
def test_no_more_logits_than_the_budget_says_are_computed_at_once(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POSITIONS", 1)
    model = tiny.model(architecture)
    model.budget = replace(Budget(), logits=8 * tiny.VOCABULARY)
    sizes: list[int] = []
    forward: Any = model.module.forward

    def counted(*args: object, **options: object) -> object:
        found = forward(*args, **options)
        sizes.append(found.logits.numel())
        return found

    counted.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model.module, "forward", counted)
    asked = readings(longest=40)
    assert any(len(one.row) > 8 for one in asked)
    list(read_logits(model, asked, lambda *_: None))
    assert max(sizes) == 8 * tiny.VOCABULARY


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_distances_are_those_of_the_whole_distributions(architecture: str) -> None:
    model = tiny.model(architecture)
    asked = readings()
    dense = by_hand(model, asked)
    kept, found = distances(model, asked)
    assert not found.divergence.any()
    model.compress([Magnitude(sparsity=0.4)])
    now = by_hand(model, asked)
    same_kept, found = distances(model, asked, kept)
    assert same_kept is kept
    true = kl_div(now, dense, log_target=True, reduction="none").sum(1).double().numpy()
    assert (found.least - 1e-4 <= true).all()
    assert (true <= found.most + 1e-4).all()
    error = np.sqrt(found.variance)
    assert (np.abs(found.divergence - true) <= 6 * error + 1e-4).all()
    assert abs(found.divergence.mean() - true.mean()) < 0.02 * true.mean()
    np.testing.assert_array_equal(found.same_top, (dense.argmax(1) == now.argmax(1)).numpy())
    tokens = torch.tensor([token for one in asked for token in one.tokens])
    mine, its = (values.gather(1, tokens[:, None])[:, 0] for values in (now, dense))
    np.testing.assert_allclose(found.token, mine, atol=2e-4)
    np.testing.assert_allclose(found.dense_token, its, atol=2e-4)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_distances_do_not_depend_on_the_budget(architecture: str) -> None:
    model = tiny.model(architecture)
    asked = readings()
    kept, _ = distances(model, asked)
    model.compress([Magnitude(sparsity=0.4)])
    _, one = distances(model, asked, kept)
    model.budget = Budget(tokens=30, logits=900, rows=2)
    told: list[tuple[int, int]] = []
    _, other = distances(model, asked, kept, lambda *about: told.append(about))
    np.testing.assert_allclose(one.divergence, other.divergence, atol=2e-4)
    assert told[-1] == (len(one.token), len(one.token))
    assert told == sorted(told)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_what_does_not_fit_into_memory_is_run_in_parts(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POSITIONS", 5)
    model = tiny.model(architecture)
    asked = readings()
    _, whole = distances(model, asked)
    forward: Any = model.module.forward
    failed = 0

    def short(*args: object, **options: Any) -> object:
        nonlocal failed
        if len(options["input_ids"]) > 1:
            failed += 1
            raise torch.OutOfMemoryError
        return forward(*args, **options)

    short.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model.module, "forward", short)
    budget = model.budget
    _, parts = distances(model, [*asked, *asked])  # so that some rows have the same length
    assert failed
    assert model.budget.rows < budget.rows
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(np.concatenate([one, one]), other, atol=2e-4)
    monkeypatch.setattr(model.module, "forward", lambda **_: short(input_ids=[0, 0]))
    with pytest.raises(MeasurementError, match="memory does not suffice for a single row"):
        distances(model, asked)


def test_broken_logits_are_an_error() -> None:
    model = tiny.model("llama")
    network: Any = model.module
    network.get_output_embeddings().weight.data[3] = torch.nan
    with pytest.raises(MeasurementError, match="NaN or infinite logits"):
        distances(model, readings())


def some(n: int, seed: int = 0) -> Distances:
    draw = np.random.default_rng(seed)
    dense = -draw.gamma(2, 1, n)
    kld = draw.gamma(0.5, 0.1, n)
    return Distances(
        divergence=kld,
        least=kld * 0.9,
        most=kld + 3,
        variance=draw.uniform(0, 1e-6, n),
        same_top=(draw.uniform(size=n) < 0.8).astype(np.float64),
        token=dense - draw.normal(0.05, 0.2, n),
        dense_token=dense,
    )


def test_statistics_are_llama_cpp_s() -> None:
    n = 457
    found = some(n)
    figures = statistics(found)

    def percentile(values: np.ndarray, percent: float) -> float:
        ordered, at = np.sort(values), percent / 100 * (n - 1)
        low = int(at)
        return float(ordered[low] + (at - low) * (ordered[min(low + 1, n - 1)] - ordered[low]))

    def error(values: np.ndarray) -> float:
        return float(np.sqrt(((values**2).mean() - values.mean() ** 2) / (n - 1)))

    kld, same = found.divergence, found.same_top
    dp = np.exp(found.token) - np.exp(found.dense_token)
    a, b = -found.token, -found.dense_token
    covariance = ((a * b).mean() - a.mean() * b.mean()) / (n - 1)
    log_error = np.sqrt(error(a) ** 2 + error(b) ** 2 - 2 * covariance)
    ratio = np.exp(a.mean()) / np.exp(b.mean())
    rms = np.sqrt((dp**2).mean())
    expected = {
        "KLD": kld.mean(),
        "KLD +-": error(kld),
        "KLD sampling +-": np.sqrt(found.variance.sum()) / n,
        "KLD at least": found.least.mean(),
        "KLD at most": found.most.mean(),
        "KLD max": kld.max(),
        "KLD min": kld.min(),
        "same top": same.mean(),
        "same top +-": np.sqrt(same.mean() * (1 - same.mean()) / (n - 1)),
        "delta p": dp.mean(),
        "delta p +-": error(dp),
        "delta p RMS": rms,
        "delta p RMS +-": error(dp**2) / (2 * rms),
        "delta p max": dp.max(),
        "delta p min": dp.min(),
        "perplexity": np.exp(a.mean()),
        "dense perplexity": np.exp(b.mean()),
        "perplexity ratio": ratio,
        "perplexity ratio +-": ratio * log_error,
        **{f"KLD {f:g}%": percentile(kld, f) for f in (99.9, 99, 95, 90, 50, 10, 5, 1, 0.1)},
        **{
            f"delta p {f:g}%": percentile(dp, f)
            for f in (99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1)
        },
    }
    assert figures == pytest.approx(expected, rel=1e-9)


def test_there_are_no_statistics_of_fewer_than_100_tokens() -> None:
    assert statistics(some(99)) == {}
    assert statistics(some(100))["KLD"] == pytest.approx(some(100).divergence.mean())


def test_the_statistics_of_a_model_and_itself_are_finite() -> None:
    found = some(100)
    zero = np.zeros(100)
    figures = statistics(
        Distances(zero, zero, zero, zero, zero + 1, found.token, found.token), "pseudo-perplexity"
    )
    assert all(np.isfinite(value) for value in figures.values())
    assert figures["delta p RMS"] == figures["delta p RMS +-"] == figures["KLD"] == 0
    assert figures["same top"] == figures["pseudo-perplexity ratio"] == 1
    assert figures["dense pseudo-perplexity"] == figures["pseudo-perplexity"]
