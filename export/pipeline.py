"""From a checkpoint to a bundle: lower the grid, stream the weights, write the manifest."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp

from ..artifacts.atomic import check_free_space
from ..artifacts.errors import ArtifactError, UsageError
from ..artifacts.layout import CacheLayout
from ..artifacts.manifest import (
    FORMAT_VERSION,
    KERNELS,
    Bucket,
    Manifest,
    ModelRecord,
    ProgramName,
    TokenizerRecord,
    Weight,
)
from ..artifacts.prompts import PROMPTS, format_prompts
from ..artifacts.store import store_bytes
from ..artifacts.writer import BundleWriter, check_target
from ..model.config import PUBLISHED_SIZES, ConfigError, Gemma3TextConfig
from ..model.config_fields import is_token_id
from ..model.lowering.quantized import ParameterSpec
from ..model.lowering.recipes import RECIPES
from ..model.lowering.target import Platform
from ..model.vision_config import PUBLISHED_MULTIMODAL
from .arguments import DTYPE, IMAGES, OUTPUTS, WITH_KERNELS
from .checkpoint import Checkpoint, check_tensors, demo_checkpoint, left_out, open_checkpoint
from .claims import check_claims, check_name, check_paths
from .goldens import add_goldens, check_wanted
from .lower import (
    Job,
    Lowered,
    cache_layout,
    vision_record,
)
from .options import ExportOptions
from .purpose import (
    GENERATING,
    Classifying,
    Embedding,
    Generating,
    Model,
    Purpose,
    embedding_size,
    label_names,
    make_models,
    read_purpose,
    vision_of,
    with_images,
)
from .quantize import check_recipe
from .quantize import record as quantization_record
from .records import mesh_records, versions_of
from .savedmodel.write import check_saved_model, write_saved_model
from .selection import check_offered, check_uses
from .stablehlo import check_target as check_stablehlo
from .stablehlo import for_version
from .tuning import Tuning, check_tuning, choose_forms, table_notes
from .weights import write_checkpoint_weights
from .workers import lower_all

TOKENIZER_PATH = "tokenizer/tokenizer.model"
CHAT_TEMPLATE_PATH = "tokenizer/chat_template.jinja"
_PROGRAM_BYTES_GUESS = 4 << 20

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps (or `progress.Bytes`) done and in all."""


@dataclass(frozen=True)
class ExportResult:
    """What was written and what it took."""

    out: Path
    manifest: Manifest
    lowered: tuple[Lowered, ...]
    notes: tuple[str, ...]
    seconds: float
    largest_worker_bytes: int
    """Most memory any process that lowered has had; this one's where there was no other."""
    tuning: Tuning | None = None
    """What was measured, where --tune asked for it."""


@dataclass(frozen=True)
class _Source:
    """Where the model comes from: a checkpoint, or only a published size."""

    name: str
    config: Gemma3TextConfig
    purpose: Purpose
    eos_token_ids: tuple[int, ...]
    checkpoint: Checkpoint | None


def export(options: ExportOptions, progress: Progress) -> ExportResult:
    """Write the bundle and return what was done.

    Raises UsageError or ArtifactError, with nothing left at the output folder, for anything
    the user can fix.
    """
    started = time.perf_counter()
    check_paths(options)
    if options.out is not None:
        check_target(options.out, options.force)
    check_tuning(options)
    source = _open_source(options)
    recipe = RECIPES[options.quantize]
    models = make_models(source.config, source.purpose, jnp.dtype(options.dtype), recipe)
    notes = _check_request(source, models, options)
    out = options.out or Path(default_out(source.name))
    planned = [(p.name, p.shape, str(p.dtype)) for p in _stored(models)]
    jobs = _jobs(source, options)
    if options.kernels:
        jobs += _kernel_jobs(jobs, options)
    jobs, tuning = choose_forms(options, jobs, progress)
    with BundleWriter(out, options.force) as writer:
        stored = 0 if source.checkpoint is None else store_bytes(planned)
        copies = 2 if options.saved_model else 1
        check_free_space(out, copies * stored + len(jobs) * _PROGRAM_BYTES_GUESS)
        lowered: list[Lowered] = []
        for result in lower_all(jobs, options.jobs, progress):
            if result.program.variant == KERNELS and not result.program.custom_calls:
                continue  # nothing in it is faster with kernels
            result = _for_older(result, options.stablehlo_version)
            writer.add_file(result.program.stablehlo, result.stablehlo)
            writer.add_file(result.program.jaxexport, result.jaxexport)
            # The bytes are on disk; keeping them would make memory grow with the grid.
            lowered.append(dataclasses.replace(result, stablehlo=b"", jaxexport=b""))
        largest_worker = max((result.peak_rss_bytes for result in lowered), default=0)
        nonfinite: set[str] | None = set() if options.allow_nonfinite else None
        weights = write_checkpoint_weights(
            writer, source.checkpoint, planned, recipe, progress, options.jobs, nonfinite
        )
        tokenizer = _write_tokenizer(writer, source.checkpoint)
        manifest = _manifest(source, options, models, lowered, weights, tokenizer)
        if options.saved_model:
            progress("writing the SavedModel", len(jobs), len(jobs))
            saved = write_saved_model(writer, manifest, options.slots)
            manifest = dataclasses.replace(manifest, saved_model=saved)
        progress("goldens", len(planned), len(planned))
        manifest = writer.commit(add_goldens(writer, manifest, options.goldens))
    seconds = time.perf_counter() - started
    notes += table_notes(options, jobs, lowered)
    if nonfinite:
        notes += (f"NaN or infinity in {', '.join(sorted(nonfinite))}",)
    return ExportResult(out, manifest, tuple(lowered), notes, seconds, largest_worker, tuning)


