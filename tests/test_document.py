"""The traps of YAML 1.1, each refused with the spelling that was meant."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.document import dotted, read
from pytest_compression.errors import SuiteError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("s.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pattern: 2:4", 's.yaml:2: YAML reads 2:4 as a number to base 60; quote it: "2:4".'),
        ("2:4: x", 's.yaml:2: YAML reads 2:4 as a number to base 60; quote it: "2:4".'),
        ("[1:30:00]", "s.yaml:2: a key must be text; use a plain word."),
        ("rate: 1e-3", 's.yaml:2: YAML reads 1e-3 as text; write 1.0e-3 or, for text, "1e-3".'),
        ("rate: 1E5", 's.yaml:2: YAML reads 1E5 as text; write 1.0e+5 or, for text, "1E5".'),
        ("rate: 1e-20", 's.yaml:2: YAML reads 1e-20 as text; write 1.0e-20 or, for text, "1e-20".'),
        (
            "symmetric: no",
            "s.yaml:2: YAML reads no as a truth value; write true or false, or quote it.",
        ),
        ("a: Yes", "s.yaml:2: YAML reads Yes as a truth value; write true or false, or quote it."),
        ("off: 1", "s.yaml:2: YAML reads off as a truth value; write true or false, or quote it."),
        ("a: 1\nb: 2\na: 3", "s.yaml:4: the key 'a' stands here twice; remove one."),
        ("a:\n  b: 1\n  'b': 2", "s.yaml:4: the key 'b' stands here twice; remove one."),
        (
            "when: 2026-01-01",
            's.yaml:2: YAML reads 2026-01-01 as a timestamp; quote it: "2026-01-01".',
        ),
        ("a: 010", "s.yaml:2: YAML reads 010 as an octal number; quote it or drop the 0."),
        (
            "a: &x {b: 1}\nc: {<<: *x}",
            "s.yaml:3: merge keys (<<) are not supported; repeat the options.",
        ),
        ("8: x", 's.yaml:2: a key must be text; quote it: "8".'),
        ("true: x", 's.yaml:2: a key must be text; quote it: "true".'),
        ("~: x", "s.yaml:2: a key must be text; use a plain word."),
        ("? [a]\n: x", "s.yaml:2: a key must be text; use a plain word."),
        ("a: !odd x", 's.yaml:2: YAML reads x as a !odd; quote it: "x".'),
        ("a: !!int x", "s.yaml:2: x is no int."),
        ("a: !!bool 'x'", "s.yaml:2: x is no bool."),
        ("a: !!python/name:str ''", "s.yaml:2: nothing is no str."),
        ("a: !!binary aGk=", 's.yaml:2: YAML reads aGk= as a binary; quote it: "aGk=".'),
        ("a: &x [*x]", "s.yaml:2: an anchor that contains itself."),
        ("a: *x", "s.yaml:2: not YAML: found undefined alias 'x'"),
        ("a: [1", "s.yaml:3: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("\ta: 1", "s.yaml:2: not YAML: found character '\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2", "s.yaml:3: not YAML: but found another document"),
    ],
    ids=str,
)
def test_what_yaml_reads_otherwise_is_refused(here: Path, text: str, message: str) -> None:
    before = "# a comment\n" if not text.startswith("[") else "\n? "
    here.write_text(f"{before}{text}\n", encoding="utf-8")
    with pytest.raises(SuiteError) as caught:
        read(here)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "# nothing", "- a", "word"])
def test_a_suite_is_a_mapping(here: Path, text: str) -> None:
    here.write_text(text, encoding="utf-8")
    with pytest.raises(SuiteError) as caught:
        read(here)
    assert str(caught.value) == (
        "s.yaml:1: a suite file has the keys version, models, recipes, benchmarks."
    )


def test_a_file_that_cannot_be_read_is_named(here: Path) -> None:
    with pytest.raises(SuiteError, match=r"s\.yaml: cannot be read: .*No such file"):
        read(here)
    here.write_bytes(b"a: \xff")
    with pytest.raises(SuiteError, match=r"s\.yaml: cannot be read: 'utf-8' codec"):
        read(here)
    here.write_bytes(b"a: \x01")
    with pytest.raises(SuiteError, match=r"s\.yaml: not YAML: .*special characters"):
        read(here)


def test_quoted_and_unambiguous_values_are_what_they_look_like(here: Path) -> None:
    here.write_text(
        'a: "2:4"\nb: "1e-3"\nc: \'no\'\nd: "2026-01-01"\ne: 1.0e-3\nf: 0.5\ng: .5\nh: 1_000\n'
        "i: 0\nj: -3\nk: true\nl: null\nm: [a, {n: b}]\no: 0x1F\np: causal\nq: |\n  1e-3\n",
        encoding="utf-8",
    )
    assert read(here).data == {
        "a": "2:4",
        "b": "1e-3",
        "c": "no",
        "d": "2026-01-01",
        "e": 0.001,
        "f": 0.5,
        "g": 0.5,
        "h": 1000,
        "i": 0,
        "j": -3,
        "k": True,
        "l": None,
        "m": ["a", {"n": "b"}],
        "o": 31,
        "p": "causal",
        "q": "1e-3\n",
    }


@given(
    st.from_regex(r"[-+]?([0-9]{1,6}\.?[0-9]{0,6}|\.[0-9]{1,6})[eE][-+]?[0-9]{1,2}", fullmatch=True)
)
def test_the_spelling_that_is_offered_is_the_same_number(text: str) -> None:
    assert yaml.safe_load(dotted(text)) == float(text)


def test_places_are_named_at_the_deepest_key_there_is(here: Path) -> None:
    here.write_text("a:\n  b:\n    - 1\n    - c: 2\n", encoding="utf-8")
    document = read(here)
    assert document.at((), "x") == "s.yaml:1: x"
    assert document.at(("a", "b"), "x") == "s.yaml:2: a.b: x"
    assert document.at(("a", "b", 1, "c"), "x") == "s.yaml:4: a.b[1].c: x"
    assert document.at(("a", "b", 0, "d"), "x") == "s.yaml:3: a.b[0].d: x"
    assert document.at(("z",), "x") == "s.yaml:1: z: x"
    assert document.get(("a", "b", 1, "c")) == 2
    assert document.has(("a", "b", 1))
    assert not document.has(("a", "c"))
    assert document.source(("a", "b", 0)) == "1"
