"""What a PJRT plugin says of itself, asked in a process of its own: it may crash or be chatty.

`python -m gemma3_export.runtime.checks.plugin PATH` prints the attributes as one JSON object. Only
`GetPjrtApi`, `PJRT_Plugin_Attributes` and what it takes to read an error are called, through the
prefix of the PJRT C API that has not moved since version 0.40 (xla/pjrt/c/pjrt_c_api.h).
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...artifacts.errors import UsageError

_TIMEOUT_S = 120


class _Version(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p),
        ("major", ctypes.c_int), ("minor", ctypes.c_int),
    )  # fmt: skip


class _Api(ctypes.Structure):
    """The head of struct PJRT_Api: sizes, version and its first five functions."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p), ("version", _Version),
        ("error_destroy", ctypes.c_void_p), ("error_message", ctypes.c_void_p),
        ("error_code", ctypes.c_void_p), ("initialize", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
    )  # fmt: skip


class _Value(ctypes.Union):
    _fields_ = (
        ("string", ctypes.c_void_p), ("int64", ctypes.c_int64),
        ("int64_list", ctypes.POINTER(ctypes.c_int64)), ("float", ctypes.c_float),
        ("bool", ctypes.c_bool),
    )  # fmt: skip


class _NamedValue(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p),
        ("name", ctypes.c_void_p), ("name_size", ctypes.c_size_t),
        ("type", ctypes.c_int), ("value", _Value), ("value_size", ctypes.c_size_t),
    )  # fmt: skip


class _AttributesArgs(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_NamedValue)), ("count", ctypes.c_size_t),
    )  # fmt: skip


class _InitializeArgs(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p))


_CALL = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_STRING, _INT64, _INT64_LIST, _FLOAT, _BOOL = range(5)


def plugin_attributes(path: Path) -> dict[str, Any]:
    """The attributes of the PJRT plugin at `path`, its API version as `pjrt_api_version`.

    Raises:
        UsageError: the file is not a plugin, or fails when it is asked.
    """
    if not path.is_file():
        raise UsageError(f"--plugin: expected a PJRT plugin library, got no file {path}")
    try:
        run = subprocess.run(
            [sys.executable, "-m", __name__, str(path.resolve())],
            capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"--plugin: {path} did not answer within {_TIMEOUT_S} s; name another library"
        ) from error
    lines = run.stdout.splitlines()
    if run.returncode or not lines:
        said = run.stderr.strip().splitlines() or [f"it ended the process ({run.returncode})"]
        raise UsageError(f"--plugin: {path} is no PJRT plugin: {said[-1]}; name another library")
    return json.loads(lines[-1])


def _ask(path: str) -> dict[str, Any]:
    library = ctypes.CDLL(path)
    library.GetPjrtApi.restype = ctypes.POINTER(_Api)
    api = library.GetPjrtApi().contents
    _call(api.initialize, _InitializeArgs(ctypes.sizeof(_InitializeArgs)), "initialize")
    arguments = _AttributesArgs(ctypes.sizeof(_AttributesArgs))
    _call(api.attributes, arguments, "tell its attributes")
    found: dict[str, Any] = {
        "pjrt_api_version": [api.version.major, api.version.minor],
    }
    for index in range(arguments.count):
        item = arguments.attributes[index]
        found[ctypes.string_at(item.name, item.name_size).decode()] = _read(item)
    return found


def _call(function: int, arguments: ctypes.Structure, what: str) -> None:
    if _CALL(function)(ctypes.addressof(arguments)):
        sys.exit(f"it fails to {what}")


def _read(item: _NamedValue) -> Any:
    if item.type == _STRING:
        return ctypes.string_at(item.value.string, item.value_size).decode()
    if item.type == _INT64_LIST:
        return [item.value.int64_list[index] for index in range(item.value_size)]
    return {_INT64: item.value.int64, _FLOAT: item.value.float, _BOOL: item.value.bool}.get(
        item.type
    )


if __name__ == "__main__":
    try:
        print(json.dumps(_ask(sys.argv[1])))
    except (OSError, AttributeError) as error:
        sys.exit(str(error))
