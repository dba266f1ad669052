"""Benchmarks whose answers are generated: prompts to texts, and texts to graded scores."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

VERSION = 1
"""Raise it when the same text would get another score."""

SHOWN = 80
"""Characters of a generated text that are kept."""

LISTED = 5
"""Ids that an error shows."""

UNKNOWN = "a character that the tokenizer does not know"
TOO_LONG = "longer than the model's context, with its examples"
REPEATED = "the same question again"


class Asked(NamedTuple):
    """A question and what is written before it."""

    question: Question
    header: str
    """The examples; the same for all questions of a relation."""
    wanted: tuple[tuple[str, ...], ...] = ()
    """Where several answers are right together: the names of each."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that counts as an answer, or a part of it."""
        return tuple(name for one in self.wanted for name in one) or (
            self.question.answer,
            *self.question.accepted,
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a benchmark asks, and how it scores what is written."""

    metric: str
    asked: Sequence[Asked]
    left_out: Mapping[str, int]
    """By reason, whatever the model."""
    stop: tuple[str, ...]
    max_new_tokens: int
    score: Callable[[Asked, str], float]
    """Of a text, 0 to 1."""
    figures: Callable[[Sequence[Asked], Sequence[str]], dict[str, float]]
    """What else the texts say."""


class Prepared(NamedTuple):
    """A task for one tokenizer; no recipe changes it."""

    task: Task
    asked: tuple[Asked, ...]
    """Sorted by id."""
    prompts: tuple[tuple[int, ...], ...]
    left_out: dict[str, int]
    scoring: str


def measure(
    model: "LanguageModel",
    name: str,
    task: Callable[[], Task],
    ids: Collection[str] | None = None,
) -> Measurement:
    """Let a model write the answers.

    Args:
        model: causal or seq2seq.
        name: tells this benchmark with its options from all others.
        task: reads what is asked; called once a model.
        ids: of the questions to ask; all if not given. One that is left out is not asked.

    Raises:
        MeasurementError: the model is masked, no question can be asked, or it cannot be run.
        ValueError: there is no question with one of the ids.
    """
    if model.family == "masked":
        message = (
            "a masked model writes no answers, so this benchmark cannot ask it. A suite asks all "
            "its models all its benchmarks: move the model to a suite file of its own, with "
            "benchmarks that rank answers or fill blanks."
        )
        raise MeasurementError(message)
    if name not in model.memo:
        model.memo[name] = prepared(model, task())
    ready: Prepared = model.memo[name]
    chosen = list(range(len(ready.asked)))
    if ids is not None:
        wanted = set(ids)
        refuse_unknown(wanted, ready.task.asked)
        chosen = [i for i in chosen if ready.asked[i].question.id in wanted]
    ran = model.tokens_run
    texts = written(model, ready, chosen)
    asked = [ready.asked[i] for i in chosen]
    return Measurement(
        metric=ready.task.metric,
        questions=tuple(one.question for one in asked),
        margins=(),
        given=tuple(text.strip()[:SHOWN] for text in texts),
        scoring=ready.scoring,
        left_out=ready.left_out,
        open_vocabulary=True,
        values=tuple(ready.task.score(*pair) for pair in zip(asked, texts, strict=True)),
        tokens=model.tokens_run - ran,
        figures=ready.task.figures(asked, texts),
    )


def written(model: "LanguageModel", ready: Prepared, chosen: Sequence[int]) -> list[str]:
    """What the model writes behind the chosen prompts, header by header."""
    from pytest_compression.scoring.generation import generate

    groups: dict[str, list[int]] = {}
    for place, i in enumerate(chosen):
        groups.setdefault(ready.asked[i].header, []).append(place)
    texts, done, task = [""] * len(chosen), 0, ready.task
    for places in groups.values():
        prompts = [ready.prompts[chosen[place]] for place in places]
        found = generate(model, prompts, stop=task.stop, max_new_tokens=task.max_new_tokens)
        for place, text in zip(places, found, strict=True):
            texts[place] = text
        done += len(places)
        model.progress(done, len(chosen))
    return texts


def prepared(model: "LanguageModel", task: Task) -> Prepared:
    """The task as tokens; what this model cannot be asked is counted.

    Raises:
        MeasurementError: nothing is left.
    """
    from pytest_compression.scoring.generation import room

    left_out, kept = dict(task.left_out), list[tuple[Asked, tuple[int, ...]]]()
    fits = room(model, task.max_new_tokens)
    for one in sorted(task.asked, key=lambda asked: asked.question.id):
        prompt = tokens(model, one.header + one.question.stem)
        if is_unknown(model, one):
            left_out[UNKNOWN] = left_out.get(UNKNOWN, 0) + 1
        elif fits is not None and len(prompt) > fits:
            left_out[TOO_LONG] = left_out.get(TOO_LONG, 0) + 1
        else:
            kept.append((one, prompt))
    if not kept:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in left_out.items())
        message = (
            f"no question can be asked of this model: {reasons or 'there are none'}. Where the "
            "context is too short, ask with fewer shots or max_new_tokens."
        )
        raise MeasurementError(message)
    head = f"{VERSION} {task.metric} {model.family} {task.max_new_tokens} {task.stop!r}".encode()
    parts = [repr((prompt, one.wanted)).encode() for one, prompt in kept]
    asked, prompts = zip(*kept, strict=True)
    return Prepared(task, asked, prompts, left_out, digest([head, *parts]))


def tokens(model: "LanguageModel", text: str) -> tuple[int, ...]:
    """Of a prompt; a causal model's end mark would end it before its answer."""
    found = tuple(model.tokenizer(text)["input_ids"])
    ends = model.family == "causal" and found[-1:] == (model.tokenizer.eos_token_id,)
    return found[:-1] if ends else found


def is_unknown(model: "LanguageModel", asked: Asked) -> bool:
    """Whether the tokenizer cannot read the question, or cannot write any answer."""
    unknown: int | None = model.tokenizer.unk_token_id
    if unknown is None:
        return False

    def unreadable(text: str) -> bool:
        ids: Any = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        return unknown in ids

    question = asked.question
    return unreadable(question.stem) or all(unreadable(f" {name}") for name in asked.names)


def refuse_unknown(ids: Collection[str], asked: Sequence[Asked]) -> None:
    """Refuse ids of no question.

    Raises:
        ValueError: there are some.
    """
    if unknown := sorted(set(ids) - {one.question.id for one in asked}):
        names = ", ".join(f"'{name}'" for name in unknown[:LISTED])
        message = f"the benchmark has no question {names} ({len(unknown)} of {len(ids)} ids)"
        raise ValueError(message)


def lot(name: str, seed: int) -> bytes:
    """What sorts names at random: by content and seed, never by their order in a file."""
    key = seed.to_bytes(8, "little", signed=True)
    return blake2b(name.encode(), key=key).digest()
