"""Distillation: a smaller student that learns from its teacher, and can be loaded again."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.nn import functional

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.leakage import refuse_taught
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded, Pretrained
from pytest_compression.modifiers.activations import Activations
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.quantization import RoundToNearest
from pytest_compression.modifiers.training.distillation import Distill
from pytest_compression.modifiers.training.loop import inputs_of, learned
from pytest_compression.modifiers.training.trainee import Trainee, taught_layers
from pytest_compression.types import Modifier

ARCHITECTURES = sorted(set(tiny.ARCHITECTURES) - {"albert"})


def quick(material: Material, **options: Any) -> Distill:
    given = {"layers": 1, "epochs": 3, "batch": 4, "learning_rate": 0.01}
    return Distill(material=material, **given | options)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_student_is_smaller_runs_and_is_loaded_again(
    architecture: str, material: Material, tmp_path: Path
) -> None:
    model = tiny.model(architecture)
    (batch,) = material.batches(model, size=12)
    footprint = model.compress([quick(material, steps=2, epochs=None)])
    assert footprint.bytes < footprint.dense_bytes
    model.save(tmp_path)
    loaded: Any = Pretrained(path=str(tmp_path)).load()
    with torch.no_grad():
        ours, theirs = (one.module(**batch).logits for one in (model, loaded))
    assert torch.equal(ours, theirs)
    assert loaded.restore()
    assert model.restore()


def test_the_student_begins_with_every_other_block_of_the_teacher() -> None:
    model = tiny.model("llama", num_hidden_layers=4)
    step = quick(Material(facts=("capital",)), layers=2)
    student, removed, places = step.student(model.module)
    teacher = dict(model.module.named_parameters())
    for name, parameter in student.named_parameters():
        for new, old in ((0, 0), (1, 2)):
            name = name.replace(f"layers.{new}.", f"layers.old{old}.")  # noqa: PLW2901
        assert torch.equal(parameter, teacher[name.replace(".old", ".")])
    count = sum(p.numel() for p in teacher.values())
    assert removed == count - sum(p.numel() for p in student.parameters())
    config: Any = student.config
    assert config.num_hidden_layers == 2
    assert len(student.get_submodule("model.layers")) == 2  # type: ignore[arg-type]
    assert model.module.config.num_hidden_layers == 4  # type: ignore[union-attr]
    assert places["model.layers.1.mlp.up_proj"] == "model.layers.2.mlp.up_proj"


def test_the_error_is_that_of_the_blocks_the_student_has() -> None:
    model = tiny.model("llama", num_hidden_layers=6)
    halved = quick(Material(facts=("capital",)), layers=3, steps=1, epochs=None, learning_rate=1e-6)
    assert model.compress([halved]).weight_error < 1e-3
    again = replace(halved, layers=2)
    assert model.restore()
    assert model.compress([halved, again]).weight_error < 1e-3


@pytest.mark.parametrize("architecture", tiny.TYPICAL.values())
def test_the_loss_is_hintons(architecture: str, material: Material) -> None:
    model, network = tiny.model(architecture), tiny.network(architecture, seed=1)
    trainee = Trainee(model, network, taught_layers(network, embeddings=False))
    (batch,) = material.batches(model, size=12)
    inputs = inputs_of(batch, model.family)
    with torch.no_grad():
        given, labels = learned(trainee.logits(inputs), batch, model.family)
        wanted, _ = learned(model.module(**inputs).logits, batch, model.family)
        for temperature, share in ((1.0, 0.0), (2.5, 0.3), (2.0, 1.0)):
            step = quick(material, temperature=temperature, labels=share)
            target = (wanted / temperature).softmax(-1)
            ratio = target.log() - (given / temperature).softmax(-1).log()
            soft = temperature**2 * (target * ratio).sum(-1).mean()
            hard = functional.cross_entropy(given, labels)
            found = float(step.loss(trainee)(batch))
            assert found == pytest.approx(float((1 - share) * soft + share * hard), rel=1e-4)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(material: Material) -> None:
    model = tiny.model("llama")
    network = copy.deepcopy(model.module)
    trainee = Trainee(model, network, taught_layers(network, embeddings=False))
    (batch,) = material.batches(model, size=12)
    loss = quick(material, labels=0.0).loss(trainee)(batch).detach()
    assert float(loss) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("source", ["logits", "answers"])
def test_a_student_comes_nearer_to_its_teacher(source: Any, material: Material) -> None:
    model = tiny.model("bert", num_hidden_layers=4)
    batches = material.batches(model)
    module: Any = model.module

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model.module(**batch).logits.flatten(0, 1) for batch in batches])

    teacher = logits()

    def distance(**options: Any) -> float:
        taught = {"labels": 0.0} if source == "logits" else {}
        model.compress([quick(material, layers=2, source=source, **taught, **options)])
        places = torch.cat([batch["labels"].flatten() for batch in batches]) >= 0
        given = functional.log_softmax(logits()[places], -1)
        found = functional.kl_div(
            given,
            functional.log_softmax(teacher[places], -1),
            log_target=True,
            reduction="batchmean",
        )
        assert model.restore()
        assert model.module is module
        return float(found)

    assert distance(epochs=8) < 0.8 * distance(epochs=1, learning_rate=1e-9)


def test_facts_are_handed_on_to_a_student_of_half_the_blocks() -> None:
    model: Any = Embedded(family="causal").load()
    benchmark = WorldFacts(relations=("language",))

    def right() -> float:
        return sum(benchmark.measure(model).scores)

    material = Material(facts=("language",), samples=134)
    options: dict[str, Any] = {"layers": 2, "source": "answers", "batch": 32}
    model.compress([Distill(material=material, steps=1, learning_rate=1e-9, **options)])
    untaught = right()
    assert model.restore()
    footprint = model.compress(
        [Distill(material=material, epochs=2, learning_rate=2e-3, **options)]
    )
    assert footprint.bytes < 0.7 * footprint.dense_bytes
    assert right() > untaught + 20


@pytest.mark.parametrize("family", ["causal", "masked", "seq2seq"])
def test_what_the_teacher_answers_is_checked_for_leaks(family: Any) -> None:
    model: Any = Embedded(family=family).load()
    asked = {"facts": WorldFacts(relations=("capital",), limit=60).measure(model).questions}
    for relation in ("capital", "continent"):
        material = Material(facts=(relation,), samples=64)
        step = Distill(material=material, layers=1, steps=1, source="answers")
        model.compress([step])
        assert len(model.taught) == 64
        if relation == "capital":
            with pytest.raises(RecipeError, match="By its teacher's answers the student would"):
                refuse_taught(model, asked)
        else:
            refuse_taught(model, asked)
        assert model.restore()
        assert not model.taught


def test_what_was_pruned_stays_pruned_in_the_student(material: Material) -> None:
    model = tiny.model("gpt2")
    model.compress([Magnitude(sparsity=0.5)])
    masks = {weight.name: weight.values == 0 for weight in model.weights("all")}
    assert model.restore()
    model.compress([Magnitude(sparsity=0.5), quick(material)])
    for weight in model.weights("all"):
        assert torch.equal(weight.values == 0, masks[weight.name])


def test_a_student_can_be_compressed_further(
    material: Material, nats: Callable[[LanguageModel], float]
) -> None:
    model = tiny.model("llama")
    footprint = model.compress([quick(material), RoundToNearest(bits=8)])
    assert footprint.bits < 10
    before = nats(model)
    assert model.restore()
    assert nats(model) != before


def test_a_student_as_large_as_its_teacher_is_refused(material: Material) -> None:
    with pytest.raises(RecipeError, match="a student of 2 blocks is no smaller: the teacher has 2"):
        tiny.model("llama").compress([quick(material, layers=2)])


def test_a_teacher_whose_blocks_share_their_weights_is_refused(material: Material) -> None:
    with pytest.raises(RecipeError, match="that it runs again and again"):
        tiny.model("albert").compress([quick(material)])


@pytest.mark.parametrize(
    ("step", "said"),
    [(RoundToNearest(bits=8), "is quantized"), (Activations(), "rounds its inputs")],
)
def test_a_quantized_teacher_is_refused(step: Modifier, said: str, material: Material) -> None:
    with pytest.raises(RecipeError, match=f"{said}: distill first, then quantize the student"):
        tiny.model("llama").compress([step, quick(material)])


def test_what_only_concerns_probabilities_is_refused_with_answers() -> None:
    with pytest.raises(ValueError, match="are for source 'logits' only"):
        Distill(
            material=Material(facts=("capital",)), layers=1, source="answers", labels=0.1, steps=1
        )
