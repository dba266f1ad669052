"""What a teacher answers, greedily, in place of what the material says."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_compression.embedded.batches import IGNORED, Batch

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel


@torch.no_grad()
def answered(model: "LanguageModel", batch: Batch, *, halves: bool) -> Batch:
    """A batch whose labels are the model's own answers.

    An answer is as long as what it replaces, or shorter if the model ends it.

    Args:
        model: the teacher.
        batch: of a material.
        halves: whether a causal model continues the first half of each row; otherwise it continues
            what is not learned.
    """
    if model.family == "masked":
        found = batch["labels"] != IGNORED
        read = {name: tensor for name, tensor in batch.items() if name != "labels"}
        given = logits_of(model, read).argmax(-1)
        return {**batch, "labels": given.where(found, IGNORED)}
    if model.family == "seq2seq":
        return {**batch, "labels": decoded(model, batch)}
    return continued(model, batch, halves=halves)


def written(model: "LanguageModel", batch: Batch) -> list[str]:
    """What rows say with what is learned put in its place; of seq2seq models, behind them."""
    ids, labels = batch["input_ids"], batch["labels"]
    if model.family == "seq2seq":
        given = labels.masked_fill(labels == IGNORED, model.tokenizer.pad_token_id)
        rows = torch.cat([ids, given], dim=1)
    else:
        rows = labels.where(labels != IGNORED, ids)
    found: list[str] = model.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return found


def logits_of(model: "LanguageModel", inputs: dict[str, Any]) -> Tensor:
    """One pass, ``[rows, tokens, vocabulary]``."""
    logits: Tensor = model.module(**inputs).logits
    return logits


def continued(model: "LanguageModel", batch: Batch, *, halves: bool) -> Batch:
    """Rows that a causal model wrote itself from where its answer begins."""
    lengths = batch["attention_mask"].sum(1)
    begins = lengths // 2 if halves else (batch["labels"] != IGNORED).int().argmax(1)
    ids, labels = batch["input_ids"].clone(), torch.full_like(batch["labels"], IGNORED)
    for begin in begins.unique().tolist():  # rows that begin alike share a cache, unpadded
        rows = (begins == begin).nonzero().squeeze(1)
        end = int(lengths[rows].max())
        output: Any = model.module(input_ids=ids[rows, :begin], use_cache=True)
        for place in range(begin, end):
            token = output.logits[:, -1].argmax(-1)
            ids[rows, place] = token
            labels[rows, place] = token
            if place + 1 < end:
                output = model.module(
                    input_ids=token.unsqueeze(1),
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
    places = torch.arange(ids.shape[1], device=ids.device)
    labels = labels.masked_fill(places >= lengths.unsqueeze(1), IGNORED)
    return {**batch, "input_ids": ids, "labels": ended(labels, model.tokenizer.eos_token_id)}


def decoded(model: "LanguageModel", batch: Batch) -> Tensor:
    """What a seq2seq model's decoder gives back: ``[rows, tokens]``."""
    network: Any = model.module
    mask = batch["attention_mask"]
    read = network.get_encoder()(input_ids=batch["input_ids"], attention_mask=mask)
    start = network.config.decoder_start_token_id
    ids = torch.full((len(mask), 1), start, device=mask.device)
    for _ in range(batch["labels"].shape[1]):
        inputs = {"encoder_outputs": read, "attention_mask": mask, "decoder_input_ids": ids}
        token = logits_of(model, inputs)[:, -1].argmax(-1)
        ids = torch.cat([ids, token.unsqueeze(1)], dim=1)
    return ended(ids[:, 1:], model.tokenizer.eos_token_id)


def ended(labels: Tensor, mark: int | None) -> Tensor:
    """Labels without what comes behind an end mark."""
    if mark is None:
        return labels
    marks = (labels == mark).int()
    return labels.masked_fill(marks.cumsum(1) > marks, IGNORED)
