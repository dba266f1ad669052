"""Documents of lm-eval's tasks as questions, and what a model's answers to them are worth.

Where lm-eval itself takes the best of several choices, the margin is kept: the right choice's
log-likelihood less the best other one's, each divided as the metric says. A tie counts against the
model, where lm-eval lets the first choice win. Everything else is graded from 0 to 1, and higher is
better: a metric's own value, or for a perplexity the probability that the model gives to a text,
as the geometric mean over its words or bytes (so 1/perplexity; of bits per byte, ``2**-bits``).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from pytest_compression.errors import MeasurementError
from pytest_compression.types import Question

BY_LENGTH: dict[str, Callable[[str], int]] = {
    "acc": lambda _text: 1,
    "acc_mutual_info": lambda _text: 1,
    "acc_norm": len,
    "acc_bytes": lambda text: len(text.encode()),
}
"""Metrics that take the best choice, and by what each choice's log-likelihood is divided."""
PERPLEXITIES = {"bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity"}
"""Metrics of which each document gives a log-likelihood, and of how many words or bytes."""
SHOWN = 60
"""Characters of a text that stand for it in reports."""


OTHER = "something else"
"""What a model prefers to a continuation that is not its greedy one."""


class LeftOut(Exception):  # noqa: N818  # no error: it is counted
    """A document cannot be asked; the message is the reason."""


class Asked(NamedTuple):
    """A document of a task, and what is asked for it."""

    question: Question
    task: Any
    document: Any
    requests: list[Instance]
    right: frozenset[int]
    """Which choices are right; empty if the metric does not choose."""
    chance: float
    """What guessing would get."""


class Score(NamedTuple):
    """What the answers to one document are worth."""

    value: float
    """From 0 to 1."""
    margin: float | None
    """Nats, divided as the metric says; None if it does not choose."""
    given: str


def chooses(task: Any, metric: str) -> bool:
    """Whether the metric takes the best of a document's choices, as lm-eval itself defines it."""
    return (
        metric in BY_LENGTH
        and task.OUTPUT_TYPE == "multiple_choice"
        and isinstance(task, ConfigurableTask)
        and type(task).process_results is ConfigurableTask.process_results
        and not callable(task.config.process_results)
    )


def questioned(task: Any, metric: str, key: str, document: Any, requests: list[Instance]) -> Asked:
    """A document as a question.

    Raises:
        LeftOut: it cannot be asked.
    """
    if task.OUTPUT_TYPE == "loglikelihood_rolling" and not requests[0].args[0]:
        reason = "a document without text"
        raise LeftOut(reason)
    prompt, answers, choices, right = texts(task, document)
    chosen = chooses(task, metric)
    if chosen:
        check_choices(choices, right, metric)
        answers = [choices[one] for one in sorted(right)]
    question = Question(
        id=f"{task.task_name}:{key}",
        subject=shortened(prompt or requests[0].args[0]),
        stem=prompt,
        end="",
        answer=answers[0],
        candidates=tuple(choices) if chosen else (answers[0],),
        cluster=str(task.task_name),
        accepted=tuple(answers[1:]),
    )
    guessed = task.OUTPUT_TYPE == "multiple_choice" and metric in BY_LENGTH and choices
    chance = max(1, len(right)) / len(choices) if guessed else 0.0
    kept = right if chosen else frozenset[int]()
    return Asked(question, task, document, requests, kept, chance)


def texts(task: Any, document: Any) -> tuple[str, list[str], list[str], frozenset[int]]:
    """Prompt, right answers, choices, and the positions of the right ones among these."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "", [""], [], frozenset()
    prompt = task.doc_to_text(document)
    target = task.doc_to_target(document)
    has_choices = isinstance(task, ConfigurableTask) and task.config.doc_to_choice is not None
    choices = [str(one) for one in task.doc_to_choice(document)] if has_choices else []
    if isinstance(prompt, int):  # one answer after several prompts, of which one is right
        prompt, target = target, prompt
    named = target if isinstance(target, list) else [target]
    named = [choices.index(one) if one in choices else one for one in named]
    right = frozenset(one for one in named if isinstance(one, int) and 0 <= one < len(choices))
    answers = [choices[one] if isinstance(one, int) and one in right else str(one) for one in named]
    return str(prompt), answers or [""], choices, right


def check_choices(choices: list[str], right: frozenset[int], metric: str) -> None:
    """Refuse a document of which no choice can be right or wrong, as :class:`LeftOut`."""
    reason = ""
    if not right:
        reason = "the right answer is none of the choices"
    elif len(right) == len(choices):
        reason = "every choice is right"
    elif {choices[one] for one in right} & {c for i, c in enumerate(choices) if i not in right}:
        reason = "a wrong choice is the same as a right one"
    elif not all(BY_LENGTH[metric](choice) for choice in choices):
        reason = "a choice without text has no length"
    if reason:
        raise LeftOut(reason)


def shortened(text: str) -> str:
    """The beginning of a text in one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"


def score(asked: Asked, metric: str, responses: list[Any], said: Mapping[str, Any]) -> Score:
    """What the answers are worth under a metric.

    Args:
        asked: the document.
        metric: one of the task's.
        responses: to its requests, filtered.
        said: what lm-eval made of them, by metric.

    Raises:
        MeasurementError: the metric gives a document no value between 0 and 1.
    """
    if asked.right:
        return best_choice(asked, metric, [total for total, _ in responses])
    value, given = said.get(metric), responses[0]
    if metric in PERPLEXITIES and isinstance(value, (tuple, float)):
        total, count = value if isinstance(value, tuple) else (value, 1)
        probability = math.exp(total / count) if count else math.nan
        return Score(within(asked, metric, probability), None, f"{-total:.4g} nats")
    if asked.task.higher_is_better().get(metric) is False:
        message = f"task '{asked.task.task_name}': a lower '{metric}' is better: it is no score."
        raise MeasurementError(message)
    number = within(asked, metric, value)
    if not isinstance(given, str):
        given = asked.question.answer if number == 1 else OTHER
    return Score(number, None, answer_shown(given, asked.question.answer))


def answer_shown(given: str, answer: str) -> str:
    """What was written, in one line; as it is if white space alone may tell it from the answer."""
    return given if given.split() == answer.split() else shortened(given)


def best_choice(asked: Asked, metric: str, totals: list[float]) -> Score:
    """The margin of the right choice, or of the best of them."""
    choices = asked.question.candidates
    given = totals[: len(choices)]
    if metric == "acc_mutual_info":  # the same choices without the prompt come behind them
        pairs = zip(given, totals[len(choices) :], strict=True)
        given = [after - before for after, before in pairs]
    divided = [one / BY_LENGTH[metric](text) for one, text in zip(given, choices, strict=True)]
    best = max(range(len(choices)), key=divided.__getitem__)
    right = max(divided[one] for one in asked.right)
    margin = right - max(one for i, one in enumerate(divided) if i not in asked.right)
    return Score(float(margin > 0), margin, choices[best])


def within(asked: Asked, metric: str, value: Any) -> float:
    """A value from 0 to 1.

    Raises:
        MeasurementError: it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        message = (
            f"task '{asked.task.task_name}': '{metric}' gives a document {value!r:.60}, and no "
            "score from 0 to 1. Name another metric."
        )
        raise MeasurementError(message)
    return number
