"""Images of a request inside the graph: encoded, and taken in without splitting any."""

# The stubs of TensorFlow that pyright brings lack operators and many functions.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from ...artifacts.manifest import ProgramName
from .calls import Calls, Flat, InputsAt, Shape, Span, choose, chunk, inputs_of, last_of
from .checks import Texts, after, require


class Soft(NamedTuple):
    """Soft tokens of all images.

    values: [S,D] float32, image after image.
    index: [R,W] int32, the row of `values` that stands at each place, -1 for text.
    """

    values: tf.Tensor
    index: tf.Tensor


def soft_tokens(calls: Calls, texts: Texts, pixels: tf.Tensor) -> Soft:
    """Encode pixels [n,3,I,I]; the images stand in the rows' soft tokens, row after row."""
    vision = calls.manifest.vision
    assert vision is not None
    images, width = tf.shape(pixels)[0], tf.shape(texts.tokens)[1]
    inside = tf.sequence_mask(texts.lengths, width)
    soft = inside & (texts.tokens == vision.soft_token_id)
    in_rows = tf.reduce_sum(tf.cast(soft, tf.int32), axis=1)
    per_image = vision.tokens_per_image
    asserts = [
        require(images >= 1, "pixels", "at least one image", images),
        require(
            tf.reduce_all(in_rows % per_image == 0), "tokens",
            f"{per_image} of id {vision.soft_token_id} for each image", in_rows,
        ),
        require(
            tf.reduce_sum(in_rows) == images * per_image, "pixels",
            f"an image for each {per_image} of id {vision.soft_token_id} in tokens", images,
        ),
    ]  # fmt: skip
    checked = after(asserts, {"pixels": pixels, "soft": soft})
    flat = tf.reshape(tf.cast(checked["soft"], tf.int32), [-1])
    order = tf.reshape(tf.cumsum(flat) - 1, tf.shape(texts.tokens))
    return Soft(_encode(calls, checked["pixels"]), tf.where(checked["soft"], order, -1))


def _encode(calls: Calls, pixels: tf.Tensor) -> tf.Tensor:
    """Soft tokens [n*M,D]: while images remain, the smallest program that holds them all."""
    vision = calls.manifest.vision
    assert vision is not None
    per_image, width = vision.tokens_per_image, vision.soft_token_size
    shapes = calls.shapes(ProgramName.ENCODE_IMAGE)
    images = tf.shape(pixels)[0]

    def body(done: tf.Tensor, found: tf.Tensor):
        left = images - done

        def call(shape: Shape):
            used = tf.minimum(left, shape.batch)
            now = tf.pad(pixels[done : done + used], [[0, shape.batch - used], *[[0, 0]] * 3])
            now.set_shape([shape.batch, *pixels.shape[1:]])
            (made,), _ = calls.run(ProgramName.ENCODE_IMAGE, shape, per_image, (now,), ())
            return done + used, tf.concat([found, made[:used]], axis=0)

        return choose(tf.constant([shape.batch for shape in shapes]) >= left, shapes, call)

    _, found = tf.while_loop(
        lambda done, _: done < images, body,
        (tf.constant(0), tf.zeros([0, per_image, width], tf.float32)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, per_image, width])),
        parallel_iterations=1,
    )  # fmt: skip
    return tf.reshape(found, [-1, width])


