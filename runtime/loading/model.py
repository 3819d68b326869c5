"""A bundle on the devices of one mesh: weights in place, programs compiled when first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path

import jax

from ...artifacts.bundle import Bundle
from ...artifacts.compiled import CompiledStore
from ...artifacts.convention import DRAWING, SAMPLING
from ...artifacts.manifest import KERNELS, PORTABLE, Bucket, MeshRecord, Program, ProgramName
from ...artifacts.paths import MANIFEST
from ...artifacts.store import map_weight
from ..text.tokenizer import Tokenizer
from .arrays import to_devices, zeros
from .buckets import Grid, Shape
from .bundle import open_tokenizer, refuse_abstract
from .compiled import identity
from .devices import default_mesh, default_platform, find_devices
from .programs import (
    Arrays,
    LoadedProgram,
    compile_program,
    restore_program,
    sharding_of,
    store_program,
)
from .variants import choose_variants


class LoadedModel:
    """A bundle opened for one mesh and platform. Threads may share it; a `Session` may not.

    Weights are on their devices from the start, those of the vision side once an image is there;
    programs are compiled when first asked for, once each, or ahead of time by `prepare` and
    `compile`.
    """

    def __init__(
        self,
        bundle: Bundle,
        record: MeshRecord,
        platform: str | None,
        keep_compiled: bool = False,
    ) -> None:
        """Put the weights of an open bundle on the devices of the mesh; `load` does both.

        Raises UsageError when the bundle cannot run here.
        """
        refuse_abstract(bundle)
        self.bundle = bundle
        self.record = record
        self.platform = platform or default_platform(
            bundle.manifest.platforms, str(bundle.root / MANIFEST)
        )
        programs = choose_variants(bundle, record.mesh.name, self.platform)
        self.mesh = find_devices(self.platform, record.mesh)
        self._programs = {program.bucket: program for program in programs}
        source = f"{bundle.root / MANIFEST}, mesh {record.mesh.name}"
        self.grid = Grid(source, frozenset(self._programs))
        self._weights: dict[str, jax.Array] = {}
        self._weights_lock = threading.Lock()
        for program in programs:
            if program.bucket.program is not ProgramName.ENCODE_IMAGE:
                self._load_weights(program.weights)
        self._store = (
            CompiledStore.open(bundle.root, identity(self.mesh)) if keep_compiled else None
        )
        self._compiled: dict[Bucket, LoadedProgram] = {}
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._locks = {bucket: threading.Lock() for bucket in self._programs}

    @classmethod
    def load(
        cls,
        path: Path | str,
        mesh: str | None = None,
        platform: str | None = None,
        keep_compiled: bool = False,
    ) -> LoadedModel:
        """Open the bundle at `path` and put its weights on the devices of a mesh.

        `mesh` is a mesh of the bundle, by default the one for the devices that are here (see
        `choose_mesh`); `platform` one of the bundle's, by default the one JAX runs on.
        `keep_compiled` stores compiled programs in the bundle, or in the user's cache folder, and
        uses those stored before (see `artifacts.compiled`). Raises ArtifactError for a damaged
        bundle and UsageError for one that cannot run here.
        """
        bundle = Bundle.open(Path(path))
        record = default_mesh(bundle, platform) if mesh is None else bundle.mesh(mesh)
        return cls(bundle, record, platform, keep_compiled)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.bundle.manifest.model.vocab_size

    @cached_property
    def sampling_inputs(self) -> frozenset[str]:
        """The sampling parameters that all programs which draw tokens take."""
        taken = [
            {tensor.name for tensor in program.inputs}
            for program in self._programs.values()
            if program.bucket.program in DRAWING
        ]
        return frozenset({each.name for each in SAMPLING}.intersection(*taken))

    @property
    def variant(self) -> str:
        """`kernels` once a program that calls C++ kernels was loaded, else `portable`."""
        variants = {program.record.variant for program in list(self._compiled.values())}
        return KERNELS if KERNELS in variants else PORTABLE

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer; raises ArtifactError when the bundle has none."""
        return open_tokenizer(self.bundle)

    def program(self, bucket: Bucket) -> LoadedProgram:
        """The compiled program of a bucket of `grid`."""
        with self._locks[bucket]:
            if bucket not in self._compiled:
                self._compiled[bucket] = self._load_program(self._programs[bucket])
            return self._compiled[bucket]

    def prepare(self, bucket: Bucket) -> Future[LoadedProgram]:
        """Have a program compiled in the background, in turn, as many at once as there are cores.

        XLA compiles without holding Python's lock, so threads are enough.
        """
        return self._pool.submit(self.program, bucket)

    def compile(
        self, buckets: Iterable[Bucket], done: Callable[[Bucket], None] = lambda _: None
    ) -> None:
        """Compile several programs at once and wait for them; `done` is told of each."""
        jobs = {self.prepare(bucket): bucket for bucket in sorted(set(buckets))}
        try:
            for job in as_completed(jobs):
                job.result()
                done(jobs[job])
        finally:
            for job in jobs:
                job.cancel()

    def close(self) -> None:
        """Wait until nothing is compiled or stored in the background any more."""
        self._pool.shutdown()

    def new_cache(self, shape: Shape) -> Arrays:
        """An empty cache for a batch on the devices; to be donated to the programs."""
        tensors = next(
            program.cache
            for bucket, program in sorted(self._programs.items())
            if (bucket.batch, bucket.cache) == (shape.batch, shape.cache)
        )
        return tuple(zeros(t.shape, t.dtype, sharding_of(self.mesh, t.spec)) for t in tensors)

    def _load_program(self, record: Program) -> LoadedProgram:
        """Load a program as it was compiled before, or compile it and store it meanwhile."""
        weights = self._load_weights(record.weights)
        if self._store is None:
            return compile_program(self.bundle, record, self.mesh, weights)
        restored = restore_program(self.bundle, record, self.mesh, weights, self._store)
        if restored is not None:
            return restored
        compiled = compile_program(self.bundle, record, self.mesh, weights)
        self._pool.submit(store_program, self.bundle, compiled, self._store)
        return compiled

    def _load_weights(self, name: str) -> Arrays:
        """The weights of a set, in order, on their devices; each is placed once."""
        weights = self.bundle.weight_set(name)
        with self._weights_lock:
            for weight in weights:
                if weight.name not in self._weights:
                    sharding = sharding_of(self.mesh, self.record.weight_specs[weight.name])
                    self._weights[weight.name] = to_devices(
                        map_weight(self.bundle, weight), sharding
                    )
            return tuple(self._weights[weight.name] for weight in weights)
