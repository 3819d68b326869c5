"""Lowering one program for one mesh and platform: StableHLO bytes and their contract.

Nothing here needs weights, a device of the platform, or as many devices as the mesh has.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ..artifacts.convention import (
    ATTENTIONS,
    HIDDEN_STATES,
    TOKENS,
    Port,
    ScoreExtras,
    cache_tensors,
    keeps_cache,
    program_inputs,
    program_outputs,
)
from ..artifacts.layout import CacheLayer, CacheLayout, LayerKind, RowState
from ..artifacts.manifest import (
    KERNELS,
    PORTABLE,
    Alias,
    Bucket,
    Input,
    Mesh,
    Program,
    ProgramName,
    Spec,
    Tensor,
    VisionRecord,
)
from ..artifacts.memory import peak_rss_bytes
from ..model.cache import cache_slots
from ..model.config import Gemma3TextConfig, LayerType
from ..model.lowering.context import LoweringContext
from ..model.lowering.forms import KERNEL_TARGETS
from ..model.lowering.layers import layers_form
from ..model.lowering.recipes import UNQUANTIZED, Recipe
from ..model.lowering.table import SHIPPED, Case, FormTable
from ..model.lowering.target import Platform
from ..model.sharding import Sharder
from ..model.vision_config import Gemma3Config
from .pinned import pinned
from .programs import ProgramFunction, define
from .purpose import (
    GENERATING,
    TEXT_WEIGHTS,
    VISION_WEIGHTS,
    Generating,
    Model,
    Purpose,
    embedding_size,
    label_names,
    make_models,
    vision_of,
)

_MEAN = _STD = (0.5, 0.5, 0.5)
"""Of Gemma 3's image processor."""


@dataclass(frozen=True)
class Job:
    """Everything needed to lower one program; small enough to send to another process."""

    config: Gemma3TextConfig
    dtype: str
    mesh: Mesh
    platform: str
    bucket: Bucket
    purpose: Purpose = GENERATING
    score_outputs: tuple[str, ...] = ()
    recipe: Recipe = UNQUANTIZED
    kv_dtype: str | None = None
    """Of keys and values; None is `dtype`."""
    variant: str = PORTABLE
    table: FormTable = SHIPPED
    """Which form each product and attention gets."""


@dataclass(frozen=True)
class Lowered:
    """A lowered program: its manifest record and the bytes of its two files."""

    program: Program
    stablehlo: bytes
    jaxexport: bytes
    fallbacks: tuple[str, ...]
    seconds: float
    calling_convention: int
    stablehlo_version: str
    met: frozenset[Case]
    """What the job's table was asked for."""
    peak_rss_bytes: int
    """The most memory that the process which lowered it had had by then."""


def program_stem(mesh: Mesh, platform: str, bucket: Bucket, variant: str = PORTABLE) -> str:
    """Path of a program's files inside the bundle, without the ending."""
    shape = f"b{bucket.batch}-t{bucket.tokens}-c{bucket.cache}"
    suffix = "" if variant == PORTABLE else f"-{variant}"
    return f"programs/{mesh.name}/{platform}/{bucket.program}-{shape}{suffix}"


def make_sharder(mesh: Mesh) -> Sharder:
    """The Sharder of a manifest mesh."""
    return Sharder({axis.name: axis.size for axis in mesh.axes})


def weight_specs(model: Model, sharder: Sharder) -> dict[str, PartitionSpec]:
    """Where each weight goes on the mesh, in the order of the weight store."""
    return {p.name: sharder.spec(p.name, p.axes, p.counts) for p in model.parameters()}


def manifest_spec(spec: PartitionSpec, rank: int) -> Spec:
    """A PartitionSpec as the manifest writes it: a tuple of mesh axes for each dimension."""
    entries = [*spec, *[None] * (rank - len(spec))]
    return tuple(() if e is None else (e,) if isinstance(e, str) else tuple(e) for e in entries)


@pinned()
def lower(job: Job) -> Lowered:
    """Trace and lower the job's program. Deterministic: the same job gives the same bytes."""
    started = time.perf_counter()
    sharder = make_sharder(job.mesh)
    context = _context(job, sharder)
    function, weights = _function(job, sharder, context)
    ports = _ports(job)
    exported = _export(function, sharder, job.platform, weights, ports)
    module = bytes(exported.mlir_module_serialized)
    return Lowered(
        _record(job, sharder, ports, len(weights), _forms(job, context)), module,
        bytes(exported.serialize()),
        tuple(sorted(sharder.fallbacks)), time.perf_counter() - started,
        exported.calling_convention_version, _stablehlo_version(module),
        frozenset(context.recorder.cases), peak_rss_bytes(),
    )  # fmt: skip


