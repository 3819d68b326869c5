"""Where images stand in a prompt: the tokens around them, and chunks that leave them whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ...artifacts.errors import UsageError, argument
from ...artifacts.manifest import VisionRecord
from ..loading.buckets import pick
from ..text.chat import IMAGE, Turn
from ..text.tokenizer import Tokenizer
from .files import IMAGES

_TOKENS = argument("prompt", "--tokens")
_AROUND = "\n\n"  # before and after every image
_CROPS_BEFORE = "Here is the original image "
_CROPS_BETWEEN = " and here are some crops to help you see better "


@dataclass(frozen=True)
class ImageTokens:
    """How a model writes an image: begin, `per_image` times soft, end."""

    begin: int
    soft: int
    end: int
    per_image: int

    @property
    def block(self) -> list[int]:
        """The ids of one image."""
        return [self.begin, *[self.soft] * self.per_image, self.end]


def image_tokens(vision: VisionRecord) -> ImageTokens:
    """How a bundle's prompts write an image."""
    return ImageTokens(
        vision.begin_token_id, vision.soft_token_id, vision.end_token_id, vision.tokens_per_image
    )


def encode_prompt(
    tokenizer: Tokenizer, text: str, crops: Sequence[int], tokens: ImageTokens, chat: bool
) -> list[int]:
    """Ids of a prompt with images, each written out, after <bos>.

    Args:
        text: `<start_of_image>` stands for an image, in order. A text without any gets all
            images in front of it, as in Gemma's chats.
        crops: pan and scan crops of each image (Picture.crops).
        chat: make it the user's turn of a conversation that the model is to answer.

    Raises UsageError when the text has places for another number of images.
    """
    if chat:
        return encode_chat(tokenizer, [Turn("user", text)], crops, tokens)
    return _with_images(tokenizer, texts_around_images(text, crops), tokens, add_bos=True)


def encode_chat(
    tokenizer: Tokenizer, turns: Sequence[Turn], crops: Sequence[int], tokens: ImageTokens | None
) -> list[int]:
    """Ids of a conversation that the model is to continue; texts and images are as in a prompt.

    Raises UsageError when the texts have places for another number of images; where one turn has
    all the images and no place for any, they stand in front of its text.
    """
    ids, first = [], 0
    anywhere = len(turns) == 1  # then a text without places is no mistake
    for turn in turns:
        text = turn.text.strip()
        count = len(crops) if anywhere else text.count(IMAGE)
        texts = texts_around_images(text, crops[first : first + count])
        first += count
        texts[0] = f"{turn.speaker}\n{texts[0]}"
        ids.append(_with_images(tokenizer, texts, tokens, add_bos=False))
    if first != len(crops):
        raise UsageError(
            f"messages have {first} times {IMAGE} but there are {len(crops)} images; write it once "
            "for each image"
        )
    return tokenizer.conversation(ids)


def _with_images(
    tokenizer: Tokenizer, texts: Sequence[str], tokens: ImageTokens | None, add_bos: bool
) -> list[int]:
    """Ids of texts with an image between neighbours."""
    ids = tokenizer.encode(texts[0], add_bos)
    for piece in texts[1:]:
        assert tokens is not None, "there are images, so the model sees them"
        ids += tokens.block + tokenizer.encode(piece, add_bos=False)
    return ids


def texts_around_images(text: str, crops: Sequence[int]) -> list[str]:
    """The text before the first image, between neighbours and after the last.

    Crops are images that follow their own, announced as transformers' Gemma3Processor does.
    Each piece is to be tokenized whole: its newlines form tokens together.
    """
    segments = text.split(IMAGE)
    if len(segments) == 1:
        segments = [""] * len(crops) + segments
    if len(segments) != len(crops) + 1:
        raise UsageError(
            f"{argument('prompt')} has {len(segments) - 1} times {IMAGE} but {IMAGES} brings "
            f"{len(crops)}; write it once for each image, or leave it out to put all in front"
        )
    pieces = [segments[0]]
    for count, segment in zip(crops, segments[1:], strict=True):
        pieces[-1] += (_CROPS_BEFORE if count else "") + _AROUND
        following = [_CROPS_BETWEEN if crop == 0 else " " for crop in range(count)]
        pieces += [_AROUND + between + _AROUND for between in following]
        pieces.append(_AROUND + segment)
    return pieces


