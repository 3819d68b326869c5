"""What XLA sets aside for intermediate values: only compiling a program tells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax

from ..artifacts.bundle import Bundle
from ..artifacts.manifest import Bucket, MeshRecord, Program, ProgramName
from ..artifacts.store import numpy_dtype
from .devices import find_devices, prepare_backend
from .kernels import choose_variants
from .programs import compile_program, sharding_of


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

    Of each kind of program only the one of most tokens in a call, and of those the longest cache:
    no other of its kind sets aside more. Raises UsageError where devices are missing and
    ArtifactError for a program that cannot be read.
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
        loaded = compile_program(bundle, program, mesh, weights)
        return loaded.compiled.memory_analysis().temp_size_in_bytes

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # XLA compiles without holding Python's lock
        sizes = list(pool.map(compiled, chosen))
    most = max(range(len(sizes)), key=sizes.__getitem__)
    seconds = time.perf_counter() - started
    return Temporaries(sizes[most], chosen[most].bucket, len(chosen), seconds)


def largest_programs(programs: Iterable[Program]) -> list[Program]:
    """Of each kind the program that reads most tokens in a call, over the longest cache."""
    largest: dict[ProgramName, Program] = {}
    for program in programs:
        kind = program.bucket.program
        if kind not in largest or _size(program.bucket) > _size(largest[kind].bucket):
            largest[kind] = program
    return [*largest.values()]


def _size(bucket: Bucket) -> tuple[int, int]:
    # A generate of many tokens reads one of each row at a time.
    single = bucket.program in (ProgramName.GENERATE, ProgramName.DECODE)
    return bucket.batch * (1 if single else bucket.tokens), bucket.cache
