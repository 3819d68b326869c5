"""The part of the suite that answers in about four minutes: `make test-fast`, `make compat`.

`python -m tests.fast [ARGUMENT...]` runs it, two files at a time; arguments are pytest's.
"""

from __future__ import annotations

import sys

import pytest

PARTS = (
    "tests/artifacts", "tests/export/checkpoint", "tests/model/test_forward.py",
    "tests/model/test_cache.py", "tests/model/test_sharding.py", "tests/export/test_lowering.py",
    "tests/export/test_programs.py", "tests/export/test_goldens.py", "tests/runtime/test_model.py",
    "tests/runtime/test_generate.py", "tests/runtime/test_score.py",
    "tests/runtime/test_samples.py", "tests/runtime/test_preflight.py",
    "tests/runtime/test_results.py", "tests/runtime/test_score_outputs.py",
)  # fmt: skip
"""They need neither native builds nor TensorFlow."""

if __name__ == "__main__":
    sys.exit(pytest.main(["-n", "2", "--dist", "loadfile", *sys.argv[1:], *PARTS]))
