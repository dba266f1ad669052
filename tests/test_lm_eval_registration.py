"""lm-eval's own command, which knows our class as soon as torch is loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from pytest_compression import lm_eval_registration

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
