"""What the user asked for: meshes, buckets and platforms, checked before anything is done."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts.convention import SCORE_OUTPUTS
from ..artifacts.errors import UsageError
from ..artifacts.manifest import Axis, Bucket, Mesh, ProgramName
from ..model.lowering.recipes import RECIPES
from ..model.lowering.target import Platform
from ..model.sharding import DATA_MODEL_AXES, NAMED_AXES
from . import MAX_GENERATE, MAX_SLOTS
from .arguments import (
    BATCH,
    CACHE,
    CHECKPOINT,
    DTYPE,
    GENERATE,
    IMAGES,
    KV_DTYPE,
    MESH,
    NO_IMAGES,
    OUTPUTS,
    PLATFORM,
    PREFILL,
    PROGRAMS,
    QUANTIZE,
    SAVED_MODEL,
    SLOTS,
)
from .selection import WITH_IMAGES, check_selection

FORMATS = ("stablehlo", "savedmodel")
PLATFORMS = tuple(str(platform) for platform in Platform)
DTYPES, KV_DTYPES = ("bfloat16", "float32"), ("int8",)
MAX_DEVICES = 1 << 20
MAX_BUCKET = 1 << 24
DEFAULT_IMAGES = (1,)


@dataclass(frozen=True)
class ExportOptions:
    """A checked request. Bucket lists are sorted and free of duplicates."""

    meshes: tuple[Mesh, ...]
    batch: tuple[int, ...]
    prefill: tuple[int, ...]
    cache: tuple[int, ...]
    generate: int
    platforms: tuple[str, ...]
    dtype: str
    jobs: int
    out: Path | None
    force: bool
    checkpoint: Path | None
    abstract: str | None
    images: tuple[int, ...] | None = None
    """Images of one encode_image call; () switches images off, None is 1 where they are seen."""
    programs: tuple[ProgramName, ...] | None = None
    """Those to lower; None for all that the checkpoint has."""
    kernels: bool = False
    """Add variants of the programs that call C++ kernels, where those are faster."""
    kv_dtype: str | None = None
    """Of keys and values: int8, or None for `dtype`."""
    quantize: str = "none"
    """A name of RECIPES."""
    scan_layers: bool = False
    """Loop over the period of layers, whatever the checkpoint's configuration says."""
    stablehlo_version: str | None = None
    """Write the portable programs for readers of this version; None is what jax.export chooses."""
    goldens: str | None = None
    """`run`, a file of goldens, or None for a bundle without."""

    saved_model: bool = False
    """Whether a TF SavedModel comes with the programs; `meshes` has one of one device then."""
    slots: int = 0
    """Texts whose caches the SavedModel keeps between calls."""
    outputs: tuple[str, ...] = ()
    """What score gives besides log-probabilities, of convention.SCORE_OUTPUTS."""
    tune: Path | None = None
    """Measure the forms of what is lowered on this machine, use them, and keep them here."""
    tuned: Path | None = None
    """Use the forms that this file of an earlier `tune` has."""
    allow_nonfinite: bool = False
    """Whether weights may hold NaN and infinity."""

    def __post_init__(self) -> None:
        if max(self.prefill) > min(self.cache):
            raise UsageError(
                f"{CACHE} {min(self.cache)} is smaller than {PREFILL} {max(self.prefill)}: a chunk "
                f"must fit into every cache; raise {CACHE} or lower {PREFILL}"
            )
        if self.checkpoint is not None and self.abstract is not None:
            raise UsageError(
                f"--abstract lowers without weights: give it or {CHECKPOINT}, not both"
            )
        if self.tune is not None and self.tuned is not None:
            raise UsageError("--tune measures what --tuned would read: give one of them, not both")

    def buckets(self) -> Iterator[Bucket]:
        """The grid of one mesh and platform for a model that generates."""
        for batch in self.batch:
            for cache in self.cache:
                for tokens in self.prefill:
                    yield Bucket(ProgramName.PREFILL, batch, tokens, cache)
                yield Bucket(ProgramName.DECODE, batch, 1, cache)
                yield Bucket(ProgramName.GENERATE, batch, min(self.generate, cache), cache)
                for tokens in self.prefill:
                    yield Bucket(ProgramName.SCORE, batch, tokens, cache)

    def image_buckets(
        self, tokens_per_image: int, programs: Sequence[ProgramName]
    ) -> Iterator[Bucket]:
        """What a model that sees images has besides; empty when images are off.

        `programs` are those that read texts with images.

        Raises UsageError when no prefill bucket holds an image, which must not be split.
        """
        if self.images == ():
            return
        sizes = [tokens for tokens in self.prefill if tokens >= tokens_per_image]
        if not sizes:
            raise UsageError(
                f"{PREFILL}: expected a size that holds an image of {tokens_per_image} tokens, "
                f"got {','.join(map(str, self.prefill))}; add {tokens_per_image} or more, or pass "
                f"{NO_IMAGES}"
            )
        for images in self.images or DEFAULT_IMAGES:
            yield Bucket(ProgramName.ENCODE_IMAGE, images, tokens_per_image, 0)
        for batch in self.batch:
            for cache in self.cache:
                for tokens in sizes:
                    for program in programs:
                        yield Bucket(program, batch, tokens, cache)

    def classifying_buckets(self) -> Iterator[Bucket]:
        """The grid of one mesh and platform for a classifier."""
        for batch in self.batch:
            for cache in self.cache:
                for tokens in self.prefill:
                    yield Bucket(ProgramName.CLASSIFY, batch, tokens, cache)

    def embedding_buckets(self) -> Iterator[Bucket]:
        """The grid of one mesh and platform for an embedding model, which has no cache."""
        for batch in self.batch:
            for tokens in self.prefill:
                yield Bucket(ProgramName.EMBED, batch, tokens, 0)


