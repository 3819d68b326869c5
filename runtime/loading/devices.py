"""Devices for a bundle's mesh: how many to ask for before JAX starts, and which to use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from ...artifacts.bundle import Bundle
from ...artifacts.errors import UsageError, argument
from ...artifacts.manifest import Mesh, MeshRecord
from ...artifacts.paths import MANIFEST
from .bundle import choose_mesh

_PLATFORM = argument("platform")
_DEVICE_COUNT_FLAG = "xla_force_host_platform_device_count"

# What the manifest calls a platform and what JAX calls its devices differ for CUDA only.
_DEVICE_PLATFORM = {"cuda": "gpu"}


def prepare_backend(mesh: Mesh, platform: str | None) -> None:
    """Ask JAX for `platform` only, and for enough virtual CPU devices for `mesh`.

    For commands, which own their process: call it before anything starts JAX's backends. When
    they run already, nothing changes and `find_devices` says what is missing.
    """
    try:
        if platform is not None:
            jax.config.update("jax_platforms", platform)
        if not _flags_set_device_count():  # JAX refuses to be told twice
            jax.config.update("jax_num_cpu_devices", mesh.devices)
    except RuntimeError:
        pass  # The backends have started; JAX has no public way of asking beforehand.


def ensure_devices(mesh: Mesh) -> None:
    """Ask JAX for enough virtual CPU devices for `mesh`, if it can still be told and has fewer.

    For libraries, whose process is somebody else's: what its owner asked for is not taken back.
    """
    count = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    if count >= mesh.devices or _flags_set_device_count():
        return
    with contextlib.suppress(RuntimeError):  # the backends have started: find_devices says it
        jax.config.update("jax_num_cpu_devices", mesh.devices)


def default_platform(platforms: tuple[str, ...], source: str) -> str:
    """The manifest's name of JAX's default platform here.

    Raises UsageError when the bundle was not lowered for it; `source` names the bundle.
    """
    try:
        backend = jax.default_backend()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"JAX cannot start here: {reason}; pass {_PLATFORM} {platforms[0]}"
        ) from error
    platform = next((name for name, kind in _DEVICE_PLATFORM.items() if kind == backend), backend)
    if platform not in platforms:
        raise UsageError(
            f"{source} has programs for {', '.join(platforms)}, but JAX runs on {platform} here; "
            f"pass {_PLATFORM} {platforms[0]}, or re-export with --platform {platform}"
        )
    return platform


def default_mesh(bundle: Bundle, platform: str | None) -> MeshRecord:
    """The mesh of a bundle to run on where none is named; see `choose_mesh`.

    Starts JAX. Raises UsageError when the bundle was not lowered for this platform.
    """
    if platform is not None:  # refused before such devices are looked for
        bundle.programs_for(choose_mesh(bundle, None, platform).mesh.name, platform)
    source = str(bundle.root / MANIFEST)
    here = platform or default_platform(bundle.manifest.platforms, source)
    return choose_mesh(bundle, None, here, len(_devices(here)))


def find_devices(platform: str, mesh: Mesh) -> jax.sharding.Mesh:
    """A JAX mesh of this machine's first devices of `platform`, in row-major order of the axes.

    Raises UsageError when there are fewer devices than the mesh needs.
    """
    devices = _devices(platform)
    if len(devices) < mesh.devices:
        raise UsageError(
            f"mesh {mesh.name} needs {mesh.devices} {platform} devices, found {len(devices)}; "
            f"{_remedy(platform, mesh)}"
        )
    grid = np.array(devices[: mesh.devices]).reshape([axis.size for axis in mesh.axes])
    names = tuple(axis.name for axis in mesh.axes)
    return jax.sharding.Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def _devices(platform: str) -> Sequence[Any]:
    try:
        return jax.devices(platform)
    except (RuntimeError, AssertionError) as error:  # the latter when it is the only one wanted
        raise UsageError(
            f"platform {platform}: JAX finds no such devices here; install JAX's plugin for it, or "
            f"pass another {_PLATFORM} of the bundle"
        ) from error


def _remedy(platform: str, mesh: Mesh) -> str:
    """How to get the devices that a mesh lacks."""
    if platform != "cpu":
        return (
            f"pass a smaller {argument('mesh')} of the bundle, or use a machine with more devices"
        )
    if _flags_set_device_count():
        return f"set {_DEVICE_COUNT_FLAG} in XLA_FLAGS to {mesh.devices}, or remove it"
    return (
        f'call jax.config.update("jax_num_cpu_devices", {mesh.devices}) before JAX starts, or use '
        "a smaller mesh of the bundle"
    )


def _flags_set_device_count() -> bool:
    return _DEVICE_COUNT_FLAG in os.environ.get("XLA_FLAGS", "")
