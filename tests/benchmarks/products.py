"""Which form of the same product is fastest, by rows and scheme: what model/forms.py chooses by.

Prints GB/s of weights read, GFLOP/s, and the share of the memory rate measured in the same run.
Where the C++ kernels are built (make native), theirs is measured too.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from gemma3_export.model.forms import (
    FORMS,
    KERNELS,
    Form,
    Platform,
    choose_product,
    grouped_row_product,
    row_product,
    scaled_row_product,
)
from gemma3_export.model.quantized import Matrix, QuantizedWeight, Scheme
from gemma3_export.runtime.kernels import _register
from measure import interleaved, memory_reader

OUT, IN = 65536, 640
ROWS = (1, 2, 4, 8, 32, 128, 512)
ONE_BY_ONE = (row_product, scaled_row_product, grouped_row_product)
WEIGHTS = (
    ("bfloat16", Scheme.NONE), ("float32", Scheme.NONE), ("bfloat16", Scheme.INT8),
    ("bfloat16", Scheme.INT4),
)  # fmt: skip


def main() -> None:
    """Measure every form at every number of rows."""
    limit_bytes = 512 << 20
    read = memory_reader(limit_bytes)
    print(f"jax {jax.__version__}, weight {OUT} x {IN}; * marks the form that is chosen")
    print(
        f"{'weight':8} {'rows':>4} {'form':21} {'ms':>8} {'GB/s':>6} {'GFLOP/s':>8} of memory rate"
    )
    for dtype, scheme in WEIGHTS:
        weight = _weight(dtype, scheme)
        nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(weight))
        for rows in ROWS:
            x = jax.random.normal(jax.random.key(1), (rows, IN), jnp.float32)
            forms = {form.__name__: form for form in FORMS[scheme] if _sensible(form, rows)}
            runs = {n: functools.partial(jax.jit(f), x, weight) for n, f in forms.items()}
            times = interleaved({"limit": read, **runs}, repeats=5)
            rate = limit_bytes / times.pop("limit")
            kernels = any(name in KERNELS for name in forms)
            chosen = choose_product(Platform.CPU, rows, scheme, weight.dtype, kernels)
            for name, seconds in times.items():
                mark = "*" if forms[name] is chosen else " "
                print(
                    f"{scheme if scheme != Scheme.NONE else dtype:8} {rows:4} {name:20}{mark} "
                    f"{seconds * 1e3:8.2f} {nbytes / seconds / 1e9:6.1f} "
                    f"{2 * rows * OUT * IN / seconds / 1e9:8.0f} {nbytes / seconds / rate:14.2f}"
                )


def _weight(dtype: str, scheme: Scheme) -> Matrix:
    random = np.random.default_rng(0)
    if scheme == Scheme.NONE:
        return jnp.asarray(random.normal(size=(OUT, IN)), dtype)
    if scheme == Scheme.INT8:
        numbers, scale = random.integers(-127, 128, (OUT, IN)).astype(np.int8), np.ones(OUT)
        return QuantizedWeight(
            jnp.asarray(numbers), jnp.asarray(scale, jnp.float32), scheme, jnp.dtype(dtype)
        )
    numbers = random.integers(0, 256, (OUT, IN // 2)).astype(np.uint8)
    scale = jnp.ones((OUT, IN // 32), jnp.bfloat16)
    return QuantizedWeight(jnp.asarray(numbers), scale, scheme, jnp.dtype(dtype))


def _sensible(form: Form, rows: int) -> bool:
    if form.__name__ in KERNELS:
        return _register(KERNELS[form.__name__])
    return form not in ONE_BY_ONE or rows <= 8


if __name__ == "__main__":
    main()
