from typing import Any

import msgspec
import pytest
import tiny
import torch
from torch.nn.utils import prune

from pytest_compression.errors import RecipeError
from pytest_compression.kernels.pruning import (
    keep_of_runs,
    keep_top,
    keep_top_by_row,
    keep_top_globally,
)
from pytest_compression.kernels.saliency import added_squares, by_inputs
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude, RandomPruning, Wanda
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.unstructured import Unstructured
from pytest_compression.registry import build
from pytest_compression.types import Part

FAMILIES = sorted(tiny.TYPICAL.values())
every_family = pytest.mark.parametrize("architecture", FAMILIES)
every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
sets_of_layers = pytest.mark.parametrize("targets", ["all", "attention", "feed-forward"])
every_scope = pytest.mark.parametrize("scope", ["global", "layer", "row"])
CAPITALS = Material(facts=("capital",), samples=8)


def zeros_of(model: LanguageModel, targets: Any = "all") -> list[int]:
    return [int((weight.values == 0).sum()) for weight in model.weights(targets)]


def untouched(model: LanguageModel, names: Any) -> None:
    mine = {f"{name}.weight" for name in names}
    for name, tensor in model.tensors():
        assert torch.equal(tensor, model.dense[name]) == (name not in mine), name


@every_family
@sets_of_layers
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 1.0])
def test_globally_one_ranking_over_the_targets_decides(
    architecture: str, targets: Any, sparsity: float
) -> None:
    model = tiny.model(architecture)
    scores = [weight.values.abs() for weight in model.weights(targets)]
    claim = Magnitude(sparsity=sparsity, targets=targets).apply(model)
    weights = model.weights(targets)
    assert list(claim.targets) == [weight.name for weight in weights]
    assert claim.zeros == round(sparsity * sum(score.numel() for score in scores))
    for weight, mask in zip(weights, keep_top_globally(scores, sparsity), strict=True):
        assert weight.dense is not None
        assert torch.equal(weight.values, weight.dense.where(mask, 0))
    assert sum(zeros_of(model, targets)) == claim.zeros


@every_family
@sets_of_layers
def test_per_layer_each_layer_loses_its_own_share(architecture: str, targets: Any) -> None:
    model = tiny.model(architecture)
    Magnitude(sparsity=0.3, scope="layer", targets=targets).apply(model)
    for weight in model.weights(targets):
        assert weight.dense is not None
        mask = keep_top(weight.dense.abs(), 0.3)
        assert torch.equal(weight.values, weight.dense.where(mask, 0))
        assert int((weight.values == 0).sum()) == round(0.3 * weight.values.numel())


@every_family
@sets_of_layers
def test_per_row_each_row_loses_its_own_share(architecture: str, targets: Any) -> None:
    model = tiny.model(architecture)
    Magnitude(sparsity=0.3, scope="row", targets=targets).apply(model)
    for weight in model.weights(targets):
        assert weight.dense is not None
        each = round(0.3 * weight.values.shape[1])
        mask = keep_top_by_row(weight.dense.abs(), each * len(weight.dense))
        assert torch.equal(weight.values, weight.dense.where(mask, 0))
        assert set((weight.values == 0).sum(1).tolist()) == {each}


@every_architecture
@pytest.mark.parametrize(
    ("pattern", "scope"), [("2:4", "global"), ("1:2", "layer"), ("3:8", "row")]
)
def test_a_pattern_keeps_the_largest_of_each_run_whatever_the_scope(
    architecture: str, pattern: str, scope: Any
) -> None:
    model = tiny.model(architecture)
    keep, run = map(int, pattern.split(":"))
    model.compress([Magnitude(pattern=pattern, scope=scope)])
    for weight in model.weights("all"):
        assert weight.dense is not None
        mask = keep_of_runs(weight.dense.abs(), keep, run)
        assert torch.equal(weight.values, weight.dense.where(mask, 0))
        runs = (weight.values != 0).unflatten(1, (-1, run))
        assert set(runs.sum(-1).flatten().tolist()) == {keep}


@every_family
def test_globally_layers_of_small_weights_lose_more(architecture: str) -> None:
    model = tiny.model(architecture)
    first, *others = model.weights("all")
    first.layer.weight.data.mul_(1e-3)  # type: ignore[operator]
    Magnitude(sparsity=0.2).apply(model)
    assert (first.values == 0).all()
    assert all((weight.values != 0).any() for weight in others)


@every_family
@sets_of_layers
@pytest.mark.parametrize(
    ("step", "scope"), [(Magnitude, "global"), (Magnitude, "row"), (RandomPruning, "layer")]
)
def test_nothing_but_the_targets_is_touched(
    architecture: str, targets: Any, scope: Any, step: Any
) -> None:
    model = tiny.model(architecture)
    untouched(model, step(sparsity=0.5, scope=scope, targets=targets).apply(model).targets)


