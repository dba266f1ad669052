"""Importance of heads, neurons and whole blocks, and which of them to keep.

A *unit* (a head, a neuron) is a run of consecutive features. What a unit adds to the output of its
layer is ``x_u W_u^T``, where ``x_u`` are its activations and ``W_u`` its columns of the matrix that
sums all units up. Counts are exact, and of equal units the earlier go first, as in
:mod:`pytest_compression.kernels.pruning`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pytest_compression.kernels.pruning import pruned_count


def keep_units(importance: Tensor, sparsity: float) -> Tensor:
    """Which units to keep: all but the ``round(sparsity * units)`` least important of each group.

    Args:
        importance: ``[groups, units]``.
        sparsity: share to remove, in [0, 1].

    Returns:
        Places in the flattened ``importance``, ascending, ``[groups * kept]``.

    Raises:
        ValueError: an importance is NaN, or the sparsity is out of range.
    """
    if importance.isnan().any():
        message = "an importance is NaN: there is no order to remove units by"
        raise ValueError(message)
    groups, units = importance.shape
    order = importance.argsort(dim=1, stable=True)[:, pruned_count(units, sparsity) :]
    starts = torch.arange(groups, device=order.device).unsqueeze(1) * units
    return (order + starts).flatten().sort().values


def members(kept: Tensor, units: int, features: int, parts: int = 1) -> Tensor:
    """The features that belong to the units that are kept.

    Args:
        kept: places of units, ascending.
        units: how many there are.
        features: length of the axis: ``parts * units * size``.
        parts: how many times the units come one after the other, such as 3 where one matrix holds
            queries, keys and values of all heads.

    Returns:
        Places on the axis, ascending.

    Raises:
        ValueError: the axis cannot be shared out among the units.
    """
    if features % (parts * units):
        message = f"{features} features are not {parts} times {units} units of one size"
        raise ValueError(message)
    places = torch.arange(features, device=kept.device).reshape(parts, units, -1)
    return places[:, kept].reshape(-1)


def joint_norm(norms: Iterable[Tensor]) -> Tensor:
    """The norm of all that belongs to each unit, from the norms of its tensors: ``[units]``."""
    return torch.stack(list(norms)).square().sum(0).sqrt()


def unit_norms(tensor: Tensor) -> Tensor:
    """Euclidean norm of what each unit holds: ``[units, ...]`` to float64 ``[units]``.

    The norm over all that would be removed together is the importance by weights, as in Fang et
    al. 2023, https://arxiv.org/abs/2301.12900.
    """
    rows = tensor.detach().flatten(1)
    found: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return found


def second_moments(activations: Tensor, units: int) -> Tensor:
    """Sums over tokens of ``x_u^T x_u``, in double precision.

    Args:
        activations: ``[tokens, units * size]``.
        units: how many there are.

    Returns:
        ``[units, size, size]``.
    """
    rows = activations.detach().double().unflatten(1, (units, -1))
    return torch.einsum("tui,tuj->uij", rows, rows)


def contributions(moments: Tensor, weight: Tensor) -> Tensor:
    """How much each unit adds to the output: ``||x_u W_u^T||`` over all tokens, ``[units]``.

    For neurons, whose size is 1, this is ``||x_j|| ||W_:j||``: Wanda's scores of a column (Sun et
    al. 2023, https://arxiv.org/abs/2306.11695), put together as a norm. Heads are the same with
    what their features have in common.

    Args:
        moments: as :func:`second_moments`, ``[units, size, size]``.
        weight: that sums the units up, ``[out_features, units * size]``.
    """
    units, size, _ = moments.shape
    columns = weight.detach().to(moments.dtype).unflatten(1, (units, size)).transpose(0, 1)
    squares = torch.einsum("uoi,uoi->u", columns @ moments, columns)
    return squares.clamp(min=0).sqrt()  # rounding may leave a little less than nothing


def block_influence(before: Tensor, after: Tensor) -> Tensor:
    """How much a block turns each token's hidden state: 1 less the cosine, ``[tokens]``.

    Its mean is the Block Influence of Men et al. 2024, https://arxiv.org/abs/2403.03853. A state
    that is zero and stays zero is not turned.

    Args:
        before: the block's input, ``[tokens, hidden]``.
        after: its output, of the same shape.
    """
    one, other = before.detach().double(), after.detach().double()
    norms = one.norm(dim=1) * other.norm(dim=1)
    cosine = (one * other).sum(1) / norms.where(norms > 0, 1)
    still = (one == 0).all(1) & (other == 0).all(1)
    turned: Tensor = 1 - cosine.where(~still, 1)
    return turned
