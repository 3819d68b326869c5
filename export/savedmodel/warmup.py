"""Requests that a server runs before it is ready, so that every program is compiled by then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from ...artifacts.convention import SAMPLING
from ...artifacts.manifest import Bucket, Manifest, Program, ProgramName
from ...artifacts.serving.messages import Fill, warmup_record
from ...artifacts.serving.signatures import (
    MODEL_NAME,
    SAMPLING_ARRAYS,
    SignatureName,
    program_signature_name,
    saved_model_programs,
    tensor_name,
)

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
_MOST_RECORDS = 1000  # the server refuses more
Inputs = Mapping[str, np.ndarray | Fill]
_CHUNKED = {
    ProgramName.PREFILL: SignatureName.GENERATE,
    ProgramName.PREFILL_IMAGES: SignatureName.GENERATE_IMAGES,
    ProgramName.SCORE: SignatureName.SCORE,
    ProgramName.CLASSIFY: SignatureName.CLASSIFY,
    ProgramName.EMBED: SignatureName.EMBED,
}
_NEW_TOKENS = 2  # the first is the prefill's


def write_warmup(manifest: Manifest, folder: Path) -> None:
    """Write the requests into the SavedModel's folder."""
    path = folder / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, inputs in list(warmup_requests(manifest))[:_MOST_RECORDS]:
            file.write(warmup_record(MODEL_NAME, signature, inputs))


def warmup_requests(manifest: Manifest) -> Iterator[tuple[str, Inputs]]:
    """Signature and inputs of requests that between them call every program.

    What needs an owner's number, decode_slot and release_slot, cannot be asked for beforehand; it
    calls the programs that `generate` has compiled.
    """
    programs = saved_model_programs(manifest)
    for program in programs:
        bucket = program.bucket
        if bucket.program in (ProgramName.PREFILL, ProgramName.DECODE):
            yield program_signature_name(bucket), _alone(program)
        if bucket.program in _CHUNKED:
            yield _CHUNKED[bucket.program], _whole(manifest, programs, bucket)


def _alone(program: Program) -> Inputs:
    """Zeros, which every program takes, but for inputs that have another neutral value."""
    inputs = {tensor_name(t): Fill(t.shape, t.dtype, int(t.neutral or 0)) for t in program.inputs}
    return inputs | {tensor_name(t): Fill(t.shape, t.dtype, 0) for t in program.cache}


def _whole(manifest: Manifest, programs: tuple[Program, ...], bucket: Bucket) -> Inputs:
    """A request that ends with a chunk of this bucket, in its batch and cache."""
    rows, length = bucket.batch, _length(programs, bucket)
    tokens = np.full((rows, length), manifest.model.bos_token_id, np.int32)
    inputs: dict[str, np.ndarray] = {"lengths": np.full(rows, length, np.int32)}
    if bucket.program is ProgramName.PREFILL_IMAGES:
        vision = manifest.vision
        assert vision is not None
        tokens[0, : vision.tokens_per_image] = vision.soft_token_id
        side = vision.image_size
        inputs["pixels"] = np.zeros((1, len(vision.channels), side, side), np.float32)
    inputs["tokens"] = tokens
    if bucket.program in (ProgramName.PREFILL, ProgramName.PREFILL_IMAGES):
        inputs |= {
            "max_new_tokens": np.full(rows, _NEW_TOKENS, np.int32),
            "stop_tokens": np.full((rows, 1), -1, np.int32),
            **{
                array.name: np.full(rows, each.neutral, array.dtype)
                for array, each in zip(SAMPLING_ARRAYS, SAMPLING, strict=True)
            },
        }
    return inputs


def _length(programs: tuple[Program, ...], bucket: Bucket) -> int:
    """Tokens of a text that the bucket's program takes in last, in the bucket's cache.

    Shorter caches must not hold it, so whole chunks of the largest size may come first.
    """
    beside = [p.bucket for p in programs if p.bucket.program is bucket.program]
    largest = max(b.tokens for b in beside if b.cache == bucket.cache)
    shorter = max((b.cache for b in beside if b.cache < bucket.cache), default=0)
    whole = -(-max(shorter + 1 - _NEW_TOKENS - bucket.tokens, 0) // largest) * largest
    longest = bucket.cache - _NEW_TOKENS if bucket.cache else bucket.tokens
    return max(min(whole + bucket.tokens, longest), 1)
