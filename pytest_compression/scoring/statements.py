"""Rank the options of a question by the log-probability of the statements they make.

A template is filled with each option, and the whole statement is scored, without regard to its
length (BEAR: Wiland, Ploner & Akbik 2024, https://arxiv.org/abs/2404.04113):

- causal: the sum of the log-probabilities of its tokens behind the tokenizer's begin mark. Without
  one the end mark stands there, so that an option that comes first is scored whole, too;
- masked: its pseudo-log-likelihood. ``original`` hides one token at a time (Salazar et al. 2020,
  https://arxiv.org/abs/1910.14659); ``within_word_l2r`` also hides the later tokens of its word,
  which otherwise give it away (Kauf & Ivanova 2023, https://arxiv.org/abs/2305.10588);
- seq2seq: the encoder reads the statement with a sentinel for the option; scored are the option
  in the decoder and the sentinel that closes it, so that no option wins by beginning another one.

Where options stand behind a common text, a causal model runs only the statements that may win
(``contenders.py``); the others' sums are not known, and need not be.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import digest
from pytest_compression.scoring.cloze import ALONE, TOO_LONG, context
from pytest_compression.scoring.contenders import Contest, decide
from pytest_compression.scoring.likelihood import Request, loglikelihoods
from pytest_compression.scoring.pseudo import Hidden, hidden_log_probabilities
from pytest_compression.scoring.spelling import Blank, Line, Pll, Speller
from pytest_compression.types import Measurement, Question

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.scoring.trees import CausalEngine

VERSION = 1
"""Raise it when the same tokens would get other scores."""

CHUNK = 2**13
"""Statements that are handed to the engine at once, unless one question has more."""
TOGETHER = 32
"""Questions of a causal model that are decided together: more make longer rows."""
KEPT = 2**17
"""Statements whose tokens are kept for a model's other recipes; of more they are made again."""
LISTED = 5
"""Ids that an error shows."""


class Prepared(NamedTuple):
    """The questions that can be asked, sorted by id."""

    blanks: tuple[Blank, ...]
    lines: dict[str, tuple[Line, ...]]
    """Of each candidate, by the question's id; none if they are too many to be kept."""
    left_out: dict[str, int]
    scoring: str


def measure(
    model: "LanguageModel",
    blanks: Sequence[Blank],
    *,
    pll: Pll = "within_word_l2r",
    ids: Collection[str] | None = None,
) -> Measurement:
    """Ask a model, compressed or not.

    Args:
        model: of any family.
        blanks: the whole benchmark; the fingerprint of scoring and what is left out are its.
        pll: how a masked model scores a statement.
        ids: of the questions to ask; all if not given. One that is left out is not asked.

    Raises:
        MeasurementError: no question can be asked, or the model computes NaN or infinities.
        ValueError: there is no question with one of the ids.
    """
    ready = prepared(model, blanks, pll)
    if not ready.blanks:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in ready.left_out.items())
        message = f"no question can be asked of this tokenizer: {reasons or 'there are none'}."
        raise MeasurementError(message)
    asked = ready.blanks
    if ids is not None:
        wanted = known([blank.question for blank in blanks], ids)
        asked = tuple(blank for blank in asked if blank.question.id in wanted)
    ran = model.tokens_run
    found = ranked(model, asked, pll, ready.lines)
    return Measurement(
        metric="ranked",
        questions=tuple(blank.question for blank in asked),
        margins=tuple(margin for margin, _ in found),
        given=tuple(b.question.candidates[w] for b, (_, w) in zip(asked, found, strict=True)),
        scoring=ready.scoring,
        left_out=ready.left_out,
        tokens=model.tokens_run - ran,
    )


def known(questions: Iterable[Question], ids: Collection[str]) -> set[str]:
    """The ids, if there is a question for each.

    Raises:
        ValueError: there is none for one of them.
    """
    wanted = set(ids)
    if unknown := sorted(wanted - {question.id for question in questions}):
        names = ", ".join(f"'{name}'" for name in unknown[:LISTED])
        message = f"the benchmark has no question {names} ({len(unknown)} of {len(wanted)} ids)"
        raise ValueError(message)
    return wanted


def prepared(model: "LanguageModel", blanks: Sequence[Blank], pll: Pll) -> Prepared:
    """What can be asked, as tokens; kept for the model's other recipes.

    Raises:
        MeasurementError: the tokenizer lacks what the family or the variant needs.
    """
    key = ("statements", pll, tuple(blanks))
    if key not in model.memo:
        model.memo[key] = spelled(model, blanks, pll)
    found: Prepared = model.memo[key]
    return found


def spelled(model: "LanguageModel", blanks: Sequence[Blank], pll: Pll) -> Prepared:
    """What can be asked, as tokens."""
    speller, room = Speller(model, pll), context(model)
    asked: list[Blank] = []
    lines: dict[str, tuple[Line, ...]] = {}
    left_out: dict[str, int] = {}
    keep = sum(len(blank.question.candidates) for blank in blanks) <= KEPT

    def parts() -> Iterator[bytes]:
        yield f"{VERSION} statements {pll if model.family == 'masked' else ''}".encode()
        for blank in sorted(blanks, key=lambda blank: blank.question.id):
            mine = speller.lines(blank)
            if reason := obstacle(blank, mine, room):
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            asked.append(blank)
            if keep:
                lines[blank.question.id] = mine
            yield repr([tuple(line) for line in mine]).encode()

    scoring = digest(parts())  # fills the lists, too
    return Prepared(tuple(asked), lines, left_out, scoring)


