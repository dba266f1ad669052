"""How much faster likelihoods are than through lm-eval's own ``HFLM``, with the same results.

    python tests/bench/hflm.py --model models/SmolLM2-135M [--questions 100] [--threads 2]
    python tests/bench/hflm.py --embedded

Questions are sentences of world facts, so the tokens are those of a language. For each kind of
question both run in processes of their own, after each other: ``HFLM`` with the best of several
batch sizes (found on the first questions), and ours before and behind it, of which the mean counts,
for a shared machine is faster at one time than at another. Printed are the seconds of both from
texts to log-likelihoods, their ratio, the largest difference of a log-likelihood, how many
questions are answered alike, the peak memory of both, and the share of the machine's matmul rate
that ours reaches: the time that the matrix products of the model's own linear layers take by
themselves, for each token that differs from all others once, and of the head for each that is read;
then the same with the products of attention, of each token with those that it sees, at that rate
(as in the model FLOPs utilization of Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, B).
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import nn

from pytest_compression.embedded.facts import OBJECT, SUBJECT, phrasings, worldfacts
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded, Pretrained
from pytest_compression.scoring.abilities import abilities_of
from pytest_compression.scoring.harness import HarnessLM
from pytest_compression.scoring.rows import Rows

BATCHES = (1, 4, 8, 16, 32)
"""Sizes that ``HFLM`` is tried with."""
TRIED = 8
"""Questions with which each batch size is tried."""
ROWS = 1024
"""Tokens of the matrix products that are timed."""


class Kind(NamedTuple):
    """How long the parts of a question are, in tokens, about."""

    name: str
    header: int
    """Of examples that all questions share; none if 0."""
    question: int
    choice: int
    """1: a letter."""
    choices: int = 4


LARGE = (
    Kind("0-shot, 4 choices of 20", 0, 60, 20),
    Kind("5-shot, 4 letters", 400, 60, 1),
    Kind("5-shot, 4 choices of 20", 400, 60, 20),
)
SMALL = (  # the embedded decoder reads 64 tokens
    Kind("0-shot, 4 choices of 8", 0, 20, 8),
    Kind("few-shot, 4 letters", 36, 14, 1),
    Kind("few-shot, 4 choices of 8", 36, 14, 8),
)


def loaded(where: str) -> LanguageModel:
    """An embedded model by its family, a directory, or a GGUF file."""
    if where in ("causal", "seq2seq"):
        return cast("LanguageModel", Embedded(family=cast("Any", where)).load())
    path = Path(where)
    if path.suffix == ".gguf":
        source = Pretrained(path=str(path.parent), gguf_file=path.name)
    else:
        source = Pretrained(path=where)
    return cast("LanguageModel", source.load())


def sentences() -> Iterator[str]:
    """Facts in English, over and over."""
    for fact in cycle(worldfacts()[::7]):
        text = phrasings()[fact.relation][0]
        yield text.replace(SUBJECT, fact.subject).replace(OBJECT, fact.object)


def requests(model: LanguageModel, kind: Kind, questions: int) -> list[Instance]:
    """So many questions of a kind, as lm-eval would ask them."""
    source = sentences()

    def text(tokens: int) -> str:
        """Words of so many tokens."""
        ids: list[int] = []
        while len(ids) < tokens:
            ids += model.tokenizer(" " + next(source), add_special_tokens=False)["input_ids"]
        return str(model.tokenizer.decode(ids[:tokens], skip_special_tokens=True)).strip()

    header = text(kind.header) + "\n\n" if kind.header else ""
    made = []
    for number in range(questions):
        prompt = f"{header}{text(kind.question)}\nAnswer:"
        some = [text(kind.choice) for _ in range(kind.choices)] if kind.choice > 1 else "ABCD"
        for place, choice in enumerate(some):
            arguments = (prompt, f" {choice}")
            metadata = ("bench", number, 1)
            made.append(Instance("loglikelihood", {}, arguments, place, metadata))
    return made


# What runs in processes of their own


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One measurement: seconds, log-likelihoods and peak memory; of a batch size or, if 0, ours.

    Of several batch sizes, the quickest one.
    """
    torch.set_num_threads(job["threads"])
    logging.disable(logging.WARNING)
    model = loaded(job["model"])
    asked = requests(model, Kind(*job["kind"]), job["questions"])
    if len(job["batches"]) > 1:
        timed = {batch: measured(model, asked, batch)[0] for batch in job["batches"]}
        return {"best": min(timed, key=timed.__getitem__)}
    (batch,) = job["batches"]
    seconds, found = measured(model, asked, batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    layers, attention = (0.0, 0.0) if batch else matmul_seconds(model, asked)
    return {
        "run": "" if batch or model.family != "causal" else how(model),
        "seconds": seconds,
        "found": found,
        "peak": peak,
        "layers": layers,
        "attention": attention,
    }


def how(model: LanguageModel) -> str:
    """In what ours runs the questions of a causal model: what it cannot share is run again."""
    can = abilities_of(model, Rows(model.module))
    return "packs" if can.packs else "trees" if can.trees else "rows"


def measured(
    model: LanguageModel, asked: list[Instance], batch: int
) -> tuple[float, list[tuple[float, bool]]]:
    """Seconds from texts to log-likelihoods, after a warm start."""
    module = cast("Any", model.module)
    lm: Any = None
    if batch:
        lm = HFLM(pretrained=module, tokenizer=model.tokenizer, batch_size=batch)
    for some in (asked[:8], asked):
        if not batch:
            model.memo.clear()  # its tokens are made anew, too
            lm = HarnessLM(model)
        begun = time.perf_counter()
        found = lm.loglikelihood(some, disable_tqdm=True)
        seconds = time.perf_counter() - begun
    return seconds, found


def child(**job: Any) -> dict[str, Any]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  # us
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def matmul_seconds(model: LanguageModel, asked: Sequence[Instance]) -> tuple[float, float]:
    """What the products of a causal model's layers, and of its attention, would take; otherwise 0.

    Each token is counted once for all requests that begin alike up to it.
    """
    if model.family != "causal":
        return 0.0, 0.0
    pairs = HarnessLM(model).pairs.encoded([request.args for request in asked])
    known: dict[tuple[int, int], int] = {}
    seen: dict[int, int] = {}  # by each token: those before it, and itself
    read = set()
    for context, continuation in pairs:
        node = 0
        for place, token in enumerate((context + continuation)[:-1]):
            node = known.setdefault((node, token), len(known) + 1)
            seen[node] = place + 1
            if place >= len(context) - 1:
                read.add(node)
    head = cast("Any", model.module).get_output_embeddings()
    body = [layer for layer in model.module.modules() if isinstance(layer, nn.Linear)]
    body = [layer for layer in body if layer is not head]
    layers = len(known) * per_token(body)
    config = cast("Any", model.module).config
    size = config.num_hidden_layers * config.hidden_size
    # Scores, and the sum of values by them: as many products as a layer of so many weights.
    attention = layers / len(known) * 2 * size / sum(layer.weight.numel() for layer in body)
    return layers + len(read) * per_token([head]), attention * sum(seen.values())


def per_token(layers: Sequence[nn.Linear]) -> float:
    """Seconds that the matrix products of all layers take, by token."""
    counts: dict[tuple[int, ...], list[nn.Linear]] = {}
    for layer in layers:
        counts.setdefault(tuple(layer.weight.shape), []).append(layer)
    total = 0.0
    with torch.inference_mode():
        for shape, alike in counts.items():
            rows = torch.randn(ROWS, shape[1])
            seconds = []
            for layer in islice(cycle(alike), 12):
                begun = time.perf_counter()
                rows @ layer.weight.T
                seconds.append(time.perf_counter() - begun)
            total += len(alike) * sorted(seconds)[len(seconds) // 4] / ROWS
    return total


# What is printed


def answers(found: Sequence[tuple[float, bool]], choices: int) -> list[int]:
    """The preferred choice of each question."""
    totals = [total for total, _ in found]
    groups = [totals[i : i + choices] for i in range(0, len(totals), choices)]
    return [group.index(max(group)) for group in groups]


def compare(where: str, kind: Kind, questions: int, threads: int, batches: Sequence[int]) -> None:
    """Measure both and print a line."""
    shared: dict[str, Any] = {"model": where, "kind": kind, "threads": threads}
    best = batches[0]
    if len(batches) > 1:
        best = child(**shared, questions=min(TRIED, questions), batches=batches)["best"]
    around = [child(**shared, questions=questions, batches=[0])]
    theirs = child(**shared, questions=questions, batches=[best])
    around.append(child(**shared, questions=questions, batches=[0]))
    figures = ("seconds", "peak", "layers", "attention")
    ours: dict[str, Any] = {key: fmean(one[key] for one in around) for key in figures}
    ours["found"] = around[0]["found"]
    pairs = list(zip(theirs["found"], ours["found"], strict=True))
    apart = max(abs(one[0] - other[0]) for one, other in pairs)
    chosen = zip(*(answers(one["found"], kind.choices) for one in (theirs, ours)), strict=True)
    alike = sum(one == other for one, other in chosen)
    alone, more = (part / ours["seconds"] for part in (ours["layers"], ours["attention"]))
    share = f"{alone:.0%} of the matmul rate ({alone + more:.0%} with attention)" if alone else "-"
    shared_as = around[0]["run"] and f", in {around[0]['run']}"
    ratio = theirs["seconds"] / ours["seconds"]
    print(
        f"{where}, {kind.name}: HFLM {theirs['seconds']:.2f} s (batch {best}, "
        f"{theirs['peak']:.0f} MB), ours {ours['seconds']:.2f} s ({ours['peak']:.0f} MB"
        f"{shared_as}): {ratio:.1f}x; {share}; apart {apart:.1e} nats; "
        f"{alike} of {questions} answered alike",
        flush=True,
    )


def main() -> None:
    """Compare on each kind of question."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", default=[], help="directory or GGUF file")
    parser.add_argument("--embedded", action="store_true", help="the models of the package, too")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="HFLM's sizes")
    parser.add_argument("--kinds", default="", help="only those whose name begins so")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.job:
        print(json.dumps(run(json.loads(chosen.job))))
        return
    models = [(where, LARGE) for where in chosen.model]
    models += [(where, SMALL) for where in ("causal", "seq2seq") if chosen.embedded]
    for where, kinds in models:
        for kind in kinds:
            if kind.name.startswith(chosen.kinds):
                compare(where, kind, chosen.questions, chosen.threads, chosen.batches)


if __name__ == "__main__":
    main()
