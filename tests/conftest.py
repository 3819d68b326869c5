"""One place sets up what every test relies on: eight virtual CPU devices and strict dtypes."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session")
def real_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real 270M as a bundle, made once for all tests of every runtime; not to be changed."""
    from .parity.bundles import make_real_bundle

    return make_real_bundle(tmp_path_factory.mktemp("real") / "bundle")
