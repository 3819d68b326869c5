"""Choosing the next token on the device, without sorting the vocabulary.

Order as in Hugging Face: the penalty of repetitions, temperature, then top-k, top-p and min-p, each
on what the one before it kept. The cut-offs are found by bisection on the logits' bit patterns: 32
counting passes over V numbers give the exact threshold, where a sort of 262,144 would cost far
more. Candidates tied at a threshold are all kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..model.lowering.context import LoweringContext
from ..model.lowering.target import Platform

Array = jax.Array

# Blocks of fewer numbers cost more than they spare.
_SMALLEST_BLOCK = 16


class SamplingInputs(NamedTuple):
    """Per-row sampling parameters, each [B]."""

    temperature: Array
    """float32; 0 is greedy."""
    top_k: Array
    """int32; 0 is off."""
    top_p: Array
    """float32; 1 is off."""
    min_p: Array
    """float32; 0 is off."""
    seed: Array
    """uint32."""
    repetition_penalty: Array
    """float32; 1 is off."""


def whole_largest(x: Array) -> Array:
    """x [B,V] -> [B] int32: the place of the largest number of each row, the first of equals."""
    return jnp.argmax(x, axis=-1).astype(jnp.int32)


def blocked_largest(x: Array) -> Array:
    """`whole_largest` of the block with the largest number.

    XLA:CPU carries places along with numbers one by one, and finds the largest number of many
    blocks ten times as fast.
    """
    size = _block_size(x.shape[1])
    blocks = x.reshape(x.shape[0], -1, size)
    block = whole_largest(blocks.max(-1))
    chosen = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * size + whole_largest(chosen)


def choose_largest(context: LoweringContext, vocabulary: int) -> Callable[[Array], Array]:
    """How the largest logit is found, recorded under the role `sampling`."""
    blocked = context.platform == Platform.CPU and context.one_device
    form = blocked_largest if blocked and _block_size(vocabulary) > 1 else whole_largest
    context.recorder.forms["sampling"] = form.__name__
    return form


def _block_size(vocabulary: int) -> int:
    """The largest divisor of a vocabulary up to its root; 1 where that is too small."""
    root = math.isqrt(vocabulary)
    size = next(d for d in range(root, 0, -1) if vocabulary % d == 0)
    return size if size >= _SMALLEST_BLOCK else 1


def sample(
    logits: Array, position: Array, sampling: SamplingInputs, kept: Array,
    largest: Callable[[Array], Array] = whole_largest,
) -> Array:  # fmt: skip
    """The next token of each row, [B] int32.

    Args:
      logits: [B,V] float32.
      position: [B] int32, absolute position of the token being chosen. The noise depends on
        (seed, position) alone, so tokens do not depend on batching, chunking or program.
      kept: [B,S] int32, the tokens of each row by position; those from `position` on mean nothing.
      largest: of `choose_largest`.
    """
    return jax.lax.cond(
        jnp.any(sampling.repetition_penalty != 1),
        lambda: _drawn(_penalized(logits, position, kept, sampling), position, sampling, largest),
        lambda: _drawn(logits, position, sampling, largest),
    )


def _penalized(logits: Array, position: Array, kept: Array, sampling: SamplingInputs) -> Array:
    """Logits [B,V] where those of tokens that the row has are divided by the penalty, or multiplied
    where they are negative, as transformers' RepetitionPenaltyLogitsProcessor does it."""
    vocabulary = logits.shape[-1]
    has = jnp.arange(kept.shape[1], dtype=jnp.int32)[None, :] < position[:, None]
    tokens = jnp.where(has, kept, vocabulary)  # beyond all: read and written nowhere
    before = jnp.take_along_axis(logits, tokens, axis=1, mode="clip")
    penalty = sampling.repetition_penalty[:, None]
    after = jnp.where(before < 0, before * penalty, before / penalty)
    rows = jnp.arange(logits.shape[0], dtype=jnp.int32)[:, None]
    return logits.at[rows, tokens].set(after, mode="drop")


def _drawn(
    logits: Array, position: Array, sampling: SamplingInputs, largest: Callable[[Array], Array]
) -> Array:
    """The next token of each row, [B] int32, of final logits."""
    greedy = largest(logits)
    drawn = jax.lax.cond(
        jnp.any(sampling.temperature > 0),
        lambda: largest(_perturbed(logits, position, sampling)),
        lambda: greedy,
    )
    return jnp.where(sampling.temperature > 0, drawn, greedy)


def _perturbed(logits: Array, position: Array, sampling: SamplingInputs) -> Array:
    """Logits [B,V] with noise, whose largest is the draw; what is cut off is minus infinity."""
    scaled = logits / jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)[:, None]
    kept = jax.lax.cond(
        jnp.any((sampling.top_k > 0) | (sampling.top_p < 1)),
        lambda: _top_p(_top_k(scaled, sampling.top_k), sampling.top_p),
        lambda: scaled,
    )
    floor = kept.max(-1, keepdims=True) + jnp.log(sampling.min_p)[:, None]
    kept = jnp.where(kept >= floor, kept, -jnp.inf)
    return kept + _gumbel(logits.shape, position, sampling.seed)


def _gumbel(shape: tuple[int, ...], position: Array, seed: Array) -> Array:
    def row(seed: Array, position: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), position)
        return jax.random.gumbel(key, shape[1:], jnp.float32)

    return jax.vmap(row)(seed, position)


def _top_k(logits: Array, k: Array) -> Array:
    """Minus infinity below the k-th largest of each row; k = 0 keeps all."""
    count = jnp.where(k > 0, k, logits.shape[-1])[:, None]
    threshold = _largest_threshold(
        logits, lambda kept: kept.sum(-1, keepdims=True, dtype=jnp.int32) >= count
    )
    return jnp.where(_ordered(logits) >= threshold, logits, -jnp.inf)


def _top_p(logits: Array, p: Array) -> Array:
    """Keep the fewest most likely tokens whose probabilities add up to at least p, and one."""
    p = jnp.maximum(p, jnp.finfo(jnp.float32).tiny)  # at p = 0 not even one is needed
    probabilities = jax.nn.softmax(logits, axis=-1)
    threshold = _largest_threshold(
        logits,
        lambda kept: jnp.where(kept, probabilities, 0.0).sum(-1, keepdims=True) >= p[:, None],
    )
    # Rounding may leave the sum of everything just under p = 1: that row keeps all.
    keep = (_ordered(logits) >= threshold) | (p >= 1)[:, None]
    return jnp.where(keep, logits, -jnp.inf)


def _ordered(x: Array) -> Array:
    """Map float32 to uint32 so that order is kept."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    sign = jnp.uint32(0x80000000)
    return jnp.where(bits & sign, ~bits, bits | sign)


def _largest_threshold(logits: Array, enough) -> Array:
    """The largest threshold [B,1] uint32 whose kept set {ordered >= threshold} is enough.

    `enough` maps a [B,V] mask to [B,1] and is monotone; bit by bit from the highest.
    """
    ordered = _ordered(logits)

    def bit(i: Array, threshold: Array) -> Array:
        candidate = threshold | (jnp.uint32(1) << (jnp.uint32(31) - i.astype(jnp.uint32)))
        return jnp.where(enough(ordered >= candidate), candidate, threshold)

    return jax.lax.fori_loop(0, 32, bit, jnp.zeros((logits.shape[0], 1), jnp.uint32))
