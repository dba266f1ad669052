"""Hypothesis profiles, and projects: the shipped one, and a small one that runs without torch."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from project import SUITE, Project
from shipped import Forks, Gate

from pytest_compression import registry

pytest_plugins = ["pytester"]

if "PYTEST_XDIST_WORKER" in os.environ:  # workers that each use all processors slow each other
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Read when torch is imported. Threads that wait awake take the processor of the other workers.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Names of our own: hypothesis loads one called "ci" by itself where it believes to be in CI.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.register_profile("usual", max_examples=50, deadline=None)
hypothesis.settings.register_profile(
    "thorough", max_examples=300, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


def pytest_collection_finish() -> None:
    """Keep what is loaded now, most of it torch's, out of each later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with ``suites/x.yaml`` and no baselines yet."""
    for name in ("CI", "BUILD_NUMBER"):  # there pytest's last lines repeat whole messages
        monkeypatch.delenv(name, raising=False)
    registry.resolve.cache_clear()  # each project has fakes of its own
    shutil.copy(Path(__file__).with_name("fakes.py"), pytester.path)
    pytester.makefile(
        ".toml",
        pytest='[pytest]\npythonpath = ["."]\nstrict = true\nfilterwarnings = ["default"]\n',
    )
    made = Project(pytester=pytester)
    made.suite.parent.mkdir()
    made.suite.write_text(SUITE, encoding="utf-8")
    return made


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What runs pytest without loading torch each time."""
    made = Forks()
    yield made
    made.close()


@pytest.fixture
def gate(tmp_path: Path, forks: Forks) -> Gate:
    """The shipped suites and baselines, to be edited and run."""
    return Gate(tmp_path, forks)
