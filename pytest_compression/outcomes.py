"""How an item of ours fails, and how errors are shown."""

import contextlib
from collections.abc import Iterator

import pytest

from pytest_compression.errors import CompressionError


class KnowledgeLost(pytest.fail.Exception):  # type: ignore[name-defined,misc]  # made at run time
    """The only exception that makes a trial FAIL, and the only one that a control may meet."""

    __module__ = "builtins"  # so that summaries call it by its bare name, as pytest's own


class Inconclusive(pytest.fail.Exception):  # type: ignore[name-defined,misc]  # made at run time
    """A trial cannot be decided, and its suite wants that to fail."""

    __module__ = "builtins"


class ContractBroken(pytest.fail.Exception):  # type: ignore[name-defined,misc]  # made at run time
    """A step breaks a rule that every one of its kind must keep."""

    __module__ = "builtins"


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Show our own errors as their message alone; any other keeps its traceback."""
    try:
        yield
    except CompressionError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
