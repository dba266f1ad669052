import itertools
import math
import random
from typing import Any

import pytest
import tiny
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from pytest_compression.models.language_model import LanguageModel
from pytest_compression.scoring import forward
from pytest_compression.scoring.cloze import measure
from pytest_compression.scoring.forward import NextToken
from pytest_compression.scoring.ranking import rank
from pytest_compression.scoring.tokens import SENTINEL, Encoded, Tokens

CAUSAL_AND_SEQ2SEQ = ["gpt2", "llama", "opt", "t5", "bart"]
CLOSE = 1e-4


def log_probabilities(model: LanguageModel, item: Encoded, tokens: Tokens) -> Tensor:
    """Of the token after the prompt and each prefix of ``tokens``, in one plain pass."""
    module: Any = model.module
    if model.family == "causal":
        whole: Tensor = module(input_ids=torch.tensor([item.before + tokens])).logits
        return whole[0, len(item.before) - 1 :].double().log_softmax(-1)
    start = (0, model.tokenizer.convert_tokens_to_ids(SENTINEL))
    logits: Tensor = module(
        input_ids=torch.tensor([item.before]), decoder_input_ids=torch.tensor([start + tokens])
    ).logits
    return logits[0, 1:].double().log_softmax(-1)


@torch.inference_mode()
def scored_by_hand(model: LanguageModel, item: Encoded) -> list[float]:
    """Every candidate's sum, and the charge for not going on to a longer candidate."""
    scores = []
    for tokens in item.answers:
        if not tokens:
            scores.append(-math.inf)
            continue
        steps = log_probabilities(model, item, tokens)
        total = sum(float(steps[i, token]) for i, token in enumerate(tokens))
        longer = {
            other[len(tokens)]
            for other in item.answers
            if len(other) > len(tokens) and other[: len(tokens)] == tokens
        }
        scores.append(total + math.log1p(-sum(float(steps[-1, token].exp()) for token in longer)))
    return scores


def margin_by_hand(scores: list[float], right: int) -> tuple[float, int]:
    others = [-math.inf if i == right else score for i, score in enumerate(scores)]
    margin = scores[right] - max(others)
    return margin, right if margin > 0 else others.index(max(others))


def random_questions(seed: int, count: int = 12) -> list[Encoded]:
    """Prompts of random tokens; candidates over few tokens, so that many begin others."""
    draw = random.Random(seed)  # noqa: S311
    drawn = []
    for _ in range(count):
        answers = {
            tuple(draw.choices(range(10, 14), k=draw.randint(1, 4)))
            for _ in range(draw.randint(2, 20))
        }
        shuffled = draw.sample(sorted(answers), k=len(answers))
        drawn.append(
            Encoded(
                question=tiny.questions()[0],
                before=tuple(draw.choices(range(5, 50), k=draw.randint(1, 9))),
                after=(),
                answers=tuple(shuffled),
                right=draw.randrange(len(shuffled)),
            )
        )
    return drawn


@pytest.mark.parametrize("architecture", CAUSAL_AND_SEQ2SEQ)
@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_what_scoring_every_candidate_finds(architecture: str, seed: int) -> None:
    model = tiny.model(architecture, seed=seed)
    items = random_questions(seed)
    assert any(
        one != other and other[: len(one)] == one
        for item in items
        for one in item.answers
        for other in item.answers
    )
    for item, (margin, winner) in zip(items, rank(NextToken(model, items), items), strict=True):
        expected, best = margin_by_hand(scored_by_hand(model, item), item.right)
        assert margin == pytest.approx(expected, abs=CLOSE)
        assert winner == best or abs(expected) < CLOSE


