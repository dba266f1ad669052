"""Which weights to keep: masks with an exact count.

A threshold prunes the wrong amount where scores are equal, and quantized or bfloat16 weights
are full of equal magnitudes. So weights are ranked by (score, position) and exactly
``round(sparsity * numel)`` of them are pruned: of equal scores, the earlier go first.
Consequences: nothing pruned outranks anything kept, and the mask of a higher sparsity lies
within that of a lower one.
"""

import torch
from torch import Tensor


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


def keep_top(scores: Tensor, sparsity: float) -> Tensor:
    """The mask that prunes the lowest ``round(sparsity * numel)`` scores.

    With ``scores = |weight|`` this is magnitude pruning of one matrix (Han et al. 2015,
    https://arxiv.org/abs/1506.02626).

    Args:
        scores: importance of each weight, any shape and floating dtype.
        sparsity: share to prune, in [0, 1].

    Returns:
        Boolean mask of the same shape, True = kept.

    Raises:
        ValueError: a score is NaN, or the sparsity is out of range.
    """
    flat = scores.detach().reshape(-1)
    if flat.isnan().any():
        message = "scores hold NaN: there is no order to prune by"
        raise ValueError(message)
    count = pruned_count(flat.numel(), sparsity)
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if flat.dtype in (torch.bfloat16, torch.float16):
        flat = flat.float()  # exact, and kthvalue is not offered for every half type
    threshold = flat.kthvalue(count).values
    kept = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    kept[ties[count - int((flat < threshold).sum()) :]] = True
    return kept.reshape(scores.shape)


def keep_top_globally(scores: list[Tensor], sparsity: float) -> list[Tensor]:
    """One mask a tensor, from a single ranking over all of them.

    Exactly ``round(sparsity * total)`` weights are pruned in all; of equal scores the ones in
    earlier tensors go first.

    Raises:
        ValueError: as :func:`keep_top`.
    """
    if not scores:
        return []
    ranked = torch.cat([score.detach().reshape(-1) for score in scores])  # widens where dtypes mix
    parts = keep_top(ranked, sparsity).split([score.numel() for score in scores])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]
