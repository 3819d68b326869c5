from __future__ import annotations

import pytest
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.runtime.loading.buckets import (
    Grid,
    Group,
    Shape,
    pick,
    split_rows,
)
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.sets(st.integers(1, 64), min_size=1, max_size=5)


@given(st.integers(1, 100), SIZES)
def test_pick_is_the_smallest_that_is_enough_or_else_the_largest(needed: int, sizes: set[int]):
    picked = pick(needed, sizes)
    assert picked in sizes
    if max(sizes) < needed:
        assert picked == max(sizes)
    else:
        assert picked >= needed
        assert not any(needed <= size < picked for size in sizes)


@given(st.integers(0, 200), SIZES)
def test_every_row_gets_one_place_in_some_batch(rows: int, sizes: set[int]):
    groups = split_rows(rows, sizes)
    assert sum(count for count, _ in groups) == rows
    assert all(0 < count <= batch and batch in sizes for count, batch in groups)
    assert all(count == batch == max(sizes) for count, batch in groups[:-1])


def grid(*buckets: tuple[str, int, int, int]) -> Grid:
    return Grid("x/manifest.json", frozenset(Bucket(ProgramName(n), *s) for n, *s in buckets))


FULL = grid(
    *[("prefill", b, t, c) for b in (1, 8) for t in (32, 128) for c in (512, 1024)],
    *[("decode", b, 1, c) for b in (1, 8) for c in (512, 1024)],
    *[("generate", b, 32, c) for b in (1, 8) for c in (512, 1024)],
)


def test_a_group_takes_the_smallest_batch_and_cache_that_fit():
    assert FULL.groups(FULL.generating(), 1, 512) == [Group(0, 1, Shape(1, 512))]
    assert FULL.groups(FULL.generating(), 1, 513) == [Group(0, 1, Shape(1, 1024))]
    assert FULL.groups(FULL.generating(), 2, 512) == [Group(0, 2, Shape(8, 512))]
    assert FULL.groups(FULL.generating(), 9, 512) == [
        Group(0, 8, Shape(8, 512)), Group(8, 1, Shape(1, 512)),
    ]  # fmt: skip


def test_only_batches_that_have_the_cache_length_are_used():
    ragged = grid(
        ("prefill", 8, 32, 512), ("decode", 8, 1, 512), ("prefill", 1, 32, 1024),
        ("decode", 1, 1, 1024),
    )  # fmt: skip
    assert ragged.groups(ragged.generating(), 2, 600) == [
        Group(0, 1, Shape(1, 1024)), Group(1, 1, Shape(1, 1024)),
    ]  # fmt: skip


def test_tokens_are_those_of_the_program_and_shape():
    assert FULL.tokens(ProgramName.PREFILL, Shape(8, 512)) == (32, 128)
    assert FULL.tokens(ProgramName.GENERATE, Shape(2, 512)) == ()


def test_stepping_needs_decode_and_generating_either():
    only_generate = grid(("prefill", 1, 32, 512), ("generate", 1, 32, 512))
    assert only_generate.generating() == {Shape(1, 512)}
    assert only_generate.stepping() == frozenset()


def test_what_fits_exactly_is_not_refused():
    FULL.require_fit(FULL.generating(), "generate", [3, 1000], 24)


def refusal(lengths: list[int], new_tokens: int) -> str:
    with pytest.raises(UsageError) as refused:
        FULL.require_fit(FULL.generating(), "generate", lengths, new_tokens)
    return str(refused.value)


def test_a_prompt_that_fits_nothing_is_refused_with_what_fits():
    assert refusal([7, 1300], 0) == (
        "prompt of 1300 tokens does not fit: largest cache bucket is 1024 "
        "(cache buckets of x/manifest.json: 512, 1024); re-export with --cache 2048"
    )


def test_too_many_new_tokens_are_refused_with_how_many_fit():
    assert refusal([1000], 25) == (
        "prompt of 1000 tokens and 25 new tokens does not fit: largest cache bucket is 1024 "
        "(cache buckets of x/manifest.json: 512, 1024); ask for at most 24 new tokens, "
        "or re-export with --cache 2048"
    )


def test_a_full_cache_leaves_no_new_token_to_ask_for():
    assert refusal([1024], 1).endswith("512, 1024); re-export with --cache 2048")


def test_a_bundle_without_the_programs_is_refused_with_those_it_has():
    with pytest.raises(ArtifactError, match=r"cannot score: .* only these programs: decode, gen"):
        FULL.require_fit(FULL.scoring(), "score", [3], 0)
