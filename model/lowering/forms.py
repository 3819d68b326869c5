"""The ways of writing a product, and the one table that chooses among them.

The same mathematics lowered two ways differs twenty-fold on XLA:CPU, so each form is a small
named function and `choose_product` decides wherever nothing was measured on the user's own machine
(table.py). Weights lie (out, in), as in the checkpoint. All forms take x [R,I] float32 and a
weight [O,I], accumulate in float32 (or int32) and return [R,O] float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .fusions import kernel_arguments
from .quantized import Matrix, QuantizedWeight, apply_scales, unpack
from .recipes import Scheme
from .target import ONE_BY_ONE, Platform

Array = jax.Array


# XLA:CPU fuses the weight's conversion into a one-row product only while the vector operand
# is under 16 KB; longer contractions are cut into pieces of this many floats.
_FUSED_ROW_LIMIT = 2048
# What the largest activation of a row becomes: of int8, and of float8_e4m3fn.
_LARGEST_INT8, _LARGEST_FLOAT8 = 127.0, 448.0
_TINY = 1e-30


Form = Callable[[Array, Any], Array]
"""Of x and a weight that lies as the form expects."""


def row_product(x: Array, weight: Array) -> Array:
    """One row at a time, the weight converted inside the product.

    On XLA:CPU this reads a bfloat16 weight once, at memory speed; written any other way the
    whole weight is first converted into fresh memory, 20 times slower.
    """
    inputs = weight.shape[1]
    width = _largest_divisor(inputs, _FUSED_ROW_LIMIT)
    return _by_rows(x, lambda row: [
        row[:, i : i + width] @ weight[:, i : i + width].astype(jnp.float32).T
        for i in range(0, inputs, width)
    ])  # fmt: skip


def float_product(x: Array, weight: Array) -> Array:
    """Plain float32 product."""
    return x @ weight.astype(jnp.float32).T


def narrow_product(x: Array, weight: Array) -> Array:
    """Both operands in the weight's dtype, accumulated in float32.

    The activations are rounded to the weight's dtype; the hardware's (or YNNPACK's) native
    narrow product does the rest.
    """
    return _product(x.astype(weight.dtype), weight, jnp.dtype(jnp.float32))


def scaled_row_product(x: Array, weight: QuantizedWeight) -> Array:
    """`row_product` on the numbers, scaled afterwards: a scale for each output."""
    return row_product(x, weight.numbers) * weight.scale


def scaled_float_product(x: Array, weight: QuantizedWeight) -> Array:
    """`float_product` on the numbers, scaled afterwards: a scale for each output."""
    return float_product(x, weight.numbers) * weight.scale


def widened_product(x: Array, weight: QuantizedWeight) -> Array:
    """The numbers widened to the dtype of the computation, in which int8 is exact."""
    return narrow_product(x, weight.numbers.astype(weight.dtype)) * weight.scale


def integer_product(x: Array, weight: QuantizedWeight) -> Array:
    """int8 times int8: each row of x is rounded to 255 steps of its own largest value."""
    numbers, scale = quantized_rows(x)
    total = _product(numbers, weight.numbers, jnp.dtype(jnp.int32))
    return total.astype(jnp.float32) * scale * weight.scale


def grouped_row_product(x: Array, weight: QuantizedWeight) -> Array:
    """int4, one row at a time: low and high halves of the bytes are unpacked in two products.

    On XLA:CPU each reads the packed weight once, and no unpacked one is ever written.
    """
    half_group = weight.scheme.group // 2
    groups = weight.scale.shape[1]
    count = _largest_divisor(groups, _FUSED_ROW_LIMIT // half_group)

    def pieces(row: Array) -> list[Array]:
        low, high = _low_and_high(row, weight.scheme.group)
        products = []
        for first in range(0, groups, count):
            part = slice(first * half_group, (first + count) * half_group)
            packed, scale = weight.numbers[:, part], weight.scale[:, first : first + count]
            for half, bits in ((low, packed & jnp.uint8(15)), (high, packed >> jnp.uint8(4))):
                products.append(
                    half[:, part] @ apply_scales(bits.astype(jnp.float32) - 8.0, scale).T
                )
        return products

    return _by_rows(x, pieces)


def unpacked_product(x: Array, weight: QuantizedWeight) -> Array:
    """int4 unpacked and scaled to the dtype of the computation first, then multiplied."""
    values = apply_scales(unpack(weight.numbers, weight.scheme.group), weight.scale)
    return narrow_product(x, values.astype(weight.dtype))


def eighth_product(x: Array, weight: QuantizedWeight) -> Array:
    """8-bit floats on both sides: each row of x is scaled to their range."""
    peak = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    scale = jnp.maximum(peak, _TINY) / _LARGEST_FLOAT8
    total = _product(
        (x / scale).astype(weight.numbers.dtype), weight.numbers, jnp.dtype(jnp.float32)
    )
    return total * scale * weight.scale


def bfloat16_kernel(x: Array, weight: Array) -> Array:
    """bfloat16 by a C++ kernel of the host; of few rows the activations stay float32."""
    return plain_kernel_products(bfloat16_kernel, x, [weight])[0]


def int8_kernel(x: Array, weight: QuantizedWeight) -> Array:
    """int8 by a C++ kernel of the host.

    Of few rows every 32 activations are rounded to 255 steps of their largest, of many to
    bfloat16: which it is, the kernel decides on the machine where it runs.
    """
    return plain_kernel_products(int8_kernel, x, [weight])[0]


def int4_kernel(x: Array, weight: QuantizedWeight) -> Array:
    """int4 by a C++ kernel of the host, the activations rounded as by `int8_kernel`.

    Of many rows the weights are rounded to bfloat16 once they are scaled: `unpacked_product`.
    """
    return plain_kernel_products(int4_kernel, x, [weight])[0]


def kernel_products(
    form: Form, arrays: Sequence[Array], attributes: Mapping[str, str | np.float32],
    weights: Sequence[Matrix],
) -> list[Array]:  # fmt: skip
    """An operand times each weight [O,I] in one call of the kernel of `form` -> [R,O] float32 each.

    `arrays` are x [R,I] and what `attributes` say is done before and after; see fusions.py.
    """
    results = [jax.ShapeDtypeStruct((arrays[0].shape[0], w.shape[0]), jnp.float32) for w in weights]
    parts = [a for w in weights for a in jax.tree.leaves(w)]
    call = jax.ffi.ffi_call(KERNEL_TARGETS[form.__name__], results)
    return list(call(*arrays, *parts, **attributes))


def plain_kernel_products(form: Form, x: Array, weights: Sequence[Matrix]) -> list[Array]:
    """`kernel_products` of x [R,I] as it is, with nothing done after."""
    return kernel_products(form, *kernel_arguments(x, None, x.shape[0]), weights)


ATTENTION_KERNEL = "attention_kernel"
"""The form of attention that is a C++ kernel: attention.py."""

KERNEL_TARGETS = {
    ATTENTION_KERNEL: "gemma3_cached_attention",
    bfloat16_kernel.__name__: "gemma3_bfloat16_linear",
    int8_kernel.__name__: "gemma3_int8_linear",
    int4_kernel.__name__: "gemma3_int4_linear",
}
"""The target of XLA's FFI, of runtime/native/kernels/, that each form calls which is no plain
StableHLO."""

KERNEL_LANES = 32
"""The inputs, outputs and head sizes that C++ kernels take are multiples of this."""

FORMS: dict[Scheme, tuple[Form, ...]] = {
    Scheme.NONE: (row_product, float_product, narrow_product, bfloat16_kernel),
    Scheme.INT8: (
        scaled_row_product,
        scaled_float_product,
        widened_product,
        integer_product,
        int8_kernel,
    ),
    Scheme.INT4: (grouped_row_product, unpacked_product, int4_kernel),
    Scheme.FP8: (scaled_float_product, widened_product, eighth_product),
}
"""Every form a weight of each scheme may be multiplied in."""

KERNEL_OF = {
    Scheme.NONE: bfloat16_kernel,
    Scheme.INT8: int8_kernel,
    Scheme.INT4: int4_kernel,
}
"""The form of each scheme that is a C++ kernel."""

ANY_RANK = (
    float_product, narrow_product, scaled_float_product, widened_product, integer_product,
    unpacked_product, eighth_product,
)  # fmt: skip
"""The forms that take x of any rank, and need no reshaping of what a mesh has split."""

ROW_BY_ROW = (row_product, scaled_row_product, grouped_row_product)
"""The forms that are written out once for each row."""
_MOST_ROW_BY_ROW = 16


def usable_forms(
    scheme: Scheme, dtype: jnp.dtype, rows: int, kernels: bool = False
) -> tuple[Form, ...]:
    """The forms that may be chosen, fast or not: candidates to be measured.

    Where `dtype` is float32 none that rounds activations. Never `integer_product`, which costs
    perplexity (see `choose_product`). Row by row only for few rows, as the program grows with
    them; a C++ kernel only where the program may call one.
    """
    exact = dtype == jnp.float32
    barred: list[Form] = [integer_product]
    if exact:
        barred.append(eighth_product)
    if exact or not kernels:
        barred += KERNEL_OF.values()
    if rows > _MOST_ROW_BY_ROW:
        barred += ROW_BY_ROW
    return tuple(form for form in FORMS[scheme] if form not in barred)


def choose_product(
    platform: Platform, rows: int, scheme: Scheme, dtype: jnp.dtype, kernels: bool = False
) -> Form:
    """The fastest form for this platform, number of rows, scheme and dtype of the computation.

    Where `dtype` is float32 no form is chosen that rounds activations. `kernels` says that this
    product may call a C++ kernel, which it does where there is one: that is faster for any number
    of rows. Measured for CPU by tests/benchmarks/products.py (`make bench`).
    """
    exact, few = dtype == jnp.float32, platform == Platform.CPU and rows < ONE_BY_ONE
    if kernels and not exact and scheme in KERNEL_OF:
        return KERNEL_OF[scheme]
    match scheme:
        case Scheme.NONE:
            if exact:
                return float_product
            return row_product if few else narrow_product
        case Scheme.INT8:
            # integer_product is faster from 4 rows on, but one scale a row is too coarse for
            # Gemma's activations: the perplexity of the 270M goes from 15.2 to 16.0.
            if few:
                return scaled_row_product
            return scaled_float_product if exact else widened_product
        case Scheme.INT4:
            return grouped_row_product if few else unpacked_product
        case Scheme.FP8:
            return scaled_float_product if exact else eighth_product


def widens(form: Form, weight: Matrix) -> bool:
    """Whether the form first writes the whole weight in a wider dtype."""
    if form is float_product:
        return weight.dtype != jnp.float32
    return form in (scaled_float_product, widened_product, unpacked_product)


def scheme_of(weight: Matrix) -> Scheme:
    """How a weight is stored."""
    return weight.scheme if isinstance(weight, QuantizedWeight) else Scheme.NONE


def quantized_rows(x: Array) -> tuple[Array, Array]:
    """x [...,I] as int8 numbers and a scale [...,1] float32 for each row."""
    peak = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    scale = jnp.maximum(peak, _TINY) / _LARGEST_INT8
    return jnp.round(x / scale).astype(jnp.int8), scale


def _product(x: Array, weight: Array, accumulator: jnp.dtype) -> Array:
    """x [...,I] times weight [O,I] transposed, in their own dtypes."""
    dimensions = (((x.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, weight, dimensions, preferred_element_type=accumulator)


def _by_rows(x: Array, pieces: Callable[[Array], list[Array]]) -> Array:
    """The sums of `pieces` of each row of x, a row at a time.

    XLA:CPU fuses a product with the addition that follows it, rather than with the conversion
    of its weight, 30 times slower. It does not look past reduce_precision, which to float32's
    own bits is nothing.
    """
    rows = []
    for r in range(x.shape[0]):
        parts = pieces(x[r : r + 1])
        if len(parts) > 1:
            parts = [jax.lax.reduce_precision(piece, 8, 23) for piece in parts]
        rows.append(sum(parts[1:], parts[0]))
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows)


def _low_and_high(row: Array, group: int) -> tuple[Array, Array]:
    """The inputs [1,I/2] that meet the low and the high halves of the bytes of an int4 row.

    They are cut out of one array that XLA must make: from a strided operand the product
    is 6 times slower. Made of pieces that meet elsewhere than they are cut, or XLA sees through.
    """
    groups = row.reshape(-1, group)
    half, middle = group // 2, groups.shape[0] // 2
    parts = [
        part.reshape(1, -1)
        for side in (groups[:, :half], groups[:, half:])
        for part in (side[:middle], side[middle:])
        if part.shape[0]
    ]
    joint = jnp.concatenate(parts, axis=1)
    return joint[:, : row.shape[1] // 2], joint[:, row.shape[1] // 2 :]


def _largest_divisor(number: int, limit: int) -> int:
    """The largest number up to `limit` that divides `number`."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
