"""pytest's hooks. Without ``--compress-suite`` none of them does anything.

Everything else is imported when it is first needed: this module is read in every pytest run of
the environment.
"""

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_compression import settings

if TYPE_CHECKING:
    from pytest_compression.nodes import SuiteFile


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    settings.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options; without paths on the command line, run the suites."""
    config.addinivalue_line(
        "markers", "compression: a (model, recipe, benchmark) trial of a suite file"
    )
    if not config.option.compress_suite:
        acting = (*settings.MODES, "reason", "remove_unused", "shard", "report", "cache")
        if any(getattr(config.option, f"compress_{name}") for name in acting):
            message = "the --compress-* options need --compress-suite"
            raise pytest.UsageError(message)
        return
    config.stash[settings.KEY] = chosen = settings.read_options(config)
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        missing = [suite for suite in chosen.suites if not suite.exists()]
        if missing:
            message = (
                f"no suites: '{missing[0]}' (ini compress_suites) does not exist; write a suite "
                "file there, or name one on the command line"
            )
            raise pytest.UsageError(message)
        config.args = [str(suite) for suite in chosen.suites]
    from pytest_compression.report import progress

    progress.begin(config)
    if not hasattr(config, "workerinput"):
        from pytest_compression.conclusion import FAMILY, Family

        config.stash[FAMILY] = Family(config)
        config.pluginmanager.register(config.stash[FAMILY], "compression-familywise")
    else:
        workers = config.workerinput["workercount"]
        threads = max(1, (os.cpu_count() or 1) // workers)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when torch is imported


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """Say where suites and baselines are, and if answers are not kept as usual."""
    if settings.KEY not in config.stash:
        return None
    chosen = config.stash[settings.KEY]
    suites = ", ".join(chosen.suite_id(suite) for suite in chosen.suites)
    said = [f"compression: suites {suites}; baselines {chosen.suite_id(chosen.baselines)}"]
    if chosen.cache != "off" and chosen.cache_folder is None:
        said.append(
            "compression: no answers are kept, for pytest's cache is disabled; ini "
            "compress_cache_dir can name another directory"
        )
    elif chosen.cache != "rw":
        said.append(f"compression: cache {chosen.cache}")
    return said


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "SuiteFile | None":
    """Collect the YAML files that are suites, or were named one by one."""
    if settings.KEY not in parent.config.stash or file_path.suffix not in settings.SUFFIXES:
        return None
    chosen = parent.config.stash[settings.KEY]
    if not chosen.holds(file_path) and not parent.session.isinitpath(file_path):
        return None
    from pytest_compression.nodes import SuiteFile

    return SuiteFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what this run is not about: other shards, all but dense trials to calibrate."""
    if settings.KEY in config.stash:
        from pytest_compression.selection import select

        select(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run nothing where only a plan is wanted."""
    chosen = session.config.stash.get(settings.KEY, None)
    return True if chosen is not None and chosen.plan else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a trial so that its verdict can wait for the others'."""
    if settings.KEY not in item.config.stash:
        return None
    from pytest_compression.nodes import Pooled, Trial
    from pytest_compression.protocol import run

    if not isinstance(item, Trial | Pooled):
        return None
    run(item, nextitem)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what a trial knows travel with the report of its setup."""
    report = yield
    if settings.KEY in item.config.stash:
        from pytest_compression.nodes import Pooled, Trial
        from pytest_compression.protocol import carry

        if isinstance(item, Trial | Pooled):
            carry(item, report)
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Print every figure of every trial, green ones too, and what is unused."""
    if settings.KEY not in config.stash or config.option.collectonly:
        return
    from pytest_compression.report import terminal

    terminal.summarize(terminalreporter, config, exitstatus)
