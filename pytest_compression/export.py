"""``pytest-compression export``: write a variant down, and prove that it is what was judged.

The variant is built as a run builds it and asked the suite's questions. Then it is saved, read
again from its files as anybody would have it judged (``use: checkpoint``), and asked the same.
Only what answers every question alike gets its name; anything else leaves nothing behind.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from math import fsum
from pathlib import Path
from typing import Any

import msgspec

from pytest_compression import registry, suite
from pytest_compression.errors import CompressionError, RecipeError, SuiteError, nearest
from pytest_compression.leakage import Learner, refuse_leaks, refuse_taught
from pytest_compression.types import Footprint, Measurement, Model, Part, Suite, TrialSpec

CARD = "compression.json"
"""Where it is said what a directory holds. Saving a model may begin it: ``plain`` are packed layers
that it wrote as plain numbers, each with the reason."""
SHOWN = 5
"""Questions that an error shows, and layers of one reason."""


def export(
    path: Path, variant: str, folder: Path, benchmarks: Sequence[str]
) -> tuple[list[str], bool]:
    """Write a variant of a suite into a new directory.

    Args:
        path: of the suite.
        variant: ``MODEL/RECIPE``.
        folder: where it goes; it does not exist, or is empty.
        benchmarks: whose questions are asked; all of the suite's if none is named.

    Returns:
        What to say, and whether the saved model answers otherwise; then nothing is left of it.

    Raises:
        CompressionError: there is no such variant, it cannot be built or saved, or the directory
            is not empty.
    """
    read = suite.load(path)
    trials = chosen(read, path, variant, benchmarks)
    with new_folder(folder) as made:
        exporter = Exporter(read, trials)
        judged = exporter.judged()
        exporter.model.save(made)
        shipped = exporter.shipped(made)
        lines, red = compared(trials, judged, shipped)
        if red:
            said = f"{variant} was not exported: read again from its files, it answers otherwise."
            return [said, *lines], True
        lines += [weighed(judged.footprint, shipped.footprint), *reasons(noted_plain(made))]
        try:
            write_card(made, read, variant, judged, shipped)
            publish(made, folder)
        except OSError as error:
            message = f"'{folder}' could not be written: {error.strerror}."
            raise RecipeError(message) from error
    return [f"{variant} -> {folder}", *lines], False


def chosen(read: Suite, path: Path, variant: str, benchmarks: Sequence[str]) -> list[TrialSpec]:
    """The trials of a variant on some benchmarks, or on all.

    Raises:
        SuiteError: the suite has no such variant or benchmark, or it is the dense model.
    """
    variants = dict.fromkeys(f"{trial.model}/{trial.recipe}" for trial in read.trials)
    if variant not in variants:
        message = f"{path} has no variant '{variant}'. {nearest(variant, variants)}"
        raise SuiteError(message)
    if variant.endswith(f"/{suite.DENSE}"):
        message = f"{path}: '{variant}' is the model itself, which is there already."
        raise SuiteError(message)
    for name in benchmarks:
        if name not in read.benchmarks:
            message = f"{path} has no benchmark '{name}'. {nearest(name, read.benchmarks)}"
            raise SuiteError(message)
    return [
        trial
        for trial in read.trials
        if f"{trial.model}/{trial.recipe}" == variant
        and (not benchmarks or trial.benchmark in benchmarks)
    ]


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A directory that gets its name when all is done; if that fails, nothing is left of it.

    Raises:
        RecipeError: there is something of that name, or nothing can be written there.
    """
    if folder.resolve() == Path.cwd():
        message = "the current directory cannot be replaced: name a new one inside it."
        raise RecipeError(message)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"'{folder}' is not empty: name a new directory, or remove what is in it."
        raise RecipeError(message)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
    except OSError as error:
        message = f"nothing can be written beside '{folder}': {error.strerror}."
        raise RecipeError(message) from error
    with beside as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        yield made


