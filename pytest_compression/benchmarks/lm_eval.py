"""Any task of lm-eval: multiple choice, log-likelihood, rolling perplexity, generation.

The tasks are EleutherAI's lm-evaluation-harness's (https://github.com/EleutherAI/lm-evaluation-harness)
or local YAML files as it reads them; they run through our engine, or through one of its own
backends as a runner. Light to import; ``lm_eval`` itself comes with ``measure``.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pytest_compression.benchmarks.files import under
from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.types import Measurement

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from pytest_compression.benchmarks.harness_questions import Asked, Score
    from pytest_compression.benchmarks.harness_tasks import Plan
    from pytest_compression.models.language_model import LanguageModel

VERSION = "1"
"""Raised when the same questions are scored in another way."""
TOGETHER = 256
"""Documents that are asked at once; what all of them begin with is read once."""
PLACE = "{model}"
"""In ``runner_args``: the directory that the trial's model is saved to."""


@dataclass(frozen=True, kw_only=True)
class LmEval:
    """Which task is asked, and through what."""

    task: Annotated[str, Meta(min_length=1)]
    """A task, group or tag of lm-eval, or of the files in ``include_path``."""
    include_path: str | None = None
    """A directory with YAML files of tasks. They may run Python of their own."""
    num_fewshot: Annotated[int, Meta(ge=0)] | None = None
    """Examples before each question; the task's own number if not given."""
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many documents a task, drawn by ``seed``."""
    seed: int = 0
    metric: Annotated[str, Meta(min_length=1)] | None = None
    """Such as ``acc`` or ``exact_match,flexible-extract`` (with a filter). If not given, the first
    that all tasks have (and a group aggregates, if it does any) of acc_norm, acc, exact_match, f1,
    bits_per_byte, byte_perplexity, word_perplexity, perplexity."""
    apply_chat_template: bool = False
    """Ask in a conversation, as the tokenizer's template writes it; examples are its turns."""
    overlong: Literal["cut", "refuse"] = "cut"
    """Prompts that the model cannot read whole are cut from the left and counted, or an ERROR."""
    runner: Annotated[str, Meta(min_length=1)] | None = None
    """A backend of lm-eval, such as ``hf``, ``vllm`` or ``local-completions``, in place of our
    engine."""
    runner_args: dict[str, Any] = field(default_factory=dict)
    """Its ``model_args``; ``{model}`` in a text becomes a directory with the trial's model."""
    served: bool = False
    """The runner judges a release of its own, whatever the recipe of the trial."""

    def __post_init__(self) -> None:
        """Check that it is clear which weights are judged."""
        saved = any(PLACE in text for text in self.runner_args.values() if isinstance(text, str))
        if self.runner is None and (self.runner_args or self.served):
            message = "runner_args and served need a runner"
            raise ValueError(message)
        if self.served and saved:
            message = f"served: true judges a release of its own, but runner_args name {PLACE}"
            raise ValueError(message)
        if self.runner is not None and not (self.served or saved):
            message = (
                f"runner_args do not say where the trial's model goes: write {PLACE} there, such "
                f"as pretrained: '{PLACE}'; or write served: true if the runner judges a release "
                "of its own, which then is the same for every recipe"
            )
            raise ValueError(message)

    @property
    def cached(self) -> bool:
        """Whether answers may be kept: what another backend runs is not known."""
        return self.runner is None

    def sources(self) -> Iterator[Path]:
        """The files of tasks that the answers depend on."""
        yield from under(self.include_path)

    def content(self, model: "LanguageModel") -> str:
        """A digest of all that is asked of a model.

        Raises:
            MeasurementError: as :meth:`measure`.
        """
        with self._asked(model) as lm:
            plan, scoring = self._plan(model, lm)
        questions = (msgspec.json.encode(one.question) for one in plan.asked.values())
        return digest([scoring.encode(), *questions])

    def measure(self, model: "LanguageModel") -> Measurement:
        """Ask a model, compressed or not.

        Raises:
            MeasurementError: the model is masked, or the task cannot be had or asked.
        """
        return self._measure(model, None)

    def measure_part(self, model: "LanguageModel", ids: Collection[str]) -> Measurement:
        """Ask only the questions with these ids.

        Raises:
            MeasurementError: as :meth:`measure`.
            ValueError: there is no question with one of the ids.
        """
        return self._measure(model, ids)

    def _measure(self, model: "LanguageModel", ids: Collection[str] | None) -> Measurement:
        ran = model.tokens_run
        with self._asked(model) as lm:
            plan, scoring = self._plan(model, lm)
            asked = part(plan.asked, ids)
            model.progress(0, len(asked))
            alike = sorted(asked, key=lambda one: str(one.requests[0].args[0]))  # more is shared
            for done in range(0, len(alike), TOGETHER):
                some = alike[done : done + TOGETHER]
                self._answer(lm, [request for one in some for request in one.requests])
                model.progress(done + len(some), len(asked))
        scores, figures = judged(plan, asked)
        if cut := getattr(lm, "cut", ()):
            figures["truncated"] = float(len(cut))
        if self.served:
            figures["served"] = 1.0
        margins = tuple(one.margin for one in scores if one.margin is not None)
        chooses = len(margins) == len(scores)
        return Measurement(
            metric=",".join(filter(None, (plan.metric, plan.filter))),
            questions=tuple(one.question for one in asked),
            margins=margins if chooses else (),
            values=() if chooses else tuple(one.value for one in scores),
            given=tuple(one.given for one in scores),
            scoring=scoring,
            left_out=plan.left_out,
            tokens=model.tokens_run - ran,
            figures=figures,
            expected=tuple(one.chance for one in asked),
        )

    def _answer(self, lm: Any, requests: list["Instance"]) -> None:
        """Let the model answer.

        Raises:
            MeasurementError: it cannot, or the runner fails.
        """
        if self.runner is None:
            answer(lm, requests)
            return
        from pytest_compression.benchmarks.harness_runners import failing

        with failing(self.runner, "failed while it answered"):
            answer(lm, requests)

    def _plan(self, model: "LanguageModel", lm: Any) -> tuple["Plan", str]:
        """What is asked, and the fingerprint of how; kept for the model's other recipes."""
        from pytest_compression.benchmarks.harness_tasks import plan

        options = (
            *(self.task, self.include_path, self.num_fewshot, self.limit, self.seed, self.metric),
            *(self.apply_chat_template, self.overlong),
            *(self.runner, json.dumps(self.runner_args, sort_keys=True)),
        )
        key = ("lm-eval plan", *options)
        if key not in model.memo:
            made = plan(
                self.task,
                include_path=self.include_path,
                num_fewshot=self.num_fewshot,
                limit=self.limit,
                seed=self.seed,
                metric=self.metric,
                chat=lm.apply_chat_template if self.apply_chat_template else None,
                named=lm.tokenizer_name if self.apply_chat_template else "",
            )
            model.memo[key] = made, self._scoring(made, lm)
        found: tuple[Plan, str] = model.memo[key]
        return found

    def _scoring(self, made: "Plan", lm: Any) -> str:
        """Of tokens, or of texts where a runner makes its own; of metric, and how answers are read.

        Raises:
            MeasurementError: a task's own code cannot be read.
        """
        from pytest_compression.benchmarks.harness_tasks import reading

        requests = [request for one in made.asked.values() for request in one.requests]
        versions = {name: str(task.VERSION) for name, task in made.tasks.items()}
        head = [VERSION, made.metric, made.filter, versions]
        head += [self.runner, self.runner_args] if self.runner else [lm.fingerprint(requests)]
        parts = [head, *([request.request_type, request.args] for request in requests)]
        texts = (json.dumps(one, sort_keys=True).encode() for one in parts)
        return digest([*texts, *map(reading, made.tasks.values())])

    @contextlib.contextmanager
    def _asked(self, model: "LanguageModel") -> Iterator[Any]:
        """The model as lm-eval asks it: through our engine, or through the runner."""
        try:
            from pytest_compression.benchmarks.harness_runners import backend, save
            from pytest_compression.scoring.harness import HarnessLM, refuse_masked
        except ImportError as error:
            message = f"'{self.task}' needs a package: pip install 'pytest-compression[lm-eval]'."
            raise MeasurementError(message) from error
        refuse_masked(model)
        if self.runner is None:
            yield HarnessLM(model, overlong=self.overlong)
            return
        with TemporaryDirectory() as folder:
            if not self.served:
                save(model, folder)
            texts = {key: text for key, text in self.runner_args.items() if isinstance(text, str)}
            placed = {key: text.replace(PLACE, folder) for key, text in texts.items()}
            yield backend(self.runner, {**self.runner_args, **placed})


