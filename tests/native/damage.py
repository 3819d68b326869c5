"""Damaged copies of a bundle: one change each, the same ones for the same seed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gemma3_export.artifacts.safetensors_header import SAFETENSORS_DTYPES

Path_ = tuple[Any, ...]

STRANGE = (
    0, 1, -1, 2, 3, 5, 63, 64, 65, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64,
    -(2**63), -(2**70), 1.5, 1e300, True, False, None, "", "x", "..", "../manifest.json",
    "/etc/passwd", "a/../b", "a\\b", "c:d", "manifest.json", "weights/model.safetensors",
    "\u0007", "\u202e", [], {}, [1], [[]], ["data"], [["data"], ["data"]], [2**40, 2**40], [0],
    [-1, 4], {"a": 1}, "float64", "int4", "float32", "bfloat16", "ring", "full", "kernels",
    "portable", "1x1", "cpu", "cuda", "decode", "prefill", "generate", "encode_image",
    "prefill_images", "score", "embed",
)  # fmt: skip


def make(base: Path, out: Path, number: int) -> Path:
    """Copy `number` of `base`, damaged; unchanged files are links to the same data."""
    chance = random.Random(number)
    shutil.copytree(base, out, copy_function=os.link)
    chance.choices(_KINDS, weights=[12, 2, 1, 1, 2, 2, 1])[0](out, chance)
    return out


def _rewrite(path: Path, data: bytes) -> None:
    path.unlink()  # the data is shared with the other copies
    path.write_bytes(data)


def _places(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    yield at
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _places(item, (*at, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, (*at, index))


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _get(value: Any, at: Path_) -> Any:
    for part in at:
        value = value[part]
    return value


def _change_manifest(folder: Path, chance: random.Random) -> None:
    """One to three fields take other values, go, come, or change places."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        # A kind of place first: most places are in the programs.
        kinds: dict[Path_, list[Path_]] = {}
        for place in _places(manifest):
            if place:
                key = tuple(part for part in place if isinstance(part, str))
                kinds.setdefault(key, []).append(place)
        at = chance.choice(kinds[chance.choice(list(kinds))])
        owner, last = _get(manifest, at[:-1]), at[-1]
        action = chance.randrange(6)
        if action == 0:
            del owner[last]
        elif action == 1 and isinstance(owner, dict):
            owner[chance.choice(("extra", f"{last}2"))] = _copy(chance.choice(STRANGE))
        elif action == 2 and isinstance(owner, list):
            owner.append(_copy(chance.choice(owner)))
        elif action == 3:
            other = chance.choice([place for place in _places(manifest) if place])
            owner[last] = _copy(_get(manifest, other))
        elif action == 4 and isinstance(owner, list):
            chance.shuffle(owner)
        else:
            owner[last] = _copy(chance.choice(STRANGE))
    _rewrite(path, json.dumps(manifest).encode())


def _spoil_text(folder: Path, chance: random.Random) -> None:
    """The manifest is cut off, has bytes of another kind, or a key twice."""
    path = folder / "manifest.json"
    data = bytearray(path.read_bytes())
    action = chance.randrange(4)
    if action == 0:
        del data[chance.randrange(len(data)) :]
    elif action == 1:
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)  # never as it was
    elif action == 2:
        data = bytearray(b'{"abstract": false, ' + bytes(data).lstrip()[1:])
    else:
        data = bytearray(b"[" * chance.choice((10, 10_000, 200_000)))
    _rewrite(path, bytes(data))


def _some_file(folder: Path, chance: random.Random) -> Path:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return chance.choice([path for path in files if path.name != "manifest.json"])


def _cut(folder: Path, chance: random.Random) -> None:
    """A file is shorter or longer."""
    path = _some_file(folder, chance)
    data = path.read_bytes()
    _rewrite(path, data[: chance.randrange(len(data))] if chance.random() < 0.7 else data + b"x")


def _flip(folder: Path, chance: random.Random) -> None:
    """One bit of a file is another."""
    path = _some_file(folder, chance)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    _rewrite(path, bytes(data))


def _spoil_header(folder: Path, chance: random.Random) -> None:
    """The header of the weights claims other places, shapes or lengths."""
    path = folder / "weights" / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entry = header[chance.choice([name for name in header if name != "__metadata__"])]
    action = chance.randrange(4)
    if action == 0:
        claimed = chance.choice((0, 1, length + 1, 2**40, 2**63, 2**64 - 1))
        return _rewrite(path, claimed.to_bytes(8, "little") + data[8:])
    if action == 1:
        entry["data_offsets"][chance.randrange(2)] = chance.choice(STRANGE)
    elif action == 2:
        entry["shape"] = chance.choice(([2**40, 2**40], [-1], [], [1.5], "x"))
    else:
        entry["dtype"] = chance.choice(("F64", "", None, "I8"))
    text = json.dumps(header).encode()
    return _rewrite(path, (len(text)).to_bytes(8, "little") + text + data[8 + length :])


def _relink(folder: Path, chance: random.Random) -> None:
    """A file is a link out of the bundle, a link to itself, a folder, a pipe, or gone."""
    path = _some_file(folder, chance)
    path.unlink()
    action = chance.randrange(5)
    if action == 0:
        path.symlink_to("/etc/hostname")
    elif action == 1:
        path.symlink_to(path.name)
    elif action == 2:
        path.mkdir()
    elif action == 3:
        os.mkfifo(path)


def _swap_files(folder: Path, chance: random.Random) -> None:
    """Two files have changed places."""
    first, second = _some_file(folder, chance), _some_file(folder, chance)
    one, other = first.read_bytes(), second.read_bytes()
    _rewrite(first, other + (b"!" if one == other else b""))
    _rewrite(second, one if first != second else other + b"!")


_KINDS: list[Callable[[Path, random.Random], None]] = [
    _change_manifest, _spoil_text, _cut, _flip, _spoil_header, _relink, _swap_files,
]  # fmt: skip


def redeclare_weight(bundle: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Another shape and dtype of a weight, of as many bytes, in the manifest and the weight file.

    Digests are made right again: as somebody would who writes the whole bundle.
    """
    file = bundle / "weights" / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[name] |= {"shape": list(shape), "dtype": SAFETENSORS_DTYPES[dtype]}
    text = json.dumps(header, separators=(",", ":")).encode()
    assert len(text) <= length, "offsets are to stay as they are"
    changed = data[:8] + text.ljust(length) + data[8 + length :]
    _rewrite(file, changed)
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for weight in manifest["weights"]:
        if weight["name"] == name:
            weight |= {"shape": list(shape), "dtype": dtype}
    for record in manifest["files"]:
        if record["path"] == "weights/model.safetensors":
            record["sha256"] = hashlib.sha256(changed).hexdigest()
    _rewrite(path, json.dumps(manifest).encode())
