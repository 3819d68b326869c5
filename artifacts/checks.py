"""What must hold between the fields of a manifest, beyond their types.

Everything is arithmetic on the manifest: no file is opened and nothing is allocated, so a
manifest that claims 10^18 elements is refused as quickly as any other.
"""

from __future__ import annotations

import itertools
import re

from .codec import refuse
from .convention import SCORE_OUTPUTS, cache_tensors
from .field_checks import (
    check_array,
    check_at_least,
    check_dtype,
    check_known,
    check_path,
    check_spec,
    check_unique,
)
from .layout import ITEMSIZE, LayerKind
from .limits import check_limits
from .manifest import Manifest
from .paths import MANIFEST
from .program_checks import check_programs

ALIGNMENT = 64
"""Bytes: weights start at multiples of it in their file, so that hosts can map them."""
RECIPES = ("none", "int8", "int4", "fp8")
MAX_DEVICES = 2**20
SHA256 = re.compile(r"[0-9a-f]{64}")


def check_manifest(manifest: Manifest, where: str) -> None:
    """Refuse a manifest whose parts do not agree; `where` names the file in errors.

    Raises:
        ArtifactError: names the JSON path, what was expected and what is there.
    """
    check_limits(manifest, where)
    _check_files(manifest, where)
    _check_model(manifest, where)
    _check_weights(manifest, where)
    _check_meshes(manifest, where)
    _check_caches(manifest, where)
    check_unique(where, "platforms", manifest.platforms)
    _check_tokenizer(manifest, where)
    _check_vision(manifest, where)
    _check_extras(manifest, where)
    check_programs(manifest, where)


def _check_files(manifest: Manifest, where: str) -> None:
    for index, record in enumerate(manifest.files):
        path = f"files[{index}]"
        check_path(where, f"{path}.path", record.path)
        if record.path == MANIFEST:
            refuse(where, f"{path}.path", "another file than the manifest", MANIFEST)
        check_at_least(where, f"{path}.bytes", 0, record.bytes)
        if not SHA256.fullmatch(record.sha256):
            refuse(where, f"{path}.sha256", "64 lower-case hexadecimal digits", record.sha256)
    names = [record.path for record in manifest.files]
    check_unique(where, "files", names)
    if names != sorted(names):
        refuse(where, "files", "files in the order of their paths", "another order")


def _check_model(manifest: Manifest, where: str) -> None:
    model = manifest.model
    for name in ("vocab_size", "max_position_embeddings", "parameters"):
        check_at_least(where, f"model.{name}", 1, getattr(model, name))
    check_at_least(where, "model.embedding_size", 0, model.embedding_size)
    check_dtype(where, "model.dtype", model.dtype)


def _check_weights(manifest: Manifest, where: str) -> None:
    sizes = {record.path: record.bytes for record in manifest.files}
    for index, weight in enumerate(manifest.weights):
        path = f"weights[{index}] ({weight.name})"
        check_array(where, path, weight.shape, weight.dtype)
        check_path(where, f"{path}.file", weight.file)
        check_at_least(where, f"{path}.offset", 0, weight.offset)
        if weight.offset % ALIGNMENT:
            refuse(where, f"{path}.offset", f"a multiple of {ALIGNMENT}", str(weight.offset))
        if manifest.abstract:
            continue
        check_known(where, f"{path}.file", weight.file, sizes)
        end = weight.offset + weight.nbytes
        if end > sizes[weight.file]:
            refuse(where, path, f"an end within {sizes[weight.file]} bytes", f"byte {end}")
    check_unique(where, "weights", [weight.name for weight in manifest.weights])
    placed = sorted(manifest.weights, key=lambda weight: (weight.file, weight.offset))
    for first, second in itertools.pairwise(placed):
        if first.file == second.file and first.offset + first.nbytes > second.offset:
            refuse(where, "weights", "weights that do not overlap", f"{first.name}, {second.name}")
    names = {weight.name: None for weight in manifest.weights}
    for name, members in manifest.weight_sets.items():
        for member in members:
            check_known(where, f"weight_sets.{name}", member, names)
        check_unique(where, f"weight_sets.{name}", members)