def read_images(
    calls: Calls, shape: Shape, texts: Texts, soft: Soft, sampling: Flat
) -> tuple[tf.Tensor, Flat]:
    """As Calls.prefill, for texts of `shape.batch` rows with images in them.

    A chunk without images goes through the programs for texts, which do less.
    """
    name, collect = ProgramName.PREFILL_IMAGES, last_of(texts.lengths)
    sizes, text_sizes = calls.sizes(name, shape), calls.sizes(ProgramName.PREFILL, shape)
    begins = _run_begins(soft.index, sizes[-1])
    text_inputs, inputs_at = (
        inputs_of(texts, sampling),
        _inputs_of(shape.batch, texts, soft, sampling),
    )

    def body(start: tf.Tensor, results: tf.Tensor, cache: Flat):
        end = _cut(begins, soft.index, tf.minimum(start + sizes[-1], texts.lengths))
        length = tf.maximum(end - start, 0)
        widest = tf.reduce_max(length)

        def call(size: int):
            inputs = inputs_at(start, length, size)
            outputs, updated = calls.run(name, shape, size, inputs, cache)
            return collect(results, outputs[0], start, length), updated

        def see():
            return choose(tf.constant(sizes) >= widest, sizes, call)

        def read():
            return calls.read(
                ProgramName.PREFILL, shape, Span(start, length), text_inputs, results, collect,
                cache,
            )  # fmt: skip

        seen = _has_soft(soft.index, start, end) | (widest > max(text_sizes))
        results, cache = tf.cond(seen, see, read)
        return start + length, results, cache

    begin = tf.zeros_like(texts.lengths)
    _, results, cache = tf.while_loop(
        lambda start, *_: tf.reduce_any(start < texts.lengths), body,
        (begin, begin, calls.empty_cache(shape)), parallel_iterations=1,
    )  # fmt: skip
    return results, cache


def _inputs_of(batch: int, texts: Texts, soft: Soft, sampling: Flat) -> InputsAt:
    """The inputs of prefill calls of `batch` rows, that take in texts with images in them."""

    def inputs_at(start: tf.Tensor, length: tf.Tensor, size: int) -> Flat:
        index = tf.where(tf.sequence_mask(length, size), chunk(soft.index, start, length, size), -1)
        values = tf.gather(soft.values, tf.maximum(tf.reshape(index, [-1]), 0))
        order = tf.reshape(tf.range(batch * size), [batch, size])
        where = tf.where(index >= 0, order, -1)
        return chunk(texts.tokens, start, length, size), start, length, values, where, *sampling

    return inputs_at


def _cut(begins: tf.Tensor, index: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Where rows end a chunk: at `end` [B], or before the run of soft tokens it would split."""
    last = tf.shape(begins)[1] - 1
    at, before = tf.minimum(end, last)[:, None], tf.maximum(end - 1, 0)[:, None]
    starts = tf.gather(begins, at, batch_dims=1)[:, 0]
    same = starts == tf.gather(begins, before, batch_dims=1)[:, 0]
    is_soft = tf.gather(index, at, batch_dims=1)[:, 0] >= 0
    inside = is_soft & same & (end > 0) & (end <= last)
    return tf.where(inside, starts, end)


def _has_soft(index: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Whether any row has a soft token from its `start` [B] to its `end` [B]."""
    column = tf.range(tf.shape(index)[1])
    inside = (column >= start[:, None]) & (column < end[:, None])
    return tf.reduce_any(inside & (index >= 0))


def _run_begins(index: tf.Tensor, longest: int) -> tf.Tensor:
    """For each place of index [R,W] where the run of soft tokens that it is in begins [R,W].

    Places of text are runs of their own. Fails the call for a run of more than `longest`.
    """
    soft, width = index >= 0, tf.shape(index)[1]
    before = tf.pad(soft, [[0, 0], [1, 0]])[:, :-1]
    first = tf.cast(~(soft & before), tf.int32)
    # Runs of all rows are numbered through, rows never share one.
    first = tf.concat([tf.ones_like(first[:, :1]), first[:, 1:]], axis=1)
    number = tf.reshape(tf.cumsum(tf.reshape(first, [-1])) - 1, [-1])
    places = tf.reshape(tf.broadcast_to(tf.range(width), tf.shape(index)), [-1])
    begins = tf.gather(tf.math.segment_min(places, number), number)
    begins = tf.reshape(begins, tf.shape(index))
    spans = tf.where(soft, tf.range(width) - begins + 1, 0)
    fits = require(
        tf.reduce_all(spans <= longest), "tokens",
        f"at most {longest} soft tokens on end (the largest prefill bucket)",
        tf.reduce_max(spans),
    )  # fmt: skip
    with tf.control_dependencies([fits]):
        return tf.identity(begins)
