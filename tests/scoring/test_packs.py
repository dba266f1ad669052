"""One row of many sequences: each token gets what attention by a whole mask gives it."""

from types import SimpleNamespace
from typing import Final

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pytest_compression.scoring.attention import LAYOUT, UNKNOWN, attend
from pytest_compression.scoring.packs import Pack, in_order
from pytest_compression.scoring.prefixes import ROOT, Piece, Prices, plan
from pytest_compression.scoring.rows import Rows

CHEAP: Final = Prices(attention=3, trunk=0.1, copied=0, joined=0)
"""Attention is so dear that trunks are made wherever sequences part, and rows of a few tokens."""
TOKENS: Final = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
SEQUENCES: Final = st.lists(TOKENS, min_size=1, max_size=20)
HEADS: Final = st.sampled_from([(1, 1), (4, 2), (6, 2), (3, 3)])
ROWS: Final = Rows(tiny.model("llama").module)


def paths(pieces: list[Piece], above: tuple[int, ...] = ()) -> dict[tuple[int, int], list[int]]:
    """By piece and token: the tokens of its sequence up to it, as the plan has them."""
    found = {}
    for piece in pieces:
        seen: list[list[int]] = []
        for token, parent in zip(piece.tokens, piece.parents, strict=True):
            seen.append([*(above if parent == ROOT else seen[parent]), token])
            found[id(piece), len(seen) - 1] = seen[-1]
        if piece.below:
            found |= paths(piece.below, tuple(seen[-1]))
    return found


def seen_by(pack: Pack, pieces: list[Piece]) -> Tensor:
    """What each token of a pack must see, ``[tokens, tokens]``: what its sequence begins with."""
    whole = paths(pieces)
    row = [
        tuple(whole[id(piece), node]) for piece in pack.pieces for node in range(len(piece.tokens))
    ]
    found = torch.zeros(len(row), len(row), dtype=torch.bool)
    for i, mine in enumerate(row):
        for j, other in enumerate(row):
            found[i, j] = mine[: len(other)] == other and owned(pack, i, j)
    return found


def owned(pack: Pack, one: int, other: int) -> bool:
    """Whether a token's piece is another's, or stands above it: equal tokens may be run twice."""
    mine, theirs = (piece_at(pack, place) for place in (one, other))
    return theirs is mine or any(piece is mine for piece in in_order(theirs.below))


def piece_at(pack: Pack, place: int) -> Piece:
    """The piece of a token."""
    return [p for p, start in zip(pack.pieces, pack.starts, strict=True) if start <= place][-1]


@settings(max_examples=60)
@given(SEQUENCES, HEADS, st.integers(0, 3), st.integers(0, 2**16))
def test_each_token_sees_its_own_sequence_and_nothing_else(
    sequences: list[tuple[int, ...]], heads: tuple[int, int], kept: int, seed: int
) -> None:
    pieces = plan(sequences, CHEAP, trees=True, trunks=True).pieces
    draw = torch.Generator().manual_seed(seed)
    many, few = heads
    before = [tuple(torch.randn(2, 1, few, kept, 8, generator=draw))] if kept else []
    pack = Pack(pieces, ROWS, before)
    tokens = sum(len(piece.tokens) for piece in pack.pieces)
    query = torch.randn(1, many, tokens, 8, generator=draw)
    key, value = torch.randn(2, 1, few, tokens, 8, generator=draw)
    token = LAYOUT.set(pack.layout)
    try:
        found, _ = attend(SimpleNamespace(layer_idx=0), query, key, value, None)
    finally:
        LAYOUT.reset(token)
    if before:
        key, value = (torch.cat(pair, 2) for pair in zip(before[0], (key, value), strict=True))
    mask = torch.cat([torch.ones(tokens, kept, dtype=torch.bool), seen_by(pack, pieces)], 1)
    wanted = scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    torch.testing.assert_close(found, wanted.transpose(1, 2), atol=1e-5, rtol=1e-5)


@given(SEQUENCES)
def test_a_row_holds_each_token_once(sequences: list[tuple[int, ...]]) -> None:
    made = plan(sequences, CHEAP, trees=True, trunks=True)
    pack = Pack(made.pieces, ROWS, [])
    assert pack.inputs["input_ids"].shape == pack.inputs["position_ids"].shape == (1, made.tokens)
    at = 0
    for own in pack.layout.own:
        assert own.start == at
        at += own.runs * own.tokens
    assert at == made.tokens
    assert {id(piece) for piece in pack.pieces} == {id(piece) for piece in made.walk()}


def test_trunks_below_trunks_are_prefixes_of_all_that_stands_behind_them() -> None:
    sequences = [(1, 1, 1, 1, q, q, q, c, c) for q in range(2, 5) for c in range(5, 8)]
    made = plan(sequences, CHEAP, trees=True, trunks=True)
    (above, *below) = Pack(made.pieces, ROWS, []).layout.prefixes
    assert above == (0, 4, 4 + 3 * 9)
    assert [(start, end, stop) for start, end, stop in below] == [
        (start, start + 3, start + 9) for start in (4, 13, 22)
    ]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_attention_that_wants_more_is_refused(name: str) -> None:
    some = torch.ones(1, 1, 1, 8)
    with pytest.raises(TypeError, match=name):
        attend(SimpleNamespace(layer_idx=0), some, some, some, None, **{name: 1})
