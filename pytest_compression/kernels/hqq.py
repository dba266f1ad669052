"""Half-quadratic quantization: a zero point for each group that fits its weights best.

``codes = clamp(round(W / scale + z))`` and ``W^ = scale * (codes - z)`` with
``scale = (max - min) / (2^bits - 1)`` of the group and a real-valued z, which begins at
``-min / scale``. Then, up to 20 times: ``E = shrink(W - W^)`` takes a sparse error out, and
``z = mean(codes - (W - E) / scale)`` fits the rest, where
``shrink(x) = sign(x) * max(0, |x| - |x|^(p-1) / beta)``, p = 0.7 and beta = 10. No data is needed.

Source: Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog/; they return the last z, cap the
inverse scale, and stop on the mean of the whole matrix. Here each group keeps the best it has seen,
stops when it does not get better, and its first candidate is the affine min-max grid. So no
group's squared error is ever above that of rounding to nearest.

A real-valued zero point puts no code on zero: weights that were pruned before come back as small
numbers.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from pytest_compression.kernels.grids import Grid, distances, fit_grid, nearest_codes, slabs
from pytest_compression.kernels.quantization import Quantized

ROUNDS = 20
NORM = 0.7
BETA = 10.0


def shrink(rest: Tensor) -> Tensor:
    """The sparse part of an error: that of the few weights which are far off."""
    size = rest.abs()
    return rest.sign() * (size - size.pow(NORM - 1) / BETA).clamp_(min=0)


def own_range(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point over the range of each group, whether or not it holds zero."""
    # In double precision, as grids.ranges: max - min may overflow.
    low, high = groups.amin(1, keepdim=True).double(), groups.amax(1, keepdim=True).double()
    scale = ((high - low) / (2**bits - 1)).float()
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny).where(high > low, 1.0)
    return scale, (-low / scale).float()


def refitted(groups: Tensor, codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The zero point that fits the codes of each group best, sparse errors aside."""
    rest = shrink(groups - (codes - zero) * scale)
    fitted = codes - (groups - rest) / scale
    # In double precision: the same mean with any number of threads.
    return fitted.mean(1, keepdim=True, dtype=torch.float64).float()


def search(
    groups: Tensor, scale: Tensor, zero: Tensor, *, bits: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The best scale and zero point of each group that half-quadratic splitting comes by.

    Args:
        groups: float32 ``[count, block]``.
        scale: of the candidates to beat, ``[count, 1]``.
        zero: of the candidates to beat, of the same shape.
        bits: 2 to 8.
        dtype: in which the weights are written, and errors measured.
    """
    top = 2**bits - 1
    best_scale, best_zero = scale.clone(), zero.clone()
    codes = nearest_codes(groups, scale, zero, top)
    least = distances(codes, groups, scale, zero, dtype)
    scale, zero = own_range(groups, bits)
    index = torch.arange(len(groups), device=groups.device)
    last = torch.full_like(least, torch.inf)
    for _ in range(ROUNDS):
        codes = nearest_codes(groups, scale, zero, top)
        found = distances(codes, groups, scale, zero, dtype)
        falls = found < last  # the search goes on with these groups alone
        index, groups, scale, zero, codes, last = (
            each[falls] for each in (index, groups, scale, zero, codes, found)
        )
        if not len(index):
            break
        better = last < least[index]
        least[index[better]] = last[better]
        best_scale[index[better]], best_zero[index[better]] = scale[better], zero[better]
        zero = refitted(groups, codes, scale, zero)
    return best_scale, best_zero


def pieces(shape: torch.Size, group_size: int) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, columns and groups of parts that hold groups of one length each."""
    columns = shape[1]
    count = columns // group_size
    edge = count * group_size
    for rows in slabs(shape):
        if count:
            yield rows, slice(edge), slice(count)
        if edge < columns:  # the shorter group at the end of each row
            yield rows, slice(edge, columns), slice(count, count + 1)


def quantize_hqq(weight: Tensor, *, bits: int, group_size: int) -> Quantized:
    """Round a weight to grids whose zero points are fitted to its groups.

    Args:
        weight: ``[out_features, in_features]``, any floating dtype.
        bits: 2 to 8.
        group_size: consecutive inputs of a row that share a grid.

    Raises:
        ValueError: as :func:`pytest_compression.kernels.grids.fit_grid`.
    """
    plain = fit_grid(weight, bits=bits, granularity="group", group_size=group_size, symmetric=False)
    scale, zero = plain.scale, cast("Tensor", plain.zero_point).float()  # affine, so there is one
    for rows, columns, here in pieces(weight.shape, group_size):
        part = weight[rows, columns].detach().float()
        shape = scale[rows, here].shape
        best_scale, best_zero = search(
            part.reshape(shape.numel(), -1),
            scale[rows, here].reshape(-1, 1),
            zero[rows, here].reshape(-1, 1),
            bits=bits,
            dtype=weight.dtype,
        )
        scale[rows, here], zero[rows, here] = best_scale.view(shape), best_zero.view(shape)
    return Quantized.on(Grid(scale=scale, zero_point=zero, bits=bits, block=plain.block), weight)
