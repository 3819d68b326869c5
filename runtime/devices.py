"""Devices for a bundle's mesh: how many to ask for before JAX starts, and which to use."""

from __future__ import annotations

import os

import jax
import numpy as np
from jax.sharding import AxisType

from ..artifacts.errors import UsageError
from ..artifacts.manifest import Mesh

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
        if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            jax.config.update("jax_num_cpu_devices", mesh.devices)
    except RuntimeError:
        pass  # The backends have started; JAX has no public way of asking beforehand.


def default_platform(platforms: tuple[str, ...], source: str) -> str:
    """The manifest's name of JAX's default platform here.

    Raises UsageError when the bundle was not lowered for it; `source` names the bundle.
    """
    backend = jax.default_backend()
    here = next((name for name, kind in _DEVICE_PLATFORM.items() if kind == backend), backend)
    if here not in platforms:
        raise UsageError(
            f"{source} has programs for {', '.join(platforms)}, but JAX runs on {here} here; "
            f"pass --platform {platforms[0]}, or re-export with --platform {here}"
        )
    return here


def find_devices(platform: str, mesh: Mesh) -> jax.sharding.Mesh:
    """A JAX mesh of this machine's first devices of `platform`, in row-major order of the axes.

    Raises UsageError when there are fewer devices than the mesh needs.
    """
    try:
        devices = jax.devices(platform)
    except RuntimeError as error:
        raise UsageError(
            f"platform {platform}: JAX has no such devices here (it runs on "
            f"{jax.default_backend()}); install the {platform} plugin of JAX or pass another "
            "--platform of the bundle"
        ) from error
    if len(devices) < mesh.devices:
        remedy = "pass a smaller --mesh of the bundle or run on a machine with more devices"
        if platform == "cpu":
            remedy = (
                f'call jax.config.update("jax_num_cpu_devices", {mesh.devices}) before JAX '
                + ("starts, or use a smaller mesh of the bundle")
            )
        raise UsageError(
            f"mesh {mesh.name} needs {mesh.devices} {platform} devices, found {len(devices)}; "
            f"{remedy}"
        )
    grid = np.array(devices[: mesh.devices]).reshape([axis.size for axis in mesh.axes])
    names = tuple(axis.name for axis in mesh.axes)
    return jax.sharding.Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))
