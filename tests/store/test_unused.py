"""Which files no trial uses, and what is removed with them."""

import json
from pathlib import Path

import pytest

from pytest_compression.store.unused import remove, trial_of, unused


def put(path: Path, trial: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"trial": trial, "other": 1}), encoding="utf-8")
    return path


def test_only_files_of_trials_that_are_gone_are_unused(tmp_path: Path) -> None:
    folder = tmp_path / "baselines"
    used = put(folder / "x/m/int8/b.json", "suites/x.yaml::m/int8::b")
    renamed = put(folder / "x/m/int4/b.json", "suites/x.yaml::m/int4::b")
    moved = put(folder / "x/m/int8/old.json", "suites/x.yaml::m/int8::b")
    gone = put(folder / "y/m/int8/b.json", "suites/y.yaml::m/int8::b")
    put(folder / "z/m/int8/b.json", "nightly.yaml::m/int8::b")
    (tmp_path / "nightly.yaml").touch()
    (folder / "notes.json").write_text("{}", encoding="utf-8")
    (folder / "broken.json").write_text("<<<<", encoding="utf-8")
    found = unused(folder, {used: "suites/x.yaml::m/int8::b"}, tmp_path)
    assert found == sorted([renamed, moved, gone])


def test_a_file_at_the_place_of_another_trial_is_unused(tmp_path: Path) -> None:
    path = put(tmp_path / "b.json", "x.yaml::m/old::b")
    assert unused(tmp_path, {path: "x.yaml::m/new::b"}, tmp_path) == [path]
    assert unused(tmp_path, {path: "x.yaml::m/old::b"}, tmp_path) == []


def test_without_a_directory_nothing_is_unused(tmp_path: Path) -> None:
    assert unused(tmp_path / "none", {}, tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"trial": 3}'])
def test_a_file_that_is_no_baseline_has_no_owner(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text, encoding="utf-8")
    assert trial_of(path) is None
    assert trial_of(tmp_path / "missing.json") is None


def test_directories_that_are_left_empty_go_too_but_not_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "baselines"
    paths = [put(folder / "x/m/int8" / name, "t") for name in ("a.json", "b.json")]
    kept = put(folder / "x/n/int8/a.json", "t")
    remove(paths[:1], folder)
    assert paths[1].exists()
    remove(paths[1:], folder)
    assert sorted(p.name for p in (folder / "x").iterdir()) == ["n"]
    remove([kept], folder)
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
