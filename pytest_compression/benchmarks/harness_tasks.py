"""lm-eval's tasks as questions: found, loaded, and turned into requests.

A task can bring Python of its own (``!function``, ``class:``), which is run: it is as trusted as
the package or the folder it comes from. A question's id is made of its document's content.
"""

import contextlib
import io
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import yaml
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from pytest_compression.benchmarks.files import draw, there
from pytest_compression.benchmarks.harness_names import unknown
from pytest_compression.benchmarks.harness_questions import Asked, LeftOut, questioned
from pytest_compression.errors import MeasurementError

PREFERRED = (
    "acc_norm",
    "acc",
    "exact_match",
    "f1",
    "bits_per_byte",
    "byte_perplexity",
    "word_perplexity",
    "perplexity",
)
"""Which metric is taken if none is named, of those that the groups aggregate if there are any;
otherwise a task's first."""
READING = (
    *("output_type", "repeats", "filter_list", "metric_list", "process_results"),
    *("doc_to_choice", "doc_to_target"),
)
"""Fields of a task's configuration that say how answers are read; the others make requests."""
AGAIN = "the same document again"
EXAMPLES_SEED = 1234
"""lm-eval's own, so that its prompts are these."""


class Plan(NamedTuple):
    """Everything that a benchmark asks of one tokenizer."""

    metric: str
    filter: str
    """Of a task's several ways to read an answer; its first if empty."""
    tasks: dict[str, Any]
    groups: dict[str, Any]
    asked: dict[str, Asked]
    """By id, sorted."""
    left_out: dict[str, int]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's bars, prints, logs and warnings out of the test run."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@cache
def packaged() -> TaskManager:
    """All tasks that come with lm-eval; to read their names takes seconds."""
    return TaskManager()