@pinned()
def met_by(job: Job) -> frozenset[Case]:
    """What the job's program asks its table for, found by tracing it."""
    sharder = make_sharder(job.mesh)
    context = _context(job, sharder)
    function, weights = _function(job, sharder, context)
    jax.eval_shape(function, *_arguments(sharder, weights, _ports(job)))
    return frozenset(context.recorder.cases)


def _context(job: Job, sharder: Sharder) -> LoweringContext:
    kernels = job.variant == KERNELS
    return LoweringContext(Platform(job.platform), sharder, kernels, table=job.table)


def _function(
    job: Job, sharder: Sharder, context: LoweringContext
) -> tuple[ProgramFunction, _Arguments]:
    """The job's program, and its weights."""
    models = make_models(job.config, job.purpose, jnp.dtype(job.dtype), job.recipe)
    model = models[_weight_set(job.bucket)]
    names = tuple(p.name for p in model.parameters())
    function = define(job.bucket, model, names, context, job.score_outputs)
    specs = weight_specs(model, sharder)
    return function, tuple(
        jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=sharder.sharding(specs[p.name]))
        for p in model.parameters()
    )


def _cache_ports(job: Job) -> tuple[Port, ...]:
    if not keeps_cache(job.bucket.program):
        return ()
    layout = cache_layout(job.config, job.bucket.cache, job.kv_dtype or job.dtype, job.purpose)
    return cache_tensors(layout, job.bucket.batch)


def _stablehlo_version(module: bytes) -> str:
    """The version a portable module was written for, from the producer in its header."""
    found = re.search(rb"StableHLO_v(\d+\.\d+\.\d+)", module[:64])
    assert found, "jax.export wrote something other than a portable StableHLO module"
    return found.group(1).decode()


def cache_layout(
    config: Gemma3TextConfig, cache: int, dtype: str, purpose: Purpose = GENERATING
) -> CacheLayout:
    """The KV cache of buckets with `cache` positions: rings on sliding layers.

    With the tokens of the rows, where tokens are drawn: how one is drawn may depend on them all.
    """
    layers = tuple(
        CacheLayer(
            LayerKind.RING if kind == LayerType.SLIDING else LayerKind.FULL,
            cache_slots(config, kind, cache), config.num_key_value_heads, config.head_dim, dtype,
            "float32" if dtype == "int8" else None,
        )
        for kind in config.layer_types
    )  # fmt: skip
    draws = isinstance(purpose, Generating)
    return CacheLayout(cache, layers, (RowState(TOKENS, (cache,), "int32"),) if draws else ())


def vision_record(vision: Gemma3Config | None) -> VisionRecord | None:
    """What the manifest says of images."""
    if vision is None:
        return None
    return VisionRecord(
        vision.vision_config.image_size, "RGB", _MEAN, _STD, vision.mm_tokens_per_image,
        vision.text_config.hidden_size, vision.boi_token_index, vision.image_token_index,
        vision.eoi_token_index,
    )  # fmt: skip


def _weight_set(bucket: Bucket) -> str:
    return VISION_WEIGHTS if bucket.program is ProgramName.ENCODE_IMAGE else TEXT_WEIGHTS


_Arguments = tuple[jax.ShapeDtypeStruct, ...]


class _Ports(NamedTuple):
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    cache: tuple[Port, ...]


def _ports(job: Job) -> _Ports:
    bucket, vision = job.bucket, vision_record(vision_of(job.purpose))
    labels, embedding = len(label_names(job.purpose)), embedding_size(job.purpose, job.config)
    outputs = program_outputs(
        bucket, job.config.vocab_size, labels, embedding, vision, _score_extras(job)
    )
    return _Ports(program_inputs(bucket, vision), outputs, _cache_ports(job))


def _score_extras(job: Job) -> ScoreExtras:
    config = job.config
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
    return ScoreExtras(job.score_outputs, *sizes)


