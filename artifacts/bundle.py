"""Opening a bundle: what is refused before anything of it is used, and how parts are chosen."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checks import check_manifest
from .codec import REMEDY, decode, parse_json, show
from .errors import ArtifactError, UsageError
from .layout import CacheLayout
from .manifest import FORMAT_VERSION, PORTABLE, FileRecord, Manifest, MeshRecord, Program, Weight
from .not_a_bundle import refusal
from .paths import MANIFEST, resolve_inside
from .safetensors_header import check_header
from .upgrade import past_versions, upgrade

MAX_MANIFEST_BYTES = 2**24
"""Real ones are below 1 MiB; what is parsed takes some 25 times its size in memory."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest, file sizes and weight headers have been checked.

    Digests are not: `verify_digest` and `verify` read whole files.
    """

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Read the bundle in folder `path`.

        Raises:
            ArtifactError: no such folder, no manifest, a manifest of unknown version or with
                parts that do not agree, or a file that is missing, outside the bundle or of
                another size than recorded.
        """
        root = Path(path)
        manifest = read_manifest(root)
        for record in manifest.files:
            _check_size(root, record)
        bundle = cls(root, manifest)
        if not manifest.abstract:
            for file in bundle.weight_files:
                weights = [weight for weight in manifest.weights if weight.file == file]
                check_header(root / file, weights, str(root / file))
        return bundle

    @classmethod
    def open_part(cls, path: Path | str, folder: str) -> Bundle:
        """Read the manifest of the bundle at `path` and what it records in `folder`.

        The other files may be missing; who asks for one of them gets the system's error. Raises
        ArtifactError as `open` does.
        """
        root = Path(path)
        manifest = read_manifest(root)
        for record in manifest.files:
            if record.path.startswith(f"{folder}/"):
                _check_size(root, record)
        return cls(root, manifest)

    @functools.cached_property
    def _records(self) -> dict[str, FileRecord]:
        return {record.path: record for record in self.manifest.files}

    @functools.cached_property
    def mappings(self) -> dict[str, np.memmap[Any, Any]]:
        """The weight files mapped so far; `map_weight` fills it, the bundle keeps it."""
        return {}

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Bundle paths of the files that hold weights, each once."""
        return tuple(dict.fromkeys(weight.file for weight in self.manifest.weights))

    def path(self, name: str) -> Path:
        """Where file `name` of the manifest lies."""
        return self.root / self._record(name).path

    def digest(self, name: str) -> str:
        """SHA-256 that the manifest records of file `name`, hexadecimal."""
        return self._record(name).sha256

    def mesh(self, name: str) -> MeshRecord:
        """The mesh `name`.

        Raises:
            UsageError: the bundle was not lowered for it.
        """
        meshes = {record.mesh.name: record for record in self.manifest.meshes}
        if name not in meshes:
            raise UsageError(
                f"{self.root}: expected a mesh of the bundle ({_list(meshes)}), got {name}; "
                f"re-export with --mesh {name}"
            )
        return meshes[name]

    def programs_for(
        self, mesh: str, platform: str, variant: str = PORTABLE
    ) -> tuple[Program, ...]:
        """The programs of a mesh and platform, smallest bucket first.

        Never empty when `variant` is `portable`; others may be there for some buckets or none.

        Raises:
            UsageError: the bundle has none.
        """
        self.mesh(mesh)
        programs = [program for program in self.manifest.programs if program.mesh == mesh]
        chosen = [program for program in programs if program.platform == platform]
        if not chosen:
            platforms = dict.fromkeys(program.platform for program in programs)
            raise UsageError(
                f"{self.root}: expected a platform of mesh {mesh} ({_list(platforms)}), "
                f"got {platform}; re-export with --platform {platform}"
            )
        chosen = [program for program in chosen if program.variant == variant]
        return tuple(sorted(chosen, key=lambda program: program.bucket))

    def cache_layout(self, cache: int) -> CacheLayout:
        """The KV cache of the buckets whose rows hold `cache` positions.

        Raises:
            UsageError: no bucket has that length.
        """
        layouts = {layout.cache: layout for layout in self.manifest.caches}
        if cache not in layouts:
            raise UsageError(
                f"{self.root}: expected a cache length of the bundle ({_list(layouts)}), "
                f"got {cache}; re-export with --cache {cache}"
            )
        return layouts[cache]

    def weight_set(self, name: str) -> tuple[Weight, ...]:
        """The weights a program takes, in order; `name` is its field `weights`."""
        weights = {weight.name: weight for weight in self.manifest.weights}
        return tuple(weights[member] for member in self.manifest.weight_sets[name])

    def verify_digest(self, name: str) -> None:
        """Read file `name` of the manifest and compare its SHA-256.

        Raises:
            ArtifactError: the contents are not what the manifest records.
        """
        with resolve_inside(self.root, self._record(name).path).open("rb") as file:
            self._check_digest(name, hashlib.file_digest(file, "sha256").hexdigest())

    def read(self, name: str) -> bytes:
        """The contents of file `name` of the manifest, read once and compared with their SHA-256.

        What is loaded is what was checked, even if the file changes meanwhile.

        Raises:
            ArtifactError: the contents are not what the manifest records.
        """
        data = resolve_inside(self.root, self._record(name).path).read_bytes()
        self._check_digest(name, hashlib.sha256(data).hexdigest())
        return data

    def _check_digest(self, name: str, digest: str) -> None:
        expected = self._record(name).sha256
        if digest != expected:
            raise ArtifactError(
                f"{self.root / name}: contents changed: expected SHA-256 {expected}, "
                f"got {digest}; copy the bundle again or re-export it"
            )

    def verify(self) -> None:
        """Compare the SHA-256 of every file of the manifest.

        Raises:
            ArtifactError: names the first file that changed.
        """
        for record in self.manifest.files:
            self.verify_digest(record.path)

    def _record(self, name: str) -> FileRecord:
        if name not in self._records:
            raise ArtifactError(
                f"{self.root / MANIFEST}: expected a record of file {name}, got none; {REMEDY}"
            )
        return self._records[name]


def read_manifest(root: Path) -> Manifest:
    """The checked manifest of the bundle in folder `root`; no other file is looked at.

    Raises:
        ArtifactError: see `Bundle.open`.
    """
    where = str(root / MANIFEST)
    if not root.is_dir() or not (root / MANIFEST).exists():
        raise refusal(root)
    with resolve_inside(root, MANIFEST).open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"{where}: expected at most {MAX_MANIFEST_BYTES} bytes, got more; {REMEDY}"
        )
    manifest = decode(Manifest, _current(parse_json(data, where), where), where)
    check_manifest(manifest, where)
    return manifest


def _current(value: Any, where: str) -> Any:
    """The JSON of a manifest as the current version has it, from whatever version it is in."""
    if not isinstance(value, dict):
        return value
    for version in past_versions():
        # 1.0 and True equal 1 but are not it.
        if type(value.get("format_version")) is int and value["format_version"] == version:
            value = upgrade(value, version)
    if value.get("format_version") != FORMAT_VERSION:
        known = ", ".join(map(str, (*past_versions(), FORMAT_VERSION)))
        raise ArtifactError(
            f"{where}: expected format version {known}, got {show(value.get('format_version'))}; "
            "install the gemma3-export that wrote it, or re-export with this one"
        )
    return value


def _check_size(root: Path, record: FileRecord) -> None:
    size = resolve_inside(root, record.path).stat().st_size
    if size != record.bytes:
        raise ArtifactError(
            f"{root / record.path}: expected {record.bytes} bytes, got {size}; "
            "copy the bundle again or re-export it"
        )


def _list(names: dict[Any, Any]) -> str:
    return ", ".join(map(str, names)) or "none"