def load(name: str, include_path: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tasks of this name, and the groups they are in.

    Raises:
        MeasurementError: there is none, its data cannot be had, or it is not what a task must be.
    """
    folder = None if include_path is None else str(there(include_path, kind="directory"))
    own: list[str] = []
    try:
        if folder is not None:
            mine = TaskManager(include_path=folder, include_defaults=False)
            own = mine.all_tasks
            with contextlib.suppress(KeyError, TypeError):  # a group may name packaged tasks
                return loaded(mine, name)
        manager = packaged() if folder is None else TaskManager(include_path=folder)
        if name not in manager.all_tasks:
            raise MeasurementError(unknown(name, manager, own))
        return loaded(manager, name)
    except ConnectionError as error:
        message = (
            f"the data of task '{name}' could not be fetched from the hub nor found in its cache "
            f"(offline?): {first_line(error)}"
        )
        raise MeasurementError(message) from error
    except (OSError, ValueError, LookupError, TypeError, ImportError, yaml.YAMLError) as error:
        message = f"task '{name}' could not be loaded by lm-eval: {first_line(error)}"
        raise MeasurementError(message) from error


def loaded(manager: TaskManager, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tasks and groups, sorted by name."""
    if name not in manager.all_tasks:
        raise KeyError(name)
    found = manager.load([name])
    tasks: Iterable[tuple[str, Any]] = found["tasks"].items()
    return dict(sorted(tasks)), dict(found["groups"])


def chosen_metric(tasks: Mapping[str, Any], groups: Mapping[str, Any], wanted: str | None) -> str:
    """The metric that all tasks are scored by; rather one that all aggregating groups show, too.

    Raises:
        MeasurementError: a task does not have it.
    """
    offered = {name: list(task.aggregation()) for name, task in tasks.items()}
    shared = [m for m in next(iter(offered.values())) if all(m in of for of in offered.values())]
    tables = [
        {one.metric for one in group.aggregate_metric_list or ()} for group in groups.values()
    ]
    shown = [m for m in shared if any(tables) and all(m in table for table in tables if table)]
    if wanted is None and shared:
        shared = shown or shared
        return next((metric for metric in PREFERRED if metric in shared), shared[0])
    for name, metrics in offered.items():
        if wanted is None:
            message = f"no metric is common to all of {', '.join(offered)}: ask them apart."
            raise MeasurementError(message)
        if wanted not in metrics:
            message = f"task '{name}' has no metric '{wanted}'; it has {', '.join(metrics)}."
            raise MeasurementError(message)
    return str(wanted)


def prepare(task: Any, num_fewshot: int | None, chosen: str) -> None:
    """Set how many examples stand before each question, and begin to draw them anew.

    Raises:
        MeasurementError: the task takes none, has no such filter, or cannot be asked of a
            language model.
    """
    name, own = task.task_name, task.config.num_fewshot
    if getattr(task, "MULTIMODAL", False):
        message = f"task '{name}' shows pictures or plays sounds; only text can be asked."
        raise MeasurementError(message)
    if getattr(task, "UNSAFE_CODE", False):
        message = f"task '{name}' runs code that the model writes; that is not done here."
        raise MeasurementError(message)
    filters = [one.name for one in task._filters]  # noqa: SLF001  # no other way
    if chosen and chosen not in filters:
        message = f"task '{name}' has no filter '{chosen}'; it has {', '.join(filters)}."
        raise MeasurementError(message)
    if num_fewshot and (own == 0 or task.OUTPUT_TYPE == "loglikelihood_rolling"):
        message = f"task '{name}' takes no examples: leave out num_fewshot."
        raise MeasurementError(message)
    task.set_config(key="num_fewshot", value=(own or 0) if num_fewshot is None else num_fewshot)
    task.set_fewshot_seed(seed=EXAMPLES_SEED)


def reading(task: Any) -> bytes:
    """How a task reads answers: what its configuration says of that, functions as their code.

    Raises:
        MeasurementError: the code of a function cannot be read.
    """
    config = {name: getattr(task.config, name, None) for name in READING}
    parts = {"class": type(task), "config": config}
    return json.dumps(parts, sort_keys=True, default=code, ensure_ascii=False).encode()


def code(value: Any) -> list[str]:
    """The name of a function or class, and the file it is in, for it may call what is there.

    Raises:
        MeasurementError: there is no such file.
    """
    functions = (*vars(value).values(), value) if isinstance(value, type) else (value,)
    for one in functions:
        if isinstance(one, FunctionType):
            try:
                text = Path(one.__code__.co_filename).read_text(encoding="utf-8")
            except OSError:
                break
            return [value.__qualname__, text]
    message = f"nobody knows how a task reads answers: the code of {value!r:.60} cannot be read."
    raise MeasurementError(message)


def content_key(document: Any) -> str:
    """A name of a document that survives reordering."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, default=str)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def build(
    task: Any, limit: int | None, seed: int, chat: Callable[..., str] | None, named: str
) -> Iterator[tuple[str, Any, list[Instance]]]:
    """Key, document and requests of each document of a task, or of those that are drawn."""
    documents = list(task.eval_docs)
    keys = [content_key(document) for document in documents]
    places = sorted(draw(range(len(keys)), keys, limit, seed))
    task.build_all_requests(
        samples=set(places) if limit is not None else None,
        apply_chat_template=chat is not None,
        fewshot_as_multiturn=chat is not None,
        chat_template=chat,
        tokenizer_name=named,
    )
    requests: dict[int, list[Instance]] = {}
    for request in task.instances:
        requests.setdefault(request.doc_id, []).append(request)
    for number, place in enumerate(places):
        yield keys[place], documents[place], requests[number]


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def plan(  # noqa: PLR0913  # the options of the benchmark
    name: str,
    *,
    include_path: str | None,
    num_fewshot: int | None,
    limit: int | None,
    seed: int,
    metric: str | None,
    chat: Callable[..., str] | None,
    named: str,
) -> Plan:
    """Load tasks and build all their requests.

    Args:
        name: of a task, a group or a tag.
        include_path: a folder with more tasks.
        num_fewshot: examples before each question; the task's own number if None.
        limit: documents of each task, drawn by ``seed``; all if None.
        seed: another seed draws others.
        metric: how they are scored; :data:`PREFERRED` if None. A filter may follow after a comma.
        chat: makes a prompt of a conversation; None for plain prompts.
        named: the chat template's tokenizer.

    Raises:
        MeasurementError: the tasks cannot be loaded or asked.
    """
    with quiet():
        tasks, groups = load(name, include_path)
        wanted, _, chosen = (metric or "").partition(",")
        metric = chosen_metric(tasks, groups, wanted or None)
        asked: dict[str, Asked] = {}
        left_out: Counter[str] = Counter()
        for task in tasks.values():
            prepare(task, num_fewshot, chosen)
            for key, document, requests in build(task, limit, seed, chat, named):
                try:
                    one = questioned(task, metric, key, document, requests)
                except LeftOut as reason:
                    left_out[str(reason)] += 1
                    continue
                left_out[AGAIN] += one.question.id in asked
                asked.setdefault(one.question.id, one)
    if not asked:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in left_out.items())
        message = f"task '{name}' has no document that can be asked: {reasons or 'there are none'}."
        raise MeasurementError(message)
    kept = {reason: count for reason, count in left_out.items() if count}
    return Plan(metric, chosen, tasks, groups, dict(sorted(asked.items())), kept)
