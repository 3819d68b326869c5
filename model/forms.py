"""The ways of writing a product, and the one table that chooses among them.

The same mathematics lowered two ways differs twenty-fold on XLA:CPU, so each form is a small
named function and `choose_product` is the only place that decides. Weights lie (out, in), as
in the checkpoint. All forms accumulate and return float32.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
Product = Callable[[Array, Array], Array]


class Platform(enum.StrEnum):
    """Lowering platforms, by jax's names."""

    CPU = "cpu"
    CUDA = "cuda"
    TPU = "tpu"


# Fewer rows than this are multiplied one at a time on CPU.
ONE_BY_ONE = 4
# XLA:CPU fuses the weight's conversion into a one-row product only while the vector operand
# is under 16 KB; longer contractions are cut into pieces of this many floats.
_FUSED_ROW_LIMIT = 2048


def row_product(x: Array, weight: Array) -> Array:
    """One row at a time, the weight converted inside the product: x [R,I], weight [O,I] -> [R,O].

    On XLA:CPU this reads a bfloat16 weight once, at memory speed; written any other way the
    whole weight is first converted into fresh memory, 20 times slower.
    """
    contraction = weight.shape[1]
    pieces = max(1, -(-contraction // _FUSED_ROW_LIMIT))
    while contraction % pieces:
        pieces += 1
    width = contraction // pieces
    rows = []
    for r in range(x.shape[0]):
        row = x[r : r + 1]
        partial = [
            row[:, i : i + width] @ weight[:, i : i + width].astype(jnp.float32).T
            for i in range(0, contraction, width)
        ]
        rows.append(sum(partial[1:], partial[0]))
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows)


def float_product(x: Array, weight: Array) -> Array:
    """Plain float32 product: x [...,I], weight [O,I] -> [...,O]."""
    return x @ weight.astype(jnp.float32).T


def narrow_product(x: Array, weight: Array) -> Array:
    """Both operands in the weight's dtype, accumulated in float32: x [...,I] -> [...,O].

    The activations are rounded to the weight's dtype; the hardware's (or YNNPACK's) native
    narrow product does the rest.
    """
    return jax.lax.dot_general(
        x.astype(weight.dtype),
        weight,
        (((x.ndim - 1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


def choose_product(platform: Platform, rows: int, dtype: jnp.dtype) -> Product:
    """The fastest form for this platform, number of rows and weight dtype.

    Measured for CPU by tests/benchmarks/products.py (`make bench`).
    """
    if dtype == jnp.float32:
        return float_product
    if platform == Platform.CPU and rows < ONE_BY_ONE:
        return row_product
    return narrow_product
