"""One place sets up what every test relies on: eight virtual CPU devices and strict dtypes.

Also how the tests are dealt out when several processes run them.
"""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from xdist.scheduler import LoadScopeScheduling

from .costs import Costs

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The longest first, so that no process is left with one at the end.
_FIRST = ("tests/native/", "tests/kernels/", "tests/serving/", "tests/parity/")
# Files that share what takes a minute to make: a library, a served bundle, the real 270M for four
# meshes.
_TOGETHER = {
    "tests/kernels/": "kernels",
    "tests/serving/": "served",
    "tests/parity/test_real_270m.py": "real",
    "tests/native/test_host_real_270m.py": "real",
}


class _ByFile(LoadScopeScheduling):
    """A file's tests go to one process, and those of files that share a costly fixture too."""

    def _split_scope(self, nodeid: str) -> str:
        shared = (name for start, name in _TOGETHER.items() if nodeid.startswith(start))
        return next(shared, nodeid.split("::", 1)[0])


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Costs(config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        found = (i for i, start in enumerate(_FIRST) if item.nodeid.startswith(start))
        return next(found, len(_FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def real_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real 270M as a bundle, made once for all tests of every runtime; not to be changed."""
    from .parity.bundles import make_real_bundle

    return make_real_bundle(tmp_path_factory.mktemp("real") / "bundle")
