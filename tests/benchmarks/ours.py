"""Programs of a bundle as things to be timed: one call each, again and again at one position."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.runtime.loading.buckets import Shape
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.loading.programs import Inputs


class Measured:
    """A bundle on one device, for timing its programs."""

    def __init__(self, path: Path, platform: str | None = None) -> None:
        self.model = LoadedModel.load(path, "1x1", platform, keep_compiled=True)
        self._calls: dict[Bucket, _Call] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that a step of decoding reads, each once."""
        generate = self._bucket(ProgramName.GENERATE, 1, 1)
        record = next(
            p for p in self.model.bundle.manifest.programs
            if (p.mesh, p.bucket) == ("1x1", generate)
        )  # fmt: skip
        return sum(weight.nbytes for weight in self.model.bundle.weight_set(record.weights))

    @property
    def variant(self) -> str:
        """Of the programs that decode here: `kernels` where the C++ kernels were found."""
        return self.model.program(self._bucket(ProgramName.GENERATE, 1, 1)).record.variant

    def decode(self, rows: int, context: int) -> float:
        """Greedy tokens per second of all rows after `context` tokens: one call of the device loop.

        The cache holds zeros: what attention costs does not depend on what it attends to.
        """
        bucket = self._bucket(ProgramName.GENERATE, rows, context)
        row = np.ones(rows, np.int32)
        stop = np.full((rows, 8), -1, np.int32)
        inputs = {
            "token": row * 5, "position": row * context, "limit": row * bucket.tokens,
            "stop_tokens": stop,
        }  # fmt: skip
        return rows * bucket.tokens / self._time(bucket, inputs)

    def prefill(self, rows: int, tokens: int) -> float:
        """Tokens per second over all rows of prompts of `tokens` tokens, in one call."""
        cache = self._bucket(ProgramName.PREFILL, rows, tokens, tokens).cache
        bucket = Bucket(ProgramName.PREFILL, rows, tokens, cache)
        row = np.ones(rows, np.int32)
        ids = np.arange(rows * tokens, dtype=np.int32).reshape(rows, tokens) + 1000
        inputs = {"tokens": ids % self.model.vocab_size, "start": row * 0, "length": row * tokens}
        return rows * tokens / self._time(bucket, inputs)

    def compile(self, decode: list[tuple[int, int]], prefill: list[tuple[int, int]]) -> float:
        """Compile what (rows, context) and (rows, tokens) need, in parallel; seconds taken."""
        buckets = {self._bucket(ProgramName.GENERATE, *case) for case in decode}
        for rows, tokens in prefill:
            cache = self._bucket(ProgramName.PREFILL, rows, tokens, tokens).cache
            buckets.add(Bucket(ProgramName.PREFILL, rows, tokens, cache))
        started = time.perf_counter()
        self.model.compile(buckets)
        return time.perf_counter() - started

    def _bucket(
        self, program: ProgramName, rows: int, context: int, tokens: int | None = None
    ) -> Bucket:
        """The smallest bucket of `program` for these rows with room after `context`."""
        fitting = [
            bucket
            for bucket in self.model.grid.buckets
            if (bucket.program, bucket.batch) == (program, rows)
            and tokens in (None, bucket.tokens)
            and bucket.cache >= context + (bucket.tokens if tokens is None else 0)
        ]
        return min(fitting, key=lambda bucket: (bucket.cache, bucket.tokens))

    def _time(self, bucket: Bucket, inputs: Inputs) -> float:
        if bucket not in self._calls:
            self._calls[bucket] = _Call(self.model, bucket)
            self._calls[bucket](inputs)  # touches the memory
        return self._calls[bucket](inputs)


class _Call:
    """One program with a cache of its own, which it keeps updating."""

    def __init__(self, model: LoadedModel, bucket: Bucket) -> None:
        self._program = model.program(bucket)
        self._cache = model.new_cache(Shape(bucket.batch, bucket.cache))

    def __call__(self, inputs: Inputs) -> float:
        started = time.perf_counter()
        outputs, self._cache = self._program(inputs, self._cache)
        jax.block_until_ready((outputs, self._cache))
        return time.perf_counter() - started