def obstacle(blank: Blank, lines: Sequence[Line], room: int | None) -> str:
    """Why a question cannot be asked of a model with so many positions; empty if it can."""
    candidates = blank.question.candidates
    right = lines[candidates.index(blank.question.answer)].tokens
    if not right:
        return "a character that the tokenizer does not know"
    if sum(line.tokens == right for line in lines) > 1:
        return "another candidate has the same tokens"
    if sum(bool(line.tokens) for line in lines) < 2:
        return ALONE
    longest = max(len(line.before) + len(line.tokens) + len(line.after) for line in lines)
    return TOO_LONG if room is not None and longest > room else ""


def ranked(
    model: "LanguageModel",
    asked: Sequence[Blank],
    pll: Pll,
    lines: dict[str, tuple[Line, ...]],
) -> list[tuple[float, int]]:
    """For each question, the margin of the right answer, and the position of the winner.

    Args:
        model: of any family.
        asked: questions that can be asked.
        pll: how a masked model scores a statement.
        lines: by question id; those that are not there are made.
    """
    speller = Speller(model, pll)
    engine = branching(model)
    found: list[tuple[float, int]] = []
    for chunk in chunks(asked):
        texts = [lines.get(blank.question.id) or speller.lines(blank) for blank in chunk]
        rights = [blank.question.candidates.index(blank.question.answer) for blank in chunk]
        results = [(0.0, -1)] * len(chunk)
        for quick, places in parted(chunk, search=engine is not None).items():
            some, mine = [texts[i] for i in places], [rights[i] for i in places]
            of = led(engine, some, mine) if engine and quick else outcomes(model, some, mine, pll)
            for place, result in zip(places, of, strict=True):
                results[place] = result
        found += results
        model.progress(len(found), len(asked))
    return found


def branching(model: "LanguageModel") -> "CausalEngine | None":
    """What runs beginnings of statements, if the model can: then not all need be scored."""
    if model.family != "causal":
        return None
    from pytest_compression.scoring.trees import CausalEngine

    engine = CausalEngine(model)
    return engine if engine.can.trees else None


def parted(chunk: Sequence[Blank], *, search: bool) -> dict[bool, list[int]]:
    """Positions of the questions whose best statements are searched for, and of the others.

    Where an option comes first, its beginning says little of the whole, and subjects share what
    follows it: then scoring every statement at once is faster.
    """
    found: dict[bool, list[int]] = {}
    for position, blank in enumerate(chunk):
        found.setdefault(search and bool(blank.before.strip()), []).append(position)
    return found


def led(
    engine: "CausalEngine", texts: Sequence[Sequence[Line]], rights: Sequence[int]
) -> list[tuple[float, int]]:
    """The outcome of each question, by its right statement and the best other one alone."""
    from pytest_compression.scoring.forest import Forest

    contests = [
        Contest([line.before + line.tokens if line.tokens else () for line in mine], right)
        for mine, right in zip(texts, rights, strict=True)
    ]
    parts = [contests[first : first + TOGETHER] for first in range(0, len(contests), TOGETHER)]
    return [found for part in parts for found in decide(Forest(engine), part)]


def outcomes(
    model: "LanguageModel", texts: Sequence[Sequence[Line]], rights: Sequence[int], pll: Pll
) -> list[tuple[float, int]]:
    """The outcome of each question, by the sums of all its statements."""
    totals = iter(totals_of(model, [line for mine in texts for line in mine], pll))
    return [
        outcome([next(totals) for _ in mine], right)
        for mine, right in zip(texts, rights, strict=True)
    ]


def chunks(asked: Sequence[Blank]) -> Iterator[Sequence[Blank]]:
    """Consecutive questions, together of ``CHUNK`` statements at most, but one at least."""
    first = size = 0
    for position, blank in enumerate(asked):
        more = len(blank.question.candidates)
        if size and size + more > CHUNK:
            yield asked[first:position]
            first, size = position, 0
        size += more
    if size:
        yield asked[first:]


def outcome(totals: Sequence[float], right: int) -> tuple[float, int]:
    """Nats by which the right option leads the best other one, and who won; not it if they tie."""
    other = max((i for i in range(len(totals)) if i != right), key=totals.__getitem__)
    margin = totals[right] - totals[other]
    return margin, right if margin > 0 else other


def totals_of(model: "LanguageModel", lines: Sequence[Line], pll: Pll) -> list[float]:
    """Nats of each statement; minus infinity for those that cannot be said.

    Raises:
        MeasurementError: the model computes NaN or infinities.
    """
    said = [line for line in lines if line.tokens]
    if model.family == "masked":
        rows = [row for line in said for row in hidden(line, model.tokenizer.mask_token_id, pll)]
        values = iter(hidden_log_probabilities(model, rows))
        sums = [sum(next(values)[0] for _ in line.tokens) for line in said]
    else:
        found = loglikelihoods(model, [Request(line.before, line.tokens) for line in said])
        skipped = int(model.family == "seq2seq")  # the opening sentinel, the same for all options
        sums = [sum(one.tokens[skipped:]) for one in found]
    each = iter(sums)
    return [next(each) if line.tokens else float("-inf") for line in lines]


def hidden(line: Line, mask: int, pll: Pll) -> Iterator[Hidden]:
    """The passes for a statement's pseudo-log-likelihood, one a token."""
    for place, token in enumerate(line.tokens):
        masks = 1 + (later_in_word(line.words, place) if pll == "within_word_l2r" else 0)
        rest = line.tokens[place + masks :]
        row = line.before + line.tokens[:place] + (mask,) * masks + rest + line.after
        yield Hidden(row=row, places=(len(line.before) + place,), tokens=(token,))


def later_in_word(words: Sequence[int | None], place: int) -> int:
    """How many tokens that directly follow one are part of its word."""
    later = words[place + 1 :]
    if words[place] is None:
        return 0
    return next((i for i, word in enumerate(later) if word != words[place]), len(later))
