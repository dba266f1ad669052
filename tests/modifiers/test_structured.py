import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bodies
import msgspec
import pytest
import tiny
import torch
from torch import Tensor

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.models.activations import contributions_of
from pytest_compression.models.anatomy import STACKS, blocks_of, stacks_of
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.snapshot import settings_of
from pytest_compression.models.sources import Embedded, Pretrained
from pytest_compression.models.units import heads_of, neurons_of
from pytest_compression.modifiers.backends.torch_dynamic import TorchDynamic
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.structured import Heads, Layers, Neurons
from pytest_compression.registry import build
from pytest_compression.types import Modifier, Part

USE = "pytest_compression.modifiers.structured:"
MATERIAL = Material(facts=("capital",), samples=24)
STEPS: dict[str, Modifier] = {
    "heads": Heads(sparsity=0.5),
    "query-heads": Heads(sparsity=0.5, unit="query"),
    "neurons": Neurons(sparsity=0.3),
    "layers": Layers(count=1),
    "last-layers": Layers(sparsity=0.6, importance="depth"),
}
CASES = [(kind, step) for kind in bodies.LAYOUTS for step in ("heads", "neurons", "layers")]
CASES += [("llama", "query-heads"), ("t5", "last-layers"), ("llama", "last-layers")]
CASES.remove(("albert", "layers"))
SAVED = [case for case in CASES if case[1] != "heads" or STACKS[case[0]][0].heads]
every_case = pytest.mark.parametrize(("kind", "step"), CASES)


@pytest.fixture(scope="module", params=["causal", "masked", "seq2seq"])
def embedded(request: pytest.FixtureRequest) -> LanguageModel:
    found = Embedded(family=request.param).load()
    assert isinstance(found, LanguageModel)
    return found


