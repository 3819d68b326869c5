"""Entry points of the commands: what each needs is imported where Ctrl-C ends it without a word.

Python answers Ctrl-C with a traceback until a command says otherwise, and importing takes a while.
"""

from __future__ import annotations

import importlib
import signal
from typing import NoReturn


def export() -> NoReturn:
    """Entry point of `gemma3-export`."""
    _start("export.cli", "main")


def run() -> NoReturn:
    """Entry point of `gemma3-run`."""
    _start("runtime.commands.run", "console")


def bundle() -> NoReturn:
    """Entry point of `gemma3-bundle`."""
    _start("runtime.commands.bundle", "main")


def bench() -> NoReturn:
    """Entry point of `gemma3-bench`."""
    _start("runtime.commands.bench", "main")


def host() -> NoReturn:
    """Entry point of `gemma3-host`."""
    _start("native", "host")


def _start(module: str, name: str) -> NoReturn:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    getattr(importlib.import_module(f"gemma3_export.{module}"), name)()
    raise AssertionError("a command ends its process")
