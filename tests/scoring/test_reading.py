"""What logits say of tokens, against plain arithmetic of lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring import reading
from pytest_compression.scoring.reading import readings

FEW = st.integers(-3, 3).map(float)  # so that the highest logit is often that of several tokens


@given(
    logits=st.integers(1, 5).flatmap(
        lambda size: st.lists(st.lists(FEW, min_size=size, max_size=size), min_size=1, max_size=6)
    ),
    picks=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    chunk=st.sampled_from([1, 4, 2**22]),
)
def test_the_first_of_the_highest_is_the_best(
    logits: list[list[float]], picks: list[tuple[int, int]], dtype: torch.dtype, chunk: int
) -> None:
    rows = [row % len(logits) for row, _ in picks]
    tokens = [token % len(logits[0]) for _, token in picks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK", chunk)
        found = readings(torch.tensor(logits, dtype=dtype), rows, tokens)
    for row, token, value, best in zip(rows, tokens, found.values, found.best, strict=True):
        of = logits[row]
        total = math.log(sum(math.exp(one) for one in of))
        assert value.item() == pytest.approx(of[token] - total, abs=1e-5)
        assert best.item() == (of.index(max(of)) == token)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_an_error(bad: float) -> None:
    with pytest.raises(MeasurementError, match="1 of 2 tokens"):
        readings(torch.tensor([[0.0, bad], [0.0, 1.0]]), [0, 1], [0, 0])
