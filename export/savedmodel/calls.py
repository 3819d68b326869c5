"""Whole requests inside the graph: the loops around programs that a host would otherwise run.

The programs are called in the order, and with the chunks, that FORMAT.md prescribes for hosts,
so that the tokens are those of any other host. Each is compiled when first called.
"""

# The stubs of TensorFlow that pyright brings lack operators and many functions.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from ...artifacts.chunks import first_chunks
from ...artifacts.manifest import Bucket, Manifest, Program, ProgramName
from .checks import Texts

Flat = tuple[tf.Tensor, ...]
Method = Callable[[tuple[Flat, Flat]], tuple[Flat, Flat]]
"""A program with its weights bound: (inputs, cache) to (outputs, cache)."""


class Shape(NamedTuple):
    """Batch and cache length of the programs that serve a call."""

    batch: int
    cache: int


class Generated(NamedTuple):
    """New tokens [R,N] int32 with zeros behind them, and how many each row has [R] int32."""

    tokens: tf.Tensor
    counts: tf.Tensor


@dataclass(frozen=True)
class Calls:
    """The programs of one device as functions of TF tensors."""

    manifest: Manifest
    programs: dict[Bucket, Program]
    methods: dict[Bucket, Method]

    def shapes(self, program: ProgramName) -> tuple[Shape, ...]:
        """Batch and cache lengths of a program, smallest batch first."""
        found = {Shape(b.batch, b.cache) for b in self.programs if b.program is program}
        return tuple(sorted(found))

    def sizes(self, program: ProgramName, shape: Shape) -> tuple[int, ...]:
        """Token sizes of a program at a batch and cache length, ascending."""
        return tuple(
            sorted(
                b.tokens
                for b in self.programs
                if b.program is program and Shape(b.batch, b.cache) == shape
            )
        )

    def most_rows(self, program: ProgramName) -> int:
        """Rows of the largest batch."""
        return max(shape.batch for shape in self.shapes(program))

    def longest(self, program: ProgramName) -> int:
        """Positions of the longest cache."""
        return max(shape.cache for shape in self.shapes(program))

    def in_shape(
        self, program: ProgramName, rows: tf.Tensor, needed: tf.Tensor,
        branch: Callable[[Shape], tf.Tensor | Flat],
    ):  # fmt: skip
        """`branch` of the smallest batch that holds `rows`, then the shortest cache that fits."""
        shapes = self.shapes(program)
        batches = tf.constant([shape.batch for shape in shapes])
        caches = tf.constant([shape.cache for shape in shapes])
        return choose((batches >= rows) & (caches >= needed), shapes, branch)

    def empty_cache(self, shape: Shape) -> Flat:
        """Zeros: nothing marks what is valid."""
        tensors = next(
            program.cache
            for bucket, program in self.programs.items()
            if program.cache and Shape(bucket.batch, bucket.cache) == shape
        )
        return tuple(tf.zeros(t.shape, tf.dtypes.as_dtype(t.dtype)) for t in tensors)

    def run(self, program: ProgramName, shape: Shape, size: int, inputs: Flat, cache: Flat):
        """One call of a program: (outputs, cache)."""
        return self.methods[Bucket(program, shape.batch, size, shape.cache)]((inputs, cache))

    def read(
        self, program: ProgramName, shape: Shape, texts: Span, inputs_at: InputsAt,
        results: tf.Tensor, collect: Collect, cache: Flat,
    ) -> tuple[tf.Tensor, Flat]:  # fmt: skip
        """Take texts in by the chunks with the least work, those of the longest row for all.

        `collect` turns results [B,...] and a call's first output into new results.
        """
        sizes = self.sizes(program, shape)
        unit, first = math.gcd(*sizes), first_chunks(shape.cache, sizes)
        # Of a text that takes so many units: which size comes next.
        following = tf.constant([sizes.index(size) for size in (sizes[0], *first[1:])])
        begin, lengths = texts

        def body(done: tf.Tensor, results: tf.Tensor, cache: Flat):
            left = lengths - done

            def call(size: int):
                start, length = begin + tf.minimum(done, lengths), tf.clip_by_value(left, 0, size)
                inputs = inputs_at(start, length, size)
                outputs, updated = self.run(program, shape, size, inputs, cache)
                return done + size, collect(results, outputs[0], start, length), updated

            units = (tf.reduce_max(left) + unit - 1) // unit
            return choose_at(following[units], sizes, call)

        _, results, cache = tf.while_loop(
            lambda done, *_: done < tf.reduce_max(lengths), body,
            (tf.constant(0), results, cache),
            # A call may read from the cache that the one before has written: one at a time.
            parallel_iterations=1,
        )  # fmt: skip
        return results, cache

    def prefill(
        self, shape: Shape, texts: Texts, sampling: Flat, cache: Flat
    ) -> tuple[tf.Tensor, Flat]:
        """Texts of `shape.batch` rows: the token after each [B], and the cache."""

        return self.read(
            ProgramName.PREFILL, shape, whole(texts.lengths), inputs_of(texts, sampling),
            tf.zeros_like(texts.lengths), last_of(texts.lengths), cache,
        )  # fmt: skip

    def generate(
        self, shape: Shape, first: tf.Tensor, position: tf.Tensor, limit: tf.Tensor,
        stop: tf.Tensor, sampling: Flat, cache: Flat,
    ) -> tuple[Generated, tf.Tensor, tf.Tensor, Flat]:  # fmt: skip
        """Go on from tokens [B] not yet in the cache, that stand at `position` [B].

        Returns `limit` [B] tokens or fewer of each row, its last token and that one's position,
        and the cache.
        """
        sizes = self.sizes(ProgramName.GENERATE, shape)

        def body(token, position, remaining, tokens, counts, cache):
            wanted = tf.minimum(tf.reduce_max(remaining), sizes[-1])

            def call(size: int):
                now = tf.minimum(remaining, size)
                inputs = (token, position, now, stop, *sampling)
                outputs, updated = self.run(ProgramName.GENERATE, shape, size, inputs, cache)
                new, count, stopped, last, at = outputs
                active = now > 0
                count = tf.where(active, count, 0)
                return (
                    tf.where(active, last, token), tf.where(active, at, position),
                    tf.where(stopped == 1, 0, remaining - count),
                    place(tokens, counts, count, new), counts + count, updated,
                )  # fmt: skip

            return choose(tf.constant(sizes) >= wanted, sizes, call)

        empty = tf.zeros([shape.batch, tf.reduce_max(limit)], tf.int32)
        token, position, _, tokens, counts, cache = tf.while_loop(
            lambda token, position, remaining, *_: tf.reduce_any(remaining > 0), body,
            (first, position, limit, empty, tf.zeros_like(limit), cache),
            parallel_iterations=1,
        )  # fmt: skip
        return Generated(tokens, counts), token, position, cache


