"""Calls of libgemma3 by ctypes: what they take, and how they fail."""

from __future__ import annotations

import ctypes as c
import json
from typing import Any

import numpy as np
from abi_structs import Error, Prompt, RowOptions, Sampling


class RefusedError(Exception):
    """A call of the library failed: status, message, and the room that an output needs."""


def array(values: list[int]) -> c.Array:
    return (c.c_int32 * len(values))(*values)


def prompts_of(texts: list[list[int]], pixels: str | None = None) -> c.Array:
    """Prompts; the first has the images of the `.npy` file `pixels`, if there is one."""
    found = (Prompt * len(texts))()
    for index, text in enumerate(texts):
        found[index] = Prompt(array(text), len(text), None, 0)
    if pixels is not None:
        values = np.load(pixels)
        found[0].pixels = (c.c_float * values.size)(*values.ravel().tolist())
        found[0].images = len(values)
    return found


def row_options(values: dict[str, Any]) -> RowOptions:
    """What a row does: `sampling` by names, `stops` as ids, and numbers."""
    options = RowOptions(**{k: v for k, v in values.items() if k not in ("sampling", "stops")})
    if "sampling" in values:
        options.sampling = c.pointer(Sampling(**values["sampling"]))
        options.sampling_size = c.sizeof(Sampling)
    if "stops" in values:
        options.stop_tokens = array(values["stops"])
        options.stop_count = len(values["stops"])
    return options


class Caller:
    """The library, a model of it, and a cancel that all calls share."""

    def __init__(self, path: str) -> None:
        self.lib = c.CDLL(path)
        self.lib.gemma3_cancel_new.restype = c.c_void_p
        self.model = c.c_void_p()
        self.cancel = c.c_void_p(self.lib.gemma3_cancel_new())

    def call(self, name: str, *arguments: Any) -> None:
        error = Error()
        status = getattr(self.lib, name)(*arguments, c.byref(error))
        assert status == error.status
        if status:
            raise RefusedError(status, error.message.decode(), error.needed)

    def text(self, name: str, *arguments: Any) -> Any:
        """The JSON that a function gives by its last argument."""
        found = c.c_void_p()
        self.call(name, *arguments, c.byref(found))
        value = json.loads(c.string_at(found).decode())
        self.lib.gemma3_free(found)
        return value
