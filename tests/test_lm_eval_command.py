"""``pytest-compression lm-eval``: lm-eval's own command, with our engine among its models."""

import sys

import pytest

from pytest_compression import cli
from pytest_compression.errors import CompressionError


@pytest.fixture
def argv(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What lm-eval's command is called with, in its place."""
    seen: list[list[str]] = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append(list(sys.argv)))
    return seen


def test_lm_eval_is_given_all_arguments_and_knows_our_class(argv: list[list[str]]) -> None:
    from lm_eval.api.registry import get_model

    before = list(sys.argv)
    options = ["--model", "pytest-compression", "--tasks", "x", "--help"]
    assert cli.main(["lm-eval", *options]) == 0
    assert cli.main(["lm-eval"]) == 0  # registered once only
    assert argv == [["lm-eval", *options], ["lm-eval"]]
    assert sys.argv == before
    assert get_model("pytest-compression").__name__ == "HarnessLM"


def test_our_errors_in_lm_eval_are_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        message = "there is no directory './nowhere'."
        raise CompressionError(message)

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", fails)
    assert cli.main(["lm-eval", "--model", "x"]) == 2
    told = capsys.readouterr().err
    assert told == "pytest-compression lm-eval: there is no directory './nowhere'.\n"


def test_without_lm_eval_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    assert cli.main(["lm-eval"]) == 2
    assert "pip install 'pytest-compression[lm-eval]'" in capsys.readouterr().err
