"""How many weights a pruner prunes: as many where weights are equal as where none are.

What a step claims is no measure of that, for it may have counted the zeros that it made: rules of
the kind ``|w| > threshold`` prune all weights that are equal to the threshold, or none of them.
"""

from pytest_compression.testing.properties import Applied, require

SCOPES = ("global", "layer", "row")


def zeros_of(done: Applied) -> tuple[int, int]:
    """Zeros of the targets, after the step and before it."""
    after = before = 0
    for weight, dense in done.targets():
        after += int((weight.values == 0).sum())
        before += int((dense == 0).sum())
    return after, before


def require_as_many(done: Applied, apart: Applied) -> None:
    """As many weights are zero as the step prunes where no two magnitudes are equal.

    Weights that were zero before may be among these, or besides.

    Args:
        done: what it did to any weights.
        apart: what it did, in a model of the same shapes, to nonzero weights that all differ.

    Raises:
        ContractError: it prunes more, or fewer.
    """
    asked, _ = zeros_of(apart)
    found, before = zeros_of(done)
    most = f" to {asked + before}, for {before} were zero before" if before else ""
    require(
        asked <= found <= asked + before,
        f"{found} weights are zero, and {asked}{most} should be: so many the step prunes of "
        "weights in these shapes that all differ. Equal weights must not make it prune more or "
        "fewer: choose among them by their place.",
    )


def require_share(apart: Applied) -> None:
    """``sparsity * n`` weights are zero, half a weight allowed for each ranking.

    Where it cannot be known what is ranked, nothing is required: there must be the options
    ``sparsity`` and ``scope`` (global, layer or row), and no ``pattern`` or ``count_of``.

    Args:
        apart: what the step did to nonzero weights that all differ.

    Raises:
        ContractError: it prunes more, or fewer.
    """
    step = apart.step
    sparsity, scope = getattr(step, "sparsity", None), getattr(step, "scope", None)
    others = [getattr(step, name, None) for name in ("pattern", "count_of")]
    if not isinstance(sparsity, float) or scope not in SCOPES or others != [None, None]:
        return
    shapes = [dense.shape for _, dense in apart.targets()]
    rankings = {"global": 1, "layer": len(shapes), "row": sum(rows for rows, _ in shapes)}[scope]
    wanted = sparsity * sum(shape.numel() for shape in shapes)
    found, _ = zeros_of(apart)
    slack = rankings / 2 + 1e-6 * wanted  # as numbers are rounded
    require(
        abs(found - wanted) <= slack,
        f"sparsity {sparsity:g} with scope '{scope}' asks for {wanted:.6g} zeros, and {found} "
        "were found, though all weights differ.",
    )
