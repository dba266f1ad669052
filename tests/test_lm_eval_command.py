"""lm-eval's own command, with our engine among its models, and ``pytest-compression lm-eval``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from pytest_compression import cli, lm_eval_registration
from pytest_compression.errors import CompressionError

TASK = {
    "task": "capitals",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "The capital of {{country}} is",
    "doc_to_choice": "{{['Accra', 'Lima']}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def test_lm_eval_by_itself_knows_the_class(tmp_path: Path) -> None:
    rows = '{"country": "Ghana", "gold": 0}\n{"country": "Peru", "gold": 1}\n'
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    data = {"data_files": {"test": str(tmp_path / "rows.jsonl")}}
    task = TASK | {"dataset_kwargs": data | {"cache_dir": str(tmp_path / "cache")}}
    (tmp_path / "capitals.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    tiny.model("llama").save(tmp_path / "dense")
    done = subprocess.run(  # noqa: S603  # arguments are our own
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "pytest-compression"),
            *("--model_args", "pretrained=dense", "--include_path", ".", "--tasks", "capitals"),
            *("--output_path", "results.json"),
        ],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("results*.json")
    found = json.loads(results.read_text(encoding="utf-8"))
    assert found["n-samples"]["capitals"] == {"original": 2, "effective": 2}
    assert found["results"]["capitals"]["acc,none"] in {0.0, 0.5, 1.0}
    assert found["config"]["model"] == "pytest-compression"


def test_loading_torch_alone_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def register() -> None:
        raise AssertionError

    monkeypatch.setattr(lm_eval_registration, "register", register)
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
    lm_eval_registration.torch_is_loaded()


def test_an_lm_eval_that_cannot_be_told_does_not_keep_torch_from_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", sys)
    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", None)
    lm_eval_registration.torch_is_loaded()


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
