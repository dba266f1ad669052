"""The one training loop: AdamW, warm-up and cosine, clipped gradients, and a seed of its own.

AdamW is Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101; the schedule of the learning
rate that of :func:`~pytest_compression.kernels.schedule.warm_cosine`.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pytest_compression.embedded.batches import IGNORED, Batch
from pytest_compression.errors import RecipeError
from pytest_compression.kernels.schedule import warm_cosine
from pytest_compression.modifiers.training.course import Course
from pytest_compression.modifiers.training.trainee import Trainee
from pytest_compression.types import Family

LARGEST_NORM = 1.0
"""Gradients are scaled down to it."""
Loss = Callable[[Batch], Tensor]
"""From a batch to nats a token."""


def inputs_of(batch: Batch, family: Family) -> Batch:
    """What the network reads: without labels, but where a decoder's input is made of them."""
    return batch if family == "seq2seq" else {k: v for k, v in batch.items() if k != "labels"}


def learned(logits: Tensor, batch: Batch, family: Family) -> tuple[Tensor, Tensor]:
    """The logits from which a token is learned, in single precision, and these tokens.

    Args:
        logits: ``[rows, tokens, vocabulary]``.
        batch: with labels ``[rows, tokens]``.
        family: a causal model's logits are of the token that comes next.

    Returns:
        ``[learned, vocabulary]`` and ``[learned]``.
    """
    labels = batch["labels"]
    if family == "causal":
        logits, labels = logits[:, :-1], labels[:, 1:]
    places = labels != IGNORED
    return logits[places].float(), labels[places]


def plain_loss(trainee: Trainee) -> Loss:
    """Cross entropy of the labels."""
    family = trainee.model.family

    def loss(batch: Batch) -> Tensor:
        logits = trainee.logits(inputs_of(batch, family))
        return nn.functional.cross_entropy(*learned(logits, batch, family))

    return loss


@contextmanager
def training(module: nn.Module, seed: int) -> Iterator[None]:
    """Gradients, dropout, and random numbers of its own; all is as before afterwards."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        module.train()
        try:
            yield
        finally:
            module.eval()


def orders(count: int, seed: int) -> Iterator[int]:
    """Positions of batches, all of them in one random order after the other."""
    rng = random.Random(seed)  # noqa: S311  # no cryptography
    while True:
        yield from rng.sample(range(count), count)


def teach(
    trainee: Trainee,
    batches: list[Batch],
    course: Course,
    loss: Loss,
    after: Callable[[int, int], None] = lambda _step, _steps: None,
) -> float:
    """Train the copies of a network's parameters.

    Args:
        trainee: whose copies learn.
        batches: of the material.
        course: for how long, and how fast.
        loss: of a batch.
        after: called after each step with how many are done, and of how many.

    Returns:
        Mean loss over the last pass, or over all if there is no whole one.

    Raises:
        RecipeError: the loss is not finite, or hangs on nothing that learns.
    """
    steps = course.length(len(batches))
    copies = list(trainee.copies.values())
    optimizer = torch.optim.AdamW(copies, lr=course.learning_rate)
    losses = list[float]()
    with training(trainee.module, course.seed):
        for step, place in zip(range(steps), orders(len(batches), course.seed), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = course.learning_rate * warm_cosine(step, steps)
            nats = loss(batches[place])
            if not nats.requires_grad:
                message = (
                    "no gradient passes from what the model answers to anything that could learn: "
                    "put the step that learns before those of other libraries."
                )
                raise RecipeError(message)
            losses.append(nats.item())
            if not nats.isfinite():
                message = (
                    f"the loss is {losses[-1]} at step {step + 1} of {steps}: the model learns too "
                    f"fast. Lower learning_rate ({course.learning_rate:g})."
                )
                raise RecipeError(message)
            optimizer.zero_grad(set_to_none=True)
            nats.backward()
            trainee.hold_gradients()
            nn.utils.clip_grad_norm_(copies, LARGEST_NORM)
            optimizer.step()
            after(step + 1, steps)
            trainee.hold()
            trainee.model.progress(step + 1, steps)
    last = losses[-len(batches) :]
    return sum(last) / len(last)