def _record(
    job: Job, sharder: Sharder, ports: _Ports, weights: int, forms: dict[str, str]
) -> Program:
    stem = program_stem(job.mesh, job.platform, job.bucket, job.variant)
    outputs, cache = (
        tuple(_tensor(sharder, port) for port in group) for group in (ports.outputs, ports.cache)
    )
    inputs = tuple(
        Input(**vars(_tensor(sharder, port)), neutral=port.neutral) for port in ports.inputs
    )
    first = weights + len(inputs)
    return Program(
        job.mesh.name, job.platform, job.bucket, f"{stem}.mlirbc", f"{stem}.jaxexport",
        _weight_set(job.bucket), inputs, outputs, cache,
        tuple(Alias(first + i, len(outputs) + i) for i in range(len(cache))),
        job.variant, custom_calls(forms), forms,
    )  # fmt: skip


def custom_calls(forms: dict[str, str]) -> tuple[str, ...]:
    """The targets that a host must have registered for a program with these forms."""
    chosen = {form for several in forms.values() for form in several.split()}
    return tuple(sorted(target for form, target in KERNEL_TARGETS.items() if form in chosen))


def _forms(job: Job, context: LoweringContext) -> dict[str, str]:
    """How each part of the program is written, for people; of tuned forms where they are from."""
    forms = dict(context.recorder.forms)
    if _weight_set(job.bucket) != VISION_WEIGHTS:
        forms["layers"] = layers_form(job.config)
    if job.table.known(context.recorder.cases):
        forms["table"] = job.table.source
    return forms


def _arguments(
    sharder: Sharder, weights: _Arguments, ports: _Ports
) -> tuple[_Arguments, _Arguments, _Arguments]:
    """Weights, inputs and cache of a program."""
    inputs, cache = (
        tuple(_abstract(sharder, port) for port in group) for group in (ports.inputs, ports.cache)
    )
    return weights, inputs, cache


def _export(
    function: ProgramFunction, sharder: Sharder, platform: str, weights: _Arguments, ports: _Ports
) -> jax.export.Exported:
    """jax.export with explicit shardings on both sides, so that donation becomes an alias."""
    arguments = _arguments(sharder, weights, ports)
    options: dict[str, Any] = {"donate_argnums": (2,), "keep_unused": True}
    if sharder.devices > 1:
        options["in_shardings"] = jax.tree.map(lambda a: a.sharding, arguments)
        options["out_shardings"] = tuple(
            tuple(sharder.sharding(_port_spec(sharder, port)) for port in group)
            for group in (ports.outputs, ports.cache)
        )
    jitted = jax.jit(function, **options)
    # A host that lacks a kernel takes the portable program instead, so nothing is promised here.
    allowed = [jax.export.DisabledSafetyCheck.custom_call(name) for name in KERNEL_TARGETS.values()]
    exporter = jax.export.export(jitted, platforms=[platform], disabled_checks=allowed)
    return exporter(*arguments)


_OBSERVED_AXES = {
    HIDDEN_STATES: ("norm", "batch", "norm", "norm"),
    ATTENTIONS: ("norm", "batch", "heads", "norm", "norm"),
}
_CACHE_AXES = ("batch", "kv_heads", "slots", "norm")


def _port_spec(sharder: Sharder, port: Port) -> PartitionSpec:
    """Rows over the batch axes, logits over the vocabulary, the cache over its heads.

    Images lie over the batch axes where they are encoded; every row may need any of their soft
    tokens.
    """
    if port.name == f"cache.{TOKENS}":
        return sharder.spec("cache", ("batch", "norm"), port.shape)
    if port.name.startswith("cache."):
        return sharder.spec("cache", _CACHE_AXES[: len(port.shape)], port.shape)
    if port.name in _OBSERVED_AXES:
        return sharder.spec("inputs and outputs", _OBSERVED_AXES[port.name], port.shape)
    rank, first, second = len(port.shape), "batch", "norm"
    if port.name == "logits":
        second = "vocab_out"
    if port.name in ("pixels", "soft_tokens"):
        first = "images" if rank > 2 else "norm"
    axes = (first, second, "norm", "norm")[:rank]
    return sharder.spec("inputs and outputs", axes, port.shape)


def _abstract(sharder: Sharder, port: Port) -> jax.ShapeDtypeStruct:
    sharding = sharder.sharding(_port_spec(sharder, port))
    return jax.ShapeDtypeStruct(port.shape, jnp.dtype(port.dtype), sharding=sharding)


def _tensor(sharder: Sharder, port: Port) -> Tensor:
    spec = manifest_spec(_port_spec(sharder, port), len(port.shape))
    return Tensor(port.name, port.shape, port.dtype, spec)
