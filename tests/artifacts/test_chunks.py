from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from gemma3_export.artifacts.chunks import CALL_COST, first_chunks, plan_prefill
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.sets(st.integers(1, 64), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("length", "chunks"),
    [
        (0, []), (1, [32]), (32, [32]), (33, [32, 32]), (64, [32, 32]), (65, [128]), (128, [128]),
        (129, [128, 32]), (160, [128, 32]), (161, [128, 32, 32]), (193, [128, 128]),
        (384, [128, 128, 128]), (385, [512]), (512, [512]), (513, [512, 32]), (640, [512, 128]),
        (641, [512, 128, 32]), (1024, [512, 512]), (1300, [512, 512, 128, 128, 32]),
    ],
)  # fmt: skip
def test_prefill_takes_the_buckets_with_the_least_work(length: int, chunks: list[int]):
    assert plan_prefill(length, (32, 128, 512)) == chunks


@pytest.mark.parametrize(
    ("length", "sizes", "chunks"),
    [
        (64, {32, 512}, [32, 32]), (256, {32, 512}, [32] * 8), (257, {32, 512}, [512]),
        (7, {7, 100}, [7]), (8, {7, 100}, [7, 7]), (1, {1}, [1]), (3, {1}, [1, 1, 1]),
        (10, {10}, [10]), (11, {10}, [10, 10]),
    ],
)  # fmt: skip
def test_many_small_buckets_are_taken_only_while_they_are_less_work(
    length: int, sizes: set[int], chunks: list[int]
):
    assert plan_prefill(length, sizes) == chunks


@given(st.integers(0, 500), SIZES)
def test_prefill_chunks_hold_the_prompt_and_only_the_last_has_room_to_spare(
    length: int, sizes: set[int]
):
    chunks = plan_prefill(length, sizes)
    assert set(chunks) <= sizes
    assert sum(chunks) >= length
    assert sum(chunks[:-1]) < max(length, 1)
    assert chunks == sorted(chunks, reverse=True)


@given(st.integers(0, 60), st.sets(st.integers(1, 30), min_size=1, max_size=3))
def test_no_plan_is_less_work(length: int, sizes: set[int]):
    def work(chunks: Iterable[int]) -> int:
        return sum(chunk + CALL_COST for chunk in chunks)

    most = -(-length // max(sizes))  # one more call costs more than any padding that it spares
    plans = [
        plan
        for count in range(most + 2)
        for plan in itertools.combinations_with_replacement(sizes, count)
        if sum(plan) >= length
    ]
    assert work(plan_prefill(length, sizes)) == min(map(work, plans))


@given(st.integers(0, 500), SIZES)
def test_a_plan_goes_on_as_the_plan_of_what_is_left(length: int, sizes: set[int]):
    """So a host may ask for one chunk after the other, as the SavedModel's graph does."""
    chunks = plan_prefill(length, sizes)
    done = sum(chunks[:1])
    assert chunks[1:] == plan_prefill(max(length - done, 0), sizes)
    assert first_chunks(length, tuple(sorted(sizes)))[-1] == sum(chunks[:1])
