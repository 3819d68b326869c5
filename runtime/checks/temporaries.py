"""What XLA sets aside for intermediate values: only compiling a program tells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax

from ...artifacts.bundle import Bundle
from ...artifacts.manifest import Bucket, MeshRecord, Program, ProgramName
from ...artifacts.store import numpy_dtype
from ..loading.devices import find_devices, prepare_backend
from ..loading.programs import compile_unbound, sharding_of
from ..loading.variants import choose_variants


@dataclass(frozen=True)
class Temporaries:
    """The most that a program of a mesh sets aside on each device, of those that were compiled."""

    bytes: int
    program: Bucket
    compiled: int
    """How many programs were compiled."""
    seconds: float


def prepare_meshes(records: Iterable[MeshRecord], platforms: Iterable[str]) -> None:
    """Ask JAX for as many CPU devices as the largest mesh needs, before its backends start."""
    largest = max((record.mesh for record in records), key=lambda mesh: mesh.devices)
    prepare_backend(largest, "cpu" if {*platforms} == {"cpu"} else None)


def largest_temporaries(bundle: Bundle, record: MeshRecord, platform: str) -> Temporaries:
    """Compile what a host here would run on a mesh, and ask XLA what it sets aside.

    Only the programs that can set aside most: `largest_programs`. Raises UsageError where devices
    are missing and ArtifactError for a program that cannot be read.
    """
    started = time.perf_counter()
    mesh = find_devices(platform, record.mesh)
    chosen = largest_programs(choose_variants(bundle, record.mesh.name, platform))

    def compiled(program: Program) -> int:
        weights = tuple(
            jax.ShapeDtypeStruct(
                weight.shape, numpy_dtype(weight.dtype),
                sharding=sharding_of(mesh, record.weight_specs[weight.name]),
            )
            for weight in bundle.weight_set(program.weights)
        )  # fmt: skip
        memory = compile_unbound(bundle, program, mesh, weights).memory_analysis()
        assert memory is not None, platform  # XLA:CPU always tells
        return memory.temp_size_in_bytes

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # XLA compiles without holding Python's lock
        sizes = list(pool.map(compiled, chosen))
    most = max(range(len(sizes)), key=sizes.__getitem__)
    seconds = time.perf_counter() - started
    return Temporaries(sizes[most], chosen[most].bucket, len(chosen), seconds)


# What sets aside no more than another of the same size: a step is what generate repeats, and a
# prefill ends with the logits of one token where score has those of all.
_COVERED = {
    ProgramName.DECODE: ProgramName.GENERATE,
    ProgramName.PREFILL: ProgramName.SCORE,
    ProgramName.PREFILL_IMAGES: ProgramName.SCORE_IMAGES,
}


def largest_programs(programs: Iterable[Program]) -> list[Program]:
    """Of each kind the program that reads most tokens in a call, over the longest cache.

    None of a kind where one of another, as large, does the same and more.
    """
    largest: dict[ProgramName, Program] = {}
    for program in programs:
        kind = program.bucket.program
        if kind not in largest or _size(program.bucket) > _size(largest[kind].bucket):
            largest[kind] = program

    def covered(bucket: Bucket) -> bool:
        other = largest.get(_COVERED.get(bucket.program, bucket.program))
        return (
            other is not None
            and other.bucket != bucket
            and (all(a >= b for a, b in zip(_size(other.bucket), _size(bucket), strict=True)))
        )

    return [program for program in largest.values() if not covered(program.bucket)]


def _size(bucket: Bucket) -> tuple[int, int]:
    # A generate of many tokens reads one of each row at a time.
    single = bucket.program in (ProgramName.GENERATE, ProgramName.DECODE)
    return bucket.batch * (1 if single else bucket.tokens), bucket.cache
