"""Names that lm-eval does not know: what was meant, or where it is defined."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lm_eval.tasks import TaskManager

from pytest_compression.errors import closest


def unknown(name: str, manager: TaskManager, own: Collection[str]) -> str:
    """Why no task, group or tag can be had by a name, and what to write instead.

    Args:
        name: what was asked for.
        manager: knows all tasks.
        own: names from the user's directory, which are meant rather than those of lm-eval.
    """
    short = name.rpartition("::")[2]
    for group in manager.all_groups:
        if short not in manager.all_tasks and short in inline(manager.task_index[group].cfg or {}):
            return (
                f"'{short}' is defined inside lm-eval's group '{group}' and cannot be asked "
                f"without it: write '{group}', or give '{short}' a file of its own."
            )
    close = closest(name, own) or closest(name, manager.all_tasks)
    if close:
        hint = f"Did you mean '{close}'?"
    elif own:
        hint = f"The directory has {', '.join(sorted(own))}."
    else:
        hint = "All of them are listed by: lm-eval ls tasks"
    return f"lm-eval knows no task '{name}'. {hint}"


def inline(group: Mapping[str, Any]) -> Iterator[str]:
    """The groups and tasks that a group's own configuration defines or changes, however deep."""
    members = group.get("task")
    for one in members if isinstance(members, list) else ():
        if isinstance(one, Mapping):
            yield str(one.get("group", one.get("task")))
            yield from inline(one)
