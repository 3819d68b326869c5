"""`--tune`: measuring on this machine the forms of everything an export lowers for one device.

`--tuned` takes what was measured before. Either way the choice is a FormTable, a value that goes
with every job to whatever process lowers it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
import multiprocessing
import os
import platform as system
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ..artifacts.errors import UsageError
from ..artifacts.interruption import making
from ..artifacts.kernels import register_kernel
from ..model.config import LayerType
from ..model.lowering.forms import KERNEL_TARGETS
from ..model.lowering.quantized import Matrix
from ..model.lowering.recipes import Scheme
from ..model.lowering.table import (
    LARGE_SCORES,
    SHIPPED,
    AttentionCase,
    Blocks,
    Case,
    FormTable,
    ProductCase,
    blocks_name,
    scores_bytes,
)
from .arguments import MESH, PLATFORM
from .lower import Job, Lowered, met_by
from .measure import Call, attention_calls, copies, interleaved, product_calls, random_weight
from .options import ExportOptions
from .pinned import pinned
from .tuned_file import (
    TUNED_VERSION,
    AttentionChoice,
    Machine,
    ProductChoice,
    TunedFile,
    read_tuned,
    usable,
    write_tuned,
)
from .workers import start_worker

Progress = Callable[[str, int, int], None]
Choice = ProductChoice | AttentionChoice
Times = dict[str, list[float]]

PRODUCT_MARGIN, ATTENTION_MARGIN = 1.05, 1.5
"""A form must be as many times as fast as the shipped one to replace it. Attention is a small part
of a program that it stands in with much else: blocks of 1x256, 1.1 to 1.4 times as fast alone,
made decoding of the 270M no faster after 512 tokens and slower after 1,900 (0.95)."""
_MOSTLY = 0.75
"""And faster in this share of the rounds."""
_FEWEST_ROUNDS, _MOST_ROUNDS = 4, 25
_CASE_SECONDS = 1.0
"""What the rounds of one case may take, unless the fewest take longer."""
_SAMPLE_SECONDS = 0.01
_MOST_CALLS = 200
_HOPELESS = 3.0
"""A form that is as many times as slow as the best is not measured again."""

_STEPS = (Blocks(1, 256), Blocks(1, 512), Blocks(1, 1024), Blocks(1, 2048))
_CHUNKS = (Blocks(128, 256), Blocks(256, 256), Blocks(256, 512), Blocks(512, 512))


@dataclass(frozen=True)
class Tuning:
    """What `--tune` measured."""

    path: Path
    choices: tuple[Choice, ...]
    seconds: float


def check_tuning(options: ExportOptions) -> None:
    """Refuse a `--tune` that cannot be done, before any work.

    Raises:
        UsageError: no mesh of one device, no device of a platform, no place for the file.
    """
    if options.tune is None:
        return
    if all(mesh.devices > 1 for mesh in options.meshes):
        raise UsageError(
            "--tune: forms are measured on one device: expected a mesh of one, got "
            f"{', '.join(mesh.name for mesh in options.meshes)}; add {MESH} 1x1"
        )
    if options.tune.is_dir() or not options.tune.absolute().parent.is_dir():
        problem = "a folder" if options.tune.is_dir() else "one in a folder that is not there"
        raise UsageError(
            f"--tune {options.tune}: expected a file to write, got {problem}; name another"
        )
    for name in options.platforms:
        _device(name)


def choose_forms(
    options: ExportOptions, jobs: Sequence[Job], progress: Progress
) -> tuple[list[Job], Tuning | None]:
    """The jobs with the table that the options ask for, and what was measured if anything was.

    Raises:
        ArtifactError: the file of --tuned is none.
    """
    tuning, table = None, None
    if options.tuned is not None:
        table = read_tuned(options.tuned)
    if options.tune is not None:
        tuning, table = _tune(options.tune, jobs, options.jobs, progress)
    if table is None:
        return list(jobs), None
    # A mesh of several devices cuts products into other ones, which nobody measured.
    return [
        dataclasses.replace(job, table=table) if job.mesh.devices == 1 else job for job in jobs
    ], tuning


def table_notes(
    options: ExportOptions, jobs: Sequence[Job], lowered: Iterable[Lowered]
) -> tuple[str, ...]:
    """What the user should know of how far a tuned table reached."""
    path = options.tune or options.tuned
    if path is None:
        return ()
    notes = []
    tables = {job.mesh.name: job.table for job in jobs if job.mesh.devices == 1}
    met = {case for one in lowered if one.program.mesh in tables for case in one.met}
    if tables:
        found = len(next(iter(tables.values())).known(met))
        notes.append(f"{path}: chose {found} of {len(met)} forms, the shipped table the others")
    several = [mesh.name for mesh in options.meshes if mesh.devices > 1]
    if several:
        notes.append(f"{path}: for one device; {', '.join(several)} by the shipped table")
    return tuple(notes)


def describe(case: Case) -> str:
    """A case in a few words for people."""
    if isinstance(case, AttentionCase):
        kept = "" if case.kept == case.dtype else f" kept in {case.kept}"
        return (
            f"{case.kind.replace('_', ' ')} {case.dtype}{kept} {case.batch}x{case.tokens} over "
            f"{case.slots}"
        )
    scheme = "" if case.scheme == Scheme.NONE else f"{case.scheme} "
    kernels = " with kernels" if case.kernels else ""
    return f"{scheme}{case.dtype} {case.rows} x {case.outputs}x{case.inputs}{kernels}"


def shipped_form(case: Case) -> str:
    """What the table that comes with the package says."""
    if isinstance(case, AttentionCase):
        return blocks_name(SHIPPED.blocks(case))
    return SHIPPED.product(case).__name__


def race(calls: Mapping[str, Call], shipped: str) -> Times:
    """Seconds of one call of each candidate in each round.

    Candidates that are hopeless in a first try have that one alone.
    """
    for run in calls.values():
        jax.block_until_ready(run())  # compiles, and touches the memory
    first = {name: seconds[0] for name, seconds in interleaved(calls, 1, 2).items()}
    best = min(first.values())
    candidates = {
        name: run
        for name, run in calls.items()
        if name == shipped or first[name] < _HOPELESS * best
    }
    count = min(math.ceil(_SAMPLE_SECONDS / best), _MOST_CALLS)
    fitting = _CASE_SECONDS / (count * sum(first[name] for name in candidates))
    rounds = int(min(max(fitting, _FEWEST_ROUNDS), _MOST_ROUNDS))
    times = interleaved(candidates, rounds, count)
    return {name: times.get(name, [first[name]]) for name in calls}


def fastest(times: Times, shipped: str, margin: float) -> str:
    """The form to choose: the shipped one unless another is `margin` times as fast in most rounds.

    Seconds are compared round by round, as all forms of a round ran at the same time.
    """
    chosen, lead = shipped, 1 / margin
    for name, seconds in times.items():
        if name == shipped or len(seconds) < len(times[shipped]):
            continue
        ratios = [one / other for one, other in zip(seconds, times[shipped], strict=True)]
        won = sum(ratio < 1 for ratio in ratios) / len(ratios)
        if statistics.median(ratios) < lead and won >= _MOSTLY:
            chosen, lead = name, statistics.median(ratios)
    return chosen


def _tune(
    path: Path, jobs: Sequence[Job], workers: int, progress: Progress
) -> tuple[Tuning, FormTable]:
    started = time.perf_counter()
    found: set[Case] = set()
    single = [job for job in jobs if job.mesh.devices == 1]
    for done, job in enumerate(single):
        progress("looking for what to measure", done, len(single))
        found |= met_by(job)
    cases = [*sorted(c for c in found if isinstance(c, ProductCase)),
             *sorted(c for c in found if isinstance(c, AttentionCase))]  # fmt: skip
    choices = measure_cases(cases, workers, progress)
    tuned = TunedFile(
        TUNED_VERSION, _machine({case.platform for case in cases}),
        tuple(choice for choice in choices if isinstance(choice, ProductChoice)),
        tuple(choice for choice in choices if isinstance(choice, AttentionChoice)),
    )  # fmt: skip
    table = write_tuned(path, tuned)
    return Tuning(path, tuple(choices), time.perf_counter() - started), table


def measure_cases(cases: Sequence[Case], workers: int, progress: Progress) -> list[Choice]:
    """A choice for each case whose forms are all here, one after the other.

    In a process of its own, where any are wanted: the memory it takes is then given back.
    """
    if workers <= 1:
        choices = _collect(map(measure_case, cases), cases, progress)
        _weights.cache_clear()
        return choices
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=start_worker) as pool:
        try:
            with making():
                results = pool.map(measure_case, cases)
            return _collect(results, cases, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _collect(
    results: Iterator[Choice | None], cases: Sequence[Case], progress: Progress
) -> list[Choice]:
    choices = []
    for done, case in enumerate(cases):
        progress(f"measuring {describe(case)}", done, len(cases))
        choices.append(next(results))
    return [choice for choice in choices if choice is not None]


@pinned()
def measure_case(case: Case) -> Choice | None:
    """The choice for a case, measured here and now; None where its kernel is not here."""
    with jax.default_device(_device(case.platform)):
        if isinstance(case, AttentionCase):
            return _attention_choice(case)
        if case.kernels and not all(map(register_kernel, KERNEL_TARGETS.values())):
            return None
        return _product_choice(case)


def _product_choice(case: ProductCase) -> ProductChoice:
    shipped = shipped_form(case)
    weights = _weights(case.platform, case.scheme, case.dtype, case.outputs, case.inputs)
    times = race(product_calls(case, usable(case).values(), weights), shipped)
    return ProductChoice(case, fastest(times, shipped, PRODUCT_MARGIN), _medians(times))


@functools.lru_cache(maxsize=1)
def _weights(
    platform: str, scheme: Scheme, dtype: str, outputs: int, inputs: int
) -> Sequence[Matrix]:
    """Copies of a weight on the device of `platform`: cases of one weight follow each other."""
    return copies(random_weight(scheme, dtype, outputs, inputs))


def _attention_choice(case: AttentionCase) -> AttentionChoice:
    shipped = shipped_form(case)
    calls = attention_calls(case, attention_forms(case), _starts(case))
    times = race(calls, shipped)
    return AttentionChoice(case, fastest(times, shipped, ATTENTION_MARGIN), _medians(times))


def attention_forms(case: AttentionCase) -> dict[str, Blocks | None]:
    """By name the forms to measure: the shipped one, and others that differ for this case."""
    choices = [SHIPPED.blocks(case), *(_STEPS if case.tokens == 1 else _CHUNKS)]
    if scores_bytes(case) <= LARGE_SCORES:
        choices.append(None)
    forms: dict[tuple[int, int] | None, Blocks | None] = {}
    for blocks in choices:
        # Blocks beyond the chunk or the cache are cut to it.
        size = blocks and (min(blocks.queries, case.tokens), min(blocks.keys, case.slots))
        forms.setdefault(size, blocks)
    return {blocks_name(blocks): blocks for blocks in forms.values()}


def _starts(case: AttentionCase) -> list[int]:
    """How full the cache is: a quarter, or empty before a chunk, and as full as it gets."""
    full = case.slots if case.kind == LayerType.SLIDING else max(case.slots - case.tokens, 0)
    return sorted({case.slots // 4 if case.tokens == 1 else 0, full})


def _medians(times: Times) -> dict[str, float]:
    return {name: float(f"{statistics.median(each):.4g}") for name, each in times.items()}


def _device(platform: str) -> Any:
    try:
        return jax.devices(platform)[0]
    except RuntimeError as error:
        raise UsageError(
            f"--tune: expected a device of {platform} to measure on, got none on this machine; "
            f"leave it out of {PLATFORM}, or tune where there is one and pass its file as --tuned"
        ) from error


def _machine(platforms: Iterable[str]) -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(
        _processor(), cores or 1, jax.__version__, importlib.metadata.version("jaxlib"),
        {str(name): _device(name).device_kind for name in sorted(platforms)},
    )  # fmt: skip


def _processor() -> str:
    """The name of the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else system.processor() or system.machine()
