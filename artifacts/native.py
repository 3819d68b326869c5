"""Where the native part of this installation is: what a wheel brought, or `make native` built."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
"""gemma3_export in site-packages, or a clone."""


def native_prefix() -> Path | None:
    """The folder of `bin`, `include` and `lib`; None where there is none."""
    for prefix in (_ROOT / "_native", _ROOT / "build" / "native"):
        if (prefix / "include" / "gemma3.h").is_file():
            return prefix
    return None
