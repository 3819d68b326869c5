"""What JAX is told while an export lowers: the same on every machine, whatever its environment.

Each flag of JAX can be set by a variable (JAX_ENABLE_X64), by `jax.config` or for a thread, and
many change what a program is. Those whose other values changed a byte or failed an export of jax
0.10, each tried, have their defaults here for the time of the lowering.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

_CONVENTION = 10
"""Of calling an exported program: that of jax 0.10, for as long as JAX writes it."""

_SCOPED: tuple[Callable[[], AbstractContextManager[Any]], ...] = (
    lambda: jax.enable_x64(False),
    lambda: jax.default_matmul_precision(None),
    lambda: jax.default_prng_impl("threefry2x32"),
    lambda: jax.threefry_partitionable(True),
    lambda: jax.numpy_rank_promotion("allow"),
    lambda: jax.numpy_dtype_promotion("standard"),
    lambda: jax.softmax_custom_jvp(False),
    lambda: jax.allow_f16_reductions(True),
    lambda: jax.enable_custom_prng(False),
    lambda: jax.legacy_prng_key("allow"),
    lambda: jax.debug_nans(False),
    lambda: jax.debug_infs(False),
    lambda: jax.disable_jit(False),
    lambda: jax.no_tracing(False),
)
"""Those that can be set for this thread alone."""

_GLOBAL: dict[str, Any] = {
    # Source files stay out of the programs: a moved line would otherwise change their bytes.
    # Tracebacks of no frames leave the names of operations, which profiles show; without
    # tracebacks JAX would write file, line and column of one frame, and columns differ between
    # Pythons.
    "jax_include_full_tracebacks_in_locations": True,
    "jax_traceback_in_locations_limit": 0,
    "eager_constant_folding": False,
    "jax_default_dtype_bits": "64",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_export_calling_convention_version": max(
        _CONVENTION, jax.export.minimum_supported_calling_convention_version
    ),
    "jax_export_ignore_forward_compatibility": False,
    "jax_high_dynamic_range_gumbel": False,
    "jax_random_seed_offset": 0,
    "jax_scan3": False,
    "jax_threefry_gpu_kernel_lowering": False,
    "jax_use_shardy_partitioner": True,
    "jax_use_simplified_jaxpr_constants": False,
}
"""Those that only the whole process can have; a version of JAX without one has nothing to pin."""

_lock = threading.RLock()


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Lower inside this; afterwards JAX is told what it was told before.

    One thread at a time, the others wait: two that put back what they found would mix it up.
    """
    with _lock, contextlib.ExitStack() as stack:
        for scoped in _SCOPED:
            stack.enter_context(scoped())
        for name, value in _GLOBAL.items():
            if hasattr(jax.config, name):
                stack.callback(jax.config.update, name, getattr(jax.config, name))
                jax.config.update(name, value)
        yield
