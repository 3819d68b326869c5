"""Will this bundle run on this machine? Answered from the manifest, and of memory by compiling."""

from __future__ import annotations

import contextlib
import datetime
import enum
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError
from ...artifacts.inspect.guarantee import MONTHS, guaranteed_until, released
from ...artifacts.inspect.summary import format_bytes
from ...artifacts.manifest import MeshRecord
from ...artifacts.sharding import device_bytes
from .plugin import plugin_attributes

_SOON = datetime.timedelta(days=60)


class Status(enum.StrEnum):
    """What a check came to."""

    OK = "ok"
    WARNING = "warning"
    """The bundle runs here; something will, or may, stand in the way."""
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One answer: what was looked at, what came of it, and the figures."""

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Memory:
    """Bytes a mesh needs at most. Its programs run one at a time."""

    weights: int
    """Of one device."""
    largest_call: int
    """Inputs, outputs and cache of the largest bucket on one device."""
    host: int
    """Of all devices together where they share the memory of one host, as CPU devices do."""
    temporaries: int | None
    """What the compiler sets aside on one device for intermediate values; None if nobody asked."""

    @property
    def device(self) -> int:
        """Bytes of one device."""
        return self.weights + self.largest_call + (self.temporaries or 0)


def check_versions(bundle: Bundle, plugin: Path | None, today: datetime.date) -> list[Check]:
    """Whether the jax here, or the PJRT plugin at `plugin`, reads the programs.

    Raises UsageError when the plugin is none.
    """
    found = [] if plugin is not None else [_calling_convention(bundle)]
    if plugin is not None:
        attributes = plugin_attributes(plugin)
        current = tuple(attributes.get("stablehlo_current_version", ()))
        least = tuple(attributes.get("stablehlo_minimum_version", ()))
        found.append(_stablehlo(bundle, f"plugin {plugin}", current, least))
    else:
        from jax.extend.mlir.dialects import stablehlo

        versions = (stablehlo.get_current_version(), stablehlo.get_minimum_version())
        current, least = (_numbers(version) for version in versions)
        found.append(_stablehlo(bundle, f"jaxlib {_jaxlib_version()}", current, least))
    return [*found, _guarantee(bundle, today)]


def check_mesh(bundle: Bundle, record: MeshRecord, platform: str, compiling: bool) -> Check:
    """Whether the devices and the memory of a mesh are here. Starts JAX's backends.

    With `compiling`, programs for CPU are compiled to learn what they set aside.
    """
    import jax

    name = f"mesh {record.mesh.name} on {platform}"
    if not any((p.mesh, p.platform) == (record.mesh.name, platform)
               for p in bundle.manifest.programs):  # fmt: skip
        return Check(name, Status.FAILED, "the bundle has no programs for it")
    if platform == "cpu":
        return _check_host(name, bundle, record, compiling)
    need = mesh_memory(bundle, record, platform, None)
    try:
        devices = jax.devices(platform)
    except (RuntimeError, AssertionError):
        return Check(name, Status.FAILED, f"JAX finds no {platform} devices here")
    if len(devices) < record.mesh.devices:
        return Check(
            name, Status.FAILED, f"{record.mesh.devices} devices needed, {len(devices)} found"
        )
    free = _least_free(devices[: record.mesh.devices])
    detail = f"{record.mesh.devices} of {len(devices)} devices, {_needs(need)} each"
    if free is None:
        return Check(name, Status.WARNING, f"{detail}; the device does not tell what is free")
    return _fits(name, detail, need.device, free)


def mesh_memory(
    bundle: Bundle, record: MeshRecord, platform: str, temporaries: int | None
) -> Memory:
    """What the programs of a mesh and platform hold on its devices; 0 where there are none.

    `temporaries` is what the compiler sets aside on one of them, if known.
    """
    programs = [
        p for p in bundle.manifest.programs
        if (p.mesh, p.platform) == (record.mesh.name, platform)
    ]  # fmt: skip
    sets = {program.weights for program in programs}
    weights = {w.name: w for name in sets for w in bundle.weight_set(name)}.values()
    mesh = record.mesh
    on_device = sum(
        device_bytes(w.shape, w.dtype, record.weight_specs[w.name], mesh) for w in weights
    )
    calls = [
        sum(device_bytes(t.shape, t.dtype, t.spec, mesh) for t in (*p.inputs, *p.outputs, *p.cache))
        for p in programs
    ]
    largest = max(calls, default=0)
    # Devices of one host share the mapped file, and copies of a shard are one copy.
    host = sum(w.nbytes for w in weights) + mesh.devices * (largest + (temporaries or 0))
    return Memory(on_device, largest, host, temporaries)


def free_memory() -> int | None:
    """Bytes of this machine's memory that can be had, None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration):
        return None
    with contextlib.suppress(OSError, ValueError):  # no such limit: "max" is no number
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        free = min(free, int((group / "memory.max").read_text()) - used)
    return free