def _for_older(result: Lowered, version: str | None) -> Lowered:
    if version is None:
        return result
    module = for_version(result.stablehlo, version)
    return dataclasses.replace(result, stablehlo=module, stablehlo_version=version)


def default_out(name: str) -> str:
    """Folder name for a model name: lower case, dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "gemma3"


def _open_source(options: ExportOptions) -> _Source:
    if options.abstract is not None:
        size = options.abstract.lower()
        if size not in PUBLISHED_SIZES:
            raise UsageError(
                f"--abstract: expected one of {', '.join(PUBLISHED_SIZES)}; got {size!r}"
            )
        config = PUBLISHED_SIZES[size]
        eos = config.eos_token_ids
        purpose = GENERATING
        if size in PUBLISHED_MULTIMODAL and options.images != ():
            purpose = Generating(PUBLISHED_MULTIMODAL[size])
        elif options.images:
            known = ", ".join(PUBLISHED_MULTIMODAL)
            raise UsageError(f"{IMAGES}: {size} sees no images, {known} do; leave the option out")
        return _Source(f"gemma-3-{size}-abstract", config, purpose, eos, None)
    checkpoint = open_checkpoint(options.checkpoint or demo_checkpoint())
    try:
        config = Gemma3TextConfig.from_dict(checkpoint.config)
    except ConfigError as error:
        raise ArtifactError(f"{checkpoint.path}: {error}; fix the configuration") from error
    eos = checkpoint.eos_token_ids
    if not all(map(is_token_id, eos)):
        raise ArtifactError(
            f"{checkpoint.path}: eos_token_id: expected a token id or a list of them, "
            f"got {list(eos)}; fix generation_config.json or config.json"
        )
    check_name(checkpoint)
    purpose = read_purpose(checkpoint, config)
    if options.images != ():
        purpose = with_images(purpose, checkpoint, config)
    if options.images and vision_of(purpose) is None:
        raise UsageError(
            f"{IMAGES}: {checkpoint.path} sees no images: expected a checkpoint with "
            "vision_config and a vision tower; leave the option out"
        )
    return _Source(checkpoint.name, config, purpose, eos, checkpoint)


def _parameters(models: dict[str, Model]) -> list[ParameterSpec]:
    """Every weight as the checkpoint has it."""
    return [spec for model in models.values() for spec in model.checkpoint_parameters()]


def _stored(models: dict[str, Model]) -> list[ParameterSpec]:
    """Every weight of the bundle, in the order of the store."""
    return [spec for model in models.values() for spec in model.parameters()]


def _check_request(
    source: _Source, models: dict[str, Model], options: ExportOptions
) -> tuple[str, ...]:
    """Hold the request against the model; returns notes worth telling the user."""
    check_wanted(options.goldens, source.checkpoint is None)
    if options.stablehlo_version is not None:
        check_stablehlo(options.stablehlo_version)
    notes = []
    if options.outputs and not isinstance(source.purpose, Generating):
        raise UsageError(
            f"{OUTPUTS} {','.join(options.outputs)}: {source.name} is a "
            f"{source.purpose.architecture} and has no score program; leave the option out"
        )
    if options.programs is not None:
        offered = {bucket.program for bucket in _buckets(source.purpose, options)}
        which = f"{source.name}, a {source.purpose.architecture},"
        check_offered(options.programs, offered, which)
        check_uses(options.programs, options)
    check_recipe(RECIPES[options.quantize], _parameters(models), options.platforms)
    if source.checkpoint is not None:
        unused = check_tensors(source.checkpoint, {p.name: p.shape for p in _parameters(models)})
        notes += [*source.checkpoint.notes, *left_out(unused)]
        notes += check_claims(source.checkpoint, source.config, options)
    if options.saved_model:
        notes += check_saved_model(options, isinstance(source.purpose, Generating))
    longest = source.config.max_position_embeddings
    if not isinstance(source.purpose, Embedding) and max(options.cache) > longest:
        notes.append(
            f"a cache of {max(options.cache)} is beyond the model's max_position_embeddings "
            f"{longest}"
        )
    return tuple(notes)


def _jobs(source: _Source, options: ExportOptions) -> list[Job]:
    scan = options.scan_layers or source.config.scan_layers
    config = dataclasses.replace(source.config, scan_layers=scan)
    recipe = RECIPES[options.quantize]
    return [
        Job(
            config,
            options.dtype,
            mesh,
            platform,
            bucket,
            source.purpose,
            options.outputs,
            recipe,
            options.kv_dtype,
        )
        for mesh in options.meshes
        for platform in options.platforms
        for bucket in _buckets(source.purpose, options)
        if options.programs is None or bucket.program in options.programs
    ]


def _kernel_jobs(portable: list[Job], options: ExportOptions) -> list[Job]:
    """The programs for one CPU again, with C++ kernels in them."""
    jobs = [
        dataclasses.replace(job, variant=KERNELS)
        for job in portable
        if job.platform == Platform.CPU and job.mesh.devices == 1
    ]
    if not jobs or options.dtype != "bfloat16":
        meshes = ", ".join(mesh.name for mesh in options.meshes)
        raise UsageError(
            f"{WITH_KERNELS}: expected {DTYPE} bfloat16, platform cpu and a mesh of one device; "
            f"got {DTYPE} {options.dtype}, {','.join(options.platforms)} and {meshes}; "
            f"leave {WITH_KERNELS} out"
        )
    return jobs


def _buckets(purpose: Purpose, options: ExportOptions) -> Iterable[Bucket]:
    vision = vision_of(purpose)
    if isinstance(purpose, Embedding):
        return options.embedding_buckets()
    if isinstance(purpose, Classifying):
        text, with_images = options.classifying_buckets(), (ProgramName.CLASSIFY_IMAGES,)
    else:
        text = options.buckets()
        with_images = (ProgramName.PREFILL_IMAGES, ProgramName.SCORE_IMAGES)
    if vision is None:
        return text
    return itertools.chain(text, options.image_buckets(vision.mm_tokens_per_image, with_images))


def _write_tokenizer(writer: BundleWriter, checkpoint: Checkpoint | None) -> TokenizerRecord | None:
    if checkpoint is None or checkpoint.tokenizer is None:
        return None
    writer.add_file(TOKENIZER_PATH, checkpoint.tokenizer)
    if checkpoint.prompts is not None:
        writer.add_file(PROMPTS, format_prompts(checkpoint.prompts))
    template = None
    if checkpoint.chat_template is not None:
        template = CHAT_TEMPLATE_PATH
        writer.add_file(template, checkpoint.chat_template.encode())
    return TokenizerRecord(
        TOKENIZER_PATH, add_bos=checkpoint.add_bos, add_eos=checkpoint.add_eos,
        chat_template=template,
    )  # fmt: skip


def _manifest(
    source: _Source, options: ExportOptions, models: dict[str, Model], lowered: list[Lowered],
    weights: tuple[Weight, ...], tokenizer: TokenizerRecord | None,
) -> Manifest:  # fmt: skip
    config, vision = source.config, vision_of(source.purpose)
    return Manifest(
        format_version=FORMAT_VERSION,
        abstract=source.checkpoint is None,
        model=ModelRecord(
            architecture=source.purpose.architecture,
            name=source.name,
            parameters=sum(math.prod(p.shape) for p in _parameters(models)),
            dtype=options.dtype,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            sliding_window=_keys_seen(source),
            bos_token_id=config.bos_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_ids=source.eos_token_ids,
            labels=label_names(source.purpose),
            embedding_size=embedding_size(source.purpose, config),
            config=(vision or config).to_dict(),
        ),
        versions=versions_of(lowered[0]),
        meshes=mesh_records(options, models, lowered),
        platforms=options.platforms,
        caches=_cache_layouts(source, options),
        programs=tuple(result.program for result in lowered),
        weights=weights,
        weight_sets={
            name: tuple(p.name for p in model.parameters()) for name, model in models.items()
        },
        tokenizer=tokenizer,
        vision=vision_record(vision),
        score_outputs=options.outputs,
        quantization=quantization_record(RECIPES[options.quantize], options.kv_dtype or "none"),
    )


def _keys_seen(source: _Source) -> int:
    """Keys a local layer sees; both ways, those less than W // 2 + 1 away on either side."""
    window = source.config.sliding_window
    return window // 2 * 2 + 1 if source.config.use_bidirectional_attention else window


def _cache_layouts(source: _Source, options: ExportOptions) -> tuple[CacheLayout, ...]:
    if isinstance(source.purpose, Embedding):
        return ()
    return tuple(
        cache_layout(source.config, cache, options.kv_dtype or options.dtype, source.purpose)
        for cache in options.cache
    )
