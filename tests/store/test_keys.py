"""What a key is made of: everything that changes answers changes it, or there is none."""

import importlib
import os
import sys
import time
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.store import keys
from pytest_compression.store.keys import Key, UnknownError
from pytest_compression.types import Identity, Question

LATER: Final = time.time() + 3600


@pytest.fixture(name="own")
def own_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of a user's, with a benchmark that reads a file."""
    (tmp_path / "ownbench.py").write_text(
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Lines:\n"
        "    path: Path\n"
        "    weight: object = 1\n\n"
        "    def sources(self):\n"
        "        return [self.path]\n",
        encoding="utf-8",
    )
    (tmp_path / "facts.txt").write_text("Accra\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "ownbench", raising=False)  # of an earlier test
    return importlib.import_module("ownbench")


def changed(one: Key, other: Key) -> set[str]:
    return {part for part in one if one[part] != other[part]}


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (WorldFacts(relations=("capital",)), set[str]()),
        (WorldFacts(relations=("capital",), limit=10), {"options", "questions"}),
        (WorldFacts(relations=("capital",), metric="P@1"), {"options", "questions"}),
        (WorldFacts(relations=("capital",), seed=1), {"options"}),
        (WorldFacts(relations=("currency",)), {"options", "questions"}),
    ],
)
def test_options_and_questions_change_a_key(other: WorldFacts, parts: set[str]) -> None:
    one = keys.of_benchmark(WorldFacts(relations=("capital",)), None, LATER)
    assert changed(one, keys.of_benchmark(other, None, LATER)) == parts


FIRST: Final = Question(
    id="a", subject="a", stem="a is", end=".", answer="x", candidates=("x", "y"), cluster="c"
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions that are given to it, but are none of its options."""

    texts: ClassVar[tuple[Question, ...]] = (FIRST,)

    def questions(self) -> tuple[Question, ...]:
        return self.texts


@pytest.mark.parametrize("field", [name for name in FIRST.__struct_fields__ if name != "id"])
def test_every_word_of_a_question_changes_a_key(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msgspec.structs import replace

    monkeypatch.setattr(keys, "code", lambda *_: [b"the test's own"])
    one = keys.of_benchmark(Asked(), None, LATER)
    value = ("z",) if isinstance(getattr(FIRST, field), tuple) else "z"
    monkeypatch.setattr(Asked, "texts", (replace(FIRST, **{field: value}),))
    assert changed(one, keys.of_benchmark(Asked(), None, LATER)) == {"questions"}


def test_the_bytes_of_files_change_a_key(own: Any) -> None:
    path = Path("facts.txt")
    one = keys.of_benchmark(own.Lines(path=path), None, LATER)
    assert changed(one, keys.of_benchmark(own.Lines(path=path), None, LATER)) == set()
    path.write_text("Acera\n", encoding="utf-8")
    assert changed(one, keys.of_benchmark(own.Lines(path=path), None, LATER)) == {"sources"}


def test_code_that_is_edited_changes_a_key(own: Any) -> None:
    one = keys.of_benchmark(own.Lines(path=Path("facts.txt")), None, LATER)
    with Path("ownbench.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert changed(one, keys.of_benchmark(own.Lines(path=Path("facts.txt")), None, LATER)) == {
        "code"
    }


def test_code_that_was_edited_while_the_run_was_on_has_no_key(own: Any) -> None:
    since = time.time()
    os.utime("ownbench.py", (since + 5, since + 5))
    with pytest.raises(UnknownError, match=r"ownbench\.py' was edited while the run was on"):
        keys.of_benchmark(own.Lines(path=Path("facts.txt")), None, since)


def test_our_own_code_is_part_of_every_key(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = keys.modules(importlib.import_module("pytest_compression"))
    assert {"cloze.py", "worldfacts.py", "identity.py"} < {path.name for path in ours}
    one = keys.of_benchmark(own.Lines(path=Path("facts.txt")), None, LATER)
    before = keys.modules
    monkeypatch.setattr(keys, "modules", lambda module: list(before(module))[1:] or before(module))
    assert changed(one, keys.of_benchmark(own.Lines(path=Path("facts.txt")), None, LATER)) == {
        "code"
    }


def test_what_is_installed_changes_a_key(tmp_path: Path) -> None:
    (tmp_path / "torch-2.13.0.dist-info").mkdir()
    one = keys.versions.__wrapped__((str(tmp_path),))
    (tmp_path / "torch-2.13.0.dist-info").rename(tmp_path / "torch-2.13.1.dist-info")
    assert keys.versions.__wrapped__((str(tmp_path),)) != one
    assert keys.versions.__wrapped__(("/no/such/entry",)) != one


def test_options_that_are_no_plain_values_have_no_key(own: Any) -> None:
    with pytest.raises(UnknownError, match=r"Lines has options that are no plain .* \(a object\)"):
        keys.of_benchmark(own.Lines(path=Path("facts.txt"), weight=object()), None, LATER)


def test_a_file_that_cannot_be_read_has_no_key(own: Any) -> None:
    with pytest.raises(UnknownError, match=r"'none\.txt' cannot be read \(No such file"):
        keys.of_benchmark(own.Lines(path=Path("none.txt")), None, LATER)


def test_code_without_a_source_has_no_key() -> None:
    kind = make_dataclass("Made", (), namespace={"__module__": "__main__"})
    with pytest.raises(UnknownError, match="Made has no source that could be compared"):
        keys.of_benchmark(kind(), None, LATER)


class Silent:
    """Says nothing of what it asks."""


@dataclass(frozen=True)
class Told:
    """Asks each model something of its own; an option has the name of a method."""

    questions: str = "none"

    def content(self, model: str) -> str:
        return f"what {model} is asked"


def test_what_is_asked_of_a_model_is_part_of_its_key() -> None:
    keys.require_known(Told())
    one = keys.of_benchmark(Told(), "one", LATER)
    assert changed(one, keys.of_benchmark(Told(), "another", LATER)) == {"content"}


class Unwilling(Asked):
    cached: ClassVar[bool] = False


def test_a_benchmark_must_say_what_it_asks_and_may_refuse() -> None:
    keys.require_known(Asked())
    with pytest.raises(UnknownError, match="Silent has none of questions, content, sources"):
        keys.require_known(Silent())
    with pytest.raises(UnknownError, match="Unwilling is always asked"):
        keys.require_known(Unwilling())


@dataclass
class Model:
    found: Identity

    def identity(self) -> Identity:
        return self.found


def test_a_model_must_know_what_it_is() -> None:
    assert keys.identity(Model(Identity(digest="d"))) == "d"
    with pytest.raises(UnknownError, match=r"^hooks on model$"):
        keys.identity(Model(Identity(digest="", unknown="hooks on model")))
