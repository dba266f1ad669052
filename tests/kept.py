"""Measurements to keep, and where."""

import random
from pathlib import Path

from pytest_compression.store.cache import Cache
from pytest_compression.types import Measurement, Question


def cache(folder: Path, limit: int = 10**6, **modes: bool) -> Cache:
    return Cache(folder=folder, limit=limit, since=0.0, **modes)


def measured(text: str = "Accra", margin: float = 1.0) -> Measurement:
    question = Question(
        id="capital:Ghana",
        subject="Ghana",
        stem="The capital of Ghana is",
        end=".",
        answer=text,
        candidates=(text, "Tokyo"),
        cluster="capital",
    )
    return Measurement(
        metric="ranked",
        questions=(question,),
        margins=(margin,),
        given=(text,),
        scoring="s",
        left_out={"too long": 2},
    )


def noisy(size: int) -> Measurement:
    """One whose file has about so many bytes."""
    return measured(random.Random(size).randbytes(size).hex())  # noqa: S311  # no secret
