"""A teacher's answers: greedy, as long as what they replace, or shorter if it ends them."""

from typing import Any, get_args

import pytest
import tiny
import torch

from pytest_compression.embedded.batches import IGNORED
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.training.answers import answered, ended
from pytest_compression.types import Family

FACTS = Material(facts=("capital",), samples=8)


@pytest.fixture(scope="module")
def models() -> dict[str, LanguageModel]:
    return {family: Embedded(family=family).load() for family in get_args(Family)}  # type: ignore[misc]


@pytest.mark.parametrize("family", get_args(Family))
def test_a_good_teacher_says_mostly_what_the_material_says(
    family: str, models: dict[str, LanguageModel]
) -> None:
    model = models[family]
    (batch,) = FACTS.batches(model)
    given = answered(model, batch, halves=False)
    assert given.keys() == batch.keys()
    assert given["labels"].shape == batch["labels"].shape
    places = batch["labels"] != IGNORED
    alike = (given["labels"] == batch["labels"])[places].float().mean()
    assert alike > (0.5 if model.family == "masked" else 0.8)  # masked: some lengths are wrong
    if model.family != "seq2seq":
        assert (given["labels"] != IGNORED)[~places].sum() == 0


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_the_answers_are_those_of_transformers_generate(
    family: str, models: dict[str, LanguageModel]
) -> None:
    model = models[family]
    module: Any = model.module
    for batch in FACTS.batches(model, size=1)[:4]:
        given = answered(model, batch, halves=False)["labels"][0]
        new = (batch["labels"][0] != IGNORED).sum()
        prompt = batch["input_ids"]
        if model.family == "causal":
            prompt = prompt[:, : int((batch["labels"][0] != IGNORED).int().argmax())]
        wanted = module.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=int(new),
            do_sample=False,
        )[0]
        begin = prompt.shape[1] if model.family == "causal" else 1
        found = given[given != IGNORED]
        assert found.tolist() == wanted[begin : begin + len(found)].tolist()
        assert len(found) > 0


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "gpt_neox"])
def test_of_a_text_the_second_half_is_written_anew(architecture: str, material: Material) -> None:
    model = tiny.model(architecture)
    (batch,) = material.batches(model, size=12)
    given = answered(model, batch, halves=True)
    lengths = batch["attention_mask"].sum(1)
    assert not torch.equal(given["input_ids"], batch["input_ids"])
    for row, length in enumerate(lengths.tolist()):
        half, ids, labels = length // 2, given["input_ids"][row], given["labels"][row]
        assert torch.equal(ids[:half], batch["input_ids"][row, :half])
        assert (labels[:half] == IGNORED).all()
        assert (labels[length:] == IGNORED).all()
        written = labels[half:length]
        assert torch.equal(written[written != IGNORED], ids[half:length][written != IGNORED])
        with torch.no_grad():  # each token is the most probable one behind those before it
            module: Any = model.module
            best = module(input_ids=ids[None, :length]).logits[0].argmax(-1)
        assert torch.equal(best[half - 1 : length - 1], ids[half:length])


def test_nothing_is_learned_behind_an_end_mark() -> None:
    labels = torch.tensor([[5, 2, 7, 2], [2, 2, 3, 3], [4, 4, 4, 4]])
    wanted = [[5, 2, IGNORED, IGNORED], [2, IGNORED, IGNORED, IGNORED], [4, 4, 4, 4]]
    assert ended(labels, 2).tolist() == wanted
    assert torch.equal(ended(labels, None), labels)
