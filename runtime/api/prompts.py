"""What a caller may pass as a prompt, made into token ids: texts, ids and conversations."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError
from ...artifacts.paths import MANIFEST
from ...artifacts.prompts import refuse_chat
from ..images.files import IMAGES, Picture, check_pixels, load_images, pixels_of
from ..images.prompt import encode_chat, encode_prompt, image_tokens
from ..loading.bundle import open_tokenizer
from ..text.chat import Message, read_turns
from ..text.tokenizer import END_OF_TURN

Prompt = str | Sequence[int] | Sequence[Message]
"""A text, token ids used exactly as given, or the messages of a conversation."""
Image = str | Path | np.ndarray
"""A picture file, a `.npy` file, or normalised pixels [n,3,size,size] float32."""


@dataclass(frozen=True)
class Encoded:
    """Prompts as token ids.

    images: for each prompt the pixels of its images; empty for none at all.
    stop_tokens: what ends a row besides the model's own end tokens.
    single: whether one prompt was given, and no list of them.
    """

    prompts: list[list[int]]
    images: list[np.ndarray]
    stop_tokens: tuple[int, ...]
    single: bool


def encode(
    bundle: Bundle, prompts: Prompt | Sequence[Prompt], images: Sequence[Image] = (),
    pan_and_scan: bool = False, before: str = "", whole: bool = False, chat: bool = False,
) -> Encoded:  # fmt: skip
    """Prompts as token ids, and their images; prompts that are encoded stay as they are.

    Args:
        images: of the one prompt.
        before: put before every text.
        whole: texts are read as they are, not continued: an end token follows where the model was
            made with one.
        chat: each text is a user's turn of a conversation.

    Raises:
        UsageError: a prompt is none of what it may be, or its images do not suit it.
    """
    if isinstance(prompts, Encoded):
        return prompts
    single = is_single(prompts)
    listed: list[Any] = [prompts] if single else list(prompts)
    if images and len(listed) != 1:
        raise UsageError(f"{IMAGES}: expected one prompt with them, got several")
    turn_ends: set[int] = set()
    rows, pixels = [], []
    for number, prompt in enumerate(listed, 1):
        if is_conversation(prompt):
            refuse_chat(before)
            ids, pictures = _encode_messages(bundle, prompt, images, pan_and_scan)
            turn_ends.add(open_tokenizer(bundle).steering_id(END_OF_TURN))
        elif isinstance(prompt, str):
            pictures = read_images(bundle, images, pan_and_scan)
            if chat:
                refuse_chat(before)
                turn_ends.add(open_tokenizer(bundle).steering_id(END_OF_TURN))
            ids = _encode_text(bundle, before + prompt, pictures, whole, chat)
        else:
            pictures = read_images(bundle, images, pan_and_scan)
            ids = _check_ids(prompt, f"prompt {number}")
        rows.append(ids)
        pixels.append(pictures)
    if not any(pixels):
        return Encoded(rows, [], tuple(turn_ends), single)
    side = bundle.manifest.vision.image_size  # pyright: ignore[reportOptionalMemberAccess]
    none = np.zeros((0, 3, side, side), np.float32)
    found = [(pixels_of(pictures) or [none])[0] for pictures in pixels]
    return Encoded(rows, found, tuple(turn_ends), single)


def is_conversation(prompt: Any) -> bool:
    """Whether this is a list of messages."""
    return (
        isinstance(prompt, Sequence) and not isinstance(prompt, str)
        and any(isinstance(part, Mapping) for part in prompt)
    )  # fmt: skip


def is_single(prompts: Any) -> bool:
    """Whether this is one prompt: a text, a list of messages, or a list of whole numbers."""
    if isinstance(prompts, str) or is_conversation(prompts):
        return True
    if isinstance(prompts, np.ndarray):
        return prompts.ndim == 1
    if not isinstance(prompts, Sequence):
        raise UsageError(f"prompt: expected a text, token ids or messages, got {prompts!r}")
    return bool(prompts) and all(isinstance(part, int | np.integer) for part in prompts)


def read_images(
    bundle: Bundle, images: Sequence[Image], pan_and_scan: bool
) -> list[Picture]:  # fmt: skip
    """The images of a prompt as the model looks at them.

    Raises:
        UsageError: one is no image, or the model sees none.
    """
    vision = bundle.manifest.vision
    if images and vision is None:
        raise UsageError(
            f"{IMAGES}: {bundle.root / MANIFEST} has no encode_image program; export a "
            "checkpoint that sees images"
        )
    found: list[Picture] = []
    for image in images:
        assert vision is not None
        if isinstance(image, np.ndarray):
            check_pixels("images", image, vision.image_size)
            found += [Picture(one[None]) for one in image]
        elif isinstance(image, str | Path):
            found += load_images([Path(image)], vision.image_size, pan_and_scan)
        else:
            raise UsageError(
                f"{IMAGES}: expected a path or an array of pixels, got {type(image).__name__}"
            )
    return found


def _encode_text(
    bundle: Bundle, text: str, pictures: list[Picture], whole: bool, chat: bool
) -> list[int]:
    manifest, tokenizer = bundle.manifest, open_tokenizer(bundle)
    if pictures:
        assert manifest.vision is not None
        crops = [picture.crops for picture in pictures]
        tokens = image_tokens(manifest.vision)
        return encode_prompt(tokenizer, text, crops, tokens, chat)
    if chat:
        return tokenizer.chat(text)
    record = manifest.tokenizer
    end = whole and record is not None and record.add_eos
    ids = tokenizer.encode(text, record is not None and record.add_bos)
    return [*ids, *manifest.model.eos_token_ids[:1]] if end else ids


def _encode_messages(
    bundle: Bundle, messages: Sequence[Message], images: Sequence[Image], pan_and_scan: bool
) -> tuple[list[int], list[Picture]]:
    turns, inside = read_turns(messages)
    if inside and images:
        raise UsageError(f"{IMAGES}: expected them in the messages or beside them, got both")
    pictures = read_images(bundle, [*images, *inside], pan_and_scan)
    vision = bundle.manifest.vision
    tokens = None if vision is None else image_tokens(vision)
    return encode_chat(open_tokenizer(bundle), turns, [p.crops for p in pictures], tokens), pictures


def _check_ids(prompt: Any, where: str) -> list[int]:
    try:
        return [operator.index(token) for token in prompt]
    except TypeError as error:
        raise UsageError(
            f"{where}: expected a text, token ids or messages, got {str(prompt)[:80]!r}"
        ) from error
