"""The model of the toy bundle: what its programs compute, and in NumPy what they must give."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from gemma3_export.artifacts.convention import IGNORED_LABEL
from gemma3_export.artifacts.manifest import Bucket, ProgramName

EMBED = 16
WINDOW = 8
LABELS = ("bad", "so so", "good")
VOCAB = 384  # more ids than pieces, as the larger Gemma 3 models have
DRAWS = ("temperature", "top_k", "top_p", "min_p", "seed")
"""The sampling inputs that the toy knows."""

Weights = tuple[jax.Array, ...]
Cache = tuple[jax.Array, ...]


@functools.cache
def toy_weights() -> dict[str, np.ndarray]:
    """Seeded weights; large enough that attention prefers some tokens to others."""
    random = np.random.default_rng(7)
    return {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in (
            ("embed", (VOCAB, EMBED)), ("near", (EMBED, EMBED)), ("far", (EMBED, EMBED)),
            ("head", (VOCAB, EMBED)),
        )
    }  # fmt: skip


def reference_logits(tokens: list[int]) -> np.ndarray:
    """Logits [T,V] after each token of a text."""
    embed, near, far, head = toy_weights().values()
    x = embed[tokens]
    positions = np.arange(len(tokens))
    distance = positions[:, None] - positions[None, :]
    for matrix, window in ((near, WINDOW), (far, len(tokens))):
        keys = embed[tokens]
        scores = x @ keys.T / 4 - 0.25 * distance
        scores[(distance < 0) | (distance >= window)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        x = np.tanh(x + (weights / weights.sum(-1, keepdims=True)) @ keys @ matrix)
    return x @ head.T


def reference_greedy(prompt: list[int], count: int) -> list[int]:
    """The tokens that greedy decoding gives after `prompt`, stop tokens ignored."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(reference_logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def _step(weights: Weights, cache: Cache, token: jax.Array, position: jax.Array, active: jax.Array):
    """Feed one token [B] of the active rows; logits [B,V] and the cache."""
    embed, near, far, head = weights
    key = embed[token]  # [B,D]
    x, new_cache = key, []
    for matrix, layer in ((near, cache[:2]), (far, cache[2:])):
        slots = layer[0].shape[2]
        slot = jnp.arange(slots)[None, :]
        write = active[:, None] & (slot == (position % slots)[:, None])  # [B,S]
        keys, values = (
            jnp.where(write[:, None, :, None], key[:, None, None, :], tensor) for tensor in layer
        )
        held = position[:, None] - (position[:, None] - slot) % slots  # position in each slot
        scores = jnp.einsum("bd,bsd->bs", x, keys[:, 0]) / 4 - 0.25 * (
            position[:, None] - held
        ).astype(jnp.float32)
        attention = jax.nn.softmax(jnp.where(held >= 0, scores, -jnp.inf), axis=-1)
        x = jnp.tanh(x + jnp.einsum("bs,bsd->bd", attention, values[:, 0]) @ matrix)
        new_cache += [keys, values]
    return x @ head.T, tuple(new_cache)


def _sample(logits, position, temperature, top_k, top_p, min_p, seed):
    """Next token [B] for `position` [B]; without a sort or JAX's generator, slow to compile."""
    temperature, top_p, min_p = (x[:, None] for x in (temperature, top_p, min_p))
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    p = jax.nn.softmax(scaled)  # [B,V]
    better = logits[:, None, :] > logits[:, :, None]  # [B,V,V]: the last beats the middle one
    keep = (better.sum(-1) < top_k[:, None]) | (top_k[:, None] == 0)
    keep &= jnp.where(better, p[:, None, :], 0.0).sum(-1) < top_p
    keep &= p >= min_p * p.max(-1, keepdims=True)
    word = (
        jnp.arange(VOCAB, dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
        ^ (position.astype(jnp.uint32) * jnp.uint32(0x85EBCA77))[:, None]
        ^ (seed * jnp.uint32(0xC2B2AE3D))[:, None]
    )
    for shift in (15, 13, 16):
        word = (word ^ (word >> jnp.uint32(shift))) * jnp.uint32(0x2C1B3C6D)
    uniform = ((word >> jnp.uint32(9)).astype(jnp.float32) + 0.5) / 2**23
    noise = jnp.where(temperature > 0, -jnp.log(-jnp.log(uniform)), 0.0)
    return jnp.argmax(jnp.where(keep, scaled + noise, -jnp.inf), axis=-1).astype(jnp.int32)


def _prefill(weights: Weights, inputs: Weights, cache: Cache):
    logits, cache = _read(weights, inputs, cache)
    return (_sample(logits, inputs[1] + inputs[2], *inputs[3:]), logits), cache


def _classify(weights: Weights, inputs: Weights, cache: Cache):
    logits, cache = _read(weights, inputs, cache)
    return (logits[:, : len(LABELS)],), cache  # the classes are the first tokens


def _embed(weights: Weights, inputs: Weights, cache: Cache):
    """The mean of the embedded tokens, of length 1."""
    tokens, length = inputs
    valid = jnp.arange(tokens.shape[1])[None, :] < length[:, None]
    total = jnp.where(valid[:, :, None], weights[0][tokens], 0.0).sum(1)
    return (total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-12),), cache


