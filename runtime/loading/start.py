"""How a command goes from a bundle's path to a loaded model in a process of its own."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from ...artifacts.bundle import Bundle
from ...artifacts.manifest import Bucket, MeshRecord, ProgramName
from .bundle import choose_mesh, refuse_abstract
from .status import StatusLine

if TYPE_CHECKING:
    from .model import LoadedModel


def open_bundle(path: Path, signer: Path | None = None) -> Bundle:
    """The bundle at `path`, refused when it cannot be run; JAX is not needed yet.

    With `signer`, a public key or root certificates (PEM), a bundle that is not signed by it as
    it is, is refused before anything of it is used.
    """
    if signer is not None:
        from ...artifacts.signing import require_signature

        require_signature(path, signer)
    bundle = Bundle.open(path)
    refuse_abstract(bundle)
    return bundle


def hide_xla_log() -> None:
    """Keep what XLA writes to stderr from users; it has an effect before JAX is imported only.

    What fails is raised as well, and jaxlib 0.10.0 writes as an error that a compiled program comes
    from a machine that prefers other instructions, though it is the machine that compiled it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def import_jax(
    bundle: Bundle, mesh: str | None, platform: str | None, status: StatusLine
) -> MeshRecord:
    """Import JAX, a third of a start in which other threads may do C++ work.

    Gives the mesh to run on, or where none is named the one to run on should there be no other
    device than the CPU.

    A mesh or platform that the bundle was not exported for is refused first.
    """
    record = choose_mesh(bundle, mesh, platform)
    if platform is not None:
        bundle.programs_for(record.mesh.name, platform)
    status.say("starting JAX")
    gc.disable()  # importing JAX makes many objects and frees few: 0.1 s of looking
    hide_xla_log()
    from . import devices, model

    del devices, model
    gc.freeze()
    gc.enable()
    return record


def load_model(
    bundle: Bundle,
    mesh: str | None,
    platform: str | None,
    status: StatusLine,
    keep_compiled: bool = False,
) -> LoadedModel:
    """Start JAX with the devices the mesh needs and put the weights there."""
    record = import_jax(bundle, mesh, platform, status)
    from .devices import default_mesh, prepare_backend
    from .model import LoadedModel

    prepare_backend(record.mesh, platform)
    if mesh is None:
        record = default_mesh(bundle, platform)
    status.say("mapping weights")
    return LoadedModel(bundle, record, platform, keep_compiled)


def compile_ahead(model: LoadedModel, buckets: Iterable[Bucket], status: StatusLine) -> None:
    """Compile programs in parallel, saying which are still to come.

    Those that go on from a prompt are not waited for: the prompt is read meanwhile.
    """
    later = {b for b in buckets if b.program in (ProgramName.GENERATE, ProgramName.DECODE)}
    jobs = {
        model.prepare(bucket): f"{bucket.program} of {bucket.tokens}"
        for bucket in sorted(set(buckets) - later)
    }
    for bucket in sorted(later):
        model.prepare(bucket)
    status.say(f"compiling {', '.join(jobs.values())}")
    for job in as_completed(list(jobs)):
        job.result()
        del jobs[job]
        status.say(f"compiling {', '.join(jobs.values())}" if jobs else "")
