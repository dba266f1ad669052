"""SuiteFile > Variant > Trial: what is loaded when, what fails and what errs.

A variant's setup loads and compresses. A trial's setup measures and checks that the baseline is
one of the same thing; its call judges. So lost knowledge is a FAILURE, and whatever could not be
measured is an ERROR.

What judges is imported where a trial runs, for to collect needs no arithmetic.
"""

import contextlib
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compression import registry, suite
from pytest_compression.conclusion import TESTS_IN_ALL, inconclusive
from pytest_compression.contract_item import Contract
from pytest_compression.errors import CompressionError
from pytest_compression.leakage import refuse_leaks, refuse_taught
from pytest_compression.outcomes import Inconclusive, KnowledgeLost, told
from pytest_compression.report import progress, properties
from pytest_compression.settings import KEY, Settings, trial_id
from pytest_compression.store.answers import Answers
from pytest_compression.store.cache import Cache
from pytest_compression.types import Footprint, Measurement, Model, Part, Suite, TrialSpec

if TYPE_CHECKING:
    from pytest_compression.examination import Examination
    from pytest_compression.familywise import Evidence
    from pytest_compression.references import Subject


class SuiteFile(pytest.File):
    """A suite file; holds the one model that is loaded at a time."""

    suite: Suite
    order: dict[tuple[str, str, str], int]
    """Each trial's place in the suite, by model, recipe and benchmark."""
    _name: str | None = None
    _model: Model | None = None
    _failed: dict[str, Exception]
    dense: dict[tuple[str, str], Measurement | CompressionError]
    """What the dense model answers here and now, by model and benchmark; asked once."""
    asked_here: set[tuple[str, str]]
    """Those that were asked of the model object that is loaded now."""

    @property
    def settings(self) -> Settings:
        """The run's."""
        return self.config.stash[KEY]

    @property
    def cache(self) -> Cache | None:
        """Where answers are kept; None if they are neither given nor kept."""
        settings = self.settings
        reads, writes = settings.reads_cache, settings.writes_cache
        if settings.cache_folder is None or not (reads or writes):
            return None
        return Cache(
            folder=settings.cache_folder,
            limit=settings.cache_limit,
            since=settings.since,
            reads=reads,
            writes=writes,
        )

    def collect(self) -> Iterator["Variant | Pooled"]:
        """Read the suite; a mistake in it stops the run before any model is loaded."""
        with told():
            self.suite = suite.load(Path(os.path.relpath(self.path)))
        self.order = {spec.names: place for place, spec in enumerate(self.suite.trials)}
        self._failed = {}
        self.dense = {}
        self.asked_here = set()
        for (model, recipe), specs in groupby(
            self.suite.trials, key=lambda spec: (spec.model, spec.recipe)
        ):
            yield Variant.from_parent(self, name=f"{model}/{recipe}", specs=list(specs))
        if sum(spec.is_tested for spec in self.suite.trials) > 1:
            pooled = Pooled.from_parent(self, name="pooled")
            pooled.add_marker("compression")
            yield pooled

    def model(self, name: str) -> Model:
        """The model, dense; loaded once for as long as its variants follow each other."""
        if name in self._failed:
            raise self._failed[name]
        if self._name == name and self._model is not None and self._model.restore():
            return self._model
        self._model = self._name = None  # free the other one first
        self.asked_here.clear()
        try:
            self._model = registry.build("models", self.suite.models[name]).load()
        except Exception as error:
            self._failed[name] = error
            raise
        self._name = name
        assert self._model is not None  # noqa: S101
        return self._model

    def teardown(self) -> None:
        """Free the model."""
        self._model = self._name = None


