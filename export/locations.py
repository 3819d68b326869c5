"""What lowered programs say about the source they came from."""

from __future__ import annotations

import jax


def quiet_locations() -> None:
    """Keep source files out of the programs: a moved line would otherwise change their bytes.

    Tracebacks of no frames leave the names of operations, which profiles show; without tracebacks
    JAX would write file, line and column of one frame, and columns differ between Pythons.
    """
    jax.config.update("jax_include_full_tracebacks_in_locations", True)
    jax.config.update("jax_traceback_in_locations_limit", 0)
