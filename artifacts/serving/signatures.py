"""The signatures of the SavedModel: names, shapes and dtypes, for its writer and its clients.

FORMAT.md says what each tensor means.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable

from ..convention import SAMPLING
from ..manifest import PORTABLE, Array, Bucket, Manifest, Program, ProgramName, Signature, Tensor

MODEL_NAME = "gemma3"
"""What the generated models.config calls the model; a client asks for it unless told otherwise."""
FOLDER = "saved_model"
VERSION_FOLDER = f"{FOLDER}/1"
"""Bundle path of what TF loads; its last part is the version TF Serving sees."""
PLATFORMS = ("cpu", "cuda")
"""Platforms TF runs compiled programs on, the preferred one first."""
IDLE_SECONDS = 600
"""A slot that nobody called for so long may be given to somebody else."""


class SignatureName(enum.StrEnum):
    """The signatures that are not one program's."""

    GENERATE = "generate"
    DEFAULT = "serving_default"
    """`generate` again, or what the bundle has instead of it."""
    GENERATE_IMAGES = "generate_images"
    SCORE = "score"
    CLASSIFY = "classify"
    EMBED = "embed"
    PREFILL_SLOT = "prefill_slot"
    DECODE_SLOT = "decode_slot"
    RELEASE_SLOT = "release_slot"


ANY = -1
"""Any size, in the shape of a signature's tensor."""
_TEXTS = (Array("tokens", (ANY, ANY), "int32"), Array("lengths", (ANY,), "int32"))
# TensorFlow has few operations on unsigned integers.
SAMPLING_ARRAYS = tuple(
    Array(each.name, (ANY,), {"uint32": "int64"}.get(each.dtype, each.dtype)) for each in SAMPLING
)
_LIMITS = (Array("max_new_tokens", (ANY,), "int32"), Array("stop_tokens", (ANY, ANY), "int32"))
_NEW_TEXTS = (
    Array("tokens", (ANY, ANY), "int32"),
    Array("counts", (ANY,), "int32"),
    Array("finish_reasons", (ANY,), "string"),
)
_SLOT = (Array("slot", (1,), "int32"), Array("owner", (1,), "int64"))


def program_signature_name(bucket: Bucket) -> str:
    """The signature of one prefill or decode program, such as `prefill_b1_t32_c2048`."""
    size = "" if bucket.program is ProgramName.DECODE else f"_t{bucket.tokens}"
    return f"{bucket.program}_b{bucket.batch}{size}_c{bucket.cache}"


def tensor_name(tensor: Tensor) -> str:
    """What a program's tensor is called in its signature: `cache.0.key` is `cache_0_key`."""
    return tensor.name.replace(".", "_")


def saved_model_programs(manifest: Manifest) -> tuple[Program, ...]:
    """The programs a SavedModel is made of: portable, of one device, smallest bucket first.

    Empty when the bundle has none.
    """
    single = next((r.mesh.name for r in manifest.meshes if r.mesh.devices == 1), None)
    platform = next((name for name in PLATFORMS if name in manifest.platforms), None)
    chosen = [
        program
        for program in manifest.programs
        if (program.mesh, program.platform, program.variant) == (single, platform, PORTABLE)
    ]
    return tuple(sorted(chosen, key=lambda program: program.bucket))


def signatures(manifest: Manifest, slots: int) -> tuple[Signature, ...]:
    """Every signature of the SavedModel of a bundle, in the order of their names."""
    programs = saved_model_programs(manifest)
    found = [*_whole_calls({program.bucket.program for program in programs}, manifest)]
    if slots:
        found += _slot_calls()
    found += [
        _program_signature(program)
        for program in programs
        if program.bucket.program in (ProgramName.PREFILL, ProgramName.DECODE)
    ]
    return tuple(sorted(found, key=lambda signature: signature.name))


def _whole_calls(has: Collection[ProgramName], manifest: Manifest) -> Iterable[Signature]:
    """What answers a request in one call, and the default among them."""
    found: list[Signature] = []
    if ProgramName.GENERATE in has:
        inputs = (*_TEXTS, *_LIMITS, *SAMPLING_ARRAYS)
        found.append(Signature(SignatureName.GENERATE, inputs, _NEW_TEXTS))
        vision = manifest.vision
        if ProgramName.PREFILL_IMAGES in has and vision is not None:
            side = vision.image_size
            pixels = Array("pixels", (ANY, len(vision.channels), side, side), "float32")
            found.append(Signature(SignatureName.GENERATE_IMAGES, (*inputs, pixels), _NEW_TEXTS))
    if ProgramName.SCORE in has:
        outputs = (Array("logprobs", (ANY, ANY), "float32"), Array("loss", (ANY,), "float32"))
        found.append(Signature(SignatureName.SCORE, _TEXTS, outputs))
    if ProgramName.CLASSIFY in has:
        scores = Array("scores", (ANY, len(manifest.model.labels)), "float32")
        found.append(Signature(SignatureName.CLASSIFY, _TEXTS, (scores,)))
    if ProgramName.EMBED in has:
        vector = Array("embedding", (ANY, manifest.model.embedding_size), "float32")
        found.append(Signature(SignatureName.EMBED, _TEXTS, (vector,)))
    default = found[0]
    return [*found, Signature(SignatureName.DEFAULT, default.inputs, default.outputs)]


def _slot_calls() -> Iterable[Signature]:
    """Calls that leave the cache in the server: one text each."""
    one = (Array("tokens", (1, ANY), "int32"), Array("lengths", (1,), "int32"))
    sampling = tuple(Array(array.name, (1,), array.dtype) for array in SAMPLING_ARRAYS)
    limits = (Array("max_new_tokens", (1,), "int32"), Array("stop_tokens", (1, ANY), "int32"))
    new = (
        Array("tokens", (1, ANY), "int32"),
        Array("counts", (1,), "int32"),
        Array("finish_reasons", (1,), "string"),
    )
    slot = Array("slot", (1,), "int32")
    given = (*_SLOT, Array("token", (1,), "int32"))
    return [
        Signature(SignatureName.PREFILL_SLOT, (slot, *one, *sampling), given),
        Signature(SignatureName.DECODE_SLOT, (*_SLOT, *limits, *sampling), new),
        Signature(SignatureName.RELEASE_SLOT, _SLOT, (slot,)),
    ]


def _program_signature(program: Program) -> Signature:
    def arrays(tensors: Iterable[Tensor]) -> tuple[Array, ...]:
        return tuple(Array(tensor_name(t), t.shape, t.dtype) for t in tensors)

    return Signature(
        program_signature_name(program.bucket),
        arrays((*program.inputs, *program.cache)),
        arrays((*program.outputs, *program.cache)),
    )