def check_soft_tokens(prompt: Sequence[int], images: int, tokens: ImageTokens) -> None:
    """Refuse ids, as given by --tokens, that have not `per_image` soft tokens for each image."""
    soft = sum(token == tokens.soft for token in prompt)
    if soft and not images:
        raise UsageError(
            f"{_TOKENS} has {soft} soft image tokens (id {tokens.soft}) but {IMAGES} brings none; "
            "pass the images, or leave the soft tokens out"
        )
    if soft != images * tokens.per_image:
        raise UsageError(
            f"{_TOKENS} has {soft} soft image tokens (id {tokens.soft}) but {images} images need "
            f"{images * tokens.per_image}; write {tokens.per_image} for each image"
        )


def soft_token_index(prompt: Sequence[int], tokens: ImageTokens) -> np.ndarray:
    """Which soft token of the prompt's images, end to end, each id stands for: [T] int32.

    -1 where an id is text. As in transformers, the images fill the places in order.
    """
    is_soft = np.asarray(prompt, np.int64) == tokens.soft
    return np.where(is_soft, np.cumsum(is_soft) - 1, -1).astype(np.int32)


Span = tuple[int, int]
"""First place and the place after the last of a run of tokens."""


@dataclass(frozen=True)
class PrefillCall:
    """One call of a prefill program of `size` tokens: what each row feeds, as (start, length).

    A row with nothing left has length 0. Rows may start at different places.
    """

    size: int
    rows: tuple[tuple[int, int], ...]


def plan_prefill_with_images(
    prompts: Sequence[Sequence[int]], soft_token: int, sizes: Collection[int]
) -> list[PrefillCall]:
    """Calls that take in `prompts` without splitting an image, in order; the fewest there are.

    Every token of an image sees every later one in every layer, so an image must be whole in
    one call (model/image_mask.py has the argument). Each row goes as far as the largest size
    allows and stops short of an image that would not be whole; a call has the smallest size
    that holds its rows. `sizes` must not be empty.

    Raises UsageError when an image is longer than the largest size.
    """
    plans = [_cut(len(prompt), image_spans(prompt, soft_token), max(sizes)) for prompt in prompts]
    calls = []
    for number in range(max(map(len, plans), default=0)):
        rows = tuple(
            plan[number] if number < len(plan) else (len(prompt), 0)
            for plan, prompt in zip(plans, prompts, strict=True)
        )
        calls.append(PrefillCall(pick(max(length for _, length in rows), sizes), rows))
    return calls


def image_spans(prompt: Sequence[int], soft_token: int) -> list[Span]:
    """The runs of soft tokens in a prompt: what sees itself as a whole."""
    is_soft = np.asarray(prompt, np.int64) == soft_token
    steps = np.diff(np.concatenate([[0], is_soft.astype(np.int8), [0]]))
    begins, ends = np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist()
    return list(zip(begins, ends, strict=True))


def _cut(length: int, images: Sequence[Span], largest: int) -> list[Span]:
    """(start, length) of each piece of a row."""
    pieces, start = [], 0
    while start < length:
        end = min(start + largest, length)
        # Of runs in order, apart from each other, at most one reaches across the end.
        end = next((begin for begin, after in images if begin < end < after), end)
        if end <= start:
            begin, after = next(span for span in images if span[0] >= start)
            raise UsageError(
                f"image of {after - begin} tokens does not fit a prefill call: the largest takes "
                f"{largest}; re-export with --prefill {1 << (after - begin - 1).bit_length()}"
            )
        pieces.append((start, end - start))
        start = end
    return pieces
