"""The exception tree is as drawn, and near names are suggested."""

import re

import pytest

from pytest_compression import errors
from pytest_compression.errors import CompressionError, nearest


def test_every_error_stands_in_the_drawn_tree_and_in_all() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    defined = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, CompressionError)
    ]
    assert sorted(defined) == sorted(["CompressionError", *drawn])
    assert sorted(errors.__all__) == sorted([*defined, "OptionError", "closest", "nearest"])
    for name in drawn:
        assert getattr(errors, name).__bases__ == (CompressionError,)


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("bit", ["bits", "targets"], "Did you mean 'bits'?"),
        ("min_retentoin", ["near_tie", "min_retention"], "Did you mean 'min_retention'?"),
        ("xyz", ["b", "a"], "Known: a, b."),
        ("xyz", [], "None are known."),
        ("a", {"a": 1}, "Did you mean 'a'?"),
        ("KLD", ["agreement", "kl"], "Did you mean 'kl'?"),
        ("BIT", ["BIT", "bit"], "Did you mean 'BIT'?"),
    ],
)
def test_the_nearest_name_or_all_of_them(name: str, known: list[str], said: str) -> None:
    assert nearest(name, known) == said
