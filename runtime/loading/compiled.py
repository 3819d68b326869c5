"""Compiled programs of this process: what identifies them, and their way to bytes and back.

Over `jax.experimental.serialize_executable`, which pickles: `artifacts.compiled` hands out only
what this user wrote. Trees of arguments are built from the manifest and not stored. Loading takes
half a second for a program of the 270M where JAX's own persistent cache takes one: that one needs
the program traced and lowered first.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform as system
from importlib import metadata
from pathlib import Path

import jax
from jax.experimental import serialize_executable

from ...artifacts.bundle import Bundle
from ...artifacts.codec import encode
from ...artifacts.manifest import Program


def identity(mesh: jax.sharding.Mesh) -> dict[str, str]:
    """Everything that machine code for the devices of `mesh` depends on but the program."""
    device = mesh.devices.flat[0]
    return {
        "host": "python",
        "python": system.python_implementation() + system.python_version(),
        "jax": jax.__version__,
        "jaxlib": f"{metadata.version('jaxlib')} {_build()}",
        "platform": f"{device.platform} {device.client.platform_version}",
        "device": device.device_kind,
        "devices": str(len(device.client.devices())),
        "machine": system.machine(),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "options": "".join(f"{name}={os.environ.get(name, '')};" for name in _OPTIONS),
    }


_OPTIONS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


def _build() -> str:
    """Digest of what pip recorded of jaxlib and of the plugins beside it: of every file's."""
    names = {"jaxlib", *(p.dist.name for p in metadata.entry_points(group="jax_plugins") if p.dist)}
    records = [metadata.distribution(name).read_text("RECORD") or "" for name in sorted(names)]
    return hashlib.sha256("".join(records).encode()).hexdigest()[:16]


def _cpu() -> str:
    """Name and features of the first processor; the name alone where the system tells no more."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return system.processor()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    features = fields.get("flags", fields.get("Features", ""))
    model = [fields.get(name, "") for name in ("model name", "cpu family", "model", "stepping")]
    return f"{' '.join(model)} {hashlib.sha256(features.encode()).hexdigest()[:16]}"


def entry_name(bundle: Bundle, record: Program) -> str:
    """What the store calls a program: its bucket, for people, and all that it was made from."""
    sources = [
        bundle.digest(record.jaxexport),
        encode(record),
        encode(bundle.mesh(record.mesh)),
        [encode(weight) for weight in bundle.weight_set(record.weights)],
    ]
    digest = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:32]
    return f"{Path(record.jaxexport).stem}-{digest}.bin"


def to_bytes(compiled: jax.stages.Compiled) -> bytes | None:
    """A compiled program as bytes; None where its platform cannot give them."""
    try:
        return serialize_executable.serialize(compiled)[0]
    except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def from_bytes(
    data: bytes, record: Program, weights: int, mesh: jax.sharding.Mesh
) -> jax.stages.Compiled | None:
    """The compiled program on the devices of `mesh`; `weights` says how many it takes.

    `data` is from `to_bytes` under the same identity. None when it is refused: XLA has been seen
    to refuse its own (jax issue 38445), and says so with exceptions of many kinds.
    """
    arguments = (weights, len(record.inputs), len(record.cache))
    results = (len(record.outputs), len(record.cache))
    try:
        return serialize_executable.deserialize_and_load(
            data,
            jax.tree.structure((tuple((0,) * count for count in arguments), {})),
            jax.tree.structure(tuple((0,) * count for count in results)),
            execution_devices=list(mesh.devices.flat),
        )
    except Exception:
        return None
