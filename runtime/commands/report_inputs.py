"""Files that go into a report beside the bundle, and the page that comes out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...artifacts.atomic import whole_file
from ...artifacts.codec import parse_json
from ...artifacts.errors import UsageError

_MAX_BYTES = 2**26
_MEASURED = ("prefill_tok_s", "decode_tok_s", "first_token_s", "load_s", "peak_rss_bytes")


def read_benchmark(path: Path) -> dict[str, Any]:
    """What `gemma3-bench --json` printed.

    Raises:
        UsageError: no such file, or another kind of file.
    """
    value = _read(path, "--bench", "gemma3-bench --json")
    for name in _MEASURED:
        _number(value.get(name), path, "--bench", name, "gemma3-bench --json")
    return value


def read_export(path: Path) -> dict[str, Any]:
    """What `gemma3-export --json` printed.

    Raises:
        UsageError: no such file, or another kind of file.
    """
    value = _read(path, "--export", "gemma3-export --json")
    programs = value.get("programs")
    if not isinstance(programs, list) or not all(isinstance(entry, dict) for entry in programs):
        raise _mistake("--export", path, "programs as a list of objects", "another value")
    for index, entry in enumerate(programs):
        where = f"programs[{index}]"
        name = f"{where}.seconds"
        _number(entry.get("seconds"), path, "--export", name, "gemma3-export --json")
        if not all(isinstance(item, (str, int, float)) for item in entry.values()):
            raise _mistake("--export", path, f"plain values in {where}", "others")
    _number(value.get("seconds"), path, "--export", "seconds", "gemma3-export --json")
    return value


def write_page(path: Path, page: str) -> None:
    """Write the page beside its place and rename it there.

    Raises:
        UsageError: the folder is missing or cannot be written.
    """
    try:
        with whole_file(path) as file:
            file.write(page.encode())
    except OSError as error:
        raise UsageError(
            f"-o: cannot write {path}: {error.strerror}; name a file in a folder that is there"
        ) from error


def _read(path: Path, flag: str, command: str) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise UsageError(f"{flag}: expected a file that {command} printed, got {path}")
    value = parse_json(path.read_bytes(), f"{flag} {path}")
    if not isinstance(value, dict):
        raise _mistake(flag, path, f"the object that {command} printed", "another value")
    return value


def _number(value: Any, path: Path, flag: str, name: str, command: str) -> None:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _mistake(flag, path, f"{name} as a number, as {command} prints it", repr(value)[:40])


def _mistake(flag: str, path: Path, expected: str, got: str) -> UsageError:
    return UsageError(f"{flag} {path}: expected {expected}, got {got}; print it again")
