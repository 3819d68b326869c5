from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import pytest
from gemma3_export.artifacts.bytecode import calls_of
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.export.stablehlo import check_target, for_version


def test_hosts_look_into_programs_of_the_oldest_version_that_can_be_asked_for():
    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    module = jax.export.export(jax.jit(lambda a, b: jnp.tanh(a @ b)))(shape, shape)
    check_target("0.15.0")
    assert calls_of(for_version(module.mlir_module_serialized, "0.15.0")) == set()
    with pytest.raises(ValueError, match="MLIR bytecode of version 4"):
        calls_of(for_version(module.mlir_module_serialized, "0.14.0"))
    with pytest.raises(UsageError, match=r"expected a version from 0\.15\.0"):
        check_target("0.14.0")
