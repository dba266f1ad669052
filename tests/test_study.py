"""Which statements about compressed knowledge hold on the models at hand, by accepted results.

The statements are those that are made of Namburi et al. 2023 (https://arxiv.org/abs/2312.00960);
where a model disagrees, the test says so and holds the disagreement fast.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from pytest_compression import suite
from pytest_compression.report.recipes import record, retained

ROOT = Path(__file__).parents[1]
EMBEDDED = ("decoder", "encoder", "encoder-decoder")
SMOLLM2 = "smollm2-q4_1"
EVERY = (*EMBEDDED, SMOLLM2)
NOISE = dict.fromkeys(EMBEDDED, 0.03) | {SMOLLM2: 0.08}
"""Of 300 and 120 questions; so much retention may rise by chance."""

every_model = pytest.mark.parametrize("model", EVERY)


@cache
def retention(model: str, recipe: str) -> float:
    """What a model retained after a recipe."""
    name = "study-smollm2" if model == SMOLLM2 else "study"
    folder = ROOT / "baselines" / name / model
    dense, now = (
        record(ROOT / f"suites/{name}.yaml", folder / step / "facts.json")
        for step in (suite.DENSE, recipe)
    )
    return retained(dense, now)


def curve(model: str, recipe: str = "all") -> dict[float, float]:
    """Retention by sparsity, the dense model's first."""
    name = "study-smollm2" if model == SMOLLM2 else "study"
    found = suite.load(ROOT / f"suites/{name}.yaml").recipes
    levels = [one.removeprefix(f"{recipe}-") for one in found if one.startswith(f"{recipe}-0.")]
    return {0.0: 1.0} | {float(level): retention(model, f"{recipe}-{level}") for level in levels}


@every_model
@pytest.mark.parametrize("recipe", ["all", "attention", "feed-forward", "head"])
def test_knowledge_falls_with_sparsity(model: str, recipe: str) -> None:
    levels = list(curve(model, recipe).values())
    assert all(later <= sooner + NOISE[model] for sooner, later in pairwise(levels))
    assert levels[-1] < 0.9


@pytest.mark.parametrize("model", ["decoder", "encoder"])
def test_it_falls_steeply_beyond_half(model: str) -> None:
    levels = curve(model)
    before = (levels[0.0] - levels[0.5]) / 0.5
    behind = (levels[0.5] - levels[0.8]) / 0.3
    assert levels[0.5] > 0.95
    assert behind > 10 * before


@pytest.mark.parametrize("model", ["encoder-decoder", SMOLLM2])
def test_a_model_near_what_it_can_hold_falls_before_half(model: str) -> None:
    # Against the statement: for these the steep part begins at 30 %.
    levels = curve(model)
    assert levels[0.5] < 0.5
    assert levels[0.3] - levels[0.5] > levels[0.5]


@every_model
def test_int8_is_nearly_lossless(model: str) -> None:
    assert retention(model, "int-8") > 1 - NOISE[model]


@every_model
def test_fewer_bits_forget_more(model: str) -> None:
    assert retention(model, "int-8") >= retention(model, "int-4") - NOISE[model]
    assert retention(model, "int-4") >= retention(model, "int-3") - NOISE[model]


# At an equal share of each set's own weights


def test_the_decoder_loses_most_if_all_is_pruned() -> None:
    for level in (0.5, 0.7):
        alone = min(retention("decoder", f"{one}-{level}") for one in ("attention", "feed-forward"))
        assert retention("decoder", f"all-{level}") < alone


def test_the_encoder_loses_more_if_only_its_attention_is_pruned() -> None:
    # Against the statement that pruning everything hurts most: one ranking over all layers takes
    # less of attention, whose weights are larger, and attention is what the encoder needs.
    for level in (0.5, 0.7):
        assert retention("encoder", f"attention-{level}") < retention("encoder", f"all-{level}")
        assert retention("encoder", f"feed-forward-{level}") > retention("encoder", f"all-{level}")


@pytest.mark.parametrize("model", EMBEDDED)
def test_attention_is_pruned_at_a_higher_price_than_feed_forward(model: str) -> None:
    assert retention(model, "attention-0.7") < retention(model, "feed-forward-0.7")


# At an equal number of weights


@every_model
def test_so_it_is_by_number_and_more_so(model: str) -> None:
    by_number = [retention(model, f"{one}-count-0.2") for one in ("feed-forward", "attention")]
    assert by_number[0] > by_number[1]


@pytest.mark.parametrize("model", ["decoder", "encoder"])
def test_a_fifth_of_all_weights_costs_nothing_but_in_attention(model: str) -> None:
    # Against the statement that pruning everything hurts most.
    assert retention(model, "all-0.2") > 1 - NOISE[model]
    assert retention(model, "feed-forward-count-0.2") > 1 - NOISE[model]
    assert retention(model, "attention-count-0.2") < 0.7


# Quantization, and the output head


@pytest.mark.parametrize("model", ["decoder", "encoder"])
def test_two_bits_cost_more_in_attention_than_in_feed_forward(model: str) -> None:
    # Against the statement that attention is quantized at a lower price.
    assert retention(model, "int-attention-2") < retention(model, "int-feed-forward-2") - 0.1


def test_attention_of_smollm2_is_quantized_at_a_lower_price() -> None:
    for bits in (4, 3):
        attention, rest = (
            retention(SMOLLM2, f"int-{part}-{bits}") for part in ("attention", "feed-forward")
        )
        assert attention > rest + NOISE[SMOLLM2]


@pytest.mark.parametrize("model", EMBEDDED)
def test_compressing_the_head_alone_is_visible(model: str) -> None:
    assert retention(model, "head-0.9") < 0.7


# Large and sparse, or small and dense: equal bytes, where a sparse weight needs a bit for its place


PLACE = 1 / 32
"""Of a weight's bits."""


@pytest.mark.parametrize("model", EMBEDDED)
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_large_and_sparse_knows_no_less_than_small_and_dense(model: str, share: float) -> None:
    sparse = retention(model, f"large-sparse-{share + PLACE}")
    assert sparse > retention(model, f"small-dense-{share}") - NOISE[model]


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_smollm2_cannot_do_without_its_neurons(share: float) -> None:
    sparse, dense = (f"large-sparse-{share + PLACE}", f"small-dense-{share}")
    assert retention(SMOLLM2, sparse) > 0.6
    assert retention(SMOLLM2, dense) < 0.2
