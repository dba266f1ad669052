"""The README's example of a third party's own step and test, typed in and run."""

import re
from pathlib import Path

import pytest
from shipped import Forks

README = Path(__file__).parents[2] / "README.md"


def block(name: str) -> str:
    """The Python block behind a marker."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"README.md has no example '{name}'"
    return found[1]


def test_three_lines_check_a_step_of_ones_own(pytester: pytest.Pytester, forks: Forks) -> None:
    test = block("contract-test")
    pytester.makepyfile(mypackage=block("contract-step"), test_mine=test)
    pytester.makefile(".toml", pytest='[pytest]\npythonpath = ["."]\n')
    status, said = forks.run(pytester.path, [])
    assert status == 0, said
    assert "1 passed" in said
    body = [line for line in test.splitlines() if line and "mypackage" not in line]
    assert len(body) == 3
