"""What `gemma3-bundle verify` finds: files, signature, this machine, goldens."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...artifacts.bundle import Bundle
from ...artifacts.codec import encode
from ...artifacts.errors import UsageError
from ...artifacts.goldens import read_goldens
from ...artifacts.inspect.summary import format_bytes
from ...artifacts.manifest import MeshRecord
from ..loading.bundle import refuse_abstract
from ..loading.start import load_model
from ..loading.status import StatusLine
from .goldens import Outcome, run_goldens
from .kernels import check_kernels
from .preflight import Check, Status, check_mesh, check_versions, verdict


@dataclass(frozen=True)
class Verification:
    """Everything that was found of a bundle whose files are as recorded."""

    bundle: Bundle
    signer: Path | None
    """The key or certificate that a signature was demanded of."""
    versions: tuple[Check, ...]
    meshes: tuple[Check, ...]
    goldens: tuple[Outcome, ...] | None
    """None when they were not run."""
    kernels: Check | None = None
    """None where no program calls C++ kernels."""

    def require(self) -> None:
        """Raise UsageError when the bundle does not run here or gives other tokens."""
        where = self.bundle.root
        for check in self.versions:
            if check.status is Status.FAILED:
                raise UsageError(f"{where}: {check.name}: {check.detail}")
        if self.meshes and not verdict(self.meshes):
            first = self.meshes[0]
            raise UsageError(
                f"{where}: no mesh of it runs on this machine; {first.name}: {first.detail}; "
                "re-export for devices that are here with --mesh and --platform"
            )
        for number, outcome in enumerate(self.goldens or (), 1):
            if outcome.error:
                raise UsageError(
                    f"{where}: golden {number} of {len(self.goldens or ())} came out wrong: "
                    f"{outcome.error}; export the bundle again, or do not use it here"
                )


def verify_bundle(
    bundle: Bundle, signer: Path | None, plugin: Path | None, mesh: str | None,
    platform: str | None, run: bool, compiling: bool = True,
) -> Verification:  # fmt: skip
    """Hold an open bundle against this machine, and run its goldens if asked.

    With `compiling`, the largest programs for CPU are compiled to learn what they set aside; not
    for a `plugin`, which would compile them itself. `mesh` and `platform` narrow what is looked at.
    Raises UsageError for one the bundle lacks, for a file that is not a plugin, and for missing
    goldens.
    """
    if mesh is not None:
        bundle.mesh(mesh)
    if platform is not None and platform not in bundle.manifest.platforms:
        known = ", ".join(bundle.manifest.platforms)
        raise UsageError(f"--platform: expected one of the bundle's ({known}), got {platform}")
    goldens = _require_goldens(bundle) if run else None
    versions = check_versions(bundle, plugin, datetime.date.today())
    unread = any(check.status is Status.FAILED for check in versions)
    compiling = compiling and plugin is None and not unread
    records = bundle.manifest.meshes if mesh is None else (bundle.mesh(mesh),)
    platforms = [name for name in bundle.manifest.platforms if platform in (None, name)]
    meshes = _check_meshes(bundle, records, platforms, compiling)
    kernels = check_kernels(bundle, [record.mesh.name for record in records], platforms)
    found = Verification(bundle, signer, tuple(versions), tuple(meshes), None, kernels)
    if goldens is None:
        return found
    found.require()  # what cannot be loaded need not be tried
    refuse_abstract(bundle)
    with StatusLine() as status:
        model = load_model(bundle, mesh, platform, status)
        status.say("running goldens")
        outcomes = tuple(run_goldens(model, goldens))
    return replace(found, goldens=outcomes)


def verification_data(found: Verification) -> dict[str, Any]:
    """What `verify --json` prints; bytes are exact, keys are stable."""
    records = found.bundle.manifest.files
    goldens = None
    if found.goldens is not None:
        goldens = [
            {"text": o.golden.text, "ok": not o.error, "error": o.error} for o in found.goldens
        ]
    return {
        "ok": True,
        "files": len(records),
        "bytes": sum(record.bytes for record in records),
        "signed_by": None if found.signer is None else str(found.signer),
        "versions": encode([*found.versions]),
        "meshes": encode([*found.meshes]),
        "kernels": None if found.kernels is None else encode(found.kernels),
        "goldens": goldens,
    }


def verification_lines(found: Verification) -> list[str]:
    """The same for people: one line for each answer."""
    records = found.bundle.manifest.files
    total = format_bytes(sum(record.bytes for record in records))
    rows = []
    if found.signer is not None:
        rows.append(("signature", "ok", f"by {found.signer}"))
    rows += [(c.name, str(c.status), c.detail) for c in (*found.versions, *found.meshes)]
    if found.kernels is not None:
        rows.append((found.kernels.name, str(found.kernels.status), found.kernels.detail))
    if not found.meshes:
        rows.append(("meshes", "none", "an abstract bundle: programs without weights do not run"))
    for outcome in found.goldens or ():
        golden = outcome.golden
        what = repr(golden.text) if golden.text else f"{len(golden.tokens)} tokens"
        count = len(golden.new_tokens or golden.values)
        said = outcome.error or f"{what}: {count} as recorded"
        rows.append((f"golden {golden.kind}", "failed" if outcome.error else "ok", said))
    name, status = (max(len(row[column]) for row in rows) for column in (0, 1))
    first = f"{found.bundle.root}: {len(records)} files, {total}, all as recorded"
    return [first, *(f"{row[0]:<{name}}  {row[1]:<{status}}  {row[2]}" for row in rows)]


def _require_goldens(bundle: Bundle):
    goldens = read_goldens(bundle)
    if goldens is None:
        raise UsageError(
            f"{bundle.root}: --run needs goldens and the bundle has none; re-export with "
            "--goldens run, or --goldens FILE"
        )
    return goldens


def _check_meshes(
    bundle: Bundle, records: Sequence[MeshRecord], platforms: Sequence[str], compiling: bool
) -> list[Check]:
    """A check of each of these meshes on each platform; none of an abstract bundle."""
    if bundle.manifest.abstract:
        return []
    if compiling and "cpu" in platforms:
        from .temporaries import prepare_meshes

        prepare_meshes(records, platforms)
    checks = []
    with StatusLine() as status:
        for record in records:
            for name in platforms:
                if compiling and name == "cpu":
                    status.say(f"compiling the largest programs of mesh {record.mesh.name}")
                checks.append(check_mesh(bundle, record, name, compiling))
    return checks
