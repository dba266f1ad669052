from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.scoring.continuation import Header, Rows, common, headers
from pytest_compression.scoring.tokens import Tokens

token_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), max_size=12)


@given(prompts=token_lists, at_all=st.booleans())
def test_each_prompt_is_in_one_group_and_begins_with_its_header(
    *, prompts: list[Tokens], at_all: bool
) -> None:
    groups = list(headers(prompts, at_all=at_all))
    assert sorted(p for _, group in groups for p in group) == list(range(len(prompts)))
    for shared, group in groups:
        assert len({prompts[p][:shared] for p in group}) == 1
        assert all(len(prompts[p]) > shared for p in group)
        assert at_all or shared == 0


def test_prompts_with_a_few_shot_header_are_grouped_by_it() -> None:
    one, two = tuple(range(10, 30)), tuple(range(50, 70))
    prompts = [(*two, 1, 2), (*one, 1), (7, 8), (*one, 2, 3), (*two, 1, 4, 5), (*one, 2), (1,)]
    found = {shared: sorted(group) for shared, group in headers(prompts, at_all=True)}
    assert found == {20: [1, 3, 5], 21: [0, 4], 0: [2, 6]}


@given(token_lists)
def test_equal_prompts_share_all_but_their_last_token(prompts: list[Tokens]) -> None:
    twice = [*prompts, *prompts]
    for shared, group in headers(twice, at_all=True):
        if len({twice[p] for p in group}) == 1 and len(group) > 1:
            assert shared == len(twice[group[0]]) - 1


@given(*[st.lists(st.integers(0, 1), max_size=6).map(tuple)] * 2)
def test_the_common_beginning_is_the_longest(one: Tokens, other: Tokens) -> None:
    length = common(one, other)
    assert one[:length] == other[:length]
    assert one[: length + 1] != other[: length + 1] or length == min(len(one), len(other))


@pytest.mark.parametrize("architecture", [*tiny.CAUSAL])
@torch.inference_mode()
def test_logits_behind_a_header_are_those_of_the_whole_rows(architecture: str) -> None:
    model = tiny.model(architecture)
    module: Any = model.module
    header = Header(model, (5, 6, 7))
    tokens: list[Tokens] = [(5, 6, 7, 8, 9), (5, 6, 7, 10, 11), (5, 6, 7, 8, 12)]
    rows = Rows(model, tokens, past=header.past(3), read=3)
    torch.testing.assert_close(rows.logits(), module(torch.tensor(tokens)).logits[:, -1])
    rows.keep([2, 0])
    rows.tokens = [(*row, 13) for row in rows.tokens]
    expected = module(torch.tensor([(*tokens[2], 13), (*tokens[0], 13)])).logits[:, -1]
    torch.testing.assert_close(rows.logits(), expected)
    assert model.tokens_run == 3 + 3 * 2 + 2


def test_a_wrapped_forward_whose_options_are_not_known_runs_rows_whole() -> None:
    model = tiny.model("llama")
    module: Any = model.module
    tokens: list[Tokens] = [(5, 6, 7), (5, 6, 8)]
    expected = module(torch.tensor([(*row, 9) for row in tokens])).logits[:, -1]
    plain = module.forward

    def forward(*args: Any, **options: Any) -> Any:  # as adapters wrap it
        return plain(*args, **options)

    module.forward = forward
    assert Header(model, (5, 6)).past(2) is None
    rows = Rows(model, tokens)
    rows.logits()
    rows.tokens = [(*row, 9) for row in tokens]
    torch.testing.assert_close(rows.logits(), expected)


def test_rows_are_kept_in_the_order_that_is_asked_for() -> None:
    model = tiny.model("llama")
    rows = Rows(model, [(5, 6), (7, 8)])
    before = rows.logits()
    rows.keep([1, 0])
    rows.tokens = [(*row, 9) for row in rows.tokens]
    turned = rows.logits()
    module: Any = model.module
    torch.testing.assert_close(turned, module(torch.tensor([(7, 8, 9), (5, 6, 9)])).logits[:, -1])
    assert before.shape == turned.shape