def make_options(
    *, meshes: Sequence[str], batch: Sequence[int], prefill: Sequence[int], cache: Sequence[int],
    platforms: Sequence[str], images: Sequence[int] | None, outputs: Sequence[str],
    saved_model: bool, slots: int, dtype: str, quantize: str, kv_dtype: str | None, generate: int,
    savedmodel_mesh: str | None = None, abstract: str | None = None,
    programs: Sequence[str] | None = None, **rest: Any,
) -> ExportOptions:  # fmt: skip
    """A request whose values are looked at one by one and then together.

    Raises:
        UsageError: names the flag of the value that is wrong.
    """
    if not meshes:
        raise UsageError(f"{MESH}: expected at least one, such as 2x4, got none")
    parsed = tuple(parse_mesh(text) for text in meshes)
    names = [mesh.name for mesh in parsed]
    if len(set(names)) != len(names):
        raise UsageError(f"{MESH}: expected each mesh once, got {', '.join(names)}")
    if not saved_model and (slots or savedmodel_mesh):
        flag = SLOTS if slots else "--savedmodel-mesh"
        raise UsageError(f"{flag} is about the SavedModel: add {SAVED_MODEL}")
    if saved_model:
        parsed = with_one_device(parsed, savedmodel_mesh)
    chosen = None
    if programs is not None:
        chosen = tuple(map(ProgramName, check_names(PROGRAMS, programs, tuple(ProgramName))))
        check_selection(chosen, images, outputs)
        if not set(WITH_IMAGES) & set(chosen):
            images = ()  # no program would use the vision side
    return ExportOptions(
        meshes=parsed,
        saved_model=saved_model,
        slots=_between(SLOTS, slots, 0, MAX_SLOTS),
        batch=check_sizes(BATCH, batch),
        prefill=check_sizes(PREFILL, prefill),
        cache=check_sizes(CACHE, cache),
        generate=_between(GENERATE, generate, 1, MAX_GENERATE),
        platforms=check_names(PLATFORM, platforms, PLATFORMS),
        images=check_sizes(IMAGES, images) if images else None if images is None else (),
        outputs=check_names(OUTPUTS, outputs, SCORE_OUTPUTS) if outputs else (),
        dtype=_one_of(DTYPE, dtype, DTYPES),
        quantize=_one_of(QUANTIZE, quantize, tuple(RECIPES)),
        kv_dtype=None if kv_dtype is None else _one_of(KV_DTYPE, kv_dtype, KV_DTYPES),
        abstract=abstract,
        programs=chosen,
        **rest,
    )


