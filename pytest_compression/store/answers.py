"""The answers of a model in one state: measured, or as they were kept."""

import time
from typing import Any, NamedTuple

from pytest_compression.store import keys
from pytest_compression.store.cache import Cache, UnstoredError
from pytest_compression.store.keys import Key, UnknownError
from pytest_compression.types import Keyed, Measurement

CHANGED = "the model, the benchmark or its files changed while it was measured"


class Answer(NamedTuple):
    """A measurement, and where it comes from."""

    measurement: Measurement
    seconds: float
    """That it took to measure, now or then."""
    cached: bool = False
    note: str = ""
    """Why it could not be kept."""

    @property
    def properties(self) -> list[tuple[str, object]]:
        """What a trial's properties say of it; nothing in the usual case."""
        if self.cached:
            return [("cached", True)]
        return [("cache", self.note)] if self.note else []


class Answers:
    """Asks a model, between two changes of its weights; its digest is computed once."""

    def __init__(self, model: Any, cache: Cache | None) -> None:
        self.model = model
        self.cache = cache if isinstance(model, Keyed) else None
        self._identity: str | None = None
        self._unknown: UnknownError | None = None

    def ask(self, benchmark: Any) -> Answer:
        """Measure, unless the same measurement is kept; then keep it."""
        if self.cache is None:
            return self.measure(benchmark)
        key, note = None, ""
        try:
            key = self.key(benchmark)
        except UnknownError as error:
            note = f"not usable: {error}"
        found = self.cache.find(key) if key is not None else None
        if found is not None:
            return Answer(found.measurement, found.seconds, cached=True)
        answer = self.measure(benchmark)
        self._identity = None  # a benchmark may have changed the model
        if key is not None and self.cache.writes:
            note = self.keep(benchmark, key, answer)
        return answer._replace(note=note)

    def measure(self, benchmark: Any) -> Answer:
        """Ask, whatever is kept."""
        started = time.perf_counter()
        measured = benchmark.measure(self.model)
        return Answer(measured, time.perf_counter() - started)

    def key(self, benchmark: Any) -> Key:
        """What the answers depend on.

        Raises:
            UnknownError: that cannot be known.
        """
        assert self.cache is not None  # noqa: S101
        keys.require_known(benchmark)
        if self._unknown is not None:
            raise self._unknown
        if self._identity is None:
            try:
                self._identity = keys.identity(self.model)
            except UnknownError as error:
                self._unknown = error
                raise
        return {
            "model": self._identity,
            **keys.of_benchmark(benchmark, self.model, self.cache.since),
        }

    def keep(self, benchmark: Any, key: Key, answer: Answer) -> str:
        """Keep a measurement if its key still is the same; otherwise say why not."""
        assert self.cache is not None  # noqa: S101
        try:
            if self.key(benchmark) != key:
                return f"not stored: {CHANGED}"
            self.cache.keep(key, answer.measurement, answer.seconds)
        except (UnknownError, UnstoredError) as error:
            return f"not stored: {error}"
        return ""
