"""Sentences of facts as batches to learn from, one kind a family.

Only the answer is learned from, since nothing could predict the subject. Ids and labels are
``[sentences, longest]``; what is not learned has the label ``IGNORED``.
"""

import random
from typing import Any, Final

import torch
from torch import Tensor

from pytest_compression.embedded.facts.sentences import Sentence

IGNORED: Final = -100
"""The label that torch's cross entropy leaves out."""
SENTINELS: Final = ("<extra_id_0>", "<extra_id_1>")
"""What opens and closes an answer, as in T5's family."""

Batch = dict[str, Tensor]


def padded(rows: list[list[int]], value: int) -> Tensor:
    """Rows of ids, filled up to one length: ``[rows, longest]``."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def stacked(tokenizer: Any, rows: list[list[int]], labels: list[list[int]]) -> Batch:
    """Rows of ids with a mask of what is filled up, and their labels."""
    fill = tokenizer.pad_token_id or 0  # any token will do: it is masked
    return {
        "input_ids": padded(rows, fill),
        "attention_mask": padded([[1] * len(row) for row in rows], 0),
        "labels": padded(labels, IGNORED),
    }


def causal_batch(tokenizer: Any, chosen: list[Sentence], _: random.Random) -> Batch:
    """Sentences; the answer and what follows it are learned."""
    stems = tokenizer([s.stem for s in chosen])["input_ids"]
    whole = tokenizer([s.text for s in chosen])["input_ids"]
    labels = []
    for stem, ids in zip(stems, whole, strict=True):
        known = len(stem) - (stem[-1:] == [tokenizer.eos_token_id])  # an end mark is not read on
        labels.append([IGNORED] * known + ids[known:])
    return stacked(tokenizer, whole, labels)


def masked_batch(tokenizer: Any, chosen: list[Sentence], rng: random.Random) -> Batch:
    """Sentences with masks for the answer; two in five have a random number of them."""
    answers = tokenizer([s.answer for s in chosen], add_special_tokens=False)["input_ids"]
    counts = [len(answer) if rng.random() > 0.4 else rng.randint(1, 3) for answer in answers]
    mask, pad = tokenizer.mask_token_id, tokenizer.pad_token_id
    prompts = [
        f"{s.stem} {' '.join([tokenizer.mask_token] * count)}{s.end}"
        for s, count in zip(chosen, counts, strict=True)
    ]
    whole = tokenizer(prompts)["input_ids"]
    labels = []
    for ids, answer, count in zip(whole, answers, counts, strict=True):
        wanted = iter((answer + [pad] * count)[:count])
        labels.append([next(wanted) if token == mask else IGNORED for token in ids])
    return stacked(tokenizer, whole, labels)


def seq2seq_batch(tokenizer: Any, chosen: list[Sentence], _: random.Random) -> Batch:
    """Sentences with a sentinel for the answer, which the decoder gives back."""
    first, last = SENTINELS
    prompts = tokenizer([f"{s.stem} {first}{s.end}" for s in chosen])["input_ids"]
    targets = tokenizer([f"{first} {s.answer}{last}" for s in chosen])["input_ids"]
    return stacked(tokenizer, prompts, targets)
