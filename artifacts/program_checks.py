"""What must hold of the programs of a manifest: how they are called, and what they share."""

from __future__ import annotations

from collections.abc import Sequence

from .codec import refuse
from .convention import (
    Port,
    ScoreExtras,
    cache_tensors,
    keeps_cache,
    program_inputs,
    program_outputs,
    sees_images,
)
from .field_checks import check_array, check_at_least, check_known, check_spec, check_unique, one_of
from .kernels import TARGET_NAME
from .manifest import (
    CONVENTION,
    KERNELS,
    PORTABLE,
    Bucket,
    CacheLayout,
    Manifest,
    Mesh,
    Program,
    ProgramName,
    Tensor,
)

VARIANTS = (PORTABLE, KERNELS)
NEUTRAL_DTYPES = {
    "float32": (-3.4028234663852886e38, 3.4028234663852886e38), "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
}  # fmt: skip
"""The dtypes of inputs with a neutral value, and their least and largest number."""


def check_programs(manifest: Manifest, where: str) -> None:
    """Refuse programs that are not called as convention.py says, or do not agree."""
    meshes = {record.mesh.name: record.mesh for record in manifest.meshes}
    layouts = {layout.cache: layout for layout in manifest.caches}
    files = {record.path for record in manifest.files}
    keys = [f"{p.mesh} {p.platform} {_describe(p)}" for p in manifest.programs]
    _check_variants(manifest, keys, where)
    shared: dict[tuple[str, str, int, int], tuple[Tensor, ...]] = {}
    for index, program in enumerate(manifest.programs):
        path = f"programs[{index}] ({keys[index]})"
        check_known(where, f"{path}.mesh", program.mesh, meshes)
        check_known(where, f"{path}.platform", program.platform, manifest.platforms)
        check_known(where, f"{path}.weights", program.weights, manifest.weight_sets)
        check_known(where, f"{path}.stablehlo", program.stablehlo, files)
        check_known(where, f"{path}.jaxexport", program.jaxexport, files)
        bucket = program.bucket
        check_at_least(where, f"{path}.bucket.batch", 1, bucket.batch)
        check_at_least(where, f"{path}.bucket.tokens", 1, bucket.tokens)
        known = layouts if keeps_cache(bucket.program) else {0: CacheLayout(0, ())}
        if bucket.cache not in known:
            refuse(where, f"{path}.bucket.cache", one_of(map(str, known)), str(bucket.cache))
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
    check_unique(where, "programs", [f"{key} {variant}" for key, variant in variants])
    portable = {key: None for key, variant in variants if variant == PORTABLE}
    for (key, variant), program in zip(variants, manifest.programs, strict=True):
        path = f"programs ({key})"
        check_known(where, f"{path}.variant", variant, VARIANTS)
        check_known(where, f"{path}: the portable variant", key, portable)
        if bool(program.custom_calls) != (variant != PORTABLE):
            expected = "none" if variant == PORTABLE else "at least one"
            got = ", ".join(program.custom_calls) or "none"
            refuse(where, f"{path}.custom_calls", expected, got)
        for target in program.custom_calls:
            if not TARGET_NAME.fullmatch(target):
                refuse(where, f"{path}.custom_calls", "names of kernels, gemma3_...", target)


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
    check_unique(where, f"{path}.inputs", [tensor.name for tensor in program.inputs])
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
            check_array(where, place, tensor.shape, tensor.dtype)
            check_spec(where, f"{place}.spec", tensor.shape, tensor.spec, mesh)


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
    check_unique(where, f"{path}.aliases", [f"argument {a.argument}" for a in program.aliases])
    check_unique(where, f"{path}.aliases", [f"result {a.result}" for a in program.aliases])


def _port(port: Port) -> str:
    neutral = "" if port.neutral is None else f", neutral {port.neutral:g}"
    return f"{port.name} {port.dtype}[{','.join(map(str, port.shape))}]{neutral}"
