"""How one of our items is run: with its evidence on its report, and held back if need be."""

import pytest
from _pytest.runner import runtestprotocol

from pytest_compression.conclusion import HELD, carried
from pytest_compression.nodes import Pooled, Trial


def run(item: Trial | Pooled, nextitem: pytest.Item | None) -> None:
    """Run one of ours, and hold its verdict back if it depends on the others'."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    held = all(report.passed for report in reports) and (
        isinstance(item, Pooled) or item.evidence.held
    )
    for report in reports:
        if report.when == "setup" or not held:
            item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def carry(item: Trial | Pooled, report: pytest.TestReport) -> None:
    """Give a setup's report what the trial knows."""
    if report.when == "setup" and report.passed:
        setattr(report, HELD, carried(item.evidence))
