"""lm-eval's own figures: each metric over all documents, with its own standard error."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from lm_eval.api.metrics import mean, stderr_for_metric

from pytest_compression.benchmarks.harness_tasks import Plan

RESAMPLES = 1000
"""Of lm-eval's bootstrap, for what has no formula, such as a perplexity."""

Said = Mapping[str, Mapping[tuple[str, str], list[Any]]]
"""By task, then by metric and filter: what each document was given."""


def figures(plan: Plan, said: Said) -> dict[str, float]:
    """Figures of each task and group, as lm-eval computes them: names begin with ``lm-eval``.

    Of several tasks, only the metric that is judged is given for each.
    """
    tables: dict[str, dict[str, Any]] = {}
    with alone():
        for name, values in said.items():
            tables[name] = aggregated(plan.tasks[name], values)
        for group in plan.groups.values():
            tables[group.name] = group.aggregate(tables)
    found: dict[str, float] = {}
    for name, table in tables.items():
        several = len(tables) > 1
        few = several and name in plan.tasks
        filters = {key.partition(",")[2] for key in table if "," in key}
        for key, value in table.items():
            metric, comma, chosen = key.partition(",")
            bare = metric.removesuffix("_stderr")
            if not comma or (few and bare != plan.metric) or not is_finite(value):
                continue
            words = ["lm-eval", *([name] if several else []), bare]
            words += [f"({chosen})"] if len(filters) > 1 else []
            found[" ".join(words + (["stderr"] if bare != metric else []))] = float(value)
    return found


def aggregated(task: Any, values: Mapping[tuple[str, str], list[Any]]) -> dict[str, Any]:
    """One task's figures, named as lm-eval names them."""
    table: dict[str, Any] = {
        "name": task.task_name,
        "sample_len": max(len(items) for items in values.values()),
    }
    for (metric, chosen), items in values.items():
        function = task.aggregation().get(metric, mean)
        table[f"{metric},{chosen}"] = function(items)
        error = stderr_for_metric(function, bootstrap_iters=RESAMPLES)
        has_error = error is not None and len(items) > 1
        table[f"{metric}_stderr,{chosen}"] = error(items) if has_error else "N/A"
    return table


def is_finite(value: Any) -> bool:
    """Whether it can be shown as a number."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let lm-eval draw its bootstrap samples in this process, where torch has threads."""
    with mock.patch.dict(os.environ, DISABLE_MULTIPROC="1"):
        yield
