"""Lowering many programs at once: tracing holds Python's lock, so each worker is a process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import jax

from ..artifacts.interruption import making
from .lower import Job, Lowered, lower

_PR_SET_PDEATHSIG = 1


def lower_all(
    jobs: Sequence[Job], workers: int, progress: Callable[[str, int, int], None]
) -> Iterator[Lowered]:
    """Lower every job, yielding results in the order of `jobs`, `workers` at a time.

    `progress` is called with the program being waited for, how many are done, and how many
    there are.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        for done, job in enumerate(jobs):
            progress(describe(job), done, len(jobs))
            yield lower(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_lowering) as pool:
        try:
            with making():
                results = pool.map(lower, jobs)
            for done, job in enumerate(jobs):
                progress(describe(job), done, len(jobs))
                yield next(results)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def describe(job: Job) -> str:
    """A job in a few words for people."""
    bucket = job.bucket
    return (
        f"lowering {bucket.program} batch {bucket.batch} tokens {bucket.tokens} "
        f"cache {bucket.cache} for {job.mesh.name} on {job.platform}"
    )


def _start_lowering() -> None:
    start_worker()
    # Lowering needs no accelerator, whatever else this export uses one for.
    jax.config.update("jax_platforms", "cpu")


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and die with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)
