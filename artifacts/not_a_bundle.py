"""What a path is that is not a bundle, and what to do with it: one line for whoever named it.

`runtime/native/src/not_a_bundle.cc` says the same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from .errors import ArtifactError
from .paths import MANIFEST

_OTHER = "name a folder that gemma3-export wrote"
_ORBAX = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "commit_success.txt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
_SAVED_MODEL = "saved_model.pb"
_DEEPEST = 4  # folders between a bundle and its deepest file: programs/MESH/PLATFORM/FILE
_GGUF_MAGIC = b"GGUF"
_MOST_MANIFEST = 2**24


def refusal(path: Path) -> ArtifactError:
    """Why `path`, a file, nothing, or a folder without a manifest, is not a bundle."""
    got, remedy = _file(path) if path.exists() and not path.is_dir() else _other(path)
    return ArtifactError(f"{path}: expected the folder of a bundle, got {got}; {remedy}")


def _other(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return _folder(path)
    if _HUB_ID.fullmatch(str(path)) and not path.parent.exists():
        return "nothing of that name", (
            "a model of the Hugging Face hub is downloaded and exported first: "
            "gemma3-export --mesh 1x1 --checkpoint FOLDER"
        )
    return "nothing of that name", _OTHER


def _file(path: Path) -> tuple[str, str]:
    if (bundle := _bundle_above(path)) is not None:
        return "a file of one", f"name the folder: {_quoted(bundle)}"
    if path.suffix == ".safetensors":
        return "a safetensors file", _export(path.parent)
    if path.suffix == ".gguf" or _begin(path, len(_GGUF_MAGIC)) == _GGUF_MAGIC:
        return "a GGUF file", _export(path)
    return "a file", _OTHER


def _folder(path: Path) -> tuple[str, str]:
    names = set(_names(path))
    if (bundle := _bundle_above(path)) is not None:
        return "a folder in one", f"name the bundle: {_quoted(bundle)}"
    if any((path / name / _SAVED_MODEL).is_file() for name in ("", *names)):
        return "a TensorFlow SavedModel", (
            "name the bundle it came with, or export its checkpoint: "
            "gemma3-export --mesh 1x1 --checkpoint FOLDER"
        )
    if "snapshots" in names and {"refs", "blobs"} & names:
        snapshots = sorted(_names(path / "snapshots"))
        snapshot = path / "snapshots" / (snapshots[0] if len(snapshots) == 1 else "REVISION")
        return "a download of the Hugging Face hub", _export(snapshot)
    if names & set(_ORBAX):
        return "an Orbax checkpoint", (
            "gemma3-export takes Hugging Face folders and GGUF files: convert it, then "
            "gemma3-export --mesh 1x1 --checkpoint FOLDER"
        )
    if "config.json" in names or any(name.endswith(".safetensors") for name in names):
        return "a Hugging Face checkpoint", _export(path)
    if any(name.endswith(".gguf") for name in names):
        return "a folder of GGUF files", _export(path)
    return f"a folder without {MANIFEST}", _OTHER


def _export(path: Path) -> str:
    return f"export it first: gemma3-export --mesh 1x1 --checkpoint {_quoted(path)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _bundle_above(path: Path) -> Path | None:
    """The bundle that `path` is a part of."""
    above = list(path.parents)[:_DEEPEST]
    ours = (b'"format_version"', b'"weight_sets"')  # others call their files manifest.json too
    for folder in above:
        text = _begin(folder / MANIFEST, _MOST_MANIFEST)
        if all(name in text for name in ours):
            return folder
    return None


def _begin(path: Path, count: int) -> bytes:
    """The first `count` bytes of a regular file; nothing of others and where they are not."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def _names(path: Path) -> Iterable[str]:
    try:
        return [entry.name for entry in path.iterdir()]
    except OSError:
        return []