def publish(made: Path, folder: Path) -> None:
    """Give a finished directory its name."""
    if folder.exists():
        folder.rmdir()  # it is empty
    made.rename(folder)


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A model in one state: what was measured on it, and what it answers."""

    footprint: Footprint
    answers: dict[str, Measurement]
    """By benchmark."""


class Exporter:
    """Builds a variant and reads it again; one model is loaded at a time."""

    def __init__(self, read: Suite, trials: Sequence[TrialSpec]) -> None:
        self.part = read.models[trials[0].model]
        self.steps = [
            registry.build("modifiers", step) for step in read.recipes[trials[0].recipe].steps
        ]
        self.benchmarks = {
            trial.benchmark: registry.build("benchmarks", read.benchmarks[trial.benchmark])
            for trial in trials
        }
        self.model = self.loaded()
        if any(isinstance(step, Learner) for step in self.steps):
            refuse_leaks(self.steps, {name: one.questions for name, one in self.answers().items()})

    def loaded(self) -> Model:
        """The dense model, asked what some benchmarks compare with."""
        model: Model = registry.build("models", self.part).load()
        for benchmark in self.benchmarks.values():
            if getattr(benchmark, "needs_dense", False):
                benchmark.measure(model)
        return model

    def answered(self, steps: Sequence[Any]) -> Answered:
        """The dense model after some steps.

        Raises:
            RecipeError: a step fails.
        """
        return Answered(footprint=self.model.compress(steps), answers=self.answers())

    def answers(self) -> dict[str, Measurement]:
        """Of the model as it is now, by benchmark."""
        return {name: one.measure(self.model) for name, one in self.benchmarks.items()}

    def judged(self) -> Answered:
        """What a run judges.

        Raises:
            RecipeError: a step fails, or taught the model what is asked.
        """
        found = self.answered(self.steps)
        refuse_taught(self.model, {name: one.questions for name, one in found.answers.items()})
        return found

    def shipped(self, folder: Path) -> Answered:
        """What was written, read again."""
        if not self.model.restore():
            self.model = self.loaded()
        options = {"path": str(folder.resolve())}
        trusted = {"trust_remote_code": True} if self.part.options.get("trust_remote_code") else {}
        part = Part(use="checkpoint", options={**options, **trusted})
        try:
            return self.answered([registry.build("modifiers", part)])
        except CompressionError as error:
            said = str(error).replace(str(folder.resolve()), folder.name)
            message = f"what was written cannot be judged again, and was removed: {said}"
            raise RecipeError(message) from error


def compared(
    trials: Sequence[TrialSpec], judged: Answered, shipped: Answered
) -> tuple[list[str], bool]:
    """A line a benchmark, and whether any question scores otherwise."""
    lines, red = [], False
    for trial in trials:
        before, after = (one.answers[trial.benchmark] for one in (judged, shipped))
        differ, largest = differences(before, after, trial.gate.near_tie)
        red |= bool(differ)
        n = len(before.questions)
        lines.append(
            f"  {trial.benchmark}: {n - len(differ)} of {n} questions score the same; largest "
            f"difference {largest:.2g}"
        )
        lines += [f"    {one}" for one in differ[:SHOWN]]
        if len(differ) > SHOWN:
            lines.append(f"    and {len(differ) - SHOWN} more")
    return lines, red


def differences(
    before: Measurement, after: Measurement, tolerance: float
) -> tuple[list[str], float]:
    """Questions that score otherwise, and by how much the scores differ at most.

    Right must stay right, wrong wrong, and each answer the same. The figures that decide it, in
    nats or graded scores, may differ by rounding: less than the gate calls a near tie.
    """
    found = {question.id: place for place, question in enumerate(after.questions)}
    differ, largest = [], 0.0
    for i, question in enumerate(before.questions):
        j = found.get(question.id)
        if j is None or len(found) != len(before.questions):
            differ.append(f"{question.id}: not asked of both")
            continue
        was, now = ((one.margins or one.values)[k] for one, k in ((before, i), (after, j)))
        gap = 0.0 if was == now else abs(was - now)  # both may be infinite
        largest = max(largest, gap)
        turned = bool(before.margins) and (was > 0) != (now > 0)
        if turned or gap > tolerance or before.given[i] != after.given[j]:
            differ.append(
                f"{question.id}: {before.given[i]} ({was:.4f}), read again {after.given[j]} "
                f"({now:.4f})"
            )
    return differ, largest


def weighed(judged: Footprint, shipped: Footprint) -> str:
    """What the files weigh, beside what was judged."""
    parts = " and ".join(f"{one.bytes / judged.dense_bytes:.2f}" for one in (shipped, judged))
    return (
        f"  tensors: {shipped.bytes} bytes in the files, {judged.bytes} judged ({parts} of the "
        "dense model)"
    )


def noted_plain(folder: Path) -> dict[str, str]:
    """Packed layers that were written as plain numbers, and why."""
    card = folder / CARD
    if not card.exists():
        return {}
    return msgspec.json.decode(card.read_bytes(), type=dict[str, dict[str, str]])["plain"]


def reasons(plain: Mapping[str, str]) -> list[str]:
    """A line for each reason why layers were written as plain numbers."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in plain.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in by_reason.items():
        shown = ", ".join(names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"  written as plain numbers: {shown}{more} ({reason})")
    return lines


def write_card(
    folder: Path, read: Suite, variant: str, judged: Answered, shipped: Answered
) -> None:
    """Say beside the weights what they are and how they were judged."""
    model, _, recipe = variant.partition("/")
    steps = [{"use": step.use, **step.options} for step in read.recipes[recipe].steps]
    own = version("pytest-compression")
    document = {
        "made_by": f"pytest-compression {own}",
        "variant": variant,
        "model": {"use": read.models[model].use, **read.models[model].options},
        "recipe": steps,
        "judged": judged.footprint,
        "in_these_files": shipped.footprint,
        "plain": noted_plain(folder),
        "scores": {
            name: {"questions": len(one.questions), "score": fsum(one.scores) / len(one.questions)}
            for name, one in shipped.answers.items()
        },
    }
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (folder / CARD).write_bytes(text + b"\n")
    lines = [
        f"# {variant}",
        "",
        f"Compressed and written by pytest-compression {own}, which read these files again and got",
        "the same answer to every question. The dense model, the recipe, its footprint and the",
        f"scores are in `{CARD}`.",
        "",
        *(f"- {said(step)}" for step in steps),
        "",
        *reader(folder),
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def reader(folder: Path) -> list[str]:
    """Lines on what ``transformers`` needs to read the files, if it does not by itself."""
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    settings = config.get("quantization_config") or {}
    groups = settings.get("config_groups", {})
    if len(groups) > 1:
        lines = [
            "Needs `pip install compressed-tensors`. `transformers` reads several kinds of layers",
            "if none has zero points and embeddings are plain; `use: checkpoint` reads them all.",
        ]
    elif groups:
        lines = [
            "Needs `pip install compressed-tensors`, and in `transformers`",
            "`from_pretrained(..., quantization_config=CompressedTensorsConfig(dequantize=True))`.",
        ]
    elif settings:
        lines = [f"Needs `pip install {settings['quant_method']} accelerate`."]
    elif (folder / "quanto_qmap.json").exists():
        lines = ["Needs `pip install optimum-quanto accelerate`, which reads them."]
    else:
        return []
    return [*lines, ""]


def said(step: dict[str, Any]) -> str:
    """A step of a recipe as one line."""
    options = (f"{name}={value}" for name, value in step.items() if name != "use")
    return " ".join([str(step["use"]), *options])
