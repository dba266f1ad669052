import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.errors import MeasurementError
from pytest_compression.scoring import memory
from pytest_compression.scoring.memory import halving, is_out_of_memory, release

ERRORS: list[type[Exception]] = [torch.OutOfMemoryError, MemoryError]


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often memory was given back; to collect garbage takes a tenth of a second."""
    times: list[int] = []
    monkeypatch.setattr(memory, "release", lambda: times.append(1))
    return times


def fits(size: int, ran: list[list[int]]) -> Any:
    """A run that fails for more rows than ``size``, and notes what it was asked."""

    def run(positions: list[int]) -> list[str]:
        ran.append(positions)
        if len(positions) > size:
            message = f"CUDA out of memory. Tried {len(positions)} rows"
            raise torch.OutOfMemoryError(message)
        return [f"row {position}" for position in positions]

    return run


@given(st.lists(st.integers(0, 1000), unique=True, max_size=60), st.integers(1, 70))
def test_no_row_is_lost_or_repeated_however_little_memory_there_is(
    positions: list[int], size: int
) -> None:
    parts = list(halving(positions, fits(size, [])))
    assert [position for part, _ in parts for position in part] == positions
    assert all(0 < len(part) <= size for part, _ in parts)
    assert all(found == [f"row {position}" for position in part] for part, found in parts)


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_size_that_failed_is_not_tried_again(rows: int, size: int) -> None:
    ran: list[list[int]] = []
    shrunk: list[int] = []
    list(halving(range(rows), fits(size, ran), shrink=lambda: shrunk.append(1)))
    failures = [len(part) for part in ran if len(part) > size]
    assert failures == sorted(set(failures), reverse=True)
    assert len(shrunk) == len(failures) <= rows.bit_length()
    assert not failures or min(len(part) for part in ran[:-1]) >= (size + 1) // 2


def test_a_batch_that_fits_is_run_at_once() -> None:
    ran: list[list[int]] = []
    (only,) = halving(range(5), fits(5, ran))
    assert only == ([0, 1, 2, 3, 4], [f"row {i}" for i in range(5)])
    assert ran == [[0, 1, 2, 3, 4]]


def test_what_fails_in_the_middle_only_is_run_in_smaller_parts_from_there() -> None:
    ran: list[list[int]] = []

    def run(positions: list[int]) -> None:
        ran.append(positions)
        if 5 in positions and len(positions) > 1:  # a longer row, say
            raise MemoryError

    found = [part for part, _ in halving(range(8), run)]
    assert found == [[0, 1, 2, 3], [4], [5], [6], [7]]
    assert ran == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], *found[1:]]


def test_a_single_row_that_does_not_fit_is_an_error_that_says_what_to_do() -> None:
    words = r"a single row .* more memory, a smaller dtype, .* CUDA out of memory\. Tried 1 rows$"
    with pytest.raises(MeasurementError, match=words):
        list(halving(range(8), fits(0, [])))


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory")])
def test_other_errors_pass_through(error: Exception) -> None:
    def run(_: list[int]) -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(halving(range(8), run))


def test_errors_of_whoever_takes_the_results_are_not_caught() -> None:
    ran: list[list[int]] = []

    def take() -> None:
        for _ in halving(range(4), fits(4, ran)):
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        take()
    assert len(ran) == 1


class Ring:
    """Only the garbage collector frees it, like a traceback that is held by its own frame."""

    def __init__(self) -> None:
        self.itself = self


def test_what_holds_itself_is_given_back_too() -> None:
    ref = weakref.ref(Ring())
    assert ref() is not None
    release()
    assert ref() is None


def test_the_failed_run_s_tensors_are_gone_before_the_next_is_tried(released: list[int]) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def run(positions: list[int]) -> None:
        assert not any(ref() is not None for ref in held)
        large = torch.zeros(4)
        held.append(weakref.ref(large))
        if len(positions) > 1:
            raise torch.OutOfMemoryError

    list(halving(range(4), run))
    assert len(held) == 2 + 4  # 4 and 2 rows failed
    assert len(released) == 2


@pytest.mark.parametrize("kind", ERRORS)
def test_an_allocation_that_fails_is_known_by_its_class(kind: type[Exception]) -> None:
    assert is_out_of_memory(kind())


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_an_allocation_that_fails_is_known_by_what_is_said(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))


def test_torch_says_it_in_words_that_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) + torch.zeros(3)
    assert not is_out_of_memory(other.value)
