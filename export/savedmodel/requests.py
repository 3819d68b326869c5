"""The signatures that answer a whole request in one call: generate, score, classify, embed."""

# The stubs of TensorFlow that pyright brings lack operators and many functions.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from ...artifacts.convention import IGNORED_LABEL, SAMPLING
from ...artifacts.manifest import ProgramName
from .calls import (
    Calls,
    Flat,
    Generated,
    Shape,
    choose,
    chunk,
    last_of,
    pad_rows,
    place,
    whole,
)
from .checks import (
    Tensors,
    Texts,
    check_fit,
    check_limits,
    check_sampling,
    check_texts,
)
from .images import Soft, read_images, soft_tokens


@dataclass(frozen=True)
class GenerateRequest:
    """A checked request of R rows; sampling holds the sampling inputs, [R] each."""

    texts: Texts
    limit: tf.Tensor
    stop: tf.Tensor
    sampling: Flat

    def padded(self, batch: int) -> GenerateRequest:
        """The same with idle rows up to `batch`."""
        return GenerateRequest(
            padded_texts(self.texts, batch), pad_rows(self.limit, batch),
            pad_rows(self.stop, batch, -1), padded_sampling(self.sampling, batch),
        )  # fmt: skip


def padded_texts(texts: Texts, batch: int) -> Texts:
    """The texts and empty ones up to `batch`."""
    return Texts(pad_rows(texts.tokens, batch), pad_rows(texts.lengths, batch))


def padded_sampling(sampling: Flat, batch: int) -> Flat:
    """The parameters with those of idle rows up to `batch`."""
    return tuple(
        pad_rows(values, batch, each.default)
        for values, each in zip(sampling, SAMPLING, strict=True)
    )


def check_request(calls: Calls, values: Tensors) -> GenerateRequest:
    """What `generate` asks for; fails the call for what cannot be."""
    vocab_size = calls.manifest.model.vocab_size
    texts = check_texts(values, vocab_size, calls.most_rows(ProgramName.GENERATE))
    rows = tf.shape(texts.tokens)[0]
    limit, stop = check_limits(values, rows, vocab_size)
    texts = check_fit(texts, limit, calls.longest(ProgramName.GENERATE))
    return GenerateRequest(texts, limit, stop, check_sampling(values, rows))


def generate(calls: Calls, values: Tensors) -> Tensors:
    """The signature `generate`."""
    request = check_request(calls, values)
    return _answer(calls, request, lambda shape, padded: _first_tokens(calls, shape, padded))


def generate_images(calls: Calls, values: Tensors) -> Tensors:
    """The signature `generate_images`: the images stand where the soft tokens are, in order."""
    request = check_request(calls, values)
    soft = soft_tokens(calls, request.texts, values["pixels"])

    def first(shape: Shape, padded: GenerateRequest):
        images = Soft(soft.values, pad_rows(soft.index, shape.batch, -1))
        return read_images(calls, shape, padded.texts, images, padded.sampling)

    return _answer(calls, request, first)


def _first_tokens(calls: Calls, shape: Shape, padded: GenerateRequest) -> tuple[tf.Tensor, Flat]:
    return calls.prefill(shape, padded.texts, padded.sampling, calls.empty_cache(shape))


def _answer(calls: Calls, request: GenerateRequest, first_tokens) -> Tensors:
    rows = tf.shape(request.texts.tokens)[0]
    needed = tf.reduce_max(request.texts.lengths + request.limit)

    def answer(shape: Shape) -> Generated:
        padded = request.padded(shape.batch)
        first, cache = first_tokens(shape, padded)
        made, _, _, _ = continued(calls, shape, padded, first, padded.texts.lengths, cache)
        return Generated(made.tokens[:rows], made.counts[:rows])

    made = calls.in_shape(ProgramName.GENERATE, rows, needed, answer)
    return answered(made, request.stop)


def continued(
    calls: Calls, shape: Shape, request: GenerateRequest, first: tf.Tensor, position: tf.Tensor,
    cache: Flat,
) -> tuple[Generated, tf.Tensor, tf.Tensor, Flat]:  # fmt: skip
    """Up to `request.limit` tokens of each row that begin with `first` [B], which is given.

    As Calls.generate, which makes those that follow; `position` is the one of `first`.
    """
    one = tf.minimum(request.limit, 1)
    stopped = tf.reduce_any(first[:, None] == request.stop, axis=1)
    left = tf.where(stopped, 0, request.limit - one)
    rest, token, at, cache = calls.generate(
        shape, first, position, left, request.stop, request.sampling, cache
    )
    width = tf.reduce_max(request.limit)
    tokens = place(
        tf.zeros([shape.batch, width], tf.int32), tf.zeros_like(one), one, first[:, None]
    )
    more = tf.pad(rest.tokens, [[0, 0], [0, 1]])  # at least one place to take from
    return Generated(place(tokens, one, rest.counts, more), one + rest.counts), token, at, cache


