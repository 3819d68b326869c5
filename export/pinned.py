"""What JAX is told while an export lowers: the same on every machine, whatever its environment.

Each flag of JAX can be set by a variable (JAX_ENABLE_X64), by `jax.config` or for a thread, and
many change what a program is. Those whose other values changed a byte or failed an export of jax
0.10, each tried, have their defaults here for the time of the lowering. A version of JAX that has
no such flag has nothing to pin.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax

_CONVENTION = 10
"""Of calling an exported program: that of jax 0.10, for as long as JAX writes it."""

_SCOPED: dict[str, Any] = {
    "enable_x64": False,
    "default_matmul_precision": None,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "numpy_rank_promotion": "allow",
    "numpy_dtype_promotion": "standard",
    "softmax_custom_jvp": False,
    "allow_f16_reductions": True,
    "enable_custom_prng": False,
    "legacy_prng_key": "allow",
    "debug_nans": False,
    "debug_infs": False,
    "disable_jit": False,
    "no_tracing": False,
}
"""Those that JAX has a context manager of this name for, which binds this thread alone."""

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
"""Those that only the whole process can have."""

_lock = threading.RLock()


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Lower inside this; afterwards JAX is told what it was told before.

    One thread at a time, the others wait: two that put back what they found would mix it up.
    """
    with _lock, contextlib.ExitStack() as stack:
        for name, value in _SCOPED.items():
            if hasattr(jax, name):
                stack.enter_context(getattr(jax, name)(value))
        for name, value in _GLOBAL.items():
            if hasattr(jax.config, name):
                stack.callback(jax.config.update, name, getattr(jax.config, name))
                jax.config.update(name, value)
        yield
