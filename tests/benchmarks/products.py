"""Which form of the same product is fastest, by rows and scheme: what forms.py chooses by.

Prints GB/s of weights read, GFLOP/s, and the share of the memory rate measured in the same run.
Where the C++ kernels are built (make native), theirs is measured too.
"""

from __future__ import annotations

import jax
from gemma3_export.artifacts.kernels import register_kernel
from gemma3_export.export.measure import product_calls, random_weight
from gemma3_export.model.lowering.forms import FORMS, KERNEL_TARGETS, ROW_BY_ROW, Form
from gemma3_export.model.lowering.recipes import Scheme
from gemma3_export.model.lowering.table import SHIPPED, ProductCase
from gemma3_export.model.lowering.target import Platform
from measure import medians, memory_readers

OUT, IN = 65536, 640
ROWS = (1, 2, 4, 8, 32, 128, 512)
WEIGHTS = (
    ("bfloat16", Scheme.NONE), ("float32", Scheme.NONE), ("bfloat16", Scheme.INT8),
    ("bfloat16", Scheme.INT4),
)  # fmt: skip


def main() -> None:
    """Measure every form at every number of rows."""
    limit_bytes = 512 << 20
    readers = {f"limit {i}": read for i, read in enumerate(memory_readers(limit_bytes))}
    print(f"jax {jax.__version__}, weight {OUT} x {IN}; * marks the form that is chosen")
    print(
        f"{'weight':8} {'rows':>4} {'form':21} {'ms':>8} {'GB/s':>6} {'GFLOP/s':>8} of memory rate"
    )
    for dtype, scheme in WEIGHTS:
        weight = random_weight(scheme, dtype, OUT, IN)
        nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(weight))
        for rows in ROWS:
            forms = [form for form in FORMS[scheme] if _sensible(form, rows)]
            kernels = any(form.__name__ in KERNEL_TARGETS for form in forms)
            case = ProductCase(Platform.CPU, scheme, dtype, OUT, IN, rows, kernels)
            times = medians({**readers, **product_calls(case, forms, [weight])}, repeats=5)
            rate = limit_bytes / min(times.pop(name) for name in readers)
            chosen = SHIPPED.product(case).__name__
            for name, seconds in times.items():
                mark = "*" if name == chosen else " "
                print(
                    f"{scheme if scheme != Scheme.NONE else dtype:8} {rows:4} {name:20}{mark} "
                    f"{seconds * 1e3:8.2f} {nbytes / seconds / 1e9:6.1f} "
                    f"{2 * rows * OUT * IN / seconds / 1e9:8.0f} {nbytes / seconds / rate:14.2f}"
                )


def _sensible(form: Form, rows: int) -> bool:
    if form.__name__ in KERNEL_TARGETS:
        return register_kernel(KERNEL_TARGETS[form.__name__])
    return form not in ROW_BY_ROW or rows <= 8


if __name__ == "__main__":
    main()
