"""Hypothesis strategies for weights and models, where thresholds and quantizers break.

Half of all values come from a handful, because ties and zeros are what goes wrong.
"""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.testing.specimens import FILLINGS, Architecture, Plan, Size

LARGE = 2.0**100
"""The largest magnitude, about 1e30: in single precision sums and steps stay finite."""
LARGE_HALF = 2.0**12
"""The same for float16, which ends at 65,504."""
DENORMAL = 2.0**-149 * 5

HANDFUL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.1, 3.0)

dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
bits = st.integers(2, 8)
sparsities = st.one_of(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int]:
    """``[out_features, in_features]``: one element, one row, one column, odd sizes."""
    out = draw(st.one_of(st.just(1), st.integers(1, 6)))
    return out, draw(st.one_of(st.just(1), st.integers(1, 9)))


def values(largest: float) -> st.SearchStrategy[float]:
    """One weight: as likely of the handful as of the whole range, denormals among it."""
    anything = st.one_of(
        st.floats(-2, 2, width=32),
        st.floats(-largest, largest, width=32),
        st.sampled_from([DENORMAL, -DENORMAL, largest, -largest]),
    )
    return st.one_of(st.sampled_from(HANDFUL), anything)


@st.composite
def weights(draw: st.DrawFn, *, dtype: torch.dtype | None = None) -> Tensor:
    """A matrix ``[out_features, in_features]``: mixed, constant, zero, of one sign, or a grid."""
    kind = draw(st.sampled_from(["mixed", "mixed", "one sign", "constant", "zero", "grid"]))
    chosen = draw(dtypes) if dtype is None else dtype
    out, into = draw(shapes())
    each = values(LARGE_HALF if chosen == torch.float16 else LARGE)
    if kind == "grid":
        each = st.integers(-7, 7).map(float)
    if kind in ("constant", "zero"):
        flat = [draw(each) if kind == "constant" else 0.0] * (out * into)
    else:
        flat = draw(st.lists(each, min_size=out * into, max_size=out * into))
    if kind == "one sign":
        sign = draw(st.sampled_from([1.0, -1.0]))
        flat = [sign * abs(value) for value in flat]
    return torch.tensor(flat, dtype=torch.float32).reshape(out, into).to(chosen)


@st.composite
def distinct_weights(draw: st.DrawFn) -> Tensor:
    """A matrix in which no two magnitudes are equal."""
    out, into = draw(shapes())
    order = draw(st.permutations(range(1, out * into + 1)))
    signs = draw(st.lists(st.sampled_from([1, -1]), min_size=out * into, max_size=out * into))
    flat = [sign * number / 8 for sign, number in zip(signs, order, strict=True)]
    return torch.tensor(flat).reshape(out, into)


sizes = st.builds(
    Size,
    hidden=st.integers(1, 9),
    inner=st.integers(1, 9),
    heads=st.just(1),
    layers=st.integers(1, 2),
)
"""Of specimens: down to one element a matrix."""


def plans(architectures: Sequence[Architecture]) -> st.SearchStrategy[Plan]:
    """Specimens of any of some architectures: :func:`~.specimens.build` makes them."""
    return st.builds(
        Plan,
        architecture=st.sampled_from(architectures),
        size=sizes,
        dtype=dtypes,
        fillings=st.lists(st.sampled_from(FILLINGS), min_size=1, max_size=3).map(tuple),
        seed=st.integers(0, 2**16),
    )
