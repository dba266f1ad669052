"""What may stand where an option was refused: checked over every option of every part."""

import dataclasses

import msgspec
import pytest
from msgspec import inspect

from pytest_compression import option_errors, registry
from pytest_compression.types import Part

LITERALS = [
    (kind, name, field.name, option)
    for kind in registry.VERBS
    for name in sorted(registry.known(kind))
    for field in dataclasses.fields(registry.resolve(kind, name))
    if field.init
    for option in option_errors.alternatives(registry.resolve(kind, name), [field.name])
    if isinstance(option, inspect.LiteralType)
]


@pytest.mark.parametrize(("kind", "name", "option", "literal"), LITERALS, ids=str)
def test_every_value_of_an_option_is_named_if_another_is_written(
    kind: registry.Kind, name: str, option: str, literal: inspect.LiteralType
) -> None:
    wrong = f"{literal.values[0]}x" if isinstance(literal.values[0], str) else -1
    with pytest.raises(msgspec.ValidationError) as caught:
        registry.build(kind, Part(use=name, options={option: wrong}))
    text, _, path = str(caught.value).partition(" - at ")
    assert path == f"`$.{option}`"
    allowed = option_errors.alternatives(registry.resolve(kind, name), [option])
    said = option_errors.said(text, str(wrong), allowed)
    assert said.startswith(f"'{wrong}' is none of {', '.join(map(str, literal.values))}")
    if isinstance(wrong, str) and len(str(literal.values[0])) > 1:
        assert f"Did you mean '{literal.values[0]}'?" in said


OPTIONS = [
    (kind, name, field.name)
    for kind in registry.VERBS
    for name in sorted(registry.known(kind))
    for field in dataclasses.fields(registry.resolve(kind, name))
    if field.init
]


@pytest.mark.parametrize(("kind", "name", "option"), OPTIONS, ids=str)
def test_what_may_be_written_is_said_of_every_option_in_words_of_a_user(
    kind: registry.Kind, name: str, option: str
) -> None:
    allowed = option_errors.alternatives(registry.resolve(kind, name), [option])
    said = option_errors.described(allowed)
    literals = [one for one in allowed if isinstance(one, inspect.LiteralType)]
    assert all(str(value) in said for one in literals for value in one.values)
    assert said
    assert not {"str", "array", "struct", "vartuple"} & set(said.replace(",", "").split())
