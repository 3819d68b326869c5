"""What a signature refuses, inside the graph, so that every server refuses it alike.

TF turns a failed assertion into INVALID_ARGUMENT with its text, which begins with the name of
the input. Inputs come with unknown shapes: only then is their rank looked at when they come.
"""

# The stubs of TensorFlow that pyright brings lack operators and many functions.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from ...artifacts.convention import SAMPLING, STOP_TOKENS, SamplingInput
from ...artifacts.manifest import Array
from ...artifacts.serving.signatures import ANY

Tensors = dict[str, tf.Tensor]


def require(holds: tf.Tensor, field: str, expected: str, got: tf.Tensor) -> tf.Operation:
    """An assertion that names the input and what was expected of it."""
    return tf.debugging.Assert(holds, [f"{field}: expected {expected}, got", got])


def shaped(values: Mapping[str, tf.Tensor], arrays: Sequence[Array]) -> Tensors:
    """The inputs with the ranks and sizes of `arrays`; fails the call when one has another."""
    asserts = [_check_shape(values[array.name], array) for array in arrays]
    checked = after(asserts, {array.name: values[array.name] for array in arrays})
    for array in arrays:
        checked[array.name].set_shape([None if size == ANY else size for size in array.shape])
    return checked


def after(asserts: Sequence[tf.Operation], values: Mapping[str, tf.Tensor]) -> Tensors:
    """The same tensors, not to be had before the assertions hold."""
    with tf.control_dependencies(asserts):
        return {name: tf.identity(value) for name, value in values.items()}


def _check_shape(value: tf.Tensor, array: Array) -> tf.Operation:
    wanted = ",".join("any" if size == ANY else str(size) for size in array.shape)
    shape, rank = tf.shape(value), len(array.shape)
    ranked = tf.equal(tf.size(shape), rank)
    # Compared only where the ranks agree: a slice of a shorter shape would fail unnamed.
    padded = tf.pad(shape, [[0, rank]])[:rank]
    sizes = tf.constant(array.shape, tf.int32)
    fits = tf.reduce_all((sizes == ANY) | (padded == sizes))
    return require(ranked & fits, array.name, f"shape ({wanted})", shape)


@dataclass(frozen=True)
class Texts:
    """Rows of token ids: tokens [R,W] int32, lengths [R] int32, at least one row and token."""

    tokens: tf.Tensor
    lengths: tf.Tensor


def check_texts(values: Tensors, vocab_size: int, most_rows: int, least: int = 1) -> Texts:
    """Texts whose lengths lie within their rows and whose valid tokens are ids of the model."""
    tokens, lengths = values["tokens"], values["lengths"]
    rows, width = tf.shape(tokens)[0], tf.shape(tokens)[1]
    asserts = [
        require((rows >= 1) & (rows <= most_rows), "tokens", f"1 to {most_rows} rows", rows),
        require(tf.shape(lengths)[0] == rows, "lengths", "one for each row of tokens",
                tf.shape(lengths)[0]),
        require(tf.reduce_all((lengths >= least) & (lengths <= width)), "lengths",
                f"{least} to the width of tokens", lengths),
    ]  # fmt: skip
    checked = after(asserts, {"tokens": tokens, "lengths": lengths})
    tokens, lengths = checked["tokens"], checked["lengths"]
    valid = tf.sequence_mask(lengths, width)
    known = (tokens >= 0) & (tokens < vocab_size)
    strangers = tf.boolean_mask(tokens, valid & ~known)
    fine = require(tf.size(strangers) == 0, "tokens", f"ids from 0 to {vocab_size - 1}", strangers)
    checked = after([fine], {"tokens": tf.where(valid, tokens, 0), "lengths": lengths})
    return Texts(checked["tokens"], checked["lengths"])


def check_fit(texts: Texts, new_tokens: tf.Tensor | int, cache: int) -> Texts:
    """The texts, refused when one and its new tokens do not fit into the longest cache."""
    free = cache - texts.lengths
    fits = require(
        tf.reduce_all(texts.lengths <= cache), "lengths",
        f"at most {cache} (the largest cache bucket)", texts.lengths,
    )  # fmt: skip
    asserts = [fits]
    if not isinstance(new_tokens, int):
        asserts.append(
            require(
                tf.reduce_all(new_tokens <= free), "max_new_tokens",
                f"at most {cache} (the largest cache bucket) less the length of the row",
                new_tokens,
            )
        )  # fmt: skip
    checked = after(asserts, {"tokens": texts.tokens, "lengths": texts.lengths})
    return Texts(checked["tokens"], checked["lengths"])


def check_limits(values: Tensors, rows: tf.Tensor, vocab_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """max_new_tokens [R], and stop_tokens [R,8] with -1 in unused places."""
    limit, stop = values["max_new_tokens"], values["stop_tokens"]
    most = tf.shape(stop)[1]
    asserts = [
        require(tf.shape(limit)[0] == rows, "max_new_tokens", "one for each row of tokens",
                tf.shape(limit)[0]),
        require(tf.reduce_all(limit >= 1), "max_new_tokens", "at least 1", limit),
        require(tf.shape(stop)[0] == rows, "stop_tokens", "a row for each row of tokens",
                tf.shape(stop)[0]),
        require(most <= STOP_TOKENS, "stop_tokens", f"at most {STOP_TOKENS} a row", most),
        require(tf.reduce_all((stop >= -1) & (stop < vocab_size)), "stop_tokens",
                f"ids from 0 to {vocab_size - 1}, or -1 for none", stop),
    ]  # fmt: skip
    checked = after(asserts, {"limit": limit, "stop": stop})
    padding = tf.maximum(STOP_TOKENS - tf.shape(checked["stop"])[1], 0)
    stop = tf.pad(checked["stop"], [[0, 0], [0, padding]], constant_values=-1)
    return checked["limit"], tf.ensure_shape(stop, [None, STOP_TOKENS])


def check_sampling(values: Tensors, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The sampling inputs of a program, [R] each."""
    asserts = []
    for each in SAMPLING:
        value = values[each.name]
        most = min(each.most, value.dtype.max)
        above = value > each.least if each.above_least else value >= each.least
        asserts += [
            require(tf.shape(value)[0] == rows, each.name, "one for each row", tf.shape(value)[0]),
            require(tf.reduce_all(above & (value <= most)), each.name, each.expected, value),
        ]
    checked = after(asserts, {each.name: values[each.name] for each in SAMPLING})
    return tuple(_fed(each, checked[each.name]) for each in SAMPLING)


def _fed(each: SamplingInput, value: tf.Tensor) -> tf.Tensor:
    """A sampling parameter as programs take it."""
    neutral = tf.cast(each.neutral, value.dtype)
    least, most = (tf.cast(bound, value.dtype) for bound in each.fed)
    return tf.cast(
        tf.where(value == neutral, neutral, tf.clip_by_value(value, least, most)), each.dtype
    )
