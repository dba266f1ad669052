"""The strategies of the contracts, as everybody gets them, and codes."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.testing.strategies import (
    DENORMAL,
    HANDFUL,
    LARGE,
    LARGE_HALF,
    bits,
    distinct_weights,
    dtypes,
    shapes,
    sparsities,
    values,
    weights,
)

__all__ = [
    "DENORMAL",
    "HANDFUL",
    "LARGE",
    "LARGE_HALF",
    "bits",
    "codes",
    "distinct_weights",
    "dtypes",
    "shapes",
    "sparsities",
    "values",
    "weights",
]


@st.composite
def codes(draw: st.DrawFn, count_of_bits: int) -> Tensor:
    """Unsigned codes of so many bits, of any number, also none."""
    found = draw(st.lists(st.integers(0, 2**count_of_bits - 1), max_size=40))
    return torch.tensor(found, dtype=torch.uint8)
