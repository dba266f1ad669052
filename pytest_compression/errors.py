"""What can go wrong, told to the user in one message without a traceback.

::

    CompressionError
    ├── SuiteError         a suite file is not what it must be (file, line, key)
    ├── PluginError        an entry point or a "module:name" could not be imported
    ├── ModelError         a model could not be loaded, or is not what the suite says
    ├── RecipeError        a recipe did not do what it says: it measured otherwise
    ├── MeasurementError   a benchmark could not be measured: no questions, NaN logits
    └── BaselineError      a baseline is missing, unreadable, or of something else

Every message says what was wrong, where, and what to do next. A trial that meets one of these
is an ERROR; only lost knowledge is a FAILURE.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BaselineError",
    "CompressionError",
    "MeasurementError",
    "ModelError",
    "OptionError",
    "PluginError",
    "RecipeError",
    "SuiteError",
    "closest",
    "nearest",
]


class CompressionError(Exception):
    """The root of all errors that are the user's to mend."""


class SuiteError(CompressionError):
    """A suite file is refused."""


class PluginError(CompressionError):
    """A named model source, modifier or benchmark could not be imported."""


class ModelError(CompressionError):
    """A model could not be loaded, or does not suit what is asked of it."""


class RecipeError(CompressionError):
    """A recipe touched nothing, or measured otherwise than it was asked to."""


class MeasurementError(CompressionError):
    """A benchmark gave no usable scores."""


class BaselineError(CompressionError):
    """A baseline is missing, unreadable, or belongs to something else."""


class OptionError(ValueError):
    """One option of a part is refused by its ``__post_init__``; the suite names its line."""

    def __init__(self, message: str, *, option: str) -> None:
        """Keep the name of the option beside what is said of it."""
        super().__init__(message)
        self.option = option


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant, if there is one; capitals count only between two."""
    names = sorted(known)
    folded = {one.lower(): one for one in reversed(names)}
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    alike = get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return close[0] if close else folded[alike[0]] if alike else None


def nearest(name: str, known: Iterable[str]) -> str:
    """A closing sentence with the name that was probably meant, or all there are."""
    names = sorted(known)
    if close := closest(name, names):
        return f"Did you mean '{close}'?"
    return f"Known: {', '.join(names)}." if names else "None are known."
