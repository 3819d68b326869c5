"""Damage that finds faults: bytes turned, cut and doubled; JSON values swapped for odd ones."""

from __future__ import annotations

import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    0, 1, -1, 2, 10**12, -(10**12), 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64,
    10**400, 0.5, -0.0, 1e-300, 1e300, True, False, None, "", " ", "x" * 5000, "..", "/", "a/../b",
    "../../etc/passwd", "\u0000", "\u202e", "\ud83d\ude00", "1", "null", [], {}, [[]], [None],
    [0] * 100, {"": ""}, {"type": "object"}, [1, "a", None], "float32", "int8", "bfloat16",
)  # fmt: skip
_RAW = (b"1e400", b"-1e400", b"NaN", b"Infinity", b"\"\\ud800\"", b"[" * 2000, b"{\"a\":" * 2000,
        b"9" * 5000, b"1.0", b"\xff", b"\xef\xbb\xbf")  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four kinds of damage."""
    for _ in range(rng.randint(1, 4)):
        data = _mutate_json(data, rng) if rng.random() < 0.6 else _mutate_bytes(data, rng)
    return data


def _mutate_json(data: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _mutate_bytes(data, rng)
    holder = [value]
    places = list(_places(holder))
    parent, key = rng.choice(places)
    action = rng.random()
    if action < 0.65 or not isinstance(parent, (dict, list)):
        parent[key] = rng.choice(ODD)
    elif action < 0.8 and parent is not holder:
        del parent[key]
    elif action < 0.9:
        other, at = rng.choice(places)
        parent[key] = other[at]
    elif isinstance(parent, list) and parent is not holder:
        parent.insert(key, parent[key])
    else:
        parent[rng.choice(("x", "", "type", "offset")) if isinstance(parent, dict) else key] = 7
    try:
        return json.dumps(holder[0]).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # a part was put into itself
        return data


def _places(holder: Any, depth: int = 0):
    items = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in items:
        yield holder, key
        if isinstance(value, (dict, list)) and depth < 12:
            yield from _places(value, depth + 1)


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    at = rng.randrange(len(out) + 1) if rng.random() < 0.5 else min(len(out), rng.randrange(256))
    action = rng.randrange(7)
    if action == 0 and out:
        out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
    elif action == 1:
        del out[at:]
    elif action == 2:
        del out[at : at + rng.choice((1, 4, 8, 64))]
    elif action == 3:
        out[at:at] = out[at : at + rng.choice((1, 8, 64, 512))]
    elif action == 4:
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice((0, 1, 2, 255, 1 << 31, (1 << 63) - 1, (1 << 64) - 1, 10**12))
        out[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    elif action == 5:
        out[at:at] = rng.choice(_RAW)
    else:
        out[at : at + 8] = rng.randbytes(8)
    return bytes(out)
