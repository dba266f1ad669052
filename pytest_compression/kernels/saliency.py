"""How much a weight matters, by what it multiplies."""

from torch import Tensor


def added_squares(sums: Tensor | None, inputs: Tensor) -> Tensor:
    """Sums of squares of a layer's inputs, with more of them added.

    Args:
        sums: float64 ``[in_features]``, or None before the first inputs.
        inputs: ``[..., in_features]``, any floating dtype.

    Returns:
        Float64 ``[in_features]``; NaN or infinite where an input was.
    """
    more = inputs.detach().reshape(-1, inputs.shape[-1]).double().square().sum(0)
    return more if sums is None else sums + more


def by_inputs(weight: Tensor, squares: Tensor) -> Tensor:
    """Wanda's score of each weight: ``S_ij = |W_ij| * ||x_j||_2``.

    The published code divides the sum of squares by the number of samples, which is the same factor
    for all weights of a layer, and computes in single precision. In double precision no two
    different scores become equal, so that equal norms give the ranking by magnitude.

    Source: Sun et al. 2023, https://arxiv.org/abs/2306.11695.

    Args:
        weight: ``[out_features, in_features]``, any floating dtype.
        squares: sums of squares of the inputs that the layer was given, float64
            ``[in_features]``.

    Returns:
        Float64 ``[out_features, in_features]``.
    """
    return weight.detach().abs().double() * squares.sqrt()
