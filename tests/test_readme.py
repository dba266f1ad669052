"""What the README shows is what there is."""

import dataclasses
import re
from pathlib import Path

import pytest

from pytest_compression import registry, suite
from pytest_compression.embedded.facts import phrasings, worldfacts
from pytest_compression.report.recipes import placed, table

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

SECTIONS = dict(re.findall(r"^#### ([^\n]+)\n(.+?)(?=^##)", README, re.DOTALL | re.MULTILINE))
"""What is said of each benchmark, or of two of a kind, by the names in the heading."""


def trials_of(block: str, folder: Path) -> set[str]:
    path = folder / "x.yaml"
    path.write_text(block, encoding="utf-8")
    return {f"{t.model}/{t.recipe}::{t.benchmark}" for t in suite.load(path).trials}


def test_its_suites_are_suites(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.+?)```", README, re.DOTALL)
    first, second = (block for block in blocks if block.startswith("version: 1"))
    trials = trials_of(first, tmp_path)
    assert "decoder/pruned-int4::capitals" in trials
    assert "decoder/magnitude-0.3::elements" in trials
    named = {trial.partition("::")[2] for trial in trials_of(second, tmp_path)}
    assert named == {"trex", "products", "arc", "tickets", "handbook", "drift"}


AROUND = """\
version: 1
models: {{decoder: {{use: embedded, family: causal}}}}
benchmarks: {{facts: {{use: worldfacts}}}}
{}
"""


def test_its_recipes_are_recipes(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(recipes:.+?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        assert len(trials_of(AROUND.format(block), tmp_path)) > 1


TABLE = [f"suites/{name}.yaml" for name in ("recipes", "training", "backends", "llm-compressor")]


def test_its_table_of_recipes_is_current() -> None:
    assert f"pytest-compression table {' '.join(TABLE)} --write README.md" in README
    root = Path(__file__).parents[1]
    rows = table([root / path for path in TABLE], root / "baselines")
    assert placed(README, rows, Path("README.md")) == README
    recipes = [one for path in TABLE for one in suite.load(root / path).recipes.values()]
    uses = {step.use for recipe in recipes for step in recipe.steps}
    assert registry.known("modifiers").keys() - uses == {"checkpoint"}


@pytest.mark.parametrize("kind", registry.VERBS)
def test_it_names_every_option_of_every_part(kind: registry.Kind) -> None:
    for use in registry.known(kind):
        for option in registry.option_names(kind, use):
            assert f"`{option}" in README, f"{use}: {option}"


def options_of(use: str) -> dict[str, dataclasses.Field[object]]:
    fields = dataclasses.fields(registry.resolve("benchmarks", use))
    return {field.name: field for field in fields}


def shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_it_has_a_row_and_a_section_for_each_benchmark() -> None:
    uses = sorted(registry.known("benchmarks"))
    assert sorted(re.findall(r"^\| \[`([a-z-]+)`\]\(#", README, re.MULTILINE)) == uses
    assert sorted(use for title in SECTIONS for use in title.split(" and ")) == uses


@pytest.mark.parametrize("title", SECTIONS)
def test_a_benchmark_s_table_has_its_options_and_their_defaults(title: str) -> None:
    rows = [row.split(" | ") for row in SECTIONS[title].splitlines() if row.startswith("| `")]
    told = {name: row[1] for row in rows for name in re.findall(r"`([a-z_]+)`", row[0])}
    parts = [options_of(use) for use in title.split(" and ")]
    assert set(told) == {name for options in parts for name in options}
    for name, field in (item for options in parts for item in options.items()):
        if isinstance(field.default, str | int):
            default = rf"(?<!\w){re.escape(shown(field.default))}(?!\w)"
            assert re.search(default, told[name]), f"{name}: {field.default} is the default"


def test_it_names_every_command_line_option_and_ini_key() -> None:
    source = (Path(__file__).parents[1] / "pytest_compression/settings.py").read_text("utf-8")
    for option in re.findall(r'"(--compress-[a-z-]+|compress_[a-z_]+)"', source):
        assert f"`{option}" in README, option


def test_it_names_every_relation_and_counts_the_facts() -> None:
    for relation in phrasings():
        assert f"`{relation}`" in README, relation
    assert f"{len(worldfacts()):,} facts" in README


def test_the_baselines_have_a_trial_each() -> None:
    root = Path(__file__).parents[1]
    for path in sorted((root / "suites").glob("*.yaml")):
        name = path.stem
        trials = suite.load(path).trials
        wanted = {f"{t.model}/{t.recipe}/{t.benchmark}.json" for t in trials}
        folder = root / "baselines" / name
        assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.json")} == wanted