class Variant(pytest.Collector):
    """One model after one recipe."""

    specs: list[TrialSpec]
    model: Model
    answers: Answers
    """Of the model after the recipe."""
    modifiers: list[Any]
    """The recipe's steps with their options."""
    footprint: Footprint

    @classmethod
    def from_parent(cls, parent: Any, **kwargs: Any) -> "Variant":
        """As every node's; takes the specs of its trials."""
        specs = kwargs.pop("specs")
        node = super().from_parent(parent, **kwargs)
        node.specs = specs
        return node

    @property
    def file(self) -> SuiteFile:
        """The suite file it stands in."""
        assert isinstance(self.parent, SuiteFile)  # noqa: S101
        return self.parent

    @property
    def steps(self) -> tuple[Part, ...]:
        """The recipe's steps; none for the dense model."""
        return self.file.suite.recipes[self.specs[0].recipe].steps

    def collect(self) -> Iterator["Trial | Contract"]:
        """One trial a benchmark; and if the suite wants it, one item that checks the recipe."""
        for spec in self.specs:
            yield Trial.from_parent(self, name=spec.benchmark, spec=spec)
        if self.file.suite.contracts and self.steps:
            yield Contract.from_parent(self)

    def setup(self) -> None:
        """Load, ask the dense model what its own trial has not asked here, and compress."""
        with told():
            spec = self.specs[0]
            model = self.file.model(spec.model)
            dense = Answers(model, self.file.cache)
            asked = {}
            for trial in self.session.items:
                if isinstance(trial, Trial) and trial.parent is self and self.steps:
                    trial.ask_dense(dense)
                    found = self.file.dense[trial.key]
                    if isinstance(found, Measurement):
                        asked[trial.name] = found.questions
            self.modifiers = [registry.build("modifiers", step) for step in self.steps]
            refuse_leaks(self.modifiers, asked)
            self.footprint = model.compress(self.modifiers)
            refuse_taught(model, asked)
            self.model = model
            self.answers = Answers(model, self.file.cache)

    def teardown(self) -> None:
        """Let go of the model, so that the next one has room."""
        for name in ("model", "answers"):
            vars(self).pop(name, None)  # not there if the setup failed