@pytest.mark.parametrize(
    ("architecture", "step"),
    [(name, Magnitude) for name in sorted(tiny.ARCHITECTURES)]
    + [(name, RandomPruning) for name in FAMILIES],
)
def test_embeddings_and_head_can_be_pruned_in_every_architecture(
    architecture: str, step: Any
) -> None:
    model = tiny.model(architecture)
    for sets in ("embeddings", "head", ("embeddings", "head"), ("feed-forward", "head")):
        assert model.compress([step(sparsity=0.75, targets=sets)]).sparsity == 0.75
        pruned = {w.values.data_ptr() for w in model.layers() if (w.values == 0).any()}
        assert pruned == {w.values.data_ptr() for w in model.weights(sets)}
        assert model.restore()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_scope
def test_half_precision_is_full_of_ties_and_pruned_exactly(dtype: torch.dtype, scope: Any) -> None:
    model = LanguageModel(
        module=tiny.network("gpt2").to(dtype), tokenizer=tiny.tokenizer("causal"), family="causal"
    )
    model.compress([Magnitude(sparsity=0.5, scope=scope)])
    for weight in model.weights("all"):
        if scope != "global":
            assert int((weight.values == 0).sum()) == weight.values.numel() // 2
    total = sum(weight.values.numel() for weight in model.weights("all"))
    assert sum(zeros_of(model)) == total // 2


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("architecture", ["gpt2", "albert", "t5"])
def test_weights_without_ties_are_pruned_as_torch_does(architecture: str, scope: Any) -> None:
    model = tiny.model(architecture)
    theirs = tiny.model(architecture).weights("all")
    pairs = [(weight.layer, "weight") for weight in theirs]
    groups = [pairs] if scope == "global" else [[pair] for pair in pairs]
    for group in groups:
        prune.global_unstructured(group, prune.L1Unstructured, amount=0.6)
    Magnitude(sparsity=0.6, scope=scope).apply(model)
    for mine, other in zip(model.weights("all"), theirs, strict=True):
        assert torch.equal(mine.layer.weight.data, other.layer.weight)  # type: ignore[arg-type]


def test_masks_of_a_sweep_lie_within_each_other() -> None:
    model = tiny.model("bert")
    kept: list[torch.Tensor] = []
    for level in range(1, 10):
        assert model.restore()
        model.compress([Magnitude(sparsity=level / 10)])
        now = torch.cat([(weight.values != 0).flatten() for weight in model.weights("all")])
        assert not kept or not (now & ~kept[-1]).any()
        kept.append(now)


@every_scope
def test_weights_that_are_zero_already_are_pruned_first(scope: Any) -> None:
    model = tiny.model("llama")
    twice = [Magnitude(sparsity=0.3, scope=scope), Magnitude(sparsity=0.5, scope=scope)]
    model.compress(twice)
    after = [weight.values.clone() for weight in model.weights("all")]
    assert model.restore()
    model.compress(twice[1:])
    for weight, other in zip(model.weights("all"), after, strict=True):
        assert torch.equal(weight.values, other)


@pytest.mark.parametrize("first", [True, False], ids=["pruned first", "quantized first"])
def test_pruning_and_quantization_go_together(*, first: bool) -> None:
    steps: list[Any] = [Magnitude(pattern="2:4"), RoundToNearest(bits=8)]
    footprint = tiny.model("gpt2").compress(steps if first else steps[::-1])
    assert footprint.sparsity >= 0.5
    assert footprint.bits < 16


@every_family
@every_scope
def test_random_masks_are_the_seed_s(architecture: str, scope: Any) -> None:
    def pruned(seed: int) -> torch.Tensor:
        model = tiny.model(architecture)
        model.compress([RandomPruning(sparsity=0.5, scope=scope, seed=seed)])
        return torch.cat([weight.values.flatten() for weight in model.weights("all")])

    assert torch.equal(pruned(0), pruned(0))
    alike = ((pruned(0) == 0) == (pruned(1) == 0)).float().mean()
    assert 0.45 < float(alike) < 0.55


def test_a_random_choice_does_not_look_at_the_weights() -> None:
    model = tiny.model("llama")
    model.compress([RandomPruning(sparsity=0.5)])
    kept = [weight.values != 0 for weight in model.weights("all")]
    other = tiny.model("llama", seed=1)
    other.compress([RandomPruning(sparsity=0.5)])
    for weight, mask in zip(other.weights("all"), kept, strict=True):
        assert torch.equal(weight.values != 0, mask)


def test_a_layer_s_random_choice_does_not_depend_on_the_other_targets() -> None:
    one, other = tiny.model("t5"), tiny.model("t5")
    one.compress([RandomPruning(sparsity=0.5, scope="layer", targets="all")])
    other.compress([RandomPruning(sparsity=0.5, scope="layer", targets="attention")])
    for mine, theirs in zip(one.weights("attention"), other.weights("attention"), strict=True):
        assert torch.equal(mine.values, theirs.values)


def test_random_patterns_hold_in_every_run_and_favour_no_place() -> None:
    model = tiny.model("bert")
    model.compress([RandomPruning(pattern="1:4", seed=3)])
    runs = torch.cat([(w.values != 0).reshape(-1, 4) for w in model.weights("all")])
    assert set(runs.sum(1).tolist()) == {1}
    shares = runs.float().mean(0)
    assert shares.min() > 0.2
    assert shares.max() < 0.3