def _check_meshes(manifest: Manifest, where: str) -> None:
    check_unique(where, "meshes", [record.mesh.name for record in manifest.meshes])
    weights = {weight.name: weight for weight in manifest.weights}
    for index, record in enumerate(manifest.meshes):
        path = f"meshes[{index}] ({record.mesh.name})"
        check_unique(where, f"{path}.axes", [axis.name for axis in record.mesh.axes])
        for axis in record.mesh.axes:
            check_at_least(where, f"{path}.axes.{axis.name}", 1, axis.size)
        if record.mesh.devices > MAX_DEVICES:
            refuse(where, path, f"at most {MAX_DEVICES} devices", str(record.mesh.devices))
        for name in record.weight_specs:
            check_known(where, f"{path}.weight_specs", name, weights)
        for name, weight in weights.items():
            place = f"{path}.weight_specs.{name}"
            if name not in record.weight_specs:
                refuse(where, place, "a spec for each weight", "none")
            check_spec(where, place, weight.shape, record.weight_specs[name], record.mesh)


def _check_caches(manifest: Manifest, where: str) -> None:
    check_unique(where, "caches", [str(layout.cache) for layout in manifest.caches])
    for index, layout in enumerate(manifest.caches):
        path = f"caches[{index}]"
        check_at_least(where, f"{path}.cache", 1, layout.cache)
        for number, layer in enumerate(layout.layers):
            place = f"{path}.layers[{number}]"
            check_array(where, place, (layer.kv_heads, layer.slots, layer.head_dim), layer.dtype)
            if layer.scale_dtype is not None:
                check_known(where, f"{place}.scale_dtype", layer.scale_dtype, ITEMSIZE)
            if layer.slots > layout.cache:
                refuse(where, f"{place}.slots", f"at most {layout.cache}", str(layer.slots))
            if layer.kind is LayerKind.FULL and layer.slots != layout.cache:
                refuse(where, f"{place}.slots", f"{layout.cache}", str(layer.slots))
        for number, state in enumerate(layout.state):
            check_array(where, f"{path}.state[{number}]", state.shape, state.dtype)
        names = [port.name for port in cache_tensors(layout, 1)]
        check_unique(where, f"{path}.state", names)


def _check_tokenizer(manifest: Manifest, where: str) -> None:
    tokenizer = manifest.tokenizer
    if tokenizer is None:
        return
    files = [record.path for record in manifest.files]
    if tokenizer.kind != "sentencepiece":
        refuse(where, "tokenizer.kind", "sentencepiece", tokenizer.kind)
    check_known(where, "tokenizer.path", tokenizer.path, files)
    if tokenizer.chat_template is not None:
        check_known(where, "tokenizer.chat_template", tokenizer.chat_template, files)


def _check_vision(manifest: Manifest, where: str) -> None:
    vision = manifest.vision
    if vision is None:
        return
    for name in ("image_size", "tokens_per_image", "soft_token_size"):
        check_at_least(where, f"vision.{name}", 1, getattr(vision, name))
    if vision.channels != "RGB":
        refuse(where, "vision.channels", "RGB", vision.channels)
    for name, values in (("mean", vision.mean), ("std", vision.std)):
        if len(values) != len(vision.channels):
            refuse(where, f"vision.{name}", "a number for each channel", str(len(values)))
    if min(vision.std) <= 0:
        refuse(where, "vision.std", "numbers above 0", str(min(vision.std)))
    for name in ("begin_token_id", "soft_token_id", "end_token_id"):
        check_at_least(where, f"vision.{name}", 0, getattr(vision, name))


def _check_extras(manifest: Manifest, where: str) -> None:
    files = [record.path for record in manifest.files]
    if manifest.goldens is not None:
        check_known(where, "goldens", manifest.goldens, files)
    check_unique(where, "score_outputs", manifest.score_outputs)
    for name in manifest.score_outputs:
        check_known(where, "score_outputs", name, SCORE_OUTPUTS)
    quantization = manifest.quantization
    if quantization is not None:
        for name in ("weights", "embedding"):
            check_known(where, f"quantization.{name}", getattr(quantization, name), RECIPES)
        check_known(where, "quantization.cache", quantization.cache, ("none", "int8"))
        check_at_least(where, "quantization.group", 0, quantization.group)
    saved = manifest.saved_model
    if saved is not None:
        check_path(where, "saved_model.path", saved.path)
        if saved.devices != 1:
            refuse(where, "saved_model.devices", "1", str(saved.devices))
        check_at_least(where, "saved_model.slots", 0, saved.slots)
        names = [signature.name for signature in saved.signatures]
        check_unique(where, "saved_model.signatures", names)