def test_questions_that_share_candidates_share_one_trie() -> None:
    model = tiny.model("llama")
    first, *others = random_questions(5)
    items = [
        Encoded(
            question=item.question,
            before=item.before,
            after=(),
            answers=first.answers,
            right=i % len(first.answers),
        )
        for i, item in enumerate([first, *others])
    ]
    for item, (margin, _) in zip(items, rank(NextToken(model, items), items), strict=True):
        expected, _ = margin_by_hand(scored_by_hand(model, item), item.right)
        assert margin == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_the_search_runs_no_prefix_twice_and_not_all_of_them(
    monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    ran: list[Any] = []
    run = NextToken.run

    def noted(self: NextToken, rows: Any, read: Any) -> None:
        ran.extend(rows)
        run(self, rows, read)

    monkeypatch.setattr(forward.NextToken, "run", noted)
    answers = tuple(itertools.product(range(10, 14), repeat=4))
    item = Encoded(
        question=tiny.questions()[0], before=(5, 6, 7), after=(), answers=answers, right=77
    )
    model = tiny.model(architecture, tie_word_embeddings=False)
    module: Any = model.module
    module.lm_head.weight.mul_(30)  # a model with opinions, as trained ones have
    ((margin, winner),) = rank(NextToken(model, [item]), [item])
    expected, best = margin_by_hand(scored_by_hand(model, item), 77)
    assert margin == pytest.approx(expected, abs=1e-3)
    assert winner == best
    assert len(ran) == len(set(ran))
    prefixes = 1 + 4 + 4**2 + 4**3
    assert len(ran) < prefixes / 2


def test_candidates_of_single_tokens_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    run = NextToken.run

    def counted(self: NextToken, rows: Any, read: Any) -> None:
        passes.append(len(rows))
        run(self, rows, read)

    monkeypatch.setattr(forward.NextToken, "run", counted)
    items = [
        Encoded(
            question=tiny.questions()[0],
            before=(5, 6, 7 + i),
            after=(),
            answers=tuple((token,) for token in range(10, 60)),
            right=i,
        )
        for i in range(6)
    ]
    rank(NextToken(tiny.model("llama"), items), items)
    assert passes == [6]


def test_a_candidate_that_cannot_be_said_never_wins() -> None:
    item = Encoded(
        question=tiny.questions()[0], before=(5, 6), after=(), answers=((), (11,), ()), right=1
    )
    ((margin, winner),) = rank(NextToken(tiny.model("llama"), [item]), [item])
    assert (margin, winner) == (math.inf, 1)


def test_a_shorter_candidate_does_not_win_by_being_shorter() -> None:
    # After "11" this model is all but certain of 12: so the answer is "11 12", and not "11".
    model = tiny.model("llama")
    module: Any = model.module
    item = Encoded(
        question=tiny.questions()[0],
        before=(5, 6),
        after=(),
        answers=((11,), (11, 12)),
        right=1,
    )
    module.lm_head.weight[12] = (
        40 * module.model(torch.tensor([[5, 6, 11]])).last_hidden_state[0, -1]
    )
    ((margin, winner),) = rank(NextToken(model, [item]), [item])
    assert winner == 1
    assert margin > 0


# What the evaluation harness of EleutherAI gives for the same sentences.


def harness(model: LanguageModel, pairs: list[tuple[str, str]]) -> list[float]:
    backend = "seq2seq" if model.family == "seq2seq" else "causal"
    lm = HFLM(
        pretrained=model.module,
        tokenizer=model.tokenizer,
        backend=backend,
        batch_size=8,
        add_bos_token=True,
    )
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
        for i, pair in enumerate(pairs)
    ]
    return [float(score) for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "t5"])
def test_margins_and_winners_are_those_of_lm_eval(architecture: str) -> None:
    model = tiny.model(architecture)
    # The harness knows no charge for shorter candidates, so none may begin another.
    candidates = ("Accra", "Conakry", "Lima", "New Tokyo", "New Town", "Paris", "Tokyo")
    asked = [
        type(q)(
            id=q.id,
            subject=q.subject,
            stem=q.stem,
            end=q.end,
            answer=q.answer,
            candidates=candidates,
            cluster=q.cluster,
        )
        for q in tiny.questions()
        if q.answer in candidates
    ]
    measured = measure(model, asked, "ranked")
    pairs = [
        (f"{q.stem} {SENTINEL}{q.end}", f"{SENTINEL} {c}")
        if model.family == "seq2seq"
        else (q.stem, f" {c}")
        for q in measured.questions
        for c in candidates
    ]
    flat = harness(model, pairs)
    assert len(measured.questions) == len(asked) == 7
    for i, q in enumerate(measured.questions):
        scores = flat[i * len(candidates) : (i + 1) * len(candidates)]
        margin, winner = margin_by_hand(scores, candidates.index(q.answer))
        assert measured.margins[i] == pytest.approx(margin, abs=CLOSE)
        assert measured.given[i] == candidates[winner]
