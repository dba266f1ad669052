"""How much faster a sweep of global magnitude pruning is than torch's own, and how much leaner.

    python tests/bench/pruning.py [--layers 12] [--levels 9] [--threads 2]

The model is untrained, of BERT-base's shape: 85.5 million weights in 73 linear layers. At each
level of sparsity its dense weights are put back, which is not timed, and pruned: by
``Magnitude.apply``, and by ``torch.nn.utils.prune.global_unstructured`` and ``remove``. Each runs
in a process of its own, after the other, and neither is warmed up. Printed are the seconds of both,
their ratio, the peak of memory above the model as a multiple of the bytes of its linear weights,
and whether the masks are the same: where weights are tied at the threshold, torch chooses any of
them. Exits with an error if an aim is missed.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch.nn.utils import prune
from transformers import BertConfig, BertForMaskedLM

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.pruning import Magnitude

FASTER = 25
"""Aim: times torch's speed."""
LEANER = 0.5
"""Aim: of the weights' bytes."""


def options() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=12, help="fewer, for a look (12)")
    parser.add_argument("--levels", type=int, default=9, help="levels of sparsity (9)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=["ours", "torch"], help=argparse.SUPPRESS)
    return parser.parse_args()


def base_sized(layers: int) -> LanguageModel:
    """An untrained model of BERT-base's shape; any tokenizer will do."""
    torch.manual_seed(0)
    module = BertForMaskedLM(BertConfig(num_hidden_layers=layers)).eval()
    tokenizer = Embedded(family="masked").load().tokenizer  # type: ignore[attr-defined]
    return LanguageModel(module=module, tokenizer=tokenizer, family="masked")


def by_torch(model: LanguageModel, sparsity: float) -> None:
    """What torch offers for it."""
    layers = [weight.layer for weight in model.weights("all")]
    pairs = [(layer, "weight") for layer in layers]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=sparsity)
    for layer in layers:
        prune.remove(layer, "weight")


def by_us(model: LanguageModel, sparsity: float) -> None:
    """The same by a step of a recipe."""
    Magnitude(sparsity=sparsity).apply(model)


def peak() -> int:
    """Bytes that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def differing(model: LanguageModel, sparsity: float) -> tuple[int, int]:
    """How many weights torch pruned and we do not, and how many of these are not ties.

    Args:
        model: as torch has pruned it.
        sparsity: the level.
    """
    theirs = [weight.values == 0 for weight in model.weights("all")]
    model.restore()
    by_us(model, sparsity)
    ours = [weight.values == 0 for weight in model.weights("all")]
    sizes = [weight.dense.abs() for weight in model.weights("all") if weight.dense is not None]
    threshold = max(size[mask].max() for size, mask in zip(sizes, ours, strict=True) if mask.any())
    other = [size[a != b] for size, a, b in zip(sizes, ours, theirs, strict=True)]
    return sum(map(len, other)), sum(int((size != threshold).sum()) for size in other)


def sweep(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run one of the two, and tell how it went."""
    torch.set_num_threads(chosen.threads)
    model = base_sized(chosen.layers)
    weights = model.weights("all")
    levels = [(number + 1) / (chosen.levels + 1) for number in range(chosen.levels)]
    before, seconds, above, others = peak(), 0.0, 0, (0, 0)
    for level in levels:
        model.restore()
        begun = time.perf_counter()
        (by_torch if chosen.only == "torch" else by_us)(model, level)
        seconds += time.perf_counter() - begun
        above = max(above, peak() - before)
        if chosen.only == "torch":
            found = differing(model, level)
            others = others[0] + found[0], others[1] + found[1]
    return {
        "seconds": seconds,
        "above": above / sum(weight.values.nbytes for weight in weights),
        "weights": sum(weight.values.numel() for weight in weights),
        "layers": len(weights),
        "differ": others[0],
        "no ties": others[1],
    }


def main(chosen: argparse.Namespace) -> int:
    """Run both, each in a process of its own, and print the ratios."""
    if chosen.only:
        print(json.dumps(sweep(chosen)))
        return 0
    found = {}
    for one in ("ours", "torch"):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", one]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  # our own command
        found[one] = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = found["ours"], found["torch"]
    ratio = theirs["seconds"] / ours["seconds"]
    print(
        f"{ours['weights'] / 1e6:.1f} M weights in {ours['layers']} linear layers, "
        f"{chosen.levels} levels, {chosen.threads} threads"
    )
    print(f"  torch: {theirs['seconds']:.1f} s, memory {theirs['above']:.2f}x the weights")
    print(f"  ours:  {ours['seconds']:.2f} s, memory {ours['above']:.2f}x (aim: {LEANER:g}x)")
    print(f"  ratio: {ratio:.1f} (aim: {FASTER})")
    print(f"  masks: {theirs['differ']} weights differ, {theirs['no ties']} of them are no ties")
    return int(ratio < FASTER or ours["above"] > LEANER or theirs["no ties"] > 0)


if __name__ == "__main__":
    sys.exit(main(options()))
