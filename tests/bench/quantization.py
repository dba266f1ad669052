"""How fast weights are quantized, beside optimum-quanto and bitsandbytes, and with how much memory.

    python tests/bench/quantization.py [--threads 2] [--rounds 5]

On the weights of BERT-base's linear layers (85.5 million in 73 matrices, normally distributed),
from float32 to packed 4-bit codes with scales, in groups of 128, 64 and 32 inputs. Printed for each
peer: the seconds of both, taken in turns in one run, the best of several rounds; their ratio; the
relative error of the weights that come back; and what a process of its own needs above the weights
at its peak, the result among it, as a share of the weights' bytes.

bitsandbytes' 4-bit quantization is no compiled kernel on a CPU; its 8-bit one is, and is beside it.
"""

import argparse
import ctypes
import gc
import logging
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytest_compression.kernels.codebooks import quantize_blocks
from pytest_compression.kernels.quantization import quantize

LAYERS = 12
HIDDEN = 768
GROUPS = (128, 64, 32)


class Way(NamedTuple):
    """One way to quantize a matrix, and to get it back."""

    name: str
    package: str
    """What must be installed for it; empty for ours."""
    quantize: Callable[[Tensor], Any]
    restored: Callable[[Any], Tensor]


class Pair(NamedTuple):
    """Ours and a peer's, and the least ratio that is aimed at."""

    ours: str
    peer: str
    aim: float | None


PAIRS = (
    Pair("ours int4", "quanto int4", 1.0),
    Pair("ours int4", "bitsandbytes 8 bits, compiled", 0.5),
    Pair("ours int4", "bitsandbytes nf4", 0.5),
    Pair("ours nf4", "bitsandbytes nf4", None),
)


def matrices() -> list[Tensor]:
    """Weights of BERT-base's linear layers, those of its head's transform among them."""
    generator = torch.Generator().manual_seed(0)
    block = [(HIDDEN, HIDDEN)] * 4 + [(4 * HIDDEN, HIDDEN), (HIDDEN, 4 * HIDDEN)]
    shapes = [*block * LAYERS, (HIDDEN, HIDDEN)]
    return [torch.randn(shape, generator=generator) * 0.02 for shape in shapes]


def quanto_int4(weight: Tensor, group: int) -> Any:
    """As its ``quantize`` and ``freeze`` do: range, codes, packing."""
    from optimum.quanto import MaxOptimizer, qint4
    from optimum.quanto.tensor.weights import quantize_weight

    scale, shift = MaxOptimizer()(weight, qint4, 0, group)
    return quantize_weight(weight, qint4, 0, scale, shift, group)


def quanto_int4_restored(found: Any) -> Tensor:
    """The weight again, without its own kernel, which it would have to compile first."""
    packed = found._data._data  # two rows of groups a byte
    codes = torch.cat([packed & 15, packed >> 4])
    weight: Tensor = codes * found._scale - found._shift
    return weight


def bitsandbytes_nf4(weight: Tensor, group: int) -> Any:
    """Packed codes and absmax."""
    from bitsandbytes.functional import quantize_4bit

    return quantize_4bit(weight, blocksize=group, quant_type="nf4")


def bitsandbytes_nf4_restored(found: Any) -> Tensor:
    """The weight again."""
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(*found)
    return weight


def bitsandbytes_8_bits(weight: Tensor, group: int) -> Any:
    """One byte a weight: nothing to pack, but 256 levels to choose from."""
    from bitsandbytes.functional import quantize_blockwise

    return quantize_blockwise(weight, blocksize=group)


def bitsandbytes_8_bits_restored(found: Any) -> Tensor:
    """The weight again."""
    from bitsandbytes.functional import dequantize_blockwise

    weight: Tensor = dequantize_blockwise(*found)
    return weight


