"""What must hold between the fields of a manifest, beyond their types.

Everything is arithmetic on the manifest: no file is opened and nothing is allocated, so a
manifest that claims 10^18 elements is refused as quickly as any other.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from .codec import INT64, refuse
from .convention import (
    SCORE_OUTPUTS,
    Port,
    ScoreExtras,
    cache_tensors,
    keeps_cache,
    program_inputs,
    program_outputs,
    sees_images,
)
from .errors import ArtifactError
from .kernels import TARGET_NAME
from .limits import check_limits
from .manifest import (
    CONVENTION,
    ITEMSIZE,
    KERNELS,
    PORTABLE,
    Bucket,
    CacheLayout,
    LayerKind,
    Manifest,
    Mesh,
    Program,
    ProgramName,
    Spec,
    Tensor,
)
from .paths import MANIFEST, is_bundle_path
from .sharding import shard_shape

ALIGNMENT = 64
"""Bytes: weights start at multiples of it in their file, so that hosts can map them."""
VARIANTS = (PORTABLE, KERNELS)
RECIPES = ("none", "int8", "int4", "fp8")
MAX_RANK = 8
MAX_DEVICES = 2**20
NEUTRAL_DTYPES = {
    "float32": (-3.4028234663852886e38, 3.4028234663852886e38), "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
}  # fmt: skip
"""The dtypes of inputs with a neutral value, and their least and largest number."""
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
    _check_unique(where, "platforms", manifest.platforms)
    _check_tokenizer(manifest, where)
    _check_vision(manifest, where)
    _check_extras(manifest, where)
    _check_programs(manifest, where)


def _check_files(manifest: Manifest, where: str) -> None:
    for index, record in enumerate(manifest.files):
        path = f"files[{index}]"
        _check_path(where, f"{path}.path", record.path)
        if record.path == MANIFEST:
            refuse(where, f"{path}.path", "another file than the manifest", MANIFEST)
        _check_at_least(where, f"{path}.bytes", 0, record.bytes)
        if not SHA256.fullmatch(record.sha256):
            refuse(where, f"{path}.sha256", "64 lower-case hexadecimal digits", record.sha256)
    names = [record.path for record in manifest.files]
    _check_unique(where, "files", names)
    if names != sorted(names):
        refuse(where, "files", "files in the order of their paths", "another order")


def _check_model(manifest: Manifest, where: str) -> None:
    model = manifest.model
    for name in ("vocab_size", "max_position_embeddings", "parameters"):
        _check_at_least(where, f"model.{name}", 1, getattr(model, name))
    _check_at_least(where, "model.embedding_size", 0, model.embedding_size)
    _check_dtype(where, "model.dtype", model.dtype)


def _check_weights(manifest: Manifest, where: str) -> None:
    sizes = {record.path: record.bytes for record in manifest.files}
    for index, weight in enumerate(manifest.weights):
        path = f"weights[{index}] ({weight.name})"
        _check_array(where, path, weight.shape, weight.dtype)
        _check_path(where, f"{path}.file", weight.file)
        _check_at_least(where, f"{path}.offset", 0, weight.offset)
        if weight.offset % ALIGNMENT:
            refuse(where, f"{path}.offset", f"a multiple of {ALIGNMENT}", str(weight.offset))
        if manifest.abstract:
            continue
        _check_known(where, f"{path}.file", weight.file, sizes)
        end = weight.offset + weight.nbytes
        if end > sizes[weight.file]:
            refuse(where, path, f"an end within {sizes[weight.file]} bytes", f"byte {end}")
    _check_unique(where, "weights", [weight.name for weight in manifest.weights])
    placed = sorted(manifest.weights, key=lambda weight: (weight.file, weight.offset))
    for first, second in itertools.pairwise(placed):
        if first.file == second.file and first.offset + first.nbytes > second.offset:
            refuse(where, "weights", "weights that do not overlap", f"{first.name}, {second.name}")
    names = {weight.name: None for weight in manifest.weights}
    for name, members in manifest.weight_sets.items():
        for member in members:
            _check_known(where, f"weight_sets.{name}", member, names)
        _check_unique(where, f"weight_sets.{name}", members)


def _check_meshes(manifest: Manifest, where: str) -> None:
    _check_unique(where, "meshes", [record.mesh.name for record in manifest.meshes])
    weights = {weight.name: weight for weight in manifest.weights}
    for index, record in enumerate(manifest.meshes):
        path = f"meshes[{index}] ({record.mesh.name})"
        _check_unique(where, f"{path}.axes", [axis.name for axis in record.mesh.axes])
        for axis in record.mesh.axes:
            _check_at_least(where, f"{path}.axes.{axis.name}", 1, axis.size)
        if record.mesh.devices > MAX_DEVICES:
            refuse(where, path, f"at most {MAX_DEVICES} devices", str(record.mesh.devices))
        for name in record.weight_specs:
            _check_known(where, f"{path}.weight_specs", name, weights)
        for name, weight in weights.items():
            place = f"{path}.weight_specs.{name}"
            if name not in record.weight_specs:
                refuse(where, place, "a spec for each weight", "none")
            _check_spec(where, place, weight.shape, record.weight_specs[name], record.mesh)


def _check_caches(manifest: Manifest, where: str) -> None:
    _check_unique(where, "caches", [str(layout.cache) for layout in manifest.caches])
    for index, layout in enumerate(manifest.caches):
        path = f"caches[{index}]"
        _check_at_least(where, f"{path}.cache", 1, layout.cache)
        for number, layer in enumerate(layout.layers):
            place = f"{path}.layers[{number}]"
            _check_array(where, place, (layer.kv_heads, layer.slots, layer.head_dim), layer.dtype)
            if layer.scale_dtype is not None:
                _check_known(where, f"{place}.scale_dtype", layer.scale_dtype, ITEMSIZE)
            if layer.slots > layout.cache:
                refuse(where, f"{place}.slots", f"at most {layout.cache}", str(layer.slots))
            if layer.kind is LayerKind.FULL and layer.slots != layout.cache:
                refuse(where, f"{place}.slots", f"{layout.cache}", str(layer.slots))
        for number, state in enumerate(layout.state):
            _check_array(where, f"{path}.state[{number}]", state.shape, state.dtype)
        _check_unique(where, f"{path}.state", [state.name for state in layout.state])


def _check_tokenizer(manifest: Manifest, where: str) -> None:
    tokenizer = manifest.tokenizer
    if tokenizer is None:
        return
    files = [record.path for record in manifest.files]
    if tokenizer.kind != "sentencepiece":
        refuse(where, "tokenizer.kind", "sentencepiece", tokenizer.kind)
    _check_known(where, "tokenizer.path", tokenizer.path, files)
    if tokenizer.chat_template is not None:
        _check_known(where, "tokenizer.chat_template", tokenizer.chat_template, files)


def _check_vision(manifest: Manifest, where: str) -> None:
    vision = manifest.vision
    if vision is None:
        return
    for name in ("image_size", "tokens_per_image", "soft_token_size"):
        _check_at_least(where, f"vision.{name}", 1, getattr(vision, name))
    if vision.channels != "RGB":
        refuse(where, "vision.channels", "RGB", vision.channels)
    for name, values in (("mean", vision.mean), ("std", vision.std)):
        if len(values) != len(vision.channels):
            refuse(where, f"vision.{name}", "a number for each channel", str(len(values)))
    if min(vision.std) <= 0:
        refuse(where, "vision.std", "numbers above 0", str(min(vision.std)))
    for name in ("begin_token_id", "soft_token_id", "end_token_id"):
        _check_at_least(where, f"vision.{name}", 0, getattr(vision, name))


def _check_programs(manifest: Manifest, where: str) -> None:
    meshes = {record.mesh.name: record.mesh for record in manifest.meshes}
    layouts = {layout.cache: layout for layout in manifest.caches}
    files = {record.path for record in manifest.files}
    keys = [f"{p.mesh} {p.platform} {_describe(p)}" for p in manifest.programs]
    _check_variants(manifest, keys, where)
    shared: dict[tuple[str, str, int, int], tuple[Tensor, ...]] = {}
    for index, program in enumerate(manifest.programs):
        path = f"programs[{index}] ({keys[index]})"
        _check_known(where, f"{path}.mesh", program.mesh, meshes)
        _check_known(where, f"{path}.platform", program.platform, manifest.platforms)
        _check_known(where, f"{path}.weights", program.weights, manifest.weight_sets)
        _check_known(where, f"{path}.stablehlo", program.stablehlo, files)
        _check_known(where, f"{path}.jaxexport", program.jaxexport, files)
        bucket = program.bucket
        _check_at_least(where, f"{path}.bucket.batch", 1, bucket.batch)
        _check_at_least(where, f"{path}.bucket.tokens", 1, bucket.tokens)
        known = layouts if keeps_cache(bucket.program) else {0: CacheLayout(0, ())}
        if bucket.cache not in known:
            refuse(where, f"{path}.bucket.cache", _one_of(map(str, known)), str(bucket.cache))
        most = 1 if bucket.program is ProgramName.DECODE else bucket.cache
        if bucket.tokens > most and keeps_cache(bucket.program):
            refuse(where, f"{path}.bucket.tokens", f"at most {most}", str(bucket.tokens))
        _check_images(manifest, bucket, where, path)
        _check_signature(manifest, program, known[bucket.cache], where, path)
        _check_placement(program, meshes[program.mesh], where, path)
        _check_aliases(program, len(manifest.weight_sets[program.weights]), where, path)
        # A cache goes from program to program, so all must split it alike.
        row = (program.mesh, program.platform, bucket.batch, bucket.cache)
        if shared.setdefault(row, program.cache) != program.cache:
            refuse(where, f"{path}.cache", "the specs of the other programs", "other specs")


def _check_variants(manifest: Manifest, keys: list[str], where: str) -> None:
    """Each program once in each variant, and the portable one always there."""
    variants = list(zip(keys, (program.variant for program in manifest.programs), strict=True))
    _check_unique(where, "programs", [f"{key} {variant}" for key, variant in variants])
    portable = {key: None for key, variant in variants if variant == PORTABLE}
    for (key, variant), program in zip(variants, manifest.programs, strict=True):
        path = f"programs ({key})"
        _check_known(where, f"{path}.variant", variant, VARIANTS)
        _check_known(where, f"{path}: the portable variant", key, portable)
        if bool(program.custom_calls) != (variant != PORTABLE):
            expected = "none" if variant == PORTABLE else "at least one"
            got = ", ".join(program.custom_calls) or "none"
            refuse(where, f"{path}.custom_calls", expected, got)
        for target in program.custom_calls:
            if not TARGET_NAME.fullmatch(target):
                refuse(where, f"{path}.custom_calls", "names of kernels, gemma3_...", target)


def _check_extras(manifest: Manifest, where: str) -> None:
    files = [record.path for record in manifest.files]
    if manifest.goldens is not None:
        _check_known(where, "goldens", manifest.goldens, files)
    _check_unique(where, "score_outputs", manifest.score_outputs)
    for name in manifest.score_outputs:
        _check_known(where, "score_outputs", name, SCORE_OUTPUTS)
    quantization = manifest.quantization
    if quantization is not None:
        for name in ("weights", "embedding"):
            _check_known(where, f"quantization.{name}", getattr(quantization, name), RECIPES)
        _check_known(where, "quantization.cache", quantization.cache, ("none", "int8"))
        _check_at_least(where, "quantization.group", 0, quantization.group)
    saved = manifest.saved_model
    if saved is not None:
        _check_path(where, "saved_model.path", saved.path)
        if saved.devices != 1:
            refuse(where, "saved_model.devices", "1", str(saved.devices))
        _check_at_least(where, "saved_model.slots", 0, saved.slots)
        names = [signature.name for signature in saved.signatures]
        _check_unique(where, "saved_model.signatures", names)


def _check_images(manifest: Manifest, bucket: Bucket, where: str, path: str) -> None:
    if not sees_images(bucket.program):
        return
    if manifest.vision is None:
        refuse(where, "vision", f"an object, for program {bucket.program}", "null")
    tokens = manifest.vision.tokens_per_image
    if bucket.program is ProgramName.ENCODE_IMAGE and bucket.tokens != tokens:
        refuse(where, f"{path}.bucket.tokens", str(tokens), str(bucket.tokens))


def _describe(program: Program) -> str:
    bucket = program.bucket
    return f"{bucket.program}-b{bucket.batch}-t{bucket.tokens}-c{bucket.cache}"


def _check_signature(
    manifest: Manifest, program: Program, layout: CacheLayout, where: str, path: str
) -> None:
    bucket, model = program.bucket, manifest.model
    if program.convention != CONVENTION:
        refuse(where, f"{path}.convention", str(CONVENTION), str(program.convention))
    _check_inputs(program, program_inputs(bucket, manifest.vision), where, path)
    expected = {
        "outputs": program_outputs(
            bucket,
            model.vocab_size,
            len(model.labels),
            model.embedding_size,
            manifest.vision,
            _score_extras(manifest, where),
        ),
        "cache": cache_tensors(layout, bucket.batch),
    }
    for field, ports in expected.items():
        tensors: tuple[Tensor, ...] = getattr(program, field)
        if len(tensors) != len(ports):
            refuse(where, f"{path}.{field}", f"{len(ports)} tensors", str(len(tensors)))
        for index, (tensor, port) in enumerate(zip(tensors, ports, strict=True)):
            got = Port(tensor.name, tensor.shape, tensor.dtype)
            if got != port:
                refuse(where, f"{path}.{field}[{index}]", _port(port), _port(got))


def _check_inputs(program: Program, ports: Sequence[Port], where: str, path: str) -> None:
    """Inputs go by name: what must be known is there, and what is not known has a neutral value."""
    known = {port.name: port for port in ports}
    _check_unique(where, f"{path}.inputs", [tensor.name for tensor in program.inputs])
    for index, tensor in enumerate(program.inputs):
        got = Port(tensor.name, tensor.shape, tensor.dtype, tensor.neutral)
        port = known.get(tensor.name)
        if port is None and tensor.neutral is None:
            expected = f"one of {', '.join(known)}, or an input with a neutral value"
            refuse(where, f"{path}.inputs[{index}]", expected, _port(got))
        if port is None and not _holds(tensor.dtype, tensor.neutral):
            expected = "a value of float32, int32 or uint32"
            refuse(where, f"{path}.inputs[{index}].neutral", expected, _port(got))
        if port is not None and got != port:
            refuse(where, f"{path}.inputs[{index}]", _port(port), _port(got))
    names = {tensor.name for tensor in program.inputs}
    for port in ports:
        if port.neutral is None and port.name not in names:
            refuse(where, f"{path}.inputs", f"an input {_port(port)}", "none")


def _holds(dtype: str, value: float | None) -> bool:
    """Whether a dtype that inputs with neutral values have holds a number as it is."""
    if value is None or dtype not in NEUTRAL_DTYPES:
        return False
    least, most = NEUTRAL_DTYPES[dtype]
    return least <= value <= most and (dtype == "float32" or value == int(value))


def _score_extras(manifest: Manifest, where: str) -> ScoreExtras | None:
    """What score gives besides log-probabilities; the sizes are those of the configuration."""
    if not manifest.score_outputs:
        return None
    config = manifest.model.config
    text = config.get("text_config", config)
    sizes: list[int] = []
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
        size = text.get(name) if isinstance(text, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            refuse(where, f"model.config.{name}", "a whole number of at least 1", repr(size)[:80])
        sizes.append(size)
    return ScoreExtras(manifest.score_outputs, *sizes)


def _check_placement(program: Program, mesh: Mesh, where: str, path: str) -> None:
    for field in ("inputs", "outputs", "cache"):
        tensors: tuple[Tensor, ...] = getattr(program, field)
        for index, tensor in enumerate(tensors):
            place = f"{path}.{field}[{index}]"
            _check_array(where, place, tensor.shape, tensor.dtype)
            _check_spec(where, f"{place}.spec", tensor.shape, tensor.spec, mesh)


def _check_aliases(program: Program, weights: int, where: str, path: str) -> None:
    arguments, results = program.inputs + program.cache, program.outputs + program.cache
    for index, alias in enumerate(program.aliases):
        place = f"{path}.aliases[{index}]"
        # Weights are shared by all programs, so none may be given away.
        if not weights <= alias.argument < weights + len(arguments):
            span = f"an argument from {weights} to {weights + len(arguments) - 1}"
            refuse(where, place, span, str(alias.argument))
        if not 0 <= alias.result < len(results):
            refuse(where, place, f"a result from 0 to {len(results) - 1}", str(alias.result))
        argument, result = arguments[alias.argument - weights], results[alias.result]
        if (argument.shape, argument.dtype, argument.spec) != (
            result.shape,
            result.dtype,
            result.spec,
        ):
            refuse(where, place, f"the shape, dtype and spec of {argument.name}", result.name)
    _check_unique(where, f"{path}.aliases", [f"argument {a.argument}" for a in program.aliases])
    _check_unique(where, f"{path}.aliases", [f"result {a.result}" for a in program.aliases])


def _check_array(where: str, path: str, shape: tuple[int, ...], dtype: str) -> None:
    _check_dtype(where, f"{path}.dtype", dtype)
    if len(shape) > MAX_RANK:
        refuse(where, f"{path}.shape", f"at most {MAX_RANK} dimensions", str(len(shape)))
    for size in shape:
        _check_at_least(where, f"{path}.shape", 1, size)
    if math.prod(shape) * ITEMSIZE[dtype] not in INT64:
        refuse(where, f"{path}.shape", "fewer than 2^63 bytes", "x".join(map(str, shape)))


def _check_spec(where: str, path: str, shape: tuple[int, ...], spec: Spec, mesh: Mesh) -> None:
    try:
        shard_shape(shape, spec, mesh)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {path}: {error}; re-export the bundle") from error


def _check_dtype(where: str, path: str, dtype: str) -> None:
    _check_known(where, path, dtype, ITEMSIZE)


def _check_at_least(where: str, path: str, least: int, got: int) -> None:
    if got < least:
        refuse(where, path, f"at least {least}", str(got))


def _check_path(where: str, path: str, got: str) -> None:
    if not is_bundle_path(got):
        refuse(where, path, "a relative path inside the bundle", got)


def _check_known(where: str, path: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        refuse(where, path, _one_of(known), name)


def _check_unique(where: str, path: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            refuse(where, path, "each name once", f"{name} twice")
        seen.add(name)


def _one_of(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return f"one of {', '.join(listed[:8]) or '(none)'}{more}"


def _port(port: Port) -> str:
    neutral = "" if port.neutral is None else f", neutral {port.neutral:g}"
    return f"{port.name} {port.dtype}[{','.join(map(str, port.shape))}]{neutral}"
