"""The end of a run: what was held back is judged and reported.

What a trial knows travels with the report of its setup, from workers too; nothing else need be
kept together. A trial whose verdict depends on the others' has no report of its own before.
"""

import copy
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from _pytest.config import apply_warning_filters

from pytest_compression import InconclusiveWarning

if TYPE_CHECKING:
    from pytest_compression.familywise import Decision, Evidence, Pool

HELD = "compression_evidence"
"""The attribute of a setup's report that carries the evidence."""


FEWER_THAN_TWO = (
    "fewer than two trials that are not red by themselves were compared with accepted results"
)
ALONE = "No trial of the suite was judged in this run, so there is nothing to pool: run them too."


class Family:
    """Collects the evidence of a run, in the process that reports it, and decides at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.evidence: dict[str, Evidence] = {}
        """By node id."""
        self.decisions: dict[str, Decision] = {}
        """By trial, or suite."""
        self.pools: dict[str, Pool] = {}
        self._setups: dict[str, pytest.TestReport] = {}
        self._started: dict[str, set[str]] = {}
        """Nodes of each file."""
        self._reported: set[str] = set()
        """Nodes whose verdict waits for nothing, or whose teardown failed."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a trial knows."""
        self._started.setdefault(report.nodeid.partition("::")[0], set()).add(report.nodeid)
        carried = getattr(report, HELD, None)
        if report.when == "setup" and carried is not None:
            from pytest_compression.familywise import Evidence

            self.evidence[report.nodeid] = msgspec.convert(carried, Evidence)
            self._setups[report.nodeid] = report
        elif report.when == "call":
            self._reported.add(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """When all has run, judge, and give the reports that were held back."""
        try:
            return (yield)
        finally:
            if self.evidence:
                self.conclude()

    def conclude(self) -> None:
        """Decide, and report what was held."""
        from pytest_compression.familywise import Decision, decide

        pooling = {node: e for node, e in self.evidence.items() if "::" not in e.trial}
        trials = [e for node, e in self.evidence.items() if node not in pooling]
        judged = decide(trials, [one.trial for one in pooling.values()])
        self.decisions, self.pools = judged.decisions, judged.pools
        for node, evidence in self.evidence.items():
            if node in self._reported:
                continue
            decided = self.decisions.get(evidence.trial)
            if node in pooling and self._started[node.partition("::")[0]] == {node}:
                decided = Decision(verdict="", red=ALONE)
            if decided is not None and decided.warning and not self.warn(node, decided.warning):
                said = f"{InconclusiveWarning.__name__}: {decided.warning}"
                decided = msgspec.structs.replace(decided, red=said)
            if evidence.held or node in pooling:
                self.give(node, decided)

    def give(self, node: str, decided: "Decision | None") -> None:
        """Report the call and the teardown of a trial that was held back."""
        setup = self._setups[node]
        for when in ("call", "teardown"):
            report = copy.copy(setup)
            vars(report).pop(HELD)
            report.when = when
            report.duration = 0.0
            if decided is not None:
                report.user_properties = [*setup.user_properties, ("verdict", decided.verdict)]
            if when == "call" and decided is None:
                report.outcome = "skipped"
                place = setup.location[0], (setup.location[1] or 0) + 1
                report.longrepr = (*place, f"Skipped: {FEWER_THAN_TWO}")
            elif when == "call" and decided is not None and decided.red:
                report.outcome = "failed"
                report.longrepr = decided.red
            self.config.hook.pytest_runtest_logreport(report=report)

    def warn(self, node: str, text: str) -> bool:
        """Show a warning among pytest's own, by its filters; False if they make it an error."""
        inis, options = self.config.getini("filterwarnings"), self.config.known_args_namespace
        with warnings.catch_warnings(record=True) as shown:
            apply_warning_filters(inis, options.pythonwarnings or [])
            try:
                inconclusive(node, text)
            except InconclusiveWarning:
                return False
        for message in shown:
            message.line = ""  # of the suite's file, where it says nothing
            self.config.hook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": message,
                    "when": "runtest",
                    "nodeid": node,
                    "location": None,
                }
            )
        return True


def inconclusive(node: str, text: str) -> None:
    """Warn of a trial whose questions are too few to tell."""
    warnings.warn_explicit(InconclusiveWarning(text), None, node.partition("::")[0], 1)


FAMILY = pytest.StashKey[Family]()
TESTS_IN_ALL = pytest.StashKey[int]()
"""How many tests there are in all shards."""


def carried(evidence: "Evidence") -> Any:
    """Evidence as plain values, which cross processes."""
    return msgspec.to_builtins(evidence)