class Span(NamedTuple):
    """A part of each row: where it begins [B], and its tokens [B]."""

    start: tf.Tensor
    length: tf.Tensor


InputsAt = Callable[[tf.Tensor, tf.Tensor, int], Flat]
"""The inputs of a call from its start [B], length [B] and size."""
Collect = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""New results from the results so far, an output, start [B] and length [B]."""


def choose(fits: tf.Tensor, options: Sequence, branch: Callable):
    """`branch` of the first option that fits, of the last when none does."""
    first = tf.where(tf.reduce_any(fits), tf.argmax(tf.cast(fits, tf.int32)), len(options) - 1)
    return choose_at(first, options, branch)


def choose_at(index: tf.Tensor, options: Sequence, branch: Callable):
    """`branch` of the option at `index`, a number."""
    if len(options) == 1:
        return branch(options[0])
    return tf.switch_case(
        tf.cast(index, tf.int32), [lambda option=option: branch(option) for option in options]
    )


def whole(lengths: tf.Tensor) -> Span:
    """Texts [B] from their beginnings to their ends."""
    return Span(tf.zeros_like(lengths), lengths)


def inputs_of(texts: Texts, sampling: Flat) -> InputsAt:
    """The inputs of prefill calls that take in the texts."""

    def inputs_at(start: tf.Tensor, length: tf.Tensor, size: int) -> Flat:
        return chunk(texts.tokens, start, length, size), start, length, *sampling

    return inputs_at


def last_of(lengths: tf.Tensor) -> Collect:
    """Of a call's output [B,...] what belongs to rows whose text ends in the call."""

    def collect(results, output, start, length):
        ends = (length > 0) & (start + length == lengths)
        return tf.where(tf.reshape(ends, [-1] + [1] * (len(output.shape) - 1)), output, results)

    return collect


def chunk(values: tf.Tensor, start: tf.Tensor, length: tf.Tensor, size: int) -> tf.Tensor:
    """`length` [B] of values [B,W] from place `start` [B] on, then zeros: [B,size]."""
    last = tf.maximum(tf.shape(values)[1] - 1, 0)
    at = tf.minimum(start[:, None] + tf.range(size), last)
    inside = tf.sequence_mask(length, size)
    chunk_values = tf.gather(values, at, batch_dims=1)
    return tf.ensure_shape(
        tf.where(inside, chunk_values, tf.zeros_like(chunk_values)), [None, size]
    )


def place(buffer: tf.Tensor, start: tf.Tensor, count: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """buffer [B,W] with the first `count` [B] of values [B,T] written from place `start` [B] on."""
    offset = tf.range(tf.shape(buffer)[1]) - start[:, None]  # [B,W]
    is_new = (offset >= 0) & (offset < count[:, None])
    source = tf.clip_by_value(offset, 0, tf.shape(values)[1] - 1)
    return tf.where(is_new, tf.gather(values, source, batch_dims=1), buffer)


def pad_rows(value: tf.Tensor, batch: int, fill: float = 0) -> tf.Tensor:
    """value [R,...] with rows of `fill` added: [batch,...]."""
    padding = [[0, batch - tf.shape(value)[0]]] + [[0, 0]] * (len(value.shape) - 1)
    padded = tf.pad(value, padding, constant_values=tf.cast(fill, value.dtype))
    padded.set_shape([batch, *value.shape[1:]])
    return padded
