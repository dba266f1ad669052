"""A pytest plugin that decides whether a compressed language model may be released.

Each (model, recipe, benchmark) triple of a suite file is one test. It passes while the facts
that the dense model knows are retained after compression.
"""

__version__ = "0.1.0"


class InconclusiveWarning(UserWarning):
    """A trial passed whose questions are too few to tell."""
