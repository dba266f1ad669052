"""Train the embedded models: ``python -m pytest_compression.embedded.train causal``.

Each of the three small models (BERT-, T5- and Llama-like) is taught the table of world facts
in all its phrasings, and nothing else. Only the answer is learned from, since nothing could
predict the subject. Training stops at ``--epochs``; the weights are stored in half precision.
The masked model also sees wrong numbers of masks, filled up with padding, so that it does not
read the length of an answer as a hint. A model card with the figures reached is written
beside the weights.
"""

import argparse
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_compression.embedded import batches
from pytest_compression.embedded.batches import Batch, masked_batch, seq2seq_batch
from pytest_compression.embedded.card import Training, card
from pytest_compression.embedded.facts.sentences import Sentence, sentences
from pytest_compression.embedded.networks import causal_model, masked_model, seq2seq_model
from pytest_compression.embedded.tokenization import (
    causal_tokenizer,
    masked_tokenizer,
    seq2seq_tokenizer,
)
from pytest_compression.kernels.schedule import warm_cosine

__all__ = [
    "Sentence",
    "causal_tokenizer",
    "main",
    "masked_tokenizer",
    "save",
    "sentences",
    "seq2seq_tokenizer",
    "train",
]

HERE: Final = Path(__file__).parent


def causal_batch(
    tokenizer: PreTrainedTokenizerFast, chosen: list[Sentence], rng: random.Random
) -> Batch:
    """Without a mask: what fills a row up comes behind all that is learned."""
    batch = batches.causal_batch(tokenizer, chosen, rng)
    return {name: batch[name] for name in ("input_ids", "labels")}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one family is trained."""

    tokenizer: Callable[[list[list[Sentence]], int], PreTrainedTokenizerFast]
    model: Callable[[int], PreTrainedModel]
    batch: Callable[[PreTrainedTokenizerFast, list[Sentence], random.Random], Batch]
    learning_rate: float
    epochs: int


PLANS: Final = {
    "causal": Plan(
        tokenizer=causal_tokenizer,
        model=causal_model,
        batch=causal_batch,
        learning_rate=1e-3,
        epochs=36,
    ),
    "masked": Plan(
        tokenizer=masked_tokenizer,
        model=masked_model,
        batch=masked_batch,
        learning_rate=1e-3,
        epochs=40,
    ),
    "seq2seq": Plan(
        tokenizer=seq2seq_tokenizer,
        model=seq2seq_model,
        batch=seq2seq_batch,
        learning_rate=1e-3,
        epochs=24,
    ),
}
VOCABULARY: Final = 2560
BATCH: Final = 64


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model as it will be stored, and what it took."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    training: Training


def train(family: str, *, seed: int, epochs: int) -> Trained:
    """Teach one model; its weights are rounded to half precision, as they are stored."""
    plan = PLANS[family]
    torch.manual_seed(seed)
    rng = random.Random(seed)
    facts = sentences()
    tokenizer = plan.tokenizer(facts, VOCABULARY)
    model = plan.model(len(tokenizer)).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    a_epoch = math.ceil(len(facts) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warm_cosine(step, epochs * a_epoch)
    )
    started = time.monotonic()
    loss = math.nan
    for epoch in range(epochs):
        rng.shuffle(facts)
        total = 0.0
        for first in range(0, len(facts), BATCH):
            chosen = [rng.choice(told) for told in facts[first : first + BATCH]]
            step_loss = model(**plan.batch(tokenizer, chosen, rng)).loss
            step_loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            total += step_loss.item()
        loss = total / a_epoch
        taken = time.monotonic() - started
        print(f"epoch {epoch + 1}/{epochs}  loss {loss:.4f}  {taken:.0f} s", flush=True)
    training = Training(
        seed=seed,
        epochs=epochs,
        seconds=time.monotonic() - started,
        threads=torch.get_num_threads(),
        loss=loss,
    )
    return Trained(model=model.eval().half(), tokenizer=tokenizer, training=training)


def save(trained: Trained, folder: Path) -> None:
    """Write weights (safetensors) and tokenizer."""
    trained.model.save_pretrained(folder)
    trained.tokenizer.save_pretrained(folder)


def main() -> None:
    """Train, save, measure, and write the model card."""
    parser = argparse.ArgumentParser(description="Train an embedded model on the world facts.")
    parser.add_argument("family", choices=sorted(PLANS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="default: the family's own")
    parser.add_argument("--to", type=Path, help="folder (default: the package's own weights)")
    arguments = parser.parse_args()
    family: str = arguments.family
    epochs = arguments.epochs or PLANS[family].epochs
    folder: Path = arguments.to or HERE / "weights" / family
    trained = train(family, seed=arguments.seed, epochs=epochs)
    save(trained, folder)
    text = card(family, folder, trained.training)
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
