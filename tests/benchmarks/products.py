"""Which form of the same product is fastest, by rows and dtype: what model/forms.py chooses by.

Prints GB/s of weights read, GFLOP/s, and the share of the memory rate measured in the same run.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from gemma3_export.model.forms import (
    Platform,
    choose_product,
    float_product,
    narrow_product,
    row_product,
)
from measure import interleaved, memory_reader

OUT, IN = 65536, 640
ROWS = (1, 2, 4, 8, 32, 128, 512)
FORMS = {"row": row_product, "float": float_product, "narrow": narrow_product}


def main() -> None:
    """Measure every form at every number of rows."""
    limit_bytes = 512 << 20
    read = memory_reader(limit_bytes)
    print(f"jax {jax.__version__}, weight {OUT} x {IN}; * marks the form that is chosen")
    print(f"{'dtype':9} {'rows':>4} {'form':7} {'ms':>8} {'GB/s':>6} {'GFLOP/s':>8} of memory rate")
    for dtype in (jnp.bfloat16, jnp.float32):
        weight = jax.random.normal(jax.random.key(0), (OUT, IN), dtype)
        for rows in ROWS:
            x = jax.random.normal(jax.random.key(1), (rows, IN), jnp.float32)
            forms = {n: f for n, f in FORMS.items() if n != "row" or rows <= 8}
            runs = {n: functools.partial(jax.jit(f), x, weight) for n, f in forms.items()}
            times = interleaved({"limit": read, **runs}, repeats=5)
            rate = limit_bytes / times.pop("limit")
            chosen = choose_product(Platform.CPU, rows, weight.dtype)
            for name, seconds in times.items():
                gb = weight.nbytes / seconds
                mark = "*" if FORMS[name] is chosen else " "
                print(
                    f"{weight.dtype.name:9} {rows:4} {name:6}{mark} {seconds * 1e3:8.2f} "
                    f"{gb / 1e9:6.1f} {2 * rows * OUT * IN / seconds / 1e9:8.0f} {gb / rate:14.2f}"
                )


if __name__ == "__main__":
    main()
