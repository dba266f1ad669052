"""``--compress-reason`` is kept in the acceptance record, and those before it, too."""

import json
import re
from datetime import UTC, datetime

import pytest
from project import Project


def test_reasons_and_figures_are_kept_with_what_they_replaced(project: Project) -> None:
    started = datetime.now(UTC).date().isoformat()
    project.run("--compress-update", "--compress-reason", "the first", "-k", "low")
    project.edit("above: 1000", "above: 39")
    project.run("--compress-update", "--compress-reason=one less é", "-k", "low")
    project.run("--compress-update", "-k", "low")
    data = project.baselines()[project.baseline("int8")]
    record = json.loads(data)["hardware"]["fake P1"]["accepted"]
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", record["date"])
    assert record["date"] >= started
    assert record["reason"] == ""  # as good as before: none is needed
    first, second = record["history"]
    assert (first["reason"], second["reason"]) == ("the first", "one less é")
    assert (first["score"], second["score"]) == (1.0, 39 / 40)
    assert first["recipe"] == [{"use": "fakes:Forget", "above": 1000}]
    assert second["recipe"] == [{"use": "fakes:Forget", "above": 39}]
    assert "é".encode() in data  # readable in a diff


def test_a_reason_without_a_record_is_refused(project: Project) -> None:
    result = project.run("--compress-reason", "why")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --compress-reason is kept with a baseline; add --compress-update"]
    )
