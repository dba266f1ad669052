"""What a grid can be asked for, and hypothesis's choice of it."""

from typing import Any, NamedTuple

from hypothesis import strategies as st
from strategies import bits
from torch import Tensor

from pytest_compression.kernels.quantization import Quantized, quantize


class Options(NamedTuple):
    """Arguments of quantize, as it takes them."""

    bits: int
    granularity: Any
    group_size: int | None
    symmetric: bool

    def of(self, weight: Tensor) -> Quantized:
        return quantize(weight, **self._asdict())


@st.composite
def options(draw: st.DrawFn, *, symmetric: bool | None = None) -> Options:
    granularity = draw(st.sampled_from(["tensor", "channel", "group"]))
    return Options(
        bits=draw(bits),
        granularity=granularity,
        group_size=draw(st.integers(1, 8)) if granularity == "group" else None,
        symmetric=draw(st.booleans()) if symmetric is None else symmetric,
    )