def ways(group: int) -> dict[str, Way]:
    """All of them, by name."""
    ours = partial(quantize, bits=4, granularity="group", group_size=group, symmetric=False)
    blocks = partial(quantize_blocks, codebook="nf4", block=group)
    found = [
        Way("ours int4", "", ours, lambda stored: stored.dequantize()),
        Way("ours nf4", "", blocks, lambda stored: stored.dequantize()),
        Way(
            "quanto int4",
            "optimum.quanto",
            partial(quanto_int4, group=group),
            quanto_int4_restored,
        ),
        Way(
            "bitsandbytes nf4",
            "bitsandbytes",
            partial(bitsandbytes_nf4, group=group),
            bitsandbytes_nf4_restored,
        ),
        Way(
            "bitsandbytes 8 bits, compiled",
            "bitsandbytes",
            partial(bitsandbytes_8_bits, group=group),
            bitsandbytes_8_bits_restored,
        ),
    ]
    return {way.name: way for way in found}


def is_installed(package: str) -> bool:
    """Whether a module can be imported, its parents too."""
    try:
        return not package or find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def seconds(way: Way, weights: list[Tensor]) -> float:
    """Of all weights once, all results kept."""
    begin = time.perf_counter()
    kept = [way.quantize(weight) for weight in weights]
    taken = time.perf_counter() - begin
    del kept
    return taken


def error(way: Way, weight: Tensor) -> float:
    """Relative, of one matrix."""
    restored = way.restored(way.quantize(weight))
    return float((restored.reshape(weight.shape) - weight).norm() / weight.norm())


def peak(way: Way, weights: list[Tensor]) -> float:
    """What this process needed above the weights and its libraries, as a share of the weights."""
    way.quantize(weights[0][:64])  # what is loaded on first use does not count
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or what is free by now would be used first
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = kilobytes("VmRSS")
    kept = [way.quantize(weight) for weight in weights]
    needed = kilobytes("VmHWM") - before
    del kept
    return needed * 1024 / sum(weight.nbytes for weight in weights)


def kilobytes(field: str) -> int:
    """What Linux says of this process's memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def child(name: str, group: int, threads: int) -> float:
    """The peak of one way in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--group", str(group)]
    done = subprocess.run(  # noqa: S603  # ourselves
        [*command, "--threads", str(threads)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def compare(group: int, weights: list[Tensor], rounds: int, threads: int) -> None:
    """Time all ways in turns, and print each pair."""
    here = {name: way for name, way in ways(group).items() if is_installed(way.package)}
    best = dict.fromkeys(here, math.inf)
    for _ in range(rounds + 1):  # the first one warms up
        for name, way in here.items():
            best[name] = min(best[name], seconds(way, weights))
    errors = {name: error(way, weights[0]) for name, way in here.items()}
    peaks = {name: child(name, group, threads) for name in here}
    print(f"\ngroups of {group}")
    for pair in PAIRS:
        if pair.peer not in here:
            print(f"  {pair.peer}: install {ways(group)[pair.peer].package.replace('.', '-')}")
            continue
        aim = f", aim {pair.aim:g}x" if pair.aim else ""
        print(
            f"  {pair.ours} {best[pair.ours]:.2f} s, {pair.peer} {best[pair.peer]:.2f} s: "
            f"{best[pair.peer] / best[pair.ours]:.2f}x{aim}; "
            f"error {errors[pair.ours]:.4f} and {errors[pair.peer]:.4f}; "
            f"peak {peaks[pair.ours]:.2f} and {peaks[pair.peer]:.2f} of the weights' bytes"
        )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--group", type=int, default=64, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    weights = matrices()
    if chosen.peak:
        print(peak(ways(chosen.group)[chosen.peak], weights))
        return
    count = sum(weight.numel() for weight in weights)
    print(f"{count:,} weights in {len(weights)} matrices, {chosen.threads} threads")
    for group in GROUPS:
        compare(group, weights, chosen.rounds, chosen.threads)


if __name__ == "__main__":
    main()
