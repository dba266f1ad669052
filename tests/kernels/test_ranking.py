import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import sparsities, weights
from torch import Tensor

from pytest_compression.kernels import ranking
from pytest_compression.kernels.ranking import Cut, cut_at, cut_by_digits, cut_by_sample

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
parts = st.sampled_from(DTYPES).flatmap(
    lambda dtype: st.lists(weights(dtype=dtype), min_size=1, max_size=4)
)
mixed_parts = st.lists(
    st.sampled_from(DTYPES).flatmap(lambda dtype: weights(dtype=dtype)), min_size=1, max_size=4
)


def masks_by_hand(tensors: list[Tensor], count: int) -> list[list[bool]]:
    """The rule in plain Python: a stable sort of all magnitudes, and a count."""
    sizes = [abs(value) for tensor in tensors for value in tensor.flatten().tolist()]
    pruned = set(sorted(range(len(sizes)), key=sizes.__getitem__)[:count])
    kept = iter(position not in pruned for position in range(len(sizes)))
    return [[next(kept) for _ in range(tensor.numel())] for tensor in tensors]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Zeros of two signs differ."""
    assert one.dtype == other.dtype
    integer = INTEGERS[one.itemsize]
    return torch.equal(one.contiguous().view(integer), other.contiguous().view(integer))


def check(tensors: list[Tensor], cut: Cut, count: int) -> None:
    """Whether a cut prunes exactly so many, and none that outranks a kept one."""
    masks = [cut.keep(tensor, place) for place, tensor in enumerate(tensors)]
    assert sum(int((~mask).sum()) for mask in masks) == count
    pruned = [tensor[~mask] for tensor, mask in zip(tensors, masks, strict=True)]
    kept = [tensor[mask] for tensor, mask in zip(tensors, masks, strict=True)]
    if 0 < count < sum(mask.numel() for mask in masks):
        assert torch.cat(pruned).abs().max() <= torch.cat(kept).abs().min()
    for place, (tensor, mask) in enumerate(zip(tensors, masks, strict=True)):
        assert same_bits(cut.prune(tensor, place), tensor.where(mask, 0))


def normal(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Three matrices, so large that a sample is drawn; one of them is turned."""
    drawn = torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(dtype)
    one, two, three = drawn.split([count // 2, count // 4, count - count // 2 - count // 4])
    return [one.view(-1, 125), two.view(-1, 125).t(), three.view(-1, 125)]


@given(mixed_parts, sparsities)
def test_the_cut_is_that_of_a_stable_sort_by_hand(tensors: list[Tensor], share: float) -> None:
    before = [tensor.clone() for tensor in tensors]
    count = round(share * sum(tensor.numel() for tensor in tensors))
    cut = cut_at(tensors, count)
    masks = [cut.keep(tensor, place) for place, tensor in enumerate(tensors)]
    assert [mask.flatten().tolist() for mask in masks] == masks_by_hand(tensors, count)
    for place, (tensor, mask, old) in enumerate(zip(tensors, masks, before, strict=True)):
        pruned = cut.prune(tensor, place)
        assert same_bits(pruned, tensor.where(mask, 0))
        pruned[:] = 7
        assert same_bits(tensor, old)


@given(parts, sparsities)
def test_a_turned_matrix_is_cut_as_the_same_matrix_in_memory(
    tensors: list[Tensor], share: float
) -> None:
    turned = [tensor.t() for tensor in tensors]
    count = round(share * sum(tensor.numel() for tensor in tensors))
    cut, plain = cut_at(turned, count), cut_at([tensor.contiguous() for tensor in turned], count)
    for place, tensor in enumerate(turned):
        assert torch.equal(cut.keep(tensor, place), plain.keep(tensor.contiguous(), place))
        assert torch.equal(cut.prune(tensor, place), plain.prune(tensor.contiguous(), place))


@every_dtype
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_many_numbers_are_cut_exactly(dtype: torch.dtype, share: float) -> None:
    tensors = normal(600_000, dtype)
    count = round(share * 600_000)
    check(tensors, cut_at(tensors, count), count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_sample_finds_the_cut_that_digits_find(dtype: torch.dtype, share: float) -> None:
    for seed in range(3):
        tensors, count = normal(600_000, dtype, seed), round(share * 600_000)
        sampled, plain = cut_by_sample(tensors, dtype, count), cut_by_digits(tensors, dtype, count)
        assert sampled is not None
        assert torch.equal(sampled.threshold, plain.threshold)
        assert (sampled.place, sampled.ties) == (plain.place, plain.ties)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("constant", lambda one: one.fill_(0.3)),
        ("mostly zeros", lambda one: one.mul_(torch.arange(one.numel()).view_as(one) % 10 == 0)),
        ("integers", lambda one: one.mul_(3).round_()),
        ("infinities", lambda one: one.div_((torch.arange(one.numel()).view_as(one) % 3).float())),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_where_a_sample_does_not_help_digits_do(name: str, spoil: object, share: float) -> None:
    tensors = [tensor.contiguous() for tensor in normal(600_000)]
    for tensor in tensors:
        spoil(tensor)  # type: ignore[operator]
        tensor.nan_to_num_(0, posinf=math.inf, neginf=-math.inf)
    count = round(share * 600_000)
    check(tensors, cut_at(tensors, count), count)
    assert name


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_cut_among_many_ties_is_found_without_digits(value: float) -> None:
    tensors = normal(600_000)
    for tensor in tensors:
        tensor[tensor.abs() < 0.5] = value  # 38 % of all
    equal = sum(int((tensor.abs() == value).sum()) for tensor in tensors)
    before = sum(int((tensor.abs() < value).sum()) for tensor in tensors)
    for count in (before + 1, before + equal // 2, before + equal - 1, before + equal):
        sampled = cut_by_sample(tensors, torch.float32, count)
        plain = cut_by_digits(tensors, torch.float32, count)
        assert sampled is not None
        assert float(sampled.threshold) == value
        assert (sampled.place, sampled.ties) == (plain.place, plain.ties)
        check(tensors, cut_at(tensors, count), count)


def test_a_sample_that_misleads_changes_no_cut() -> None:
    stride = ranking.LEAP | 1
    misleading = torch.rand(600_000, generator=torch.Generator().manual_seed(0)) + 1
    tensors = [misleading.view(-1, 100)]
    for seen in (misleading[::stride] / 1000, 2.0, 0.0):
        misleading[::stride] = seen  # all that the sample sees
        assert cut_by_sample(tensors, torch.float32, 300_000) is None
        check(tensors, cut_at(tensors, 300_000), 300_000)


def test_ties_at_the_cut_go_by_tensor_and_position() -> None:
    large = normal(600_000)[0].contiguous().view(-1)
    threshold = float(large.abs().kthvalue(len(large) // 2).values)
    tied = torch.full((9,), threshold)
    tensors = [tied, large, -tied]
    count = len(large) // 2 + 4  # one of its own, so that five of the nineteen ties are pruned
    cut = cut_at(tensors, count)
    assert cut_by_sample(tensors, torch.float32, count) is not None
    assert cut.keep(tied, 0).tolist() == [False] * 5 + [True] * 4
    assert cut.keep(-tied, 2).all()
    check(tensors, cut, count)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("size", [4, 600_000])
def test_nan_has_no_place_in_a_ranking(size: int, *, ties: bool) -> None:
    tensors = [torch.ones(3), torch.ones(size) if ties else torch.linspace(-1, 1, size)]
    tensors[1][size // 3] = math.nan
    for count in (0, size // 2, size):
        with pytest.raises(ValueError, match="scores hold NaN"):
            cut_at(tensors, count)


def test_no_tensor_is_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noting(numbers: Tensor, bound: float) -> Tensor:
        seen.append(numbers.numel())
        return torch.nn.functional.hardshrink(numbers, bound)

    monkeypatch.setattr(ranking, "hardshrink", noting)
    cut_at(normal(600_000), 200_000)
    assert max(seen) <= ranking.CHUNK
