"""Which weights to keep: masks with an exact count.

A threshold prunes the wrong amount where scores are equal, and quantized or bfloat16 weights
are full of equal magnitudes. So weights are ranked by (score, position) and exactly
``round(sparsity * numel)`` of them are pruned: of equal scores, the earlier go first.
Consequences: nothing pruned outranks anything kept, and the mask of a higher sparsity lies
within that of a lower one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pytest_compression.kernels.ranking import cut_at, refuse_nan


def pruned_count(numel: int, sparsity: float) -> int:
    """How many of ``numel`` weights a sparsity prunes: ``round(sparsity * numel)``.

    Half goes to even, as in ``torch.nn.utils.prune``.

    Raises:
        ValueError: the sparsity is not in [0, 1].
    """
    if not 0 <= sparsity <= 1:
        message = f"sparsity must be in [0, 1], got {sparsity}"
        raise ValueError(message)
    return round(sparsity * numel)


def apportioned(count: int, sizes: Sequence[int]) -> list[int]:
    """A count shared out in proportion to sizes; the sum is exact, and no share is one off.

    What is left of rounding down goes to the largest remainders, of equal ones to the first
    (Hamilton's method).

    Raises:
        ValueError: there is less than the count.
    """
    total = sum(sizes)
    if not 0 <= count <= total:
        message = f"{count} of {total} cannot be shared out"
        raise ValueError(message)
    shares = [count * size // max(1, total) for size in sizes]
    remainders = [count * size % max(1, total) for size in sizes]
    order = sorted(range(len(sizes)), key=lambda place: -remainders[place])
    for place in order[: count - sum(shares)]:
        shares[place] += 1
    return shares


def checked(scores: Tensor) -> Tensor:
    """Scores that can be ranked.

    Raises:
        ValueError: one is negative or NaN.
    """
    refuse_nan([scores])
    if scores.numel() and scores.amin() < 0:
        message = "scores say how important weights are: they must not be negative"
        raise ValueError(message)
    return scores.detach()


def keep_all_but(scores: Tensor, count: int) -> Tensor:
    """The mask that prunes the lowest ``count`` scores.

    Args:
        scores: importance of each weight, not negative; any shape and floating dtype.
        count: how many to prune, 0 to all.

    Returns:
        Boolean mask of the same shape, True = kept.

    Raises:
        ValueError: a score is negative or NaN.
    """
    return cut_at([checked(scores)], count).keep(scores, 0)


def keep_top(scores: Tensor, sparsity: float) -> Tensor:
    """The mask that prunes the lowest ``round(sparsity * numel)`` scores.

    With ``scores = |weight|`` this is magnitude pruning of one matrix (Han et al. 2015,
    https://arxiv.org/abs/1506.02626).

    Args:
        scores: as :func:`keep_all_but`.
        sparsity: share to prune, in [0, 1].

    Raises:
        ValueError: a score is negative or NaN, or the sparsity is out of range.
    """
    return keep_all_but(scores, pruned_count(scores.numel(), sparsity))


def keep_top_globally(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """One mask a tensor, from a single ranking over all of them.

    Exactly ``round(sparsity * total)`` weights are pruned in all; of equal scores the ones in
    earlier tensors go first.

    Raises:
        ValueError: as :func:`keep_top`.
    """
    if not scores:
        return []
    ready = [checked(score) for score in scores]
    cut = cut_at(ready, pruned_count(sum(score.numel() for score in scores), sparsity))
    return [cut.keep(score, place) for place, score in enumerate(ready)]


def keep_top_by_row(scores: Tensor, count: int) -> Tensor:
    """The mask that prunes the lowest scores of each row, as many of each.

    Args:
        scores: importance of each weight, ``[rows, columns]``, not negative.
        count: how many to prune in all; where that does not go into the rows, the first ones lose
            one more.

    Returns:
        Boolean mask ``[rows, columns]``, True = kept.

    Raises:
        ValueError: a score is negative or NaN.
    """
    rows, columns = scores.shape
    each, more = divmod(count, max(1, rows))
    counts = torch.full((rows, 1), each, device=scores.device)
    counts[:more] += 1
    ranked = checked(scores)
    last = (counts - 1).clamp(0, max(0, columns - 1))
    threshold = ranked.sort(dim=1).values.gather(1, last)
    kept = ranked >= threshold
    ties = ranked == threshold
    # Of a row from which nothing goes, no tie goes: there is nothing below its lowest score.
    pruned_ties = counts - (~kept).sum(1, keepdim=True)
    return kept & ~(ties & (ties.cumsum(1) <= pruned_ties))


def keep_of_runs(scores: Tensor, keep: int, run: int) -> Tensor:
    """The mask of an N:M pattern: of each run of M consecutive inputs, the N of highest score.

    2:4 is what GPUs multiply faster (Mishra et al. 2021, https://arxiv.org/abs/2104.08378).
    N is the number kept; the code of Wanda and SparseGPT calls by that name the number removed.

    Args:
        scores: importance of each weight, ``[out_features, in_features]``, not negative.
        keep: N.
        run: M.

    Returns:
        Boolean mask ``[out_features, in_features]``, True = kept.

    Raises:
        ValueError: a row is no multiple of M, or a score is negative or NaN.
    """
    if scores.shape[1] % run:
        message = f"{scores.shape[1]} inputs are no multiple of {run}: {keep}:{run} does not fit"
        raise ValueError(message)
    runs = scores.reshape(-1, run)
    return keep_top_by_row(runs, (run - keep) * len(runs)).reshape(scores.shape)
