"""Parts of the manifest that lowering gives: where weights go on each mesh, and versions."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

import jax

from ..artifacts.manifest import MeshRecord, Versions
from .lower import Lowered, make_sharder, manifest_spec, weight_specs
from .options import ExportOptions
from .purpose import Model


def mesh_records(
    options: ExportOptions, models: dict[str, Model], lowered: Iterable[Lowered]
) -> tuple[MeshRecord, ...]:
    records = []
    for mesh in options.meshes:
        sharder = make_sharder(mesh)
        specs = {
            p.name: manifest_spec(spec, len(p.shape))
            for model in models.values()
            for p, spec in zip(
                model.parameters(), weight_specs(model, sharder).values(), strict=True
            )
        }
        fallbacks = set(sharder.fallbacks)
        for result in lowered:
            if result.program.mesh == mesh.name:
                fallbacks.update(result.fallbacks)
        records.append(MeshRecord(mesh, specs, tuple(sorted(fallbacks))))
    return tuple(records)


def versions_of(lowered: Lowered) -> Versions:
    return Versions(
        gemma3_export=importlib.metadata.version("gemma3-export"),
        jax=jax.__version__,
        jaxlib=importlib.metadata.version("jaxlib"),
        stablehlo=lowered.stablehlo_version,
        calling_convention=lowered.calling_convention,
    )
