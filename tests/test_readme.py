"""What the README shows is what there is."""

import re
from pathlib import Path

import pytest

from pytest_compression import registry, suite
from pytest_compression.embedded.facts import phrasings, worldfacts

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_its_suite_is_a_suite(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.+?)```", README, re.DOTALL)
    path = tmp_path / "x.yaml"
    path.write_text(block, encoding="utf-8")
    trials = {f"{t.model}/{t.recipe}::{t.benchmark}" for t in suite.load(path).trials}
    assert "decoder/pruned-int4::capitals" in trials
    assert "decoder/magnitude-0.3::elements" in trials


@pytest.mark.parametrize("kind", registry.VERBS)
def test_it_names_every_option_of_every_part(kind: registry.Kind) -> None:
    for use in registry.known(kind):
        for option in registry.option_names(kind, use):
            assert f"`{option}" in README, f"{use}: {option}"


def test_it_names_every_command_line_option() -> None:
    source = (Path(__file__).parents[1] / "pytest_compression/settings.py").read_text("utf-8")
    for option in re.findall(r'"(--compress-[a-z-]+)"', source):
        assert f"`{option}" in README, option


def test_it_names_every_relation_and_counts_the_facts() -> None:
    for relation in phrasings():
        assert f"`{relation}`" in README, relation
    assert f"{len(worldfacts()):,} facts" in README


def test_the_baselines_have_a_trial_each() -> None:
    root = Path(__file__).parents[1]
    for name in ("embedded", "smollm2"):
        trials = suite.load(root / f"suites/{name}.yaml").trials
        wanted = {f"{t.model}/{t.recipe}/{t.benchmark}.json" for t in trials}
        folder = root / "baselines" / name
        assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.json")} == wanted
