import importlib
import math
import sys
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import weights
from torch import Tensor

from pytest_compression.kernels.ternary import quantize_ternary

few = settings(max_examples=30)


@pytest.fixture
def bitnet(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of transformers, without its compiler, which takes seconds to import."""
    name = "transformers.integrations.bitnet"
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@given(weights())
def test_the_three_values_are_the_mean_magnitude_with_a_sign_and_zero(weight: Tensor) -> None:
    found = quantize_ternary(weight)
    flat = weight.double().abs().flatten().tolist()
    gamma = max(math.fsum(flat) / len(flat), 1e-5)
    assert float(found.grid.scale) == pytest.approx(gamma, rel=1e-6)
    levels = torch.tensor([-1.0, 0.0, 1.0]) * found.grid.scale.flatten()
    given_back = found.dequantize()
    assert torch.isin(given_back, levels.to(weight.dtype)).all()
    assert given_back.isfinite().all()
    assert (given_back[weight == 0] == 0).all()
    assert torch.equal(quantize_ternary(-weight).dequantize(), -given_back)


@few
@given(weights(dtype=torch.float32))
def test_a_weight_becomes_zero_up_to_half_the_mean_magnitude(weight: Tensor) -> None:
    found = quantize_ternary(weight)
    ratio = weight.double() / found.grid.scale.double()
    decided = (ratio.abs() - 0.5).abs() > 1e-6
    expected = ratio.sign() * (ratio.abs() > 0.5)
    assert torch.equal((found.codes().double() - 1)[decided], expected[decided])


@pytest.mark.parametrize("seed", range(10))
def test_it_is_what_transformers_makes_of_bitnets_weights(bitnet: Any, seed: int) -> None:
    weight = torch.randn(33, 47, generator=torch.Generator().manual_seed(seed))
    theirs = bitnet.WeightQuant.apply(weight)
    torch.testing.assert_close(quantize_ternary(weight).dequantize(), theirs, rtol=1e-6, atol=0)


def test_a_third_of_normal_weights_becomes_zero() -> None:
    weight = torch.randn(500, 500, generator=torch.Generator().manual_seed(0))
    share = (quantize_ternary(weight).dequantize() == 0).double().mean()
    assert float(share) == pytest.approx(0.310, abs=0.005)


@pytest.mark.parametrize("constant", [3.0, -0.02, 1e30])
def test_a_constant_matrix_is_kept(constant: float) -> None:
    weight = torch.full((5, 7), constant)
    torch.testing.assert_close(quantize_ternary(weight).dequantize(), weight, rtol=1e-6, atol=0)


def test_below_the_least_mean_all_becomes_zero() -> None:
    assert (quantize_ternary(torch.full((2, 3), 4e-6)).dequantize() == 0).all()


@few
@given(weights(), st.randoms())
def test_pruned_weights_stay_in_two_bits(weight: Tensor, random: Random) -> None:
    zero = torch.tensor([random.random() < 0.5 for _ in range(weight.numel())])
    zero = zero.reshape(weight.shape)
    found = quantize_ternary(weight)
    pruned = found.with_zeros(zero)
    assert pruned is not None
    assert torch.equal(pruned.dequantize(), found.dequantize().where(~zero, 0))
    assert found.bits == pruned.bits == 2
    assert found.nbytes == pruned.nbytes == math.ceil(weight.numel() / 4) + 4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_ternary(torch.tensor([[1.0, bad]]))


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 4), (4, 0)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a weight \[out_features, in_features\]"):
        quantize_ternary(torch.ones(shape))
