"""Which of the collected trials a run is about: one shard, or the dense ones to calibrate."""

from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from pytest_compression.conclusion import TESTS_IN_ALL
from pytest_compression.contract_item import Contract
from pytest_compression.fingerprints import digest
from pytest_compression.nodes import Pooled, Trial
from pytest_compression.settings import KEY, PLANNED
from pytest_compression.suite import DENSE

if TYPE_CHECKING:
    from collections.abc import Iterable


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, in place, what this run is not about.

    Raises:
        pytest.UsageError: nothing is left of a shard.
    """
    settings = config.stash[KEY]
    ours = [item for item in items if isinstance(item, Trial | Pooled | Contract)]
    keep = set(ours)
    if settings.calibrate:
        keep = {item for item in ours if isinstance(item, Trial) and item.spec.recipe == DENSE}
    elif settings.early_stop:  # those that do not stop lost most: pooled, they would mislead
        keep = {item for item in ours if not isinstance(item, Pooled)}
    if settings.shard is not None:
        trials = [item for item in ours if isinstance(item, Trial)]
        config.stash[TESTS_IN_ALL] = sum(trial.spec.tests for trial in trials)
        inside = [item for item in ours if not isinstance(item, Pooled)]
        keep &= set(of_shard(inside, *settings.shard))
        if not keep:
            message = f"--compress-shard {settings.shard[0]}/{settings.shard[1]}: nothing is left"
            raise pytest.UsageError(message)
        whole = digest(trial.nodeid.encode() for trial in trials)
        kept = [trial for trial in trials if trial in keep]
        for item in kept:  # so that a report shows whether all of them ran, and of what
            item.user_properties.append(("trials_selected", len(kept)))
            item.user_properties.append(("selection", whole))
    if settings.plan:
        config.stash[PLANNED] = [
            (item.path, item.spec, item.dense_spec())
            for item in ours
            if isinstance(item, Trial) and item in keep
        ]
    gone = [item for item in ours if item not in keep]
    if gone:
        config.hook.pytest_deselected(items=gone)
        left = set(gone)
        items[:] = [item for item in items if item not in left]


def of_shard(items: "Iterable[Trial | Contract]", part: int, parts: int) -> list[Trial | Contract]:
    """The trials and contracts of one of several parts: whole variants, in the suite's order.

    So a model's variants stay together, and few models are loaded in several parts.

    Args:
        items: all of them.
        part: which part, from 1.
        parts: how many there are.
    """
    variants = [list(some) for _, some in groupby(items, key=lambda item: item.variant)]
    total = sum(len(some) for some in variants)
    kept, before = list[Trial | Contract](), 0
    for some in variants:
        middle = before + len(some) / 2
        if int(middle * parts / total) + 1 == part:
            kept += some
        before += len(some)
    return kept