def by_hand(
    model: LanguageModel, scores: dict[str, torch.Tensor], step: Unstructured, scope: str
) -> None:
    """Whether the weights are the dense ones under masks of these scores."""
    for weight in model.weights(step.targets):
        assert weight.dense is not None
        score = scores[weight.name]
        if step.pattern is not None:
            mask = keep_of_runs(score, 2, 4)
        elif scope == "row":
            mask = keep_top_by_row(score, round(0.5 * score.shape[1]) * len(score))
        else:
            mask = keep_top(score, 0.5)
        assert torch.equal(weight.values, weight.dense.where(mask, 0)), weight.name


@pytest.mark.parametrize(
    ("architecture", "amount", "scope"),
    [(name, {"sparsity": 0.5}, "row") for name in sorted(tiny.ARCHITECTURES)]
    + [(name, {"sparsity": 0.5}, "layer") for name in FAMILIES]
    + [(name, {"pattern": "2:4"}, "row") for name in FAMILIES],
)
def test_wanda_weighs_weights_by_the_norms_of_their_inputs(
    architecture: str, amount: Any, scope: Any
) -> None:
    model = tiny.model(architecture)
    squares: dict[str, torch.Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: Any, given: Any) -> None:
            squares[name] = added_squares(squares.get(name), given[0])

        return hook

    weights = model.weights("all")
    hooks = [weight.layer.register_forward_pre_hook(note(weight.name)) for weight in weights]
    for row in CAPITALS.batches(model, size=1):
        model.module(**row)
    for handle in hooks:
        handle.remove()
    scores = {w.name: by_inputs(w.values, squares[w.name]) for w in weights}
    step = Wanda(**amount, scope=scope, sequential=False, calibration=CAPITALS)
    model.compress([step])
    by_hand(model, scores, step, scope)


@every_architecture
def test_wanda_is_measured_and_undone_in_every_architecture(architecture: str) -> None:
    model = tiny.model(architecture)
    footprint = model.compress([Wanda(sparsity=0.5, calibration=CAPITALS)])
    assert footprint.sparsity == 0.5
    assert footprint.modules_touched == len(model.weights("all"))
    assert not any(
        part._forward_pre_hooks or part._forward_hooks for part in model.module.modules()
    )
    assert model.restore()


@pytest.mark.parametrize("family", ["causal", "masked", "seq2seq"])
def test_wanda_moves_the_outputs_of_layers_less_than_magnitude(family: Any) -> None:
    model: Any = Embedded(family=family).load()
    material = Material(facts=("capital", "language"), samples=24)
    batch = material.batches(model, size=16)[0]
    dense = model.module(**batch).logits

    def moved(step: Unstructured) -> float:
        assert model.restore()
        model.compress([step])
        return float((model.module(**batch).logits - dense).norm())

    by_input = moved(Wanda(sparsity=0.5, calibration=material))
    assert by_input < moved(Magnitude(sparsity=0.5, scope="row"))
    assert by_input < moved(RandomPruning(sparsity=0.5, scope="row")) / 2


def test_wanda_can_prune_the_head_and_unties_it() -> None:
    model = tiny.model("gpt2")
    model.compress([Wanda(sparsity=0.5, targets="head", calibration=CAPITALS)])
    assert model.owners() != model.ties
    assert sum(zeros_of(model, "head")) == model.weights("head")[0].values.numel() // 2
    assert sum(zeros_of(model, "embeddings")) == 0


def test_wanda_refuses_embeddings_which_have_no_inputs() -> None:
    step = Wanda(sparsity=0.5, targets="embeddings", calibration=CAPITALS)
    with pytest.raises(RecipeError, match=r"is a table of embeddings, .* prune it by magnitude"):
        tiny.model("bert").compress([step])


def test_wanda_needs_something_to_calibrate_on() -> None:
    use = "pytest_compression.modifiers.pruning:Wanda"
    with pytest.raises(msgspec.ValidationError, match="calibration"):
        build("modifiers", Part(use=use, options={"sparsity": 0.5}))
    given = {"sparsity": 0.5, "scope": "global", "calibration": {"facts": ["capital"]}}
    with pytest.raises(msgspec.ValidationError, match="'global'"):
        build("modifiers", Part(use=use, options=given))


def test_the_defaults_are_global_and_all() -> None:
    made = build("modifiers", Part(use="magnitude", options={"sparsity": 1}))
    assert made == Magnitude(
        sparsity=1.0, pattern=None, scope="global", targets="all", ignore=(), count_of=None
    )
    made = Wanda(sparsity=0.5, calibration=CAPITALS)
    assert (made.scope, made.sequential) == ("row", True)


def test_progress_is_told_layer_by_layer() -> None:
    model = tiny.model("llama")
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    model.compress([Wanda(sparsity=0.5, calibration=CAPITALS)])
    assert told == [(7, 14), (14, 14)]
