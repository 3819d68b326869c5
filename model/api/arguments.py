"""Arguments of EasyDeL's classes that have no meaning here: refused in one line."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def require_one_dtype(dtype: Any, param_dtype: Any, precision: Any) -> None:
    """Check a constructor's `param_dtype` and `precision`: there is one dtype.

    Weights are kept in `dtype`, products add up in float32. Raises TypeError for another
    param_dtype, for any precision, and for random streams passed as either.
    """
    if param_dtype is not None:
        try:
            same = jnp.dtype(param_dtype) == jnp.dtype(dtype)
        except (TypeError, ValueError):  # of whatever has an attribute `dtype`
            raise TypeError(
                f"param_dtype: expected a dtype, got {type(param_dtype).__name__}; random streams "
                f"are passed by name, rngs=nnx.Rngs(SEED)"
            ) from None
        if not same:
            raise TypeError(
                f"param_dtype: weights are kept in dtype, {jnp.dtype(dtype)}, and not in "
                f"{jnp.dtype(param_dtype)}; pass the wanted one as dtype"
            )
    if precision is not None:
        raise TypeError(
            f"precision: products add up in float32 whatever the dtype, got {precision!r}; for "
            f"factors in float32 pass dtype=jnp.float32, and on TPU or GPU use "
            f"jax.default_matmul_precision"
        )
