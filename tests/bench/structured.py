"""How much smaller a file, and how much faster a pass, become when structures are removed.

    python tests/bench/structured.py [--rows 4] [--tokens 64] [--threads 2]

Prints, for untrained models of the three families with 8 blocks of 512, what each step makes of
the bytes of the saved file and of the seconds of one forward pass: dense divided by pruned, both
measured in one run. Zeros of the same count are the control: they save neither.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from pytest_compression.errors import RecipeError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.structured import Heads, Layers, Neurons
from pytest_compression.types import Family, Modifier

VOCABULARY = 2560
PASSES = 5
STEPS: dict[str, Modifier] = {
    "half of the heads": Heads(sparsity=0.5),
    "half of the neurons": Neurons(sparsity=0.5),
    "half of the layers": Layers(sparsity=0.5, importance="depth"),
    "half of the weights zero": Magnitude(sparsity=0.5),
}


def networks() -> Iterator[tuple[Family, Any]]:
    """One a family, untrained."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    }
    yield (
        "causal",
        LlamaForCausalLM(LlamaConfig(intermediate_size=1408, num_key_value_heads=4, **sizes)),
    )
    yield "masked", BertForMaskedLM(BertConfig(intermediate_size=2048, **sizes))
    t5 = T5Config(
        vocab_size=VOCABULARY,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_heads=8,
        feed_forward_proj="gated-gelu",
    )
    yield "seq2seq", T5ForConditionalGeneration(t5)


def seconds(model: LanguageModel, rows: int, tokens: int) -> float:
    """Of one forward pass, the best of several."""
    module: Any = model.module
    ids = torch.arange(rows * tokens).reshape(rows, tokens) % (VOCABULARY - 10) + 5
    more = {"decoder_input_ids": ids} if model.family == "seq2seq" else {}
    taken = []
    with torch.inference_mode():
        for _ in range(PASSES + 1):  # the first one warms up
            begin = time.perf_counter()
            module(input_ids=ids, **more)
            taken.append(time.perf_counter() - begin)
    return min(taken[1:])


def file_bytes(model: LanguageModel) -> int | None:
    """Of the weights as they are saved; None if no configuration could describe them."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save(Path(folder))
        except RecipeError:
            return None
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def compare(model: LanguageModel, rows: int, tokens: int) -> None:
    """Print what each step saves."""
    weights, dense = file_bytes(model), seconds(model, rows, tokens)
    assert weights is not None  # a dense model can be saved
    print(f"{model.family}: {weights / 1e6:.1f} MB, {dense * 1e3:.1f} ms a pass")
    for name, step in STEPS.items():
        model.compress([step])
        size, taken = file_bytes(model), seconds(model, rows, tokens)
        smaller = "cannot be saved" if size is None else f"file {weights / size:.2f}x smaller"
        print(f"  {name:26} {smaller:22} pass {dense / taken:.2f}x faster")
        model.restore()


def main() -> None:
    """Read the options and compare all families."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for family, network in networks():
        tokenizer = Embedded(family=family).load().tokenizer  # type: ignore[attr-defined]
        model = LanguageModel(module=network.eval(), tokenizer=tokenizer, family=family)
        compare(model, given.rows, given.tokens)


if __name__ == "__main__":
    main()
