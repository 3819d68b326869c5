"""Timing the forms of a product or an attention on a device of this machine.

A program reads each weight and cache once a token, so none is found in the processor's caches
when its turn comes again: every call here works on the next of several copies.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..model.attention import Visibility, blocked_attention, whole_attention
from ..model.cache import LayerCache, cached, update_layer
from ..model.config import LayerType
from ..model.lowering.context import LoweringContext
from ..model.lowering.forms import Form
from ..model.lowering.quantized import Matrix, QuantizedWeight
from ..model.lowering.recipes import Scheme
from ..model.lowering.table import AttentionCase, Blocks, ProductCase

Array = jax.Array
Call = Callable[[], Any]
"""One call of a form; returns arrays that are ready once it is done."""

ROTATED_BYTES = 96 << 20
"""What the copies of a weight or a cache take together: three times a large cache."""
_MOST_COPIES = 512
_BLOCK_NUMBERS = 1 << 20


def interleaved(
    candidates: Mapping[str, Call], repeats: int, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds of one call of each candidate, in each repeat.

    They run in turn, `calls` at a time and in the other order every other repeat, so that drift of
    the machine and what the one before left behind hit all alike. Each has run before: nothing is
    compiled in here.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats):
        for name in list(candidates)[:: -1 if repeat % 2 else 1]:
            started = time.perf_counter()
            for _ in range(calls):  # one at a time: two at once would hide what a form leaves idle
                jax.block_until_ready(candidates[name]())
            times[name].append((time.perf_counter() - started) / calls)
    return times


def random_weight(scheme: Scheme, dtype: str, outputs: int, inputs: int) -> Matrix:
    """A matrix [outputs,inputs] as `scheme` stores it: the same few random numbers again."""
    random = np.random.default_rng(0)

    def filled(shape: tuple[int, int], make: Callable[[int], np.ndarray], kind: Any) -> Array:
        size = math.prod(shape)
        block = make(min(size, _BLOCK_NUMBERS)).astype(jnp.dtype(kind))
        return jnp.asarray(np.resize(block, size).reshape(shape))

    match scheme:
        case Scheme.NONE:
            return filled((outputs, inputs), random.standard_normal, dtype)
        case Scheme.INT4:
            numbers = filled(
                (outputs, inputs // 2), lambda n: random.integers(0, 256, n), jnp.uint8
            )
            scale = jnp.ones((outputs, inputs // scheme.group), jnp.bfloat16)
        case Scheme.INT8:
            numbers = filled((outputs, inputs), lambda n: random.integers(-127, 128, n), jnp.int8)
            scale = jnp.ones(outputs, jnp.float32)
        case Scheme.FP8:
            numbers = filled((outputs, inputs), random.standard_normal, jnp.float8_e4m3fn)
            scale = jnp.ones(outputs, jnp.float32)
    return QuantizedWeight(numbers, scale, scheme, jnp.dtype(dtype))


def copies(tree: Any) -> list[Any]:
    """As many copies of the arrays of `tree` as take ROTATED_BYTES, at least one."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    count = min(-(-ROTATED_BYTES // size), _MOST_COPIES)
    return [tree, *(jax.tree.map(jnp.copy, tree) for _ in range(1, count))]


def product_calls(
    case: ProductCase, forms: Iterable[Form], weights: Sequence[Matrix]
) -> dict[str, Call]:
    """By name a call of each form, behind a norm as in the model; all take the weights in turn."""
    context, order = LoweringContext(case.platform), itertools.cycle(weights)
    x, norm = _normal(case.rows, case.inputs), _normal(case.inputs)

    def call(form: Form) -> Call:
        def run(x: Array, norm: Array, weight: Matrix) -> Array:
            operand = context.in_halves(case.rows, lambda x, w: x * (1.0 + w), "norm", x, norm)
            return form(operand, weight)

        compiled = jax.jit(run)
        return lambda: compiled(x, norm, next(order))

    return {form.__name__: call(form) for form in forms}


def attention_step(
    kind: LayerType, tokens: int, slots: int, blocks: Blocks | None, context: LoweringContext
) -> Callable:
    """(start [B], query, new, old) -> (mixed, cache): `old` is donated and written in place.

    Arguments as in `attend`; a sliding layer sees as far back as its slots go.
    """

    def run(start: Array, query: Array, new: LayerCache, old: LayerCache):
        visible = Visibility.of(kind, slots, slots, start, tokens, None)
        operands = (query, new, old, visible, 1 / 16, None, context)
        if blocks is None:
            mixed = whole_attention(*operands)
        else:
            mixed = blocked_attention(*operands, blocks)
        length = None if tokens == 1 else jnp.full_like(start, tokens)
        start = context.delay(start, until=mixed)
        return mixed, update_layer(kind, old, new, start, length, context.platform)

    return jax.jit(run, donate_argnums=3)


def attention_calls(
    case: AttentionCase, forms: Mapping[str, Blocks | None], starts: Sequence[int]
) -> dict[str, Call]:
    """By name a call of each form: one after the other at every start of `starts`."""
    context = LoweringContext(case.platform)
    dtype = jnp.dtype(case.kept)

    def cache(tokens: int) -> LayerCache:
        shape = (case.batch, case.kv_heads, tokens, case.head_dim)
        return cached(_normal(*shape), _normal(*shape), dtype)

    # All forms write the same caches in turn.
    caches = copies(cache(case.slots))
    order = itertools.cycle(range(len(caches)))
    query = _normal(case.batch, case.tokens, case.heads, case.head_dim)
    if dtype == jnp.int8:
        query = query.astype(jnp.dtype(case.dtype))
    new = cache(case.tokens)
    positions = [jnp.full(case.batch, start, jnp.int32) for start in starts]

    def call(blocks: Blocks | None) -> Call:
        step = attention_step(case.kind, case.tokens, case.slots, blocks, context)

        def run() -> list[Array]:
            results = []
            for start in positions:
                index = next(order)
                mixed, caches[index] = step(start, query, new, caches[index])
                results.append(mixed)
            return results

        return run

    return {name: call(blocks) for name, blocks in forms.items()}


def _normal(*shape: int) -> Array:
    """The same normal numbers in every call, float32; made without compiling anything."""
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape, np.float32))