def verdict(meshes: Iterable[Check]) -> bool:
    """Whether at least one mesh of the bundle can run here."""
    return any(check.status is not Status.FAILED for check in meshes)


def _check_host(name: str, bundle: Bundle, record: MeshRecord, compiling: bool) -> Check:
    cores, mesh = os.cpu_count() or 1, record.mesh
    asked = None
    if compiling:
        from .temporaries import largest_temporaries

        try:
            asked = largest_temporaries(bundle, record, "cpu")
        except UsageError as error:
            return Check(name, Status.FAILED, error.for_command)
    need = mesh_memory(bundle, record, "cpu", asked and asked.bytes)
    devices = f"{mesh.devices} virtual devices on {cores} cores" if mesh.devices > 1 else "1 device"
    detail = f"{devices}, {_needs(need)} each, {format_bytes(need.host)} together"
    if asked is not None:
        largest = asked.program.program
        detail += (
            f"; {asked.compiled} programs compiled in {asked.seconds:.1f} s, most for {largest}"
        )
    free = free_memory()
    if free is None:
        return Check(name, Status.WARNING, f"{detail}; this system does not tell what is free")
    return _fits(name, detail, need.host, free)


def _fits(name: str, detail: str, needed: int, free: int) -> Check:
    status = Status.OK if needed <= free else Status.FAILED
    return Check(name, status, f"{detail}; {format_bytes(max(free, 0))} free")


def _needs(need: Memory) -> str:
    parts = f"{format_bytes(need.weights)} weights + {format_bytes(need.largest_call)} cache"
    if need.temporaries is None:
        return f"{format_bytes(need.device)} ({parts} and results, without temporaries)"
    temporaries = format_bytes(need.temporaries)
    return f"{format_bytes(need.device)} ({parts} and results + {temporaries} temporaries)"


def _least_free(devices: Sequence[Any]) -> int | None:
    """Free bytes of the fullest device; None when one does not tell."""
    stats = [device.memory_stats() or {} for device in devices]
    if not all("bytes_limit" in found for found in stats):
        return None
    return min(found["bytes_limit"] - found.get("bytes_in_use", 0) for found in stats)


def _calling_convention(bundle: Bundle) -> Check:
    from jax import export

    version = bundle.manifest.versions.calling_convention
    least = export.minimum_supported_calling_convention_version
    most = export.maximum_supported_calling_convention_version
    status = Status.OK if least <= version <= most else Status.FAILED
    detail = f"calling convention {version}; jax {_jax_version()} reads {least} to {most}"
    return Check("jax.export", status, detail)


def _stablehlo(bundle: Bundle, who: str, current: tuple, least: tuple) -> Check:
    text = bundle.manifest.versions.stablehlo
    version = _numbers(text)
    if not current or not least:
        return Check("StableHLO", Status.WARNING, f"{text}; {who} does not tell what it reads")
    detail = f"{text}; {who} reads {_dots(least)} to {_dots(current)}"
    if least <= version <= current:
        return Check("StableHLO", Status.OK, detail)
    if version > current:
        detail += f"; re-export with --stablehlo-version {_dots(current)}"
    return Check("StableHLO", Status.FAILED, detail)


def _guarantee(bundle: Bundle, today: datetime.date) -> Check:
    """Reads the promise of jax.export against the jax that is here, and against today."""
    name, version = "guarantee", bundle.manifest.versions.jax
    until, here = guaranteed_until(version), released(_jax_version())
    if until is None:
        return Check(name, Status.WARNING, f"jax {version}: when it was released is not known here")
    promise = f"exported with jax {version}: any jax released until {until} must read it"
    if here is not None and here > until:
        return Check(
            name, Status.WARNING,
            f"{promise}, and jax {_jax_version()} is of {here}: export the bundle again",
        )  # fmt: skip
    if today > until:
        late = f"that day is past: jax released since may refuse it ({MONTHS} months are promised)"
        return Check(name, Status.WARNING, f"{promise}; {late}")
    left = (until - today).days
    status = Status.WARNING if today + _SOON > until else Status.OK
    return Check(name, status, f"{promise}, {left} days from now")


def _numbers(version: str) -> tuple[int, ...]:
    """`1.15.0` as numbers; () for anything else, which no reader reads."""
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def _dots(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


def _jax_version() -> str:
    import jax

    return jax.__version__


def _jaxlib_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("jaxlib")
