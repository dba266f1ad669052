import random
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.errors import MeasurementError
from pytest_compression.models.conditions import SINGLE, Budget
from pytest_compression.scoring.forward import NextToken, batches, log_probabilities, masked
from pytest_compression.scoring.ranking import rank
from pytest_compression.scoring.tokens import Encoded

CLOSE = 1e-5
CAUSAL_AND_SEQ2SEQ = ["gpt2", "llama", "gpt_neox", "opt", "t5", "bart"]
MASKED = ["bert", "roberta", "albert", "distilbert", "electra"]

lengths = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=60)
budgets = st.builds(
    Budget, tokens=st.integers(0, 30), logits=st.integers(0, 30), rows=st.integers(1, 9)
)


@given(lengths, budgets)
def test_batches_hold_every_row_once_and_rows_of_equal_lengths_only(
    found: list[tuple[int, int]], budget: Budget
) -> None:
    batched = list(batches(found, budget))
    assert sorted(position for batch in batched for position in batch) == list(range(len(found)))
    for batch in batched:
        assert len({found[position] for position in batch}) == 1


@given(lengths, budgets)
def test_batches_keep_to_the_budget_unless_one_row_exceeds_it(
    found: list[tuple[int, int]], budget: Budget
) -> None:
    for batch in batches(found, budget):
        tokens = sum(sum(found[position]) for position in batch)
        assert len(batch) == 1 or (len(batch) <= budget.rows and tokens <= budget.tokens)
    assert all(len(batch) == 1 for batch in batches(found, SINGLE))


