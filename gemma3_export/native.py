"""Where programs that link libgemma3 find it, and the native host as a command.

    cmake -S . -B build -Dgemma3_DIR="$(python -m gemma3_export.native --cmake-dir)"
    cc main.c $(PKG_CONFIG_PATH="$(python -m gemma3_export.native --pkg-config-dir)" \\
      pkg-config --cflags --libs gemma3)

This imports neither JAX nor NumPy.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from .artifacts.errors import UsageError
from .artifacts.native import native_prefix

FOLDERS = {
    "prefix": ("", "the folder of the others"),
    "include-dir": ("include", "of gemma3.h"),
    "lib-dir": ("lib", "of libgemma3.so, libgemma3.a and libgemma3_kernels.so"),
    "cmake-dir": ("lib/cmake/gemma3", "of find_package(gemma3): gemma3_DIR"),
    "pkg-config-dir": ("lib/pkgconfig", "of gemma3.pc: PKG_CONFIG_PATH"),
}
"""What can be asked for, where it is under the prefix, and what it is."""


def prefix() -> Path:
    """The folder of `bin`, `include` and `lib`.

    Raises UsageError where this installation has none.
    """
    found = native_prefix()
    if found is None:
        raise UsageError(
            "this installation has no native host: expected what is built from C++, got Python "
            "alone, as pip installs it without a C++ compiler and headers; install a platform "
            "wheel, or in a clone run make native"
        )
    return found


def host() -> NoReturn:
    """Entry point of `gemma3-host`: becomes the native program."""
    try:
        program = prefix() / "bin" / "gemma3-host"
    except UsageError as error:
        sys.exit(_refused(error))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and programs inherit
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program, [str(program), *sys.argv[1:]])
    except OSError as error:  # a file that may not be executed, or one for another processor
        sys.exit(_refused(f"{program}: expected a program, got {error.strerror}; install it again"))


def main() -> int:
    """Print the folder that was asked for; gives the exit status."""
    import argparse  # here, since gemma3-host is to start at once

    parser = argparse.ArgumentParser(
        prog="python -m gemma3_export.native",
        description="Print where libgemma3 is.",
        allow_abbrev=False,
    )
    group = parser.add_mutually_exclusive_group(required=True)
    for name, (folder, what) in FOLDERS.items():
        group.add_argument(
            f"--{name}",
            dest="folder",
            action="store_const",
            const=folder,
            help=f"the folder {what}" if folder else what,
        )
    asked = parser.parse_args()
    try:
        print(prefix() / asked.folder)
    except UsageError as error:
        return _refused(error)
    return 0


def _refused(error: UsageError | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
