"""Writes the SavedModel of a bundle that is being written: `python -m ... FOLDER SLOTS`.

A process of its own, so that neither the exporter nor its tests ever hold TensorFlow, and so that
TensorFlow's counters, which end up in the names of functions, begin at the same numbers each time.
"""

# The stubs of TensorFlow that pyright brings lack operators and many functions.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # else TensorFlow imports Keras, 45 MB that nothing uses

import jax
import tensorflow as tf
from jax import export
from orbax.export import ExportManager, JaxModule, ServingConfig
from tensorflow.core.protobuf import saved_model_pb2

from ...artifacts.bundle import Bundle
from ...artifacts.manifest import (
    Array,
    Bucket,
    Program,
    ProgramName,
    Signature,
)
from ...artifacts.serving.signatures import (
    VERSION_FOLDER,
    SignatureName,
    program_signature_name,
    saved_model_programs,
    signatures,
    tensor_name,
)
from ..pinned import pinned
from .calls import Calls
from .checks import Tensors, shaped
from .requests import classify, embed, generate, generate_images, score
from .slots import Slots
from .variables import MappedWeight, WeightShards
from .warmup import write_warmup

_SIGNATURES: dict[str, Callable[[Calls, Tensors], Tensors]] = {
    SignatureName.GENERATE: generate,
    SignatureName.GENERATE_IMAGES: generate_images,
    SignatureName.SCORE: score,
    SignatureName.CLASSIFY: classify,
    SignatureName.EMBED: embed,
}
_WRITTEN_EACH_TIME_ANEW = "fingerprint.pb"  # holds a random number; TF loads without it


def build(bundle: Bundle, slots: int) -> None:
    """Write the SavedModel into the bundle's folder."""
    manifest = bundle.manifest
    programs = {program.bucket: program for program in saved_model_programs(manifest)}
    weights = _weights(bundle, programs)
    module = JaxModule(
        weights,
        {_key(bucket): _function(bundle, program) for bucket, program in programs.items()},
        jax2tf_kwargs={
            _key(bucket): {"native_serialization_platforms": (program.platform,)}
            for bucket, program in programs.items()
        },
        jit_compile=False,
    )
    methods = {bucket: module.methods[_key(bucket)] for bucket in programs}
    calls = Calls(manifest, programs, methods)
    described = signatures(manifest, slots)
    by_name = {signature.name: signature for signature in described}
    single = [
        _serving_config(program, by_name[program_signature_name(bucket)])
        for bucket, program in programs.items()
        if bucket.program in (ProgramName.PREFILL, ProgramName.DECODE)
    ]
    manager = ExportManager(module, single)
    functions = _whole_calls(calls, by_name)
    if slots:
        kept = Slots(calls, slots)
        manager.tf_module.slots = kept
        functions |= {
            name: _function_of(by_name[name], method) for name, method in kept.signatures().items()
        }
    folder = bundle.root / VERSION_FOLDER
    # Both in the order in which JAX takes the dict apart.
    variables = zip(manager.tf_module.tf_var_leaves, jax.tree.leaves(weights), strict=True)
    options = tf.saved_model.SaveOptions(experimental_sharding_callback=WeightShards(variables))
    manager.save(str(folder), options, functions)
    (folder / _WRITTEN_EACH_TIME_ANEW).unlink(missing_ok=True)
    (folder / "assets").rmdir()  # empty, and a bundle is its files
    _describe(folder / "saved_model.pb", described)
    write_warmup(manifest, folder)


def _weights(bundle: Bundle, programs: Mapping[Bucket, Program]) -> dict[str, MappedWeight]:
    """Every weight that a program takes."""
    sets = {program.weights for program in programs.values()}
    used = {weight.name: weight for name in sorted(sets) for weight in bundle.weight_set(name)}
    return {
        name: MappedWeight(bundle.path(weight.file), weight.offset, weight.shape, weight.dtype)
        for name, weight in used.items()
    }


def _key(bucket: Bucket) -> str:
    return f"{bucket.program}_b{bucket.batch}_t{bucket.tokens}_c{bucket.cache}"


def _function(bundle: Bundle, program: Program) -> Callable:
    """The lowered program as a function of (weights, (inputs, cache)) for jax2tf to wrap.

    It is lowered already: what TF gets is the module that other hosts get, called.
    """
    exported = export.deserialize(bytearray(bundle.read(program.jaxexport)))
    names = bundle.manifest.weight_sets[program.weights]

    def call(weights, arguments):
        inputs, cache = arguments
        return exported.call(tuple(weights[name] for name in names), inputs, cache)

    return call


def _serving_config(program: Program, signature: Signature) -> ServingConfig:
    """One program as a signature: named tensors in, checked, named tensors out."""
    inputs = [tensor_name(tensor) for tensor in program.inputs]
    cache = [tensor_name(tensor) for tensor in program.cache]
    outputs = [tensor_name(tensor) for tensor in program.outputs]

    def before(values: Tensors):
        values = shaped(values, signature.inputs)
        return tuple(values[name] for name in inputs), tuple(values[name] for name in cache)

    def behind(results):
        made, updated = results
        return dict(zip([*outputs, *cache], [*made, *updated], strict=True))

    return ServingConfig(
        signature.name, input_signature=[_specs(signature)], tf_preprocessor=before,
        tf_postprocessor=behind, method_key=_key(program.bucket),
    )  # fmt: skip


def _whole_calls(calls: Calls, by_name: dict[str, Signature]) -> dict[str, Callable]:
    functions = {
        str(name): _function_of(by_name[name], lambda values, make=make: make(calls, values))
        for name, make in _SIGNATURES.items()
        if name in by_name
    }
    return {**functions, str(SignatureName.DEFAULT): functions[_default_of(functions)]}


def _function_of(signature: Signature, make: Callable[[Tensors], Tensors]) -> Callable:
    """A TF function of the signature's named tensors, whose shapes are checked when they come."""

    def function(values: Tensors) -> Tensors:
        return make(shaped(values, signature.inputs))

    return tf.function(function, input_signature=[_specs(signature)], autograph=False)


def _specs(signature: Signature) -> dict[str, tf.TensorSpec]:
    return {
        array.name: tf.TensorSpec(None, tf.dtypes.as_dtype(array.dtype), array.name)
        for array in signature.inputs
    }


def _describe(path: Path, described: tuple[Signature, ...]) -> None:
    """Write the shapes of the signatures where servers and tools look for them.

    The graph takes any shape, to be able to refuse the wrong ones by name. Written with sorted
    maps, so that the same export gives the same bytes.
    """
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    # The same nodes under both names, so that a server compiles their programs once.
    same = _default_of(definitions)
    definitions[SignatureName.DEFAULT].CopyFrom(definitions[same])
    for signature in described:
        definition = definitions[signature.name]
        _set_shapes(definition.inputs, signature.inputs)
        _set_shapes(definition.outputs, signature.outputs)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _default_of(names: Iterable[str]) -> str:
    """The signature that `serving_default` is."""
    return next(str(name) for name in _SIGNATURES if name in names)


def _set_shapes(infos, arrays: tuple[Array, ...]) -> None:
    assert set(infos) == {array.name for array in arrays}, (sorted(infos), arrays)
    for array in arrays:
        assert tf.dtypes.as_dtype(infos[array.name].dtype).name == array.dtype, array
        infos[array.name].tensor_shape.CopyFrom(tf.TensorShape(
            [None if size < 0 else size for size in array.shape]
        ).as_proto())  # fmt: skip


def main() -> None:
    """Entry point of the process: the folder of the bundle and the number of slots."""
    with pinned():
        build(Bundle.open(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
