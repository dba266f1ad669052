"""Whether gradients pass through a network's layers, found out by trying."""

from typing import TYPE_CHECKING

import torch

from pytest_compression.errors import RecipeError

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.weights import LinearWeight

TOLERANCE = 2e-2
"""Relative error of a gradient: some libraries compute it in half precision."""


def refuse_dead_ends(model: "LanguageModel") -> None:
    """Refuse a network with a linear layer that passes no gradient, or another than its own.

    Raises:
        RecipeError: what lies before it would learn nothing, or something wrong.
    """
    model.module.train()  # some layers compute otherwise then
    try:
        for weight in model.linear():
            if not passes_gradient(weight):
                whose = "another library's" if weight.name in model.adopted else "a"
                message = (
                    f"no gradient passes through '{weight.name}', {whose} "
                    f"{type(weight.layer).__qualname__}: put the step that learns before the one "
                    "that put it there."
                )
                raise RecipeError(message)
    finally:
        model.module.eval()


def passes_gradient(weight: "LinearWeight") -> bool:
    """Whether the gradient of a layer's inputs is the product with its weight.

    It is tried at zero, which lies in every range of inputs that are rounded: what is beyond such a
    range rightly gets no gradient.
    """
    matrix = weight.values
    upstream = matrix.new_ones(2, len(matrix))
    upstream[1, ::2] = -1
    inputs = matrix.new_zeros(2, matrix.shape[1]).requires_grad_()
    try:
        with torch.enable_grad():
            outputs = weight.layer(inputs)
            (found,) = torch.autograd.grad(outputs, inputs, upstream)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False
    exact = matrix.float()
    bound = TOLERANCE * exact.abs().sum(0)
    alike = (found.float() - upstream.float() @ exact).abs() <= bound
    return bool((alike | ~bound.isfinite()).all())  # of broken weights the loss tells
