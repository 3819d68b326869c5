"""Images among the tokens of a prompt, and prefill calls that leave them whole."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.images.prompt import (
    ImageTokens,
    PrefillCall,
    check_soft_tokens,
    encode_prompt,
    image_spans,
    plan_prefill_with_images,
    soft_token_index,
    texts_around_images,
)
from gemma3_export.runtime.text.tokenizer import Tokenizer
from hypothesis import given
from hypothesis import strategies as st

from ..goldens.loader import processor_goldens
from .toy_bundle import BOS, toy_tokenizer

TOKENS = ImageTokens(begin=900, soft=901, end=902, per_image=3)
BLOCK = [900, 901, 901, 901, 902]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(toy_tokenizer())
    return Tokenizer(path.read_bytes(), path, BOS)


@pytest.mark.parametrize("crops", processor_goldens().texts)
def test_a_place_for_an_image_becomes_the_text_that_transformers_writes(crops: int):
    image = "<start_of_image><image_soft_token><image_soft_token><end_of_image>"
    texts = texts_around_images("before<start_of_image>after", [crops])
    assert len(texts) == crops + 2
    assert image.join(texts) == f"before{processor_goldens().texts[crops]}after"


def test_several_images_stand_at_their_places_in_order():
    assert texts_around_images("a<start_of_image>b<start_of_image>", [0, 0]) == [
        "a\n\n", "\n\nb\n\n", "\n\n",
    ]  # fmt: skip


def test_images_without_a_place_stand_in_front():
    assert texts_around_images("What?", [0, 0]) == ["\n\n", "\n\n\n\n", "\n\nWhat?"]


@pytest.mark.parametrize(("text", "images"), [("<start_of_image>" * 2, 1), ("<start_of_image>", 0)])
def test_another_number_of_images_than_places_is_refused(text: str, images: int):
    count = text.count("<start_of_image>")
    message = f"prompt has {count} times <start_of_image> but images brings {images}; write"
    with pytest.raises(UsageError, match=message):
        texts_around_images(text, [0] * images)


def test_prompt_is_bos_text_and_whole_images_with_newlines_tokenized_in_one(tokenizer: Tokenizer):
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_bos=False)

    got = encode_prompt(tokenizer, "the\n<start_of_image> fox", [0], TOKENS, chat=False)
    assert got == [BOS, *ids("the\n\n\n"), *BLOCK, *ids("\n\n fox")]
    crops = encode_prompt(tokenizer, "fox", [2], TOKENS, chat=False)
    assert sum(token == TOKENS.soft for token in crops) == 3 * 3


def test_chat_has_the_image_in_the_turn_of_the_user(tokenizer: Tokenizer):
    plain = tokenizer.chat("the fox")
    user = tokenizer.encode("user\nthe fox", add_bos=False)
    at = plain.index(user[0])
    assert encode_prompt(tokenizer, " the fox\n", [0], TOKENS, chat=True) == [
        *plain[:at], *tokenizer.encode("user\n\n\n", add_bos=False), *BLOCK,
        *tokenizer.encode("\n\nthe fox", add_bos=False), *plain[at + len(user) :],
    ]  # fmt: skip
    assert encode_prompt(tokenizer, " the fox\n", [], TOKENS, chat=True) == plain


def test_written_out_tokens_must_have_the_soft_tokens_of_each_image():
    check_soft_tokens([2, *BLOCK, *BLOCK], 2, TOKENS)
    check_soft_tokens([2, 5], 0, TOKENS)
    message = r"prompt has 3 soft image tokens \(id 901\) but 2 images need 6; write 3 for each"
    with pytest.raises(UsageError, match=message):
        check_soft_tokens([2, *BLOCK], 2, TOKENS)


def test_images_fill_the_soft_tokens_in_order():
    index = soft_token_index([2, *BLOCK, 7, *BLOCK], TOKENS)
    assert index.tolist() == [-1, -1, 0, 1, 2, -1, -1, -1, 3, 4, 5, -1]
    assert index.dtype == np.int32


def test_spans_are_runs_of_soft_tokens():
    assert image_spans([1, 9, 9, 1, 9], 9) == [(1, 3), (4, 5)]
    assert image_spans([9, 9], 9) == [(0, 2)]
    assert image_spans([1], 9) == image_spans([], 9) == []


def test_chunk_stops_before_an_image_that_would_not_be_whole():
    prompt = [1] * 6 + [9] * 4 + [1] * 7
    assert plan_prefill_with_images([prompt], 9, (4, 8)) == [
        PrefillCall(8, ((0, 6),)), PrefillCall(8, ((6, 8),)), PrefillCall(4, ((14, 3),)),
    ]  # fmt: skip


def test_image_that_ends_with_the_chunk_is_whole():
    assert plan_prefill_with_images([[1] * 4 + [9] * 4 + [1]], 9, (8,)) == [
        PrefillCall(8, ((0, 8),)), PrefillCall(8, ((8, 1),)),
    ]  # fmt: skip


def test_rows_of_a_batch_are_cut_each_at_its_own_images():
    rows = [[1] * 6 + [9] * 4, [1] * 3, [1] * 10]
    assert plan_prefill_with_images(rows, 9, (4, 8)) == [
        PrefillCall(8, ((0, 6), (0, 3), (0, 8))), PrefillCall(4, ((6, 4), (3, 0), (8, 2))),
    ]  # fmt: skip


def test_image_larger_than_every_prefill_is_refused_with_the_remedy():
    message = "image of 9 tokens does not fit a prefill call: the largest takes 8; .*--prefill 16"
    with pytest.raises(UsageError, match=message):
        plan_prefill_with_images([[1, 1, *[9] * 9, 1]], 9, (4, 8))


@given(
    st.lists(
        st.lists(st.sampled_from([[1], [9], [1, 1], [9] * 5])).map(lambda parts: [*chain(*parts)])
    ),
    st.sets(st.integers(1, 12), min_size=1, max_size=3),
)
def test_every_token_is_fed_once_and_no_image_is_split(prompts: list[list[int]], sizes: set[int]):
    longest = max((b - a for prompt in prompts for a, b in image_spans(prompt, 9)), default=0)
    if longest > max(sizes):
        with pytest.raises(UsageError, match="does not fit a prefill call"):
            plan_prefill_with_images(prompts, 9, sizes)
        return
    calls = plan_prefill_with_images(prompts, 9, sizes)
    for row, prompt in enumerate(prompts):
        pieces = [call.rows[row] for call in calls]
        assert [
            token for start, length in pieces for token in prompt[start : start + length]
        ] == prompt
        cuts = {start + length for start, length in pieces}
        assert not any(a < cut < b for a, b in image_spans(prompt, 9) for cut in cuts)
    for call in calls:
        needed = max(length for _, length in call.rows)
        assert call.size == min(size for size in sizes if size >= needed)
        assert needed > 0
