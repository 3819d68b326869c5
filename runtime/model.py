"""A bundle on the devices of one mesh: weights in place, programs compiled when first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp

from ..artifacts.bundle import Bundle
from ..artifacts.manifest import Bucket, MeshRecord
from ..artifacts.paths import MANIFEST
from ..artifacts.store import map_weight
from .buckets import Grid, Shape
from .devices import default_platform, find_devices
from .opening import choose_mesh, open_tokenizer, refuse_abstract
from .programs import Arrays, LoadedProgram, compile_program, sharding_of
from .tokenizer import Tokenizer
from .weights import place


class LoadedModel:
    """A bundle opened for one mesh and platform. Threads may share it; a `Session` may not.

    Weights are on their devices from the start; programs are compiled when first asked for, once
    each, or ahead of time by `compile`.
    """

    def __init__(self, bundle: Bundle, record: MeshRecord, platform: str | None) -> None:
        """Put the weights of an open bundle on the devices of the mesh; `load` does both.

        Raises UsageError when the bundle cannot run here.
        """
        refuse_abstract(bundle)
        self.bundle = bundle
        self.record = record
        self.platform = platform or default_platform(
            bundle.manifest.platforms, str(bundle.root / MANIFEST)
        )
        programs = bundle.programs_for(record.mesh.name, self.platform)
        self.mesh = find_devices(self.platform, record.mesh)
        self._programs = {program.bucket: program for program in programs}
        source = f"{bundle.root / MANIFEST}, mesh {record.mesh.name}"
        self.grid = Grid(source, frozenset(self._programs))
        self._weights = self._place_weights()
        self._compiled: dict[Bucket, LoadedProgram] = {}
        self._zeros: dict[Shape, Callable[[], Arrays]] = {}
        self._locks = {bucket: threading.Lock() for bucket in self._programs}

    @classmethod
    def load(
        cls, path: Path | str, mesh: str | None = None, platform: str | None = None
    ) -> LoadedModel:
        """Open the bundle at `path` and put its weights on the devices of a mesh.

        `mesh` is a mesh of the bundle, by default its first; `platform` one of the bundle's, by
        default the one JAX runs on. Raises ArtifactError for a damaged bundle and UsageError for
        one that cannot run here.
        """
        bundle = Bundle.open(Path(path))
        return cls(bundle, choose_mesh(bundle, mesh), platform)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.bundle.manifest.model.vocab_size

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer; raises ArtifactError when the bundle has none."""
        return open_tokenizer(self.bundle)

    def program(self, bucket: Bucket) -> LoadedProgram:
        """The compiled program of a bucket of `grid`."""
        with self._locks[bucket]:
            if bucket not in self._compiled:
                record = self._programs[bucket]
                names = self.bundle.manifest.weight_sets[record.weights]
                weights = tuple(self._weights[name] for name in names)
                self._compiled[bucket] = compile_program(self.bundle, record, self.mesh, weights)
            return self._compiled[bucket]

    def compile(
        self, buckets: Iterable[Bucket], done: Callable[[Bucket], None] = lambda _: None
    ) -> None:
        """Compile several programs at once, as many as there are cores; `done` is told of each.

        XLA compiles without holding Python's lock, so threads are enough.
        """
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            jobs = {pool.submit(self.program, bucket): bucket for bucket in sorted(set(buckets))}
            try:
                for job in as_completed(jobs):
                    job.result()
                    done(jobs[job])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def new_cache(self, shape: Shape) -> Arrays:
        """An empty cache for a batch, made on the devices; to be donated to the programs."""
        if shape not in self._zeros:
            tensors = next(
                program.cache
                for bucket, program in sorted(self._programs.items())
                if (bucket.batch, bucket.cache) == (shape.batch, shape.cache)
            )
            self._zeros[shape] = jax.jit(
                lambda: tuple(jnp.zeros(tensor.shape, tensor.dtype) for tensor in tensors),
                out_shardings=tuple(sharding_of(self.mesh, tensor.spec) for tensor in tensors),
            )
        return self._zeros[shape]()

    def _place_weights(self) -> dict[str, jax.Array]:
        sets = {program.weights for program in self._programs.values()}
        used = {weight.name: weight for name in sets for weight in self.bundle.weight_set(name)}
        return {
            name: place(
                map_weight(self.bundle, weight),
                sharding_of(self.mesh, self.record.weight_specs[name]),
            )
            for name, weight in used.items()
        }
