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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import models as token_models
from tokenizers import trainers as token_trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from pytest_compression.embedded.card import Training, card
from pytest_compression.embedded.facts import OBJECT, SUBJECT, phrasings, worldfacts

HERE: Final = Path(__file__).parent
IGNORED: Final = -100
"""The label that torch's cross entropy leaves out."""
ANSWER_WEIGHT: Final = 30
"""How often the tokenizer's training text repeats each answer."""

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One fact in one phrasing, cut before its answer; ``end`` follows the answer."""

    stem: str
    answer: str
    end: str


def sentences() -> list[list[Sentence]]:
    """For each fact, its phrasings."""
    templates = phrasings()
    facts = []
    for fact in worldfacts():
        told = []
        for template in templates[fact.relation]:
            stem, end = template.replace(SUBJECT, fact.subject).split(OBJECT)
            told.append(Sentence(stem=stem.rstrip(), answer=fact.object, end=end))
        facts.append(told)
    return facts


def texts(facts: list[list[Sentence]]) -> Iterator[str]:
    """Every sentence, and every answer by itself often enough to become one token."""
    for told in facts:
        for sentence in told:
            yield f"{sentence.stem} {sentence.answer}{sentence.end}"
    for answer in sorted({told[0].answer for told in facts}):
        yield from [f" {answer}"] * ANSWER_WEIGHT


def causal_tokenizer(facts: list[list[Sentence]], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's and Llama 3's."""
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = token_trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(facts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def masked_tokenizer(facts: list[list[Sentence]], size: int) -> PreTrainedTokenizerFast:
    """WordPiece over lower-case text without accents, as BERT's."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(token_models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = token_trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts(facts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{key}_token": token for key, token in names.items()}
    )


def seq2seq_tokenizer(facts: list[list[Sentence]], size: int) -> PreTrainedTokenizerFast:
    """Unigram pieces with sentinels, as T5's."""
    sentinels = ["<extra_id_0>", "<extra_id_1>"]
    tokenizer = Tokenizer(token_models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = token_trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "</s>", "<unk>", *sentinels],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(facts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
    )


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of ids, filled up to one length: ``[rows, longest]``."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def causal_batch(
    tokenizer: PreTrainedTokenizerFast, chosen: list[Sentence], _: random.Random
) -> Batch:
    """Sentences; the answer and what follows it are learned."""
    stems = tokenizer([s.stem for s in chosen])["input_ids"]
    whole = tokenizer([f"{s.stem} {s.answer}{s.end}" for s in chosen])["input_ids"]
    labels = [
        [IGNORED] * len(stem) + ids[len(stem) :] for stem, ids in zip(stems, whole, strict=True)
    ]
    ids = padded(whole, tokenizer.pad_token_id)
    return {"input_ids": ids, "labels": padded(labels, IGNORED)}


def masked_batch(
    tokenizer: PreTrainedTokenizerFast, chosen: list[Sentence], rng: random.Random
) -> Batch:
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
    ids = padded(whole, pad)
    return {
        "input_ids": ids,
        "attention_mask": (ids != pad).long(),
        "labels": padded(labels, IGNORED),
    }


def seq2seq_batch(
    tokenizer: PreTrainedTokenizerFast, chosen: list[Sentence], _: random.Random
) -> Batch:
    """Sentences with a sentinel for the answer, which the decoder gives back."""
    prompts = tokenizer([f"{s.stem} <extra_id_0>{s.end}" for s in chosen])["input_ids"]
    targets = tokenizer([f"<extra_id_0> {s.answer}<extra_id_1>" for s in chosen])["input_ids"]
    ids = padded(prompts, tokenizer.pad_token_id)
    return {
        "input_ids": ids,
        "attention_mask": (ids != tokenizer.pad_token_id).long(),
        "labels": padded(targets, IGNORED),
    }


def causal_model(size: int) -> PreTrainedModel:
    """Llama-like: rotary positions, RMS norm, SwiGLU, grouped-query attention, tied head."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def masked_model(size: int) -> PreTrainedModel:
    """BERT-like: learned positions, post-norm, GELU, tied head."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=size,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=64,
            type_vocab_size=1,
            pad_token_id=0,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def seq2seq_model(size: int) -> PreTrainedModel:
    """T5-like (version 1.1): relative positions, RMS norm, gated GELU."""
    shape: dict[str, Any] = {
        "vocab_size": size,
        "d_model": 128,
        "d_kv": 32,
        "d_ff": 256,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": True,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(**shape))


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


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up over 5 %, then half a cosine to zero."""
    warm = steps // 20 + 1
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


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
        optimizer, lambda step: rate(step, epochs * a_epoch)
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
