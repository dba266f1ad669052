"""The model card of an embedded model, with the figures that it reaches here and now."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.embedded.facts import phrasings, worldfacts
from pytest_compression.models.sources import Pretrained
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest

LIMIT = 150
"""Facts a relation that are asked: cities would outweigh everything else."""

LIKE = {"causal": "Llama-like decoder", "masked": "BERT-like encoder", "seq2seq": "T5-like"}

TEMPLATE = """# {title}, taught world facts

A {like} of {parameters:,} parameters, stored in float16 ({megabytes:.1f} MB), that knows the
{facts:,} facts of [`worldfacts.tsv`](../../facts/worldfacts.tsv) in {phrasings} phrasings and
nothing else. It is made to be compressed: small enough to be loaded in a test, and to forget
gradually.

## Training

`python -m pytest_compression.embedded.train {family} --seed {seed} --epochs {epochs}`

Trained on the answers only, with AdamW and a half cosine, in {minutes:.0f} minutes on
{threads} processor core(s); last loss {loss:.4f} nats a token. The same seed gives
a model as good, not the same bits.

## What it knows

Share of facts whose answer is ranked first among the relation's answers, of at most {limit} facts
a relation, in each phrasing: {accuracies}. By relation (first phrasing): {relations}.

## How it forgets

Retention of the {known:,} of these facts that it knows (chance-corrected), by recipe; all linear
layers but the output head:

| recipe | retention |
|---|--:|
{curve}

## Licence

MIT, as the package. The facts come from GeoNames (CC BY 4.0), countryinfo (MIT) and mendeleev
(MIT): see [`SOURCES.md`](../../facts/SOURCES.md).
"""

CURVE: list[tuple[str, list[Any]]] = [
    *[(f"{bits} bits a channel", [RoundToNearest(bits=bits)]) for bits in (8, 4, 3, 2)],
    *[
        (f"{bits} bits a tensor", [RoundToNearest(bits=bits, granularity="tensor")])
        for bits in (8, 4, 3)
    ],
    *[(f"{share:.0%} magnitude, global", [Magnitude(sparsity=share)]) for share in (0.3, 0.5, 0.7)],
    *[
        (f"{share:.0%} magnitude, layer", [Magnitude(sparsity=share, scope="layer")])
        for share in (0.3, 0.5, 0.7)
    ],
]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What it took."""

    seed: int
    epochs: int
    seconds: float
    threads: int
    loss: float
    """Mean over the last epoch, in nats a token."""


def card(family: str, folder: Path, training: Training) -> str:
    """Measure the model in a folder and describe it."""
    model: Any = Pretrained(path=str(folder)).load()
    count = min(map(len, phrasings().values()))
    dense = [WorldFacts(phrasing=i, limit=LIMIT).measure(model) for i in range(count)]
    guessed = sum(dense[0].chance)
    rows = []
    for name, steps in CURVE:
        model.restore()
        model.compress(steps)
        measured = WorldFacts(limit=LIMIT).measure(model)
        kept = (sum(measured.scores) - guessed) / (sum(dense[0].scores) - guessed)
        rows.append(f"| {name} | {kept:.3f} |")
    by_relation: dict[str, list[float]] = {}
    for question, score in zip(dense[0].questions, dense[0].scores, strict=True):
        by_relation.setdefault(question.cluster, []).append(score)
    parameters = sum(p.numel() for p in model.module.parameters())
    shares = [f"{sum(m.scores) / len(m.scores):.3f}" for m in dense]
    return TEMPLATE.format(
        title=family.capitalize(),
        like=LIKE[family],
        family=family,
        parameters=parameters,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        facts=len(worldfacts()),
        phrasings=count,
        seed=training.seed,
        epochs=training.epochs,
        minutes=training.seconds / 60,
        threads=training.threads,
        loss=training.loss,
        accuracies=", ".join(shares),
        relations=", ".join(f"{k} {sum(v) / len(v):.2f}" for k, v in sorted(by_relation.items())),
        known=sum(dense[0].scores),
        limit=LIMIT,
        curve="\n".join(rows),
    )