def _between(flag: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise UsageError(f"{flag}: expected {least} to {most}, got {value}")
    return value


def _one_of(flag: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise UsageError(f"{flag}: expected {_or(known)}, got {value!r}")
    return value


def parse_mesh(text: str) -> Mesh:
    """`2x4` is data=2, model=4; `dp=1,fsdp=2,tp=4,sp=1` names axes. Raises UsageError."""
    grid = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text.strip())
    if grid:
        axes = tuple(
            Axis(name, int(size)) for name, size in zip(DATA_MODEL_AXES, grid.groups(), strict=True)
        )
    else:
        axes = tuple(_named_axis(part, text) for part in text.split(","))
    names = [axis.name for axis in axes]
    if not (set(names) <= set(DATA_MODEL_AXES) or set(names) <= set(NAMED_AXES)):
        raise _bad_mesh(text, f"axis names from {_or(DATA_MODEL_AXES)} or from {_or(NAMED_AXES)}")
    if len(set(names)) != len(names):
        raise _bad_mesh(text, "each axis once")
    if any(axis.size < 1 for axis in axes):
        raise _bad_mesh(text, "sizes of at least 1")
    if math.prod(axis.size for axis in axes) > MAX_DEVICES:
        raise _bad_mesh(text, f"at most {MAX_DEVICES} devices")
    named = ",".join(f"{axis.name}={axis.size}" for axis in axes)
    return Mesh(f"{axes[0].size}x{axes[1].size}" if grid else named, axes)


def _named_axis(part: str, text: str) -> Axis:
    name, equals, size = part.strip().partition("=")
    if not equals or not re.fullmatch(r"\d{1,9}", size.strip()):
        raise _bad_mesh(text, "DATAxMODEL such as 2x4, or NAME=SIZE,... such as dp=1,fsdp=2,tp=4")
    return Axis(name.strip(), int(size))


def _bad_mesh(text: str, expected: str) -> UsageError:
    return UsageError(f"{MESH}: expected {expected}, got {text!r}")


def with_one_device(meshes: tuple[Mesh, ...], name: str | None) -> tuple[Mesh, ...]:
    """The meshes and, unless they have one, a mesh of one device for the SavedModel.

    Raises UsageError when `name` is of more than one device.
    """
    mesh = parse_mesh(name or "1x1")
    if mesh.devices != 1:
        raise UsageError(
            f"--savedmodel-mesh: expected one device, such as 1x1, got {mesh.name}: TensorFlow "
            "runs a SavedModel on one CPU or GPU and ignores how tensors are split; export with "
            f"{MESH} {mesh.name} and serve its StableHLO programs with gemma3-run or gemma3-host"
        )
    known = (
        mesh.name in {known.name for known in meshes}
        if name
        else any(known.devices == 1 for known in meshes)
    )
    return meshes if known else (*meshes, mesh)


def parse_sizes(flag: str, text: str) -> tuple[int, ...]:
    """`32,128,512` as sorted numbers without duplicates. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
        raise _bad_sizes(flag, repr(text))
    return check_sizes(flag, [int(part) for part in parts], repr(text))


def check_sizes(flag: str, sizes: Sequence[int], text: str | None = None) -> tuple[int, ...]:
    """Sizes of buckets, sorted and without duplicates.

    Raises:
        UsageError: one is out of range, or there is none; `text` is how the flag was written.
    """
    if not sizes or not all(1 <= size <= MAX_BUCKET for size in sizes):
        raise _bad_sizes(flag, text or ",".join(map(str, sizes)) or "none")
    return tuple(sorted(set(sizes)))


def _bad_sizes(flag: str, got: str) -> UsageError:
    return UsageError(
        f"{flag}: expected whole numbers from 1 to {MAX_BUCKET} separated by commas, "
        f"such as 32,128; got {got}"
    )


def parse_images(text: str | None) -> tuple[int, ...] | None:
    """`1,4` as parse_sizes does; `0` and `none` are (), no images. Raises UsageError."""
    if text is None:
        return None
    return () if text.strip() in ("0", "none") else parse_sizes(IMAGES, text)


def parse_names(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """`cpu,tpu` as known names in the order of `known`. Raises UsageError."""
    return check_names(flag, parse_list(text), known)


def parse_list(text: str) -> list[str]:
    """`cpu,tpu` as its parts."""
    return [part.strip() for part in text.split(",")]


def check_names(flag: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Names in the order of `known`, without duplicates. Raises UsageError."""
    if not names:
        raise UsageError(f"{flag}: expected names from {','.join(known)}; got none")
    for name in sorted(set(names)):
        if name not in known:
            raise UsageError(f"{flag}: expected names from {','.join(known)}; got {name!r}")
    return tuple(name for name in known if name in names)


def _or(names: Sequence[str]) -> str:
    return ",".join(names)
