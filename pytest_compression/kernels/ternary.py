"""Weights of three values: the absmean rule of BitNet b1.58.

``gamma = mean |W|`` over the matrix, at least 1e-5; ``codes = clamp(round(W / gamma), -1, 1)``;
``W^ = gamma * codes``. Of normally distributed weights 31 % become zero. Weights that were zero
stay zero, so a pruning mask survives; a matrix that is mostly zeros has a small gamma.

Source: Ma et al. 2024, https://arxiv.org/abs/2402.17764.
"""

import torch
from torch import Tensor

from pytest_compression.kernels.grids import Grid, check_finite, check_matrix
from pytest_compression.kernels.quantization import Quantized

BITS = 2
LEAST = 1e-5


def absmean_grid(weight: Tensor) -> Grid:
    """The grid of ``-gamma``, 0 and ``gamma``.

    Raises:
        ValueError: the weight is not a matrix, is empty, or holds NaN or infinities.
    """
    check_matrix(weight)
    # In double precision: the same mean with any number of threads, and no overflow.
    total = torch.linalg.vector_norm(weight.detach(), ord=1, dtype=torch.float64)
    mean = total / weight.numel()
    check_finite(mean)
    scale = mean.clamp(min=LEAST).float().reshape(1, 1)
    return Grid(scale=scale, zero_point=None, bits=BITS, block=weight.numel())


def quantize_ternary(weight: Tensor) -> Quantized:
    """Round a weight to minus gamma, zero or gamma, stored in 2 bits.

    Args:
        weight: ``[out_features, in_features]``, any floating dtype.

    Raises:
        ValueError: as :func:`absmean_grid`.
    """
    return Quantized.on(absmean_grid(weight), weight)