def part(asked: dict[str, "Asked"], ids: Collection[str] | None) -> list["Asked"]:
    """The questions with these ids, in order; all if None.

    Raises:
        ValueError: there is no question with one of the ids.
    """
    wanted = asked.keys() if ids is None else set(ids)
    if unknown := sorted(wanted - asked.keys()):
        message = f"the task has no question '{unknown[0]}' ({len(unknown)} of {len(wanted)} ids)"
        raise ValueError(message)
    return [one for key, one in asked.items() if key in wanted]


def answer(lm: Any, requests: Sequence["Instance"]) -> None:
    """Let a model answer requests, all of a kind at once; they keep what it says."""
    from pytest_compression.benchmarks.harness_tasks import quiet
    from pytest_compression.scoring.harness import HarnessLM

    kinds: dict[str, list[Instance]] = {}
    for request in requests:
        request.resps, request.filtered_resps = [], {}
        kinds.setdefault(request.request_type, []).extend([request] * (request.repeats or 1))
    with contextlib.nullcontext() if isinstance(lm, HarnessLM) else quiet():
        for kind, some in kinds.items():
            for request, response in zip(some, getattr(lm, kind)(some), strict=True):
                request.resps.append(response)


def judged(plan: "Plan", asked: Sequence["Asked"]) -> tuple[list["Score"], dict[str, float]]:
    """What each document's answers are worth, and lm-eval's own figures."""
    from pytest_compression.benchmarks.harness_figures import figures
    from pytest_compression.benchmarks.harness_questions import score
    from pytest_compression.benchmarks.harness_tasks import quiet

    scores: list[Score] = []
    said: dict[str, dict[tuple[str, str], list[Any]]] = {}
    with quiet():
        for name, task in plan.tasks.items():
            mine = [one for one in asked if one.question.cluster == name]
            task._instances = [request for one in mine for request in one.requests]  # noqa: SLF001
            if mine:
                task.apply_filters()
        for one in asked:
            table = said.setdefault(one.question.cluster, {})
            chosen = plan.filter or next(iter(one.requests[0].filtered_resps))
            for name in one.requests[0].filtered_resps:
                responses = [request.filtered_resps[name] for request in one.requests]
                found = one.task.process_results(one.document, responses)
                for metric, value in found.items():
                    table.setdefault((metric, name), []).append(value)
                if name == chosen:
                    scores.append(score(one, plan.metric, responses, found))
        return scores, figures(plan, said)
