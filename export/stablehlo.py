"""Portable StableHLO written again for an older reader, through jax.extend's MLIR bindings."""

from __future__ import annotations

import functools
import re
from typing import Any

from ..artifacts.errors import UsageError

_LEAST = "0.15.0"
"""The first whose bytecode hosts look into, for what a program calls (artifacts/bytecode.py)."""


def check_target(version: str) -> None:
    """Refuse a `--stablehlo-version` that the installed jaxlib cannot write, or no host takes.

    Raises:
        UsageError: not of the form 1.13.0, or outside what jaxlib knows.
    """
    from jax.extend.mlir.dialects import stablehlo

    least, most = stablehlo.get_minimum_version(), stablehlo.get_current_version()
    least = max(least, _LEAST, key=_numbers)
    known = re.fullmatch(r"\d{1,6}\.\d{1,6}\.\d{1,6}", version)
    if not known or not _numbers(least) <= _numbers(version) <= _numbers(most):
        raise UsageError(
            f"--stablehlo-version: expected a version from {least} to {most} (what this jaxlib "
            f"writes and hosts take), such as 1.13.0; got {version!r}"
        )


def for_version(module: bytes, version: str) -> bytes:
    """The portable artifact `module` as readers of StableHLO `version` understand it.

    Deterministic, and the same bytes when it is of that version already.

    Raises:
        UsageError: the program uses what that version does not have.
    """
    from jax.extend.mlir import ir
    from jax.extend.mlir.dialects import stablehlo

    messages: list[str] = []
    context = ir.Context()
    _register(context)

    def keep(diagnostic: ir.Diagnostic) -> bool:
        messages.append(str(diagnostic.message))
        return True  # handled: MLIR would print the whole program

    handler: Any = context.attach_diagnostic_handler(keep)
    try:
        with context:
            parsed = stablehlo.deserialize_portable_artifact(context, module)
            # Shardings are of another dialect, which is left as it is.
            return stablehlo.serialize_portable_artifact(parsed, version, True)
    except ValueError as error:
        reason = " ".join((messages or [str(error)])[0].split())[:160]
        raise UsageError(
            f"--stablehlo-version {version}: a program cannot be written for it ({reason}); name "
            "a newer version, or leave the option out"
        ) from error
    finally:
        handler.detach()


def _register(context: Any) -> None:
    from jax.extend.mlir.dialects import chlo, sdy, stablehlo

    for dialect in (stablehlo, chlo, sdy):
        dialect.register_dialect(context)


@functools.cache
def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
