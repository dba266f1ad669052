"""Names to classes: built-ins are entry points like anybody's, one-offs are paths."""

from importlib.metadata import entry_points
from pathlib import Path

import fakes
import msgspec
import pytest

from pytest_compression import registry
from pytest_compression.errors import PluginError
from pytest_compression.types import Benchmark, ModelSource, Modifier, Part

KINDS: dict[registry.Kind, type] = {
    "models": ModelSource,
    "modifiers": Modifier,
    "benchmarks": Benchmark,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_is_an_entry_point_and_meets_its_protocol(kind: registry.Kind) -> None:
    points = entry_points(group=f"pytest_compression.{kind}")
    assert set(registry.known(kind)) == {point.name for point in points} != set()
    for point in points:
        found = registry.resolve(kind, point.name)
        assert callable(getattr(found, registry.VERBS[kind]))
        assert registry.resolve(kind, point.value) is found


def test_parts_are_built_from_their_options() -> None:
    built = registry.build("models", Part(use="fakes:Memory", options={"knows": 3, "tied": [1]}))
    assert built == fakes.Memory(knows=3, tied=(1,))
    assert registry.option_names("modifiers", "fakes:Forget") == ["above", "learn", "bits", "idle"]
    assert isinstance(built, ModelSource)
    assert isinstance(fakes.Forget(), Modifier)
    assert isinstance(fakes.Facts(), Benchmark)
    with pytest.raises(msgspec.ValidationError, match="Expected `int`, got `str`"):
        registry.build("models", Part(use="fakes:Memory", options={"knows": "3"}))


@pytest.mark.parametrize(
    ("kind", "use", "said"),
    [
        ("models", "pretraind", "'pretraind' is none of the models. Did you mean 'pretrained'?"),
        ("models", "rtn", "'rtn' is none of the models. Known: embedded, pretrained."),
        ("benchmarks", "fakes:Fact", "module 'fakes' has no attribute 'Fact'. Install the pack"),
        ("benchmarks", "nowhere:Fact", "No module named 'nowhere'. Install the package that"),
        ("benchmarks", "fakes:", "it must read 'module:attribute'. Install the package"),
        ("benchmarks", "fakes:Forget", "among the benchmarks: a dataclass with measure() is"),
        ("models", "fakes:Model", "among the models: a dataclass with load() is expected."),
        ("models", "fakes:note", "among the models: a dataclass with load() is expected."),
    ],
)
def test_what_cannot_be_used_says_why(kind: registry.Kind, use: str, said: str) -> None:
    with pytest.raises(PluginError) as caught:
        registry.resolve(kind, use)
    assert f"'{use}'" in str(caught.value)
    assert said in str(caught.value)


def test_an_entry_point_whose_package_is_broken_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "third-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pytest_compression.modifiers]\nthird = third_party:Step\nforget = fakes:Forget\n"
    )
    (tmp_path / "third_party.py").write_text("import missing_backend\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.known.cache_clear()
    try:
        assert {"third", "forget", "rtn"} <= set(registry.known("modifiers"))
        assert registry.resolve("modifiers", "forget") is fakes.Forget
        with pytest.raises(PluginError, match="'third' could not be imported: No module named 'mi"):
            registry.resolve("modifiers", "third")
    finally:
        registry.known.cache_clear()
        registry.resolve.cache_clear()
