"""Rank candidate answers by their log-probability, exactly, without scoring them all.

The candidates of a question form a trie of tokens. A partial sum of log-probabilities bounds
every candidate below it from above, so the best candidate is found by expanding the most
promising prefix until nothing unexpanded can beat it (uniform-cost search; Hart, Nilsson &
Raphael 1968, https://doi.org/10.1109/TSSC.1968.300136, with a zero heuristic). Where all
candidates are single tokens, that is one pass.

A candidate that begins another one (Guinea, Guinea-Bissau) would always win by being shorter.
It is charged with the probability of not going on to any other candidate:
``log p(tokens) + log(1 - sum p(next token of a longer candidate | tokens))``.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from pytest_compression.scoring.forward import NextToken, batches
from pytest_compression.scoring.tokens import Encoded, Tokens

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

WIDTH = 4
"""Prefixes of one question that are expanded in one round."""


@dataclass(frozen=True, kw_only=True)
class Trie:
    """The candidates' tokens: children of each prefix, and which prefix is a candidate."""

    children: dict[Tokens, list[int]]
    ends: dict[Tokens, int]

    @classmethod
    def of(cls, answers: Sequence[Tokens]) -> "Trie":
        """The trie of candidates; those without tokens cannot be said and are not in it."""
        children: dict[Tokens, list[int]] = {}
        ends: dict[Tokens, int] = {}
        for candidate, tokens in enumerate(answers):
            if not tokens or tokens in ends:
                continue
            ends[tokens] = candidate
            for depth, token in enumerate(tokens):
                below = children.setdefault(tokens[:depth], [])
                if token not in below:
                    below.append(token)
        return cls(children=children, ends=ends)


@dataclass(kw_only=True)
class Search:
    """The state of one question: what is open, and the best that is known exactly."""

    trie: Trie
    right: Tokens
    """The tokens of the right answer."""
    open: list[tuple[float, Tokens]] = field(default_factory=lambda: [(0.0, ())])
    """Unexpanded prefixes behind their negative bounds: a heap."""
    right_score: float | None = None
    best: float = -math.inf
    best_candidate: int = -1
    """The best candidate besides the right one."""

    def wanted(self) -> list[tuple[float, Tokens]]:
        """The prefixes to expand next; none when the question is decided."""
        due: list[tuple[float, Tokens]] = []
        while self.open and len(due) < WIDTH and -self.open[0][0] > self.best:
            due.append(heapq.heappop(self.open))
        if self.right_score is None:
            mine = [item for item in self.open if self.right[: len(item[1])] == item[1]]
            due += mine
            for item in mine:
                self.open.remove(item)
            heapq.heapify(self.open)
        return due

    def expand(self, cost: float, path: Tokens, values: Sequence[float]) -> None:
        """Take in the log-probabilities of the tokens that may follow a prefix."""
        children = self.trie.children[path]
        for token, value in zip(children, values, strict=True):
            below, bound = (*path, token), value - cost
            if below in self.trie.children:
                heapq.heappush(self.open, (-bound, below))
            else:
                self.finish(below, bound)
        if path in self.trie.ends:
            going_on = min(math.fsum(map(math.exp, values)), 1 - 1e-12)
            self.finish(path, math.log1p(-going_on) - cost)

    def finish(self, tokens: Tokens, score: float) -> None:
        """A candidate's exact score."""
        if tokens == self.right:
            self.right_score = score
        elif score > self.best:
            self.best, self.best_candidate = score, self.trie.ends[tokens]


def rank_in_batches(model: "LanguageModel", encoded: Sequence[Encoded]) -> list[tuple[float, int]]:
    """Rank, deciding a batch of questions before the next is begun.

    So what is kept of their prompts never grows with the benchmark. Returns as :func:`rank`.
    """
    found: list[tuple[float, int]] = [(0.0, -1)] * len(encoded)
    done = 0
    for positions in batches([(len(item.before),) for item in encoded], model.budget):
        some = [encoded[position] for position in positions]
        for position, result in zip(positions, rank(NextToken(model, some), some), strict=True):
            found[position] = result
        done += len(positions)
        model.progress(done, len(encoded))
    return found


def rank(engine: NextToken, encoded: Sequence[Encoded]) -> list[tuple[float, int]]:
    """For each question, the margin of the right answer and the candidate preferred.

    Returns:
        Nats by which the right answer leads the best other one (infinite without another),
        and the position of the winner.
    """
    tries: dict[int, Trie] = {}  # questions of a relation share one tuple of candidates
    searches = []
    for item in encoded:
        if id(item.answers) not in tries:
            tries[id(item.answers)] = Trie.of(item.answers)
        searches.append(Search(trie=tries[id(item.answers)], right=item.answers[item.right]))
    while due := [(q, *item) for q, search in enumerate(searches) for item in search.wanted()]:

        def read(
            positions: list[int],
            values: Tensor,
            due: list[tuple[int, float, Tokens]] = due,
        ) -> None:
            for position, row in zip(positions, values.cpu(), strict=True):
                question, cost, path = due[position]
                search = searches[question]
                search.expand(cost, path, row[search.trie.children[path]].tolist())

        engine.run([(question, path) for question, _, path in due], read)
    return [outcome(search, item) for search, item in zip(searches, encoded, strict=True)]


def outcome(search: Search, item: Encoded) -> tuple[float, int]:
    """The margin of a finished search, and its winner."""
    assert search.right_score is not None, "a search ends with its right answer scored"  # noqa: S101
    margin = search.right_score - search.best
    return margin, item.right if margin > 0 else search.best_candidate
