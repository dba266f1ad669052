import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import kl_div

from pytest_compression.scoring.distributions import Distances, compare, keep

VOCABULARY = 50


@st.composite
def logits(draw: st.DrawFn, positions: int = 3) -> Tensor:
    """Normal ones of some spread; ties and a token that takes nearly all among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 0.1, 1.0, 4.0, 12.0]))
    values = torch.randn(positions, VOCABULARY, generator=generator) * spread
    if draw(st.booleans()):
        values = values.round()
    if draw(st.booleans()):
        values[0, draw(st.integers(0, VOCABULARY - 1))] += 60
    return values.log_softmax(-1)


tops = st.sampled_from([1, 5, 20, VOCABULARY - 1, VOCABULARY, VOCABULARY + 9])


def lots(positions: int, drawn: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(positions, drawn, generator=torch.Generator().manual_seed(seed))


def distances(p: Tensor, q: Tensor, top: int, drawn: int = 16, seed: int = 0) -> Distances:
    tokens = torch.arange(len(p)) % VOCABULARY
    return compare(keep(p, tokens, lots(len(p), drawn, seed), top), q, tokens)


def whole(p: Tensor, q: Tensor) -> np.ndarray:
    """Torch's own divergence, of the whole distributions."""
    found = kl_div(q.double(), p.double(), log_target=True, reduction="none").sum(1)
    return np.asarray(found.numpy())


@given(logits(), logits(), tops)
def test_the_divergence_lies_within_the_bounds(p: Tensor, q: Tensor, top: int) -> None:
    found, true = distances(p, q, top), whole(p, q)
    rounding = 1e-5 * (1 + np.abs(true))
    assert (found.least <= true + rounding).all()
    assert (true <= found.most + rounding).all()
    assert (found.least >= 0).all()
    assert (found.divergence >= found.least).all()
    assert (found.variance >= 0).all()


@given(logits(), tops)
def test_a_model_is_at_no_distance_from_itself(p: Tensor, top: int) -> None:
    found = distances(p, p, top)
    assert (found.divergence == 0).all()
    assert (found.least == 0).all()
    assert (found.variance == 0).all()
    assert (found.same_top == 1).all()
    assert (found.token == found.dense_token).all()


@given(logits(), logits(), st.sampled_from([VOCABULARY, VOCABULARY + 9]))
def test_nothing_is_estimated_where_the_whole_vocabulary_is_kept(
    p: Tensor, q: Tensor, top: int
) -> None:
    found = distances(p, q, top)
    true = whole(p, q)
    for column in (found.divergence, found.least, found.most):
        np.testing.assert_allclose(column, true, rtol=1e-5, atol=1e-5)
    assert (found.variance == 0).all()


@given(logits(), logits())
def test_the_best_tokens_and_the_true_ones_are_compared(p: Tensor, q: Tensor) -> None:
    found = distances(p, q, 5)
    tokens = torch.arange(len(p))
    np.testing.assert_allclose(found.token, q[tokens, tokens].numpy())
    np.testing.assert_allclose(found.dense_token, p[tokens, tokens].numpy())
    for row, same in enumerate(found.same_top):
        best = (p[row] == p[row].max()).nonzero().flatten()
        mine = (q[row] == q[row].max()).nonzero().flatten()
        if len(best) == len(mine) == 1:
            assert same == float(best.item() == mine.item())


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.5])
def test_the_estimate_is_unbiased_and_its_error_is_as_stated(spread: float) -> None:
    generator = torch.Generator().manual_seed(3)
    raw = 2 * torch.randn(1, VOCABULARY, generator=generator)
    p = raw.log_softmax(-1)
    q = (raw + spread * torch.randn(1, VOCABULARY, generator=generator)).log_softmax(-1)
    (true,) = whole(p, q)
    times = 4000  # the same position again and again, with other draws
    found = distances(p.expand(times, -1), q.expand(times, -1), 5)
    assert found.least[0] < true < found.most[0]
    spread_of_estimates = found.divergence.std()
    assert found.divergence.mean() == pytest.approx(true, abs=4 * spread_of_estimates / times**0.5)
    # One draw in each part varies less than draws from all: the stated error is no smaller.
    stated = np.sqrt(found.variance.mean())
    assert spread_of_estimates <= 1.05 * stated
    assert stated < 0.25 * true


@given(logits(), st.integers(1, 20), st.integers(0, 9))
def test_draws_are_of_the_others_one_in_each_part_of_equal_mass(
    p: Tensor, drawn: int, seed: int
) -> None:
    kept = keep(p, torch.zeros(len(p), dtype=torch.long), lots(len(p), drawn, seed), 5)
    for row in range(len(p)):
        top = set(kept.top[row].tolist())
        picked = kept.drawn[row].tolist()
        assert not top & set(picked)
        assert picked == sorted(picked)  # parts follow each other through the vocabulary
        mass = p[row].double().exp()
        mass[kept.top[row].long()] = 0
        upto = mass.cumsum(0)
        for part, token in enumerate(picked):
            begin, end = (upto[-1] * (part + step) / drawn for step in (0, 1))
            assert upto[token] > begin * (1 - 1e-12)
            assert upto[token] - mass[token] < end
        np.testing.assert_array_equal(kept.drawn_values[row], p[row, picked])


def test_the_store_is_compact_and_says_how_large_it_is() -> None:
    p = torch.randn(7, 5000).log_softmax(-1)
    kept = keep(p, torch.zeros(7, dtype=torch.long), lots(7, 64), 64)
    assert kept.size == 4 * (1 + 64 + 64 + 1 + 1 + 64 + 64)
    assert sum(tensor.numel() * 4 for tensor in vars(kept).values()) == 7 * kept.size
    assert kept.size < 5000 * 4 / 10