def state(model: LanguageModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.tensors()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def settings(model: LanguageModel) -> dict[str, Any]:
    """What a file says of how large a model is, and not of where it comes from."""
    found: dict[str, Any] = model.module.config.to_dict()  # type: ignore[operator,union-attr]
    apart = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {key: value for key, value in found.items() if key not in apart}


def every_setting(model: LanguageModel) -> list[dict[str, Any]]:
    return [copy.deepcopy(one.to_dict()) for one in settings_of(model.module)]


def stored_bytes(folder: Path) -> int:
    """Of all tensors in a file of safetensors."""
    content = (folder / "model.safetensors").read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@every_case
def test_what_is_claimed_is_gone_and_comes_back_bit_for_bit(kind: str, step: str) -> None:
    model = bodies.model(kind)
    before, said, set_to = state(model), bodies.logits(model.module), every_setting(model)
    count = sum(parameter.numel() for parameter in model.module.parameters())
    claim = STEPS[step].apply(model)
    left = sum(parameter.numel() for parameter in model.module.parameters())
    assert claim.removed == count - left > 0
    assert set(claim.targets) <= {one.name for one in model.layers()}
    assert model.restore()
    footprint = model.compress([STEPS[step]])
    assert footprint.dense_bytes - footprint.bytes == 8 * claim.removed
    assert not torch.allclose(bodies.logits(model.module), said)
    assert model.restore()
    assert equal(state(model), before)
    assert every_setting(model) == set_to
    assert torch.equal(bodies.logits(model.module), said)


@pytest.mark.parametrize(("kind", "step"), SAVED)
def test_what_is_saved_is_loaded_again_and_says_the_same(
    kind: str, step: str, tmp_path: Path
) -> None:
    model = bodies.model(kind)
    model.module.float()
    footprint = model.compress([STEPS[step]])
    model.save(tmp_path)
    loaded: Any = Pretrained(path=str(tmp_path)).load()
    assert stored_bytes(tmp_path) == footprint.bytes
    assert settings(loaded) == settings(model)
    assert equal(state(loaded), state(model))
    assert torch.equal(bodies.logits(loaded.module), bodies.logits(model.module))


def test_fewer_heads_than_a_configuration_can_say_are_judged_and_not_saved(tmp_path: Path) -> None:
    model = bodies.model("bert")
    model.compress([STEPS["heads"]])
    with pytest.raises(RecipeError, match="the configuration of a BertForMaskedLM cannot describe"):
        model.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_steps_can_follow_one_another_and_be_saved(embedded: LanguageModel, tmp_path: Path) -> None:
    steps: list[Modifier] = [Layers(count=1), Neurons(sparsity=0.1)]
    if embedded.family != "masked":  # no configuration of a BERT can say it
        steps.append(Heads(sparsity=0.5))
    footprint = embedded.compress(steps)
    embedded.save(tmp_path)
    facts = WorldFacts(relations=("capital",), limit=20)
    loaded: Any = Pretrained(path=str(tmp_path)).load()
    asked, again = facts.measure(embedded), facts.measure(loaded)
    assert asked.margins == pytest.approx(again.margins, abs=1e-5)
    assert stored_bytes(tmp_path) == footprint.bytes < footprint.dense_bytes
    assert embedded.restore()
    assert facts.measure(embedded).margins != asked.margins


def test_neurons_that_add_least_go(embedded: LanguageModel) -> None:
    every = [bundle[0] for bundle in neurons_of(embedded.module)]
    before = [units.edges[-1].matrix.clone() for units in every]
    told = contributions_of(embedded, every, MATERIAL.batches(embedded))
    Neurons(sparsity=0.5, importance="activations", calibration=MATERIAL).apply(embedded)
    for units, dense, added in zip(every, before, told, strict=True):
        kept = added.argsort()[len(added) // 2 :].sort().values
        assert torch.equal(units.edges[-1].matrix, dense[:, kept])
    assert embedded.restore()


def test_heads_that_add_least_go_together_where_they_must(embedded: LanguageModel) -> None:
    bundles = heads_of(embedded.module, "head")
    before = [bundle[0].edges[-1].matrix.clone() for bundle in bundles]
    batches = MATERIAL.batches(embedded)
    told = [contributions_of(embedded, bundle, batches) for bundle in bundles]
    Heads(sparsity=0.5, importance="activations", calibration=MATERIAL).apply(embedded)
    for bundle, dense, added in zip(bundles, before, told, strict=True):
        squares = sum(each.square() for each in added)
        assert isinstance(squares, Tensor)
        kept = squares.argsort()[len(squares) // 2 :].sort().values
        rest = dense.unflatten(1, (len(squares), -1))[:, kept].flatten(1)
        assert torch.equal(bundle[0].edges[-1].matrix, rest)
    assert embedded.restore()


def norms(model: LanguageModel, kind: str) -> Iterator[Tensor]:
    """The norm of each head's weights, attention by attention, from what the parts are called."""
    module: Any = model.module
    if kind == "llama":
        for block in module.model.layers:
            part = block.self_attn
            rows = [part.q_proj.weight, part.k_proj.weight, part.v_proj.weight]
            yield squares([*rows, part.o_proj.weight.t()], 2)
    elif kind == "bert":
        for block in module.bert.encoder.layer:
            part, out = block.attention.self, block.attention.output.dense
            layers = [part.query, part.key, part.value]
            biases = [layer.bias for layer in layers]
            yield squares([layer.weight for layer in layers] + [out.weight.t(), *biases], 4)
    else:
        for stack in (module.encoder, module.decoder):
            parts = [block.layer[0].SelfAttention for block in stack.block]
            rows = [p.weight for a in parts for p in (a.q, a.k, a.v)]
            columns = [a.o.weight.t() for a in parts]
            yield squares([*rows, *columns, parts[0].relative_attention_bias.weight.t()], 4)
        for block in module.decoder.block:
            part = block.layer[1].EncDecAttention
            rows = [part.q.weight, part.k.weight, part.v.weight]
            yield squares([*rows, part.o.weight.t()], 4)


def squares(tensors: list[Tensor], heads: int) -> Tensor:
    """Sums of squares over all tensors of which heads have a share, ``[heads]``."""
    return torch.stack([t.reshape(heads, -1).square().sum(1) for t in tensors]).sum(0)


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_the_heads_of_the_smallest_norm_go(kind: str) -> None:
    model = bodies.model(kind)
    expected = [norm.argsort()[norm.numel() // 2 :].sort().values for norm in norms(model, kind)]
    bundles = heads_of(model.module, "head")
    if kind == "t5":  # as norms lists them: both self-attentions, then the cross-attentions
        bundles = sorted(bundles, key=len, reverse=True)
    outputs = [bundle[0].edges[-1] for bundle in bundles]
    before = [edge.matrix.clone() for edge in outputs]
    Heads(sparsity=0.5).apply(model)
    for edge, dense, kept in zip(outputs, before, expected, strict=True):
        count = 2 * len(kept)
        rest = dense.unflatten(1, (count, -1))[:, kept].flatten(1)
        assert torch.equal(edge.matrix, rest)


def test_of_neurons_that_are_equally_important_the_first_go() -> None:
    model = bodies.model("llama")
    every = [bundle[0] for bundle in neurons_of(model.module)]
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(bodies.NEURONS // 2)
    for units in every:
        for edge in units.edges:
            edge.matrix.copy_(signs.unsqueeze(1) if edge.rows else signs)
    Neurons(sparsity=0.25).apply(model)
    for units in every:
        left = [1.0] * 6 + [-1.0] * 12
        assert all(
            (edge.matrix[0] if not edge.rows else edge.matrix[:, 0]).tolist() == left
            for edge in units.edges
        )


def test_the_last_layers_go_by_depth_and_the_idle_one_by_activations() -> None:
    module: Any = bodies.network("llama")
    first, idle, last = module.model.layers
    idle.self_attn.o_proj.weight.data.zero_()
    idle.mlp.down_proj.weight.data.zero_()
    model = LanguageModel(module=module, tokenizer=tiny.tokenizer("causal"), family="causal")
    said = bodies.logits(module)
    model.compress([Layers(count=2, importance="depth")])
    assert list(module.model.layers) == [first]
    assert model.restore()
    model.compress([Layers(count=1, importance="activations", calibration=MATERIAL)])
    assert list(module.model.layers) == [first, last]
    torch.testing.assert_close(bodies.logits(module), said, rtol=1e-9, atol=1e-9)


def test_the_layers_of_the_smallest_norm_go() -> None:
    module: Any = bodies.network("gpt2")
    first, light, last = module.transformer.h
    light.mlp.c_fc.weight.data.mul_(0.1)
    model = LanguageModel(module=module, tokenizer=tiny.tokenizer("causal"), family="causal")
    Layers(sparsity=0.3).apply(model)
    assert list(module.transformer.h) == [first, last]


def test_both_stacks_lose_layers() -> None:
    model = bodies.model("bart")
    Layers(count=2).apply(model)
    assert [len(blocks_of(model.module, s)) for s in stacks_of(model.module)] == [1, 1]


def test_what_was_quantized_stays_so_when_other_layers_go() -> None:
    model = bodies.model("llama")
    quantized = model.compress([RoundToNearest(bits=4)])
    assert model.restore()
    footprint = model.compress([RoundToNearest(bits=4), Layers(count=1)])
    assert footprint.bits == pytest.approx(quantized.bits)
    assert all(weight.stored is not None for weight in model.weights("all"))


def test_what_other_libraries_hold_elsewhere_is_no_hindrance() -> None:
    model = bodies.model("bert")
    model.module.float()
    model.compress([TorchDynamic(targets="feed-forward"), Heads(sparsity=0.5)])
    for bundle in heads_of(model.module, "head"):
        assert [units.count for units in bundle] == [bodies.HEADS // 2]


def test_what_is_left_can_be_pruned_and_quantized() -> None:
    model = bodies.model("t5")
    steps: list[Modifier] = [Layers(count=1), Heads(sparsity=0.5), Neurons(sparsity=0.5)]
    smaller = model.compress(steps)
    assert model.restore()
    footprint = model.compress([*steps, Magnitude(sparsity=0.5), RoundToNearest(bits=8)])
    assert footprint.bytes < smaller.bytes
    assert footprint.sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "step", "words"),
    [
        ("bert", Heads(sparsity=0.1), "of the 4 heads at 'bert.encoder.layer.0.attention.output"),
        ("bert", Heads(sparsity=0.9), "4 would be removed: at least one must go, and one stay"),
        ("llama", Heads(sparsity=0.2), "of the 2 heads"),
        ("bert", Layers(count=3), "of the 3 blocks from 'bert.encoder.layer.0' on, 3 would be"),
        ("bert", Layers(sparsity=0.1), "0 would be removed"),
        ("albert", Layers(count=1), "its layers share their weights, so removing some saves noth"),
        ("bert", Heads(sparsity=0.5, unit="query"), "write unit: head"),
    ],
)
def test_what_cannot_be_done_is_said(kind: str, step: Modifier, words: str) -> None:
    model = bodies.model(kind)
    before = state(model)
    with pytest.raises(RecipeError, match=re.escape(words)):
        model.compress([step])
    assert equal(state(model), before)


TEXT = {"facts": ["capital"]}


@pytest.mark.parametrize(
    ("use", "options", "words"),
    [
        ("Heads", {"sparsity": 1}, "< 1"),
        ("Heads", {"sparsity": 0}, "> 0"),
        ("Heads", {}, "sparsity"),
        ("Heads", {"sparsity": 0.5, "importance": "depth"}, "'depth'"),
        ("Heads", {"sparsity": 0.5, "importance": "activations"}, "'calibration' is needed for"),
        ("Heads", {"sparsity": 0.5, "calibration": TEXT}, "and for no other"),
        ("Heads", {"sparsity": 0.5, "unit": "group"}, "'group'"),
        ("Neurons", {"sparsity": 0.5, "importance": "activations"}, "'calibration' is needed"),
        ("Layers", {}, "exactly one of 'sparsity' and 'count' is needed"),
        ("Layers", {"sparsity": 0.5, "count": 1}, "exactly one of 'sparsity' and 'count'"),
        ("Layers", {"count": 0}, ">= 1"),
        ("Layers", {"count": 1, "importance": "depth", "calibration": TEXT}, "and for no other"),
        ("Layers", {"count": 1, "importance": "activations"}, "'calibration' is needed"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    use: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        build("modifiers", Part(use=USE + use, options=options))


def test_the_defaults_rank_by_norm() -> None:
    assert build("modifiers", Part(use=f"{USE}Heads", options={"sparsity": 0.5})) == Heads(
        sparsity=0.5, importance="norm", calibration=None, unit="head"
    )
    text = {"sparsity": 0.5, "importance": "activations", "calibration": TEXT}
    assert build("modifiers", Part(use=f"{USE}Neurons", options=text)) == Neurons(
        sparsity=0.5, importance="activations", calibration=Material(facts=("capital",))
    )
    assert build("modifiers", Part(use=f"{USE}Layers", options={"count": 2})) == Layers(
        sparsity=None, count=2, importance="norm", calibration=None
    )