class Trial(pytest.Item):
    """One variant on one benchmark: a (model, recipe, benchmark) triple."""

    spec: TrialSpec
    seed = 0
    """Of the order in which an early stop asks."""
    examination: "Examination"
    evidence: "Evidence"
    seconds = 0.0
    """That the measurement took."""

    @classmethod
    def from_parent(cls, parent: Any, **kwargs: Any) -> "Trial":
        """As every node's; takes what the trial is of."""
        spec = kwargs.pop("spec")
        node = super().from_parent(parent, **kwargs)
        node.spec = spec
        # Now, so that a trial whose model or recipe errs is in the summary, too.
        about = node.file.settings.suite_id(node.path)
        node.user_properties += properties.of_trial(
            trial_id(about, spec), node.file.order[spec.names], spec
        )
        node.add_marker("compression")
        if spec.expect == "fail":
            node.add_marker(
                pytest.mark.xfail(raises=KnowledgeLost, strict=True, reason=spec.reason)
            )
        return node

    @property
    def variant(self) -> Variant:
        """The variant it is measured on."""
        assert isinstance(self.parent, Variant)  # noqa: S101
        return self.parent

    @property
    def file(self) -> SuiteFile:
        """The suite file it stands in."""
        return self.variant.file

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """What headings name it."""
        return self.path, None, f"{self.variant.name}::{self.name}"

    def setup(self) -> None:
        """Measure; each figure is in the properties, even when a later check errs."""
        from pytest_compression.acceptance import record
        from pytest_compression.calibration import calibrate
        from pytest_compression.early_stop import ask_until_decided
        from pytest_compression.examination import examine
        from pytest_compression.references import refer

        settings = self.file.settings
        with told():
            self.user_properties += properties.of_footprint(self.variant.footprint)
            stopped = None
            if settings.early_stop and self.variant.steps:
                subject = self.subject(self.dense_here())
                references = refer(subject, settings)
                with self.watched(self.spec):
                    measured, stopped = ask_until_decided(
                        subject, references, self.benchmark(), self.variant.model, self.seed
                    )
                self.user_properties += properties.of_measurement(measured)
            else:
                with self.watched(self.spec):
                    answer = self.variant.answers.ask(self.benchmark())
                measured, self.seconds = answer.measurement, answer.seconds
                self.user_properties += properties.of_measurement(measured) + answer.properties
                self.file.dense.setdefault(self.key, measured)  # by itself, the dense one's trial
                if not self.variant.steps:
                    self.file.asked_here.add(self.key)
                subject = self.subject(self.dense_here())
                references = refer(subject, settings)
            examined = examine(subject, measured, references, stopped)
            if settings.calibrate:
                with self.watched(self.spec):
                    noise = calibrate(examined, self.benchmark(), self.variant.model)
                self.user_properties += properties.of_noise(noise)
            self.examination = record(examined, settings, self.seconds)
        self.conclude(self.examination)

    def conclude(self, examined: "Examination") -> None:
        """Keep the evidence, and say in the properties what can be said already."""
        from pytest_compression.familywise import decision
        from pytest_compression.report.evidence import evidence

        self.evidence = evidence(examined, self.config.stash.get(TESTS_IN_ALL, 0))
        self.user_properties += properties.of_verdict(examined)
        if not self.evidence.held:
            said = decision(self.evidence, set(), 1).verdict or examined.verdict.outcome
            self.user_properties.append(("verdict", said))

    def runtest(self) -> None:
        """Judge what can be judged alone."""
        from pytest_compression.familywise import decision
        from pytest_compression.report import failure

        examined = self.examination
        if examined.verdict.outcome == "lost":
            raise KnowledgeLost(failure.text(examined), pytrace=False)
        undecided = examined.verdict.outcome == "inconclusive" and not self.evidence.held
        if undecided and self.evidence.on_inconclusive == "fail":
            raise Inconclusive(failure.text(examined), pytrace=False)
        warning = "" if self.evidence.held else decision(self.evidence, set(), 1).warning
        if warning:
            inconclusive(self.nodeid, warning)

    def subject(self, dense: Measurement) -> "Subject":
        """What is measured, and where its references are."""
        from pytest_compression.references import Subject

        spec, file = self.spec, self.file
        about = file.settings.suite_id(file.path)
        return Subject(
            trial=trial_id(about, spec),
            dense_trial=trial_id(about, self.dense_spec()),
            spec=spec,
            steps=self.variant.steps,
            path=file.settings.baseline(file.path, spec),
            dense_path=file.settings.baseline(file.path, self.dense_spec()),
            weights=self.variant.model.fingerprint(),
            footprint=self.variant.footprint,
            environment=self.variant.model.environment(),
            dense=dense,
            records_dense=self.records_dense(),
            command=file.settings.command,
        )

    def watched(
        self, spec: TrialSpec, model: Model | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Shows how far a measurement is."""
        name = f"{spec.model}/{spec.recipe}::{spec.benchmark}"
        return progress.watching(self.config, model or self.variant.model, name)

    def dense_here(self) -> Measurement:
        """What the dense model answers here and now."""
        dense = self.file.dense[self.key]
        if isinstance(dense, CompressionError):
            raise dense
        return dense

    def benchmark(self) -> Any:
        """The benchmark, with its options."""
        return registry.build("benchmarks", self.file.suite.benchmarks[self.spec.benchmark])

    def dense_spec(self) -> TrialSpec:
        """The trial of the dense model on the same benchmark."""
        return next(
            spec
            for spec in self.file.suite.trials
            if spec.names == (self.spec.model, suite.DENSE, self.spec.benchmark)
        )

    @property
    def key(self) -> tuple[str, str]:
        """What the dense model's answers are kept under."""
        return self.spec.model, self.spec.benchmark

    def ask_dense(self, dense: Answers) -> None:
        """Ask the dense model, unless that was done in this process.

        A benchmark that compares with what it kept of the dense model (``needs_dense``) asks it
        again if the model had to be loaded again since.
        """
        benchmark = self.benchmark()
        kept = not getattr(benchmark, "needs_dense", False) or self.key in self.file.asked_here
        if self.key in self.file.dense and kept:
            return
        self.file.asked_here.add(self.key)
        try:
            with self.watched(self.dense_spec(), dense.model):
                self.file.dense[self.key] = dense.ask(benchmark).measurement
        except CompressionError as error:  # of this trial alone, not of the variant
            self.file.dense[self.key] = error

    def records_dense(self) -> bool:
        """Whether this run records the dense trial anew, so that the stored one is outdated.

        Its own trial may not have run yet, or runs in another process.
        """
        settings, dense = self.file.settings, self.dense_spec()
        missing = not settings.baseline(self.file.path, dense).exists()
        return (settings.records or (settings.update_new and missing)) and any(
            isinstance(item, Trial) and item.spec == dense and item.file is self.file
            for item in self.session.items
        )


class Pooled(pytest.Item):
    """One test over all trials of a suite: whether a small loss is spread over them.

    It is judged where the whole run is known, and its report is given there.
    """

    @property
    def evidence(self) -> "Evidence":
        """Whose trials are pooled."""
        from pytest_compression.familywise import Evidence

        assert isinstance(self.parent, SuiteFile)  # noqa: S101
        return Evidence(trial=self.parent.settings.suite_id(self.path))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """What headings name it."""
        return self.path, None, "pooled"

    def runtest(self) -> None:
        """Nothing is known here."""
