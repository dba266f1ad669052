"""Distillation to a student of fewer blocks. The options are light to import."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from pytest_compression.errors import RecipeError
from pytest_compression.modifiers.training.course import Course
from pytest_compression.types import Claim

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pytest_compression.embedded.batches import Batch
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.modifiers.training.loop import Loss
    from pytest_compression.modifiers.training.trainee import Trainee


@dataclass(frozen=True, kw_only=True)
class Distill(Course):
    """Teach a student that keeps some of the teacher's blocks, and put it in the teacher's place.

    The student begins with the teacher's own weights in the blocks that it keeps, which lie evenly
    spaced from the first one on, as in Sanh et al. 2019, https://arxiv.org/abs/1910.01108.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531; Kim & Rush 2016,
    https://arxiv.org/abs/1606.07947.
    """

    contract: ClassVar[str] = "model"

    layers: Annotated[int, Meta(ge=1)]
    """How many blocks the student has; of the encoder and of the decoder each."""
    source: Literal["logits", "answers"] = "logits"
    """What the teacher gives: its probabilities of every token (Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531), or the answers that it writes to the material's prompts,
    which the student learns in place of the material's own (Kim & Rush 2016,
    https://arxiv.org/abs/1606.07947; Alpaca's way, Taori et al. 2023)."""
    temperature: Annotated[float, Meta(gt=0)] = 2.0
    """By which the logits of both are divided; for ``logits`` only."""
    labels: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Share that the material's own labels have in the loss; for ``logits`` only."""

    def __post_init__(self) -> None:
        """Check that nothing is said that would be ignored."""
        super().__post_init__()
        if self.source == "answers" and (self.temperature, self.labels) != (2.0, 0.5):
            message = "'temperature' and 'labels' are for source 'logits' only"
            raise ValueError(message)

    def apply(self, model: "LanguageModel") -> Claim:
        """Train a student and put it in place of the model.

        Raises:
            RecipeError: the model has no more blocks than that, its blocks are not known, it is
                quantized, or the loss is not finite.
        """
        from pytest_compression.modifiers.training.loop import plain_loss, teach
        from pytest_compression.modifiers.training.trainee import Trainee, taught_layers

        refuse_quantized(model)
        student, removed, places = self.student(model.module)
        trainee = Trainee(model, student, taught_layers(student, embeddings=self.embeddings))
        trainee.keep_zeros()
        batches = self.material.batches(model, self.batch)
        if self.source == "answers":
            batches = self.answers(model, batches)
        logits = self.source == "logits"
        teach(trainee, batches, self, self.loss(trainee) if logits else plain_loss(trainee))
        origins = {
            name: model.snapshot.name_of(model.module.get_submodule(place))
            or model.origins.get(place, place)
            for name, place in places.items()
        }
        trainee.put()
        model.switch(student)
        model.origins = origins
        return Claim(targets=list(trainee.names), removed=removed)

    def student(self, teacher: "nn.Module") -> tuple["nn.Module", int, dict[str, str]]:
        """A copy with fewer blocks.

        Returns:
            The copy, how many parameters it lacks, and where its layers are in the teacher.

        Raises:
            RecipeError: there are no more, or they are not known, or share their weights.
        """
        from pytest_compression.models.anatomy import blocks_of, stacks_of
        from pytest_compression.models.snapshot import stored_tensors
        from pytest_compression.models.surgery import keep_blocks, note_blocks

        student, removed = copy.deepcopy(teacher), 0
        before = {id(module): name for name, module in student.named_modules()}
        for stack in stacks_of(student):
            blocks = list(blocks_of(student, stack).values())
            if not stack.layers or len(blocks) <= self.layers:
                message = (
                    f"a student of {self.layers} blocks is no smaller: the teacher has "
                    f"{len(blocks)}{'' if stack.layers else ' that it runs again and again'}. "
                    "Choose fewer 'layers'."
                )
                raise RecipeError(message)
            kept = [place * len(blocks) // self.layers for place in range(self.layers)]
            gone = [block for place, block in enumerate(blocks) if place not in kept]
            removed += sum(t.numel() for block in gone for _, t in stored_tensors(block))
            keep_blocks(student, stack, kept)
        note_blocks(student)
        named = student.named_modules()
        places = {name: before[id(module)] for name, module in named if id(module) in before}
        return student, removed, places

    def answers(self, model: "LanguageModel", batches: "list[Batch]") -> "list[Batch]":
        """The material with the teacher's answers, which are noted for the check of leaks."""
        from pytest_compression.modifiers.training.answers import answered, written

        given = []
        for batch in batches:
            given.append(answered(model, batch, halves=self.material.text is not None))
            model.taught += written(model, given[-1])
            model.progress(len(given), len(batches))
        return given

    def loss(self, trainee: "Trainee") -> "Loss":
        """Divergence from the teacher's probabilities, and cross entropy of the labels.

        ``T^2 KL(softmax(t / T) || softmax(s / T))`` a token, of teacher's and student's logits t
        and s at temperature T.
        """
        import torch
        from torch.nn import functional

        from pytest_compression.modifiers.training.loop import inputs_of, learned

        model = trainee.model

        def loss(batch: "Batch") -> "Tensor":
            inputs = inputs_of(batch, model.family)
            with torch.no_grad():
                teacher = model.module(**inputs).logits
            wanted, labels = learned(teacher, batch, model.family)
            given, _ = learned(trainee.logits(inputs), batch, model.family)
            divergence = functional.kl_div(
                functional.log_softmax(given / self.temperature, dim=-1),
                functional.log_softmax(wanted / self.temperature, dim=-1),
                reduction="batchmean",
                log_target=True,
            )
            soft = (1 - self.labels) * self.temperature**2 * divergence
            return soft + self.labels * functional.cross_entropy(given, labels)

        return loss


def refuse_quantized(model: "LanguageModel") -> None:
    """Refuse a teacher in codes, or one that rounds its inputs: a student would begin with neither.

    Raises:
        RecipeError: it is one.
    """
    for weight in model.layers():
        rounds = getattr(weight.layer, "activation_bits", None) is not None
        if rounds or weight.stored is not None:
            what = "rounds its inputs" if rounds else "is quantized"
            message = f"'{weight.name}' {what}: distill first, then quantize the student."
            raise RecipeError(message)