def answered(made: Generated, stop: tf.Tensor) -> Tensors:
    """The outputs of a call that makes tokens."""
    last = tf.gather(made.tokens, tf.maximum(made.counts - 1, 0), batch_dims=1)
    stopped = tf.reduce_any(last[:, None] == stop, axis=1) & (made.counts > 0)
    reasons = tf.where(stopped, tf.constant("stop"), tf.constant("length"))
    return {"tokens": made.tokens, "counts": made.counts, "finish_reasons": reasons}


def score(calls: Calls, values: Tensors) -> Tensors:
    """The signature `score`: ln p of each token that follows, and the mean loss of each row."""
    name = ProgramName.SCORE
    vocab_size, most = calls.manifest.model.vocab_size, calls.most_rows(name)
    texts = check_fit(check_texts(values, vocab_size, most, least=2), 0, calls.longest(name))
    rows, width = tf.shape(texts.tokens)[0], tf.shape(texts.tokens)[1]

    def run(shape: Shape) -> tf.Tensor:
        padded = padded_texts(texts, shape.batch)
        following = tf.pad(padded.tokens[:, 1:], [[0, 0], [0, 1]])
        given = tf.sequence_mask(padded.lengths - 1, width)
        labels = tf.where(given, following, IGNORED_LABEL)

        def inputs_at(start, length, size):
            inside = tf.sequence_mask(length, size)
            wanted = tf.where(inside, chunk(labels, start, length, size), IGNORED_LABEL)
            return chunk(padded.tokens, start, length, size), start, length, wanted

        empty = tf.zeros([shape.batch, width], tf.float32)
        found, _ = calls.read(
            name, shape, whole(padded.lengths), inputs_at, empty,
            lambda results, output, start, length: place(results, start, length, output),
            calls.empty_cache(shape),
        )  # fmt: skip
        return found[:rows]

    logprobs = calls.in_shape(name, rows, tf.reduce_max(texts.lengths), run)
    loss = -tf.reduce_sum(logprobs, axis=1) / tf.cast(texts.lengths - 1, tf.float32)
    return {"logprobs": logprobs, "loss": loss}


def classify(calls: Calls, values: Tensors) -> Tensors:
    """The signature `classify`: a score for each class."""
    name = ProgramName.CLASSIFY
    model, most = calls.manifest.model, calls.most_rows(name)
    texts = check_fit(check_texts(values, model.vocab_size, most), 0, calls.longest(name))
    rows = tf.shape(texts.tokens)[0]

    def run(shape: Shape) -> tf.Tensor:
        padded = padded_texts(texts, shape.batch)

        def inputs_at(start, length, size):
            return chunk(padded.tokens, start, length, size), start, length

        empty = tf.zeros([shape.batch, len(model.labels)], tf.float32)
        found, _ = calls.read(
            name, shape, whole(padded.lengths), inputs_at, empty, last_of(padded.lengths),
            calls.empty_cache(shape),
        )  # fmt: skip
        return found[:rows]

    return {"scores": calls.in_shape(name, rows, tf.reduce_max(texts.lengths), run)}


def embed(calls: Calls, values: Tensors) -> Tensors:
    """The signature `embed`: the vector of each text, read whole."""
    name = ProgramName.EMBED
    longest = max(bucket.tokens for bucket in calls.programs)
    texts = check_texts(values, calls.manifest.model.vocab_size, calls.most_rows(name))
    texts = check_fit(texts, 0, longest)
    rows, widest = tf.shape(texts.tokens)[0], tf.reduce_max(texts.lengths)

    def run(shape: Shape) -> tf.Tensor:
        padded, sizes = padded_texts(texts, shape.batch), calls.sizes(name, shape)

        def call(size: int) -> tf.Tensor:
            tokens = chunk(padded.tokens, tf.zeros_like(padded.lengths), padded.lengths, size)
            outputs, _ = calls.run(name, shape, size, (tokens, padded.lengths), ())
            return outputs[0]

        return choose(tf.constant(sizes) >= widest, sizes, call)[:rows]

    return {"embedding": calls.in_shape(name, rows, tf.constant(0), run)}