def _read(weights: Weights, inputs: Weights, cache: Cache):
    """Feed a chunk; logits [B,V] after its last valid token, and the cache."""
    tokens, start, length = inputs[:3]

    def body(carry, column):
        index, token = column
        logits, cache = carry
        active = index < length
        new, cache = _step(weights, cache, token, start + index, active)
        return (jnp.where(active[:, None], new, logits), cache), None

    first = (jnp.zeros((tokens.shape[0], VOCAB), jnp.float32), cache)
    columns = (jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.T)
    (logits, cache), _ = jax.lax.scan(body, first, columns)
    return logits, cache


def _decode(weights: Weights, inputs: Weights, cache: Cache):
    token, position = inputs[:2]
    logits, cache = _step(weights, cache, token, position, jnp.full(token.shape, True))
    return (_sample(logits, position + 1, *inputs[2:]), logits), cache


def _generate(size: int, weights: Weights, inputs: Weights, cache: Cache):
    token, position, limit, stops = inputs[:4]
    zeros = jnp.zeros_like(token)

    def running(state):
        _, count, stopped, *_ = state
        return (count < limit) & (stopped == 0)

    def body(state):
        tokens, count, stopped, token, position, cache = state
        active = running(state)
        logits, cache = _step(weights, cache, token, position, active)
        new = _sample(logits, position + 1, *inputs[4:])
        token = jnp.where(active, new, token)
        here = active[:, None] & (jnp.arange(size)[None, :] == count[:, None])
        tokens = jnp.where(here, new[:, None], tokens)
        stopped = jnp.where(active & (new[:, None] == stops).any(1), 1, stopped)
        step = active.astype(jnp.int32)
        return tokens, count + step, stopped, token, position + step, cache

    state = (jnp.zeros((token.shape[0], size), jnp.int32), zeros, zeros, token, position, cache)
    *outputs, cache = jax.lax.while_loop(lambda state: running(state).any(), body, state)
    return tuple(outputs), cache


def _score(weights: Weights, inputs: Weights, cache: Cache):
    tokens, start, length, labels = inputs

    def body(cache, column):
        index, token, label = column
        logits, cache = _step(weights, cache, token, start + index, index < length)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(label, 0)[:, None], 1)
        return cache, jnp.where(label == IGNORED_LABEL, 0.0, picked[:, 0])

    columns = (jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.T, labels.T)
    cache, logprobs = jax.lax.scan(body, cache, columns)
    return (logprobs.T,), cache


def toy_function(bucket: Bucket) -> Callable:
    return {
        ProgramName.PREFILL: _prefill,
        ProgramName.DECODE: _decode,
        ProgramName.GENERATE: functools.partial(_generate, bucket.tokens),
        ProgramName.SCORE: _score,
        ProgramName.CLASSIFY: _classify,
        ProgramName.EMBED: _embed,
    }[bucket.program]


def by_name(function: Callable, names: list[str]) -> Callable:
    """`function` for inputs in the order of `names`, with state that it passes through."""

    def call(weights: Weights, inputs: Weights, cache: Cache):
        known = [name for name in names if name != "later"]
        order = known if names == known else known[::-1]
        values = dict(zip(names, inputs, strict=True))
        later = values.get("later")
        if later is not None:  # anything but its neutral value would show
            weights = (weights[0] + (later - 0.5).sum(), *weights[1:])
        outputs, layers = function(weights, tuple(values[name] for name in order), cache[:4])
        return outputs, (*layers, *(state + 1 for state in cache[4:]))

    return call