@pytest.mark.parametrize(
    ("length", "size"),
    [
        ((8,), Budget().rows),
        ((100,), Budget().tokens // 100),
        ((60, 40), Budget().tokens // 100),
        ((10**6,), 1),
    ],
)
def test_batches_are_as_large_as_the_budget_of_tokens_and_rows_allows(
    length: tuple[int, ...], size: int
) -> None:
    batched = list(batches([length] * 600, Budget()))
    assert {len(batch) for batch in batched[:-1]} == {size}


@pytest.mark.parametrize(("logits", "size"), [(2**25, 40), (10 * tiny.VOCABULARY, 10), (0, 1)])
def test_a_masked_model_also_keeps_to_the_budget_of_logits(logits: int, size: int) -> None:
    model = tiny.model("bert")
    items = [prompts(seed=7, count=1, longest=1)[0]] * 40
    found: list[int] = []
    model.budget = Budget(logits=logits)
    masked(model, items, range(40), 1, lambda positions, _: found.append(len(positions)))
    assert set(found) == {size}


def test_encoder_decoder_models_are_batched_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # A batch of one row each is right, and fifty times slower.
    items = prompts(seed=0, count=40, longest=1)
    rows: list[int] = []
    decode = NextToken.decode

    def counted(self: NextToken, chosen: Any) -> Any:
        rows.append(len(chosen))
        return decode(self, chosen)

    monkeypatch.setattr(NextToken, "decode", counted)
    NextToken(tiny.model("t5"), items).run([(q, ()) for q in range(40)], lambda *_: None)
    assert rows == [40]


def prompts(seed: int, count: int, longest: int = 7) -> list[Encoded]:
    draw = random.Random(seed)  # noqa: S311
    return [
        Encoded(
            question=tiny.questions()[0],
            before=tuple(draw.choices(range(5, 200), k=4 + draw.randrange(longest))),
            after=tuple(draw.choices(range(5, 200), k=draw.randint(1, longest))),
            answers=tuple({tuple(draw.choices(range(5, 60), k=2)) for _ in range(8)}),
            right=0,
        )
        for _ in range(count)
    ]


def next_tokens(architecture: str, items: list[Encoded], rows: list[Any]) -> list[torch.Tensor]:
    found: dict[int, torch.Tensor] = {}

    def read(positions: list[int], values: torch.Tensor) -> None:
        found.update(zip(positions, values.clone(), strict=True))

    NextToken(tiny.model(architecture), items).run(rows, read)
    return [found[i] for i in range(len(rows))]


@pytest.mark.parametrize("architecture", CAUSAL_AND_SEQ2SEQ)
def test_a_row_s_log_probabilities_do_not_depend_on_its_neighbours(architecture: str) -> None:
    items = prompts(seed=1, count=15)
    rows: list[Any] = [(q, path) for q in range(15) for path in [(), (7,), (7, 9)]]
    together = next_tokens(architecture, items, rows)
    backwards = next_tokens(architecture, items, rows[::-1])[::-1]
    for row, one, other in zip(rows, together, backwards, strict=True):
        (alone,) = next_tokens(architecture, items, [row])
        torch.testing.assert_close(one, alone, rtol=0, atol=CLOSE)
        torch.testing.assert_close(other, alone, rtol=0, atol=CLOSE)
        assert float(one.exp().sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_margins_do_not_depend_on_the_other_questions(architecture: str) -> None:
    model, items = tiny.model(architecture), prompts(seed=2, count=12)
    together = rank(NextToken(model, items), items)
    for item, (margin, winner) in zip(items, together, strict=True):
        ((alone, best),) = rank(NextToken(model, [item]), [item])
        assert margin == pytest.approx(alone, abs=2 * CLOSE)
        assert winner == best


@pytest.mark.parametrize("architecture", CAUSAL_AND_SEQ2SEQ)
@torch.inference_mode()
def test_the_next_token_is_read_behind_prompt_and_path(architecture: str) -> None:
    model, items = tiny.model(architecture), prompts(seed=3, count=5)
    module: Any = model.module
    rows: list[Any] = [(q, (7, 9)) for q in range(5)]
    for (q, path), found in zip(rows, next_tokens(architecture, items, rows), strict=True):
        before = torch.tensor([items[q].before])
        if model.family == "causal":
            logits = module(torch.cat([before, torch.tensor([path])], 1)).logits
        else:
            sentinel = model.tokenizer.convert_tokens_to_ids("<extra_id_0>")
            decoder = torch.tensor([(0, sentinel, *path)])
            logits = module(input_ids=before, decoder_input_ids=decoder).logits
        expected = logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE)


def test_an_encoder_runs_once_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    model, items = tiny.model("t5"), prompts(seed=4, count=6, longest=1)
    encoder: Any = model.module.get_encoder()  # type: ignore[operator]
    ran: list[int] = []
    plain = encoder.forward

    def counted(**inputs: Any) -> Any:
        ran.append(len(inputs["input_ids"]))
        return plain(**inputs)

    monkeypatch.setattr(encoder, "forward", counted)
    engine = NextToken(model, items)
    for path in [(), (7,), (7, 9)]:
        engine.run([(q, path) for q in range(6)], lambda *_: None)
    assert ran == [6]


@pytest.mark.parametrize("architecture", MASKED)
@pytest.mark.parametrize("masks", [1, 2, 3])
@torch.inference_mode()
def test_masked_positions_are_read_where_the_masks_stand(architecture: str, masks: int) -> None:
    model, items = tiny.model(architecture), prompts(seed=5, count=9)
    module: Any = model.module
    rows = [8, 0, 3, 5]
    found: dict[int, torch.Tensor] = {}
    masked(model, items, rows, masks, lambda p, v: found.update(zip(p, v.clone(), strict=True)))
    assert sorted(found) == [0, 1, 2, 3]
    for position, row in enumerate(rows):
        item, mask = items[row], model.tokenizer.mask_token_id
        ids = torch.tensor([item.before + (mask,) * masks + item.after])
        logits = module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        at_masks = logits[0, len(item.before) : len(item.before) + masks]
        expected = at_masks.log_softmax(-1)
        assert found[position].shape == (masks, tiny.VOCABULARY)
        torch.testing.assert_close(found[position], expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_an_error_that_counts_the_prompts(bad: float) -> None:
    logits = torch.zeros(4, 3)
    logits[1, 2] = logits[3, 0] = bad
    with pytest.raises(MeasurementError, match=r"NaN or infinite logits \(2 of 4 prompts"):
        log_probabilities(logits)


def test_half_precision_logits_are_normalised_in_single_precision() -> None:
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = log_probabilities(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.double().log_softmax(-1).float())
