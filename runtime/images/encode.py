"""Images of a request: what is asked of them, and what they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.errors import UsageError
from ...artifacts.manifest import Bucket, ProgramName
from ..loading.buckets import split_rows
from .prompt import check_soft_tokens, image_tokens, soft_token_index

if TYPE_CHECKING:
    from ..loading.model import LoadedModel

Prompts = Sequence[Sequence[int]]
Images = Sequence[np.ndarray]
"""For each prompt the normalised pixels [n,3,size,size] float32 of its n images, in order."""


def check_images(model: LoadedModel, prompts: Prompts, images: Images) -> None:
    """Refuse images that the model cannot see, or prompts with places for another number.

    `images` may be empty: there are none then. Raises UsageError.
    """
    vision = model.bundle.manifest.vision
    if vision is None or not model.grid.image_counts():
        if has_images(images):
            raise UsageError(
                f"images: {model.grid.source} has no encode_image program; export a checkpoint "
                "that sees images"
            )
        return
    if images and len(images) != len(prompts):
        raise UsageError(
            f"images: expected an array for each of the {len(prompts)} prompts, got {len(images)}"
        )
    side = vision.image_size
    for pixels in images:
        if pixels.dtype != np.float32 or pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            shape = ",".join(map(str, pixels.shape))
            raise UsageError(
                f"images: expected pixels [n,3,{side},{side}] float32, got [{shape}] "
                f"{pixels.dtype}; load them with gemma3_export.runtime.images.files.load_images"
            )
    for row, prompt in enumerate(prompts):
        check_soft_tokens(prompt, len(images[row]) if images else 0, image_tokens(vision))


def has_images(images: Images) -> bool:
    """Whether there is any image."""
    return any(len(pixels) for pixels in images)


def encode_buckets(model: LoadedModel, count: int) -> set[Bucket]:
    """The programs that encode `count` images."""
    return {bucket for bucket, _ in _encode_calls(model, count)} if count else set()


def _encode_calls(model: LoadedModel, count: int) -> list[tuple[Bucket, int]]:
    """The calls that encode `count` images: bucket, and images that are in it."""
    vision = model.bundle.manifest.vision
    assert vision is not None
    return [
        (Bucket(ProgramName.ENCODE_IMAGE, size, vision.tokens_per_image, 0), used)
        for used, size in split_rows(count, model.grid.image_counts())
    ]


def encode_images(model: LoadedModel, pixels: np.ndarray) -> np.ndarray:
    """Soft tokens [n,M,D] float32 of images [n,3,size,size] float32, n at least 1."""
    found, done = [], 0
    for bucket, used in _encode_calls(model, len(pixels)):
        batch = np.zeros((bucket.batch, *pixels.shape[1:]), np.float32)
        batch[:used] = pixels[done : done + used]
        (soft,), _ = model.program(bucket)({"pixels": batch}, ())
        found.append(np.asarray(soft)[:used])
        done += used
    return np.concatenate(found)


@dataclass(frozen=True)
class SoftPrompts:
    """Prompts whose images are encoded.

    values: [R,D] float32, soft tokens of all rows, end to end.
    index: for each row and place the row of `values` that stands there, -1 for text.
    """

    values: np.ndarray
    index: list[np.ndarray]

    def inputs(
        self, rows: Sequence[tuple[int, int]], size: int, batch: int
    ) -> dict[str, np.ndarray]:
        """soft_tokens [B*T,D] and soft_index [B,T] of a call of `size` tokens: what it needs.

        `rows` says what each row feeds, as (start, length).
        """
        room = np.zeros((batch * size, self.values.shape[1]), np.float32)
        places = np.full((batch, size), -1, np.int32)
        used = 0
        for row, (start, length) in enumerate(rows):
            wanted = self.index[row][start : start + length]
            soft = wanted[wanted >= 0]
            room[used : used + len(soft)] = self.values[soft]
            places[row, :length][wanted >= 0] = np.arange(used, used + len(soft))
            used += len(soft)
        return {"soft_tokens": room, "soft_index": places}


def encode_prompts(model: LoadedModel, prompts: Prompts, images: Images) -> SoftPrompts:
    """Encode the images of prompts; there must be at least one."""
    vision = model.bundle.manifest.vision
    assert vision is not None
    soft = encode_images(model, np.concatenate(list(images)))
    index, offset = [], 0
    for prompt, pixels in zip(prompts, images, strict=True):
        tokens = len(pixels) * vision.tokens_per_image
        places = soft_token_index(prompt, image_tokens(vision))
        # A session feeds the token drawn last before the prompt: if it is such an id, it is of no
        # image of the prompt.
        places = np.where(places >= 0, places - (places.max(initial=-1) + 1 - tokens), -1)
        index.append(np.where(places >= 0, places + offset, -1))
        offset += tokens
    return SoftPrompts(soft.reshape(-1, soft.shape[-1]), index)
