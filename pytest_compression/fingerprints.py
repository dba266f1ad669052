"""Short digests of content, so that like is compared with like only."""

from collections.abc import Iterable
from hashlib import blake2b

from pytest_compression.types import Question

BYTES = 16


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """A digest of byte strings in order; their boundaries count."""
    hashed = blake2b(digest_size=BYTES)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.hexdigest()


def of_questions(questions: Iterable[Question]) -> str:
    """Of everything that is asked: ids, prompts, answers, candidates and clusters."""
    parts: list[bytes] = []
    for question in sorted(questions, key=lambda q: q.id):
        texts = (
            question.id,
            question.stem,
            question.end,
            question.answer,
            question.cluster,
            *question.candidates,
        )
        if question.accepted or question.before or question.behind:
            texts += ("", question.before, question.behind, *question.accepted)
        parts.append("\0".join(texts).encode())
    return digest(parts)
