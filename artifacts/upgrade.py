"""Manifests of past format versions, made into ones of the current version.

Each step adds what its version brought, with the value that says the old bundle has none of
it. It works on JSON values and refuses nothing: whatever is wrong is left for the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Value = dict[str, Any]


def upgrade(value: Value, version: int) -> Value:
    """The manifest `value` of a past `version`, as the next one would have written it.

    Raises:
        KeyError: no such past version.
    """
    return {**_STEPS[version](value), "format_version": version + 1}


def past_versions() -> tuple[int, ...]:
    """The versions that `upgrade` understands, oldest first."""
    return tuple(_STEPS)


def _from_1(value: Value) -> Value:
    programs = _each(
        value.get("programs"), {"variant": "portable", "custom_calls": [], "forms": {}}
    )
    caches = _map(
        value.get("caches"),
        lambda cache: {**cache, "layers": _each(cache.get("layers"), {"scale_dtype": None})},
    )
    added: Value = {
        "quantization": None, "score_outputs": [], "saved_model": None, "goldens": None,
    }  # fmt: skip
    return {**added, **value, "programs": programs, "caches": caches}


# What the drawing programs of version 2 took that a host may leave out.
_NEUTRAL_2 = {"temperature": 0.0, "top_k": 0.0, "top_p": 1.0, "min_p": 0.0, "seed": 0.0}


def _from_2(value: Value) -> Value:
    def program(value: Value) -> Value:
        inputs = _map(
            value.get("inputs"),
            lambda item: {"neutral": _NEUTRAL_2.get(str(item.get("name"))), **item},
        )
        return {"convention": 1, **value, "inputs": inputs}

    programs, caches = (
        _map(value.get("programs"), program),
        _each(value.get("caches"), {"state": []}),
    )
    return {"extensions": {}, **value, "programs": programs, "caches": caches}


def _each(items: Any, added: Value) -> Any:
    return _map(items, lambda item: {**added, **item})


def _map(items: Any, change: Callable[[Value], Value]) -> Any:
    if not isinstance(items, list):
        return items
    return [change(item) if isinstance(item, dict) else item for item in items]


_STEPS: dict[int, Callable[[Value], Value]] = {1: _from_1, 2: _from_2}
