"""How much faster masked facts are asked than by a plain loop, with the same answers.

The loop is what studies of parametric knowledge do (Namburi et al. 2023,
https://doi.org/10.18653/v1/2023.findings-emnlp.349): one sentence at a time, padded to 128 tokens
(or to all that a model takes), with the logits of the whole vocabulary at every position.

    python tests/bench/masked_cloze.py [--questions 100] [--threads 2]

Prints, for the embedded encoder and for an untrained model of BERT-base's shape, the seconds of
both in one run, their ratio, and whether each question was answered alike.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import BertConfig, BertForMaskedLM

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.scoring.cloze import measure
from pytest_compression.types import Question

PADDED = 128
"""Tokens of each sentence of the loop."""


def base_sized(tokenizer: Any) -> LanguageModel:
    """An untrained model of BERT-base's shape, 110 million parameters."""
    torch.manual_seed(0)
    module = BertForMaskedLM(BertConfig()).eval()
    return LanguageModel(module=module, tokenizer=tokenizer, family="masked")


def plain_loop(model: LanguageModel, questions: Sequence[Question]) -> list[str]:
    """The preferred token of each question, one sentence at a time."""
    tokenizer, module = model.tokenizer, cast("Any", model.module)
    length = min(PADDED, module.config.max_position_embeddings)
    found = []
    with torch.inference_mode():
        for question in questions:
            given = tokenizer(
                f"{question.stem} {tokenizer.mask_token}{question.end}",
                padding="max_length",
                max_length=length,
                return_tensors="pt",
            )
            values = module(**given).logits.log_softmax(-1)
            blank = int((given["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0])
            found.append(tokenizer.decode([int(values[0, blank].argmax())]).strip())
    return found


def compare(name: str, model: LanguageModel, asked: int) -> None:
    """Ask both ways in turn, and print the ratio of the best of three."""
    questions = WorldFacts(metric="P@1").questions()
    questions = measure(model, questions, "P@1").questions[
        :asked
    ]  # what can be asked; a warm start
    loop, ours = [], []
    for _ in range(3):
        begun = time.perf_counter()
        expected = plain_loop(model, questions)
        loop.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        given = measure(model, questions, "P@1").given
        ours.append(time.perf_counter() - begun)
    alike = sum(one == other for one, other in zip(expected, given, strict=True))
    print(
        f"{name}: {len(questions)} questions, loop {min(loop):.2f} s, ours {min(ours):.3f} s: "
        f"{min(loop) / min(ours):.1f}x; {alike} of {len(questions)} answered alike"
    )


def main() -> None:
    """Compare on both models."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    embedded = cast("LanguageModel", Embedded(family="masked").load())
    compare("embedded encoder", embedded, chosen.questions)
    compare("BERT-base's shape", base_sized(embedded.tokenizer), min(40, chosen.questions))


if __name__ == "__main__":
    main()
