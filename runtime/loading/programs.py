"""Programs of a bundle, from their files to executables on the devices of a mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

from ...artifacts.bundle import Bundle
from ...artifacts.bytecode import calls_of
from ...artifacts.compiled import CompiledStore
from ...artifacts.errors import ArtifactError
from ...artifacts.manifest import Program, Spec, Tensor
from ...artifacts.memory import return_freed_memory
from .compiled import entry_name, from_bytes, to_bytes

Arrays = tuple[jax.Array, ...]
Inputs = Mapping[str, np.ndarray]
"""Arrays by the names of a program's inputs."""
ArrayOrStruct = jax.Array | jax.ShapeDtypeStruct
"""An array, or what is known of it."""

_CACHE_ARGUMENT = 2  # of (weights, inputs, cache)


@dataclass(frozen=True)
class LoadedProgram:
    """A compiled program with its weights bound: a function of inputs and the donated cache."""

    record: Program
    weights: Arrays
    compiled: jax.stages.Compiled

    def __call__(self, inputs: Inputs, cache: Arrays) -> tuple[Arrays, Arrays]:
        """(outputs, cache) on the devices; the cache passed in is used up.

        An input that is not given gets its neutral value, and one that the program does not take
        is left out: whoever gives it has looked whether it is neutral.

        Raises:
            KeyError: an input without a neutral value is not given.
        """
        arrays = tuple(
            inputs[name] if name in inputs else self._neutral[name] for name in self._names
        )
        return self.compiled(self.weights, arrays, cache)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.record.inputs)

    @cached_property
    def _neutral(self) -> dict[str, np.ndarray]:
        return {
            tensor.name: np.full(tensor.shape, tensor.neutral, np.dtype(tensor.dtype))
            for tensor in self.record.inputs
            if tensor.neutral is not None
        }


def sharding_of(mesh: jax.sharding.Mesh, spec: Spec) -> NamedSharding:
    """The JAX sharding that a manifest's spec means on `mesh`."""
    return NamedSharding(mesh, PartitionSpec(*(axes or None for axes in spec)))


def restore_program(
    bundle: Bundle, record: Program, mesh: jax.sharding.Mesh, weights: Arrays, store: CompiledStore
) -> LoadedProgram | None:
    """The program as an earlier `store_program` stored it; None when it is to be compiled."""
    name = entry_name(bundle, record)
    data = store.read(name)
    if data is None:
        return None
    compiled = from_bytes(data, record, len(weights), mesh)
    return_freed_memory()
    if compiled is None:
        store.report(name)
        return None
    return LoadedProgram(record, weights, compiled)


def store_program(bundle: Bundle, program: LoadedProgram, store: CompiledStore) -> None:
    """Store a compiled program for the next start, where this user can."""
    data = to_bytes(program.compiled)
    if data is not None:
        store.write(entry_name(bundle, program.record), data)
    return_freed_memory()


def compile_program(
    bundle: Bundle, record: Program, mesh: jax.sharding.Mesh, weights: Arrays
) -> LoadedProgram:
    """Compile a program for the devices of `mesh`; takes from tenths of a second to minutes.

    Raises ArtifactError when the file is not what the manifest says.
    """
    return LoadedProgram(record, weights, compile_unbound(bundle, record, mesh, weights))


def compile_unbound(
    bundle: Bundle, record: Program, mesh: jax.sharding.Mesh, weights: Sequence[ArrayOrStruct]
) -> jax.stages.Compiled:
    """`compile_program` without its weights, of which shapes, dtypes and shardings are enough."""
    exported = _read(bundle, record)
    _check_calls(bundle, record, exported)
    _check_signature(bundle, record, exported, weights)
    # jax.export keeps no donation and leaves shardings to the caller: both are in the manifest.
    function = jax.jit(
        exported.call,
        donate_argnums=_CACHE_ARGUMENT,
        out_shardings=(_shardings(mesh, record.outputs), _shardings(mesh, record.cache)),
    )
    try:
        lowered = function.lower(
            tuple(jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=w.sharding) for w in weights),
            _arguments(mesh, record.inputs),
            _arguments(mesh, record.cache),
        )
        return _compile(lowered)
    except Exception as error:  # nobody has looked at the module in the file before: see `_read`
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"program {bundle.path(record.jaxexport)} cannot be compiled ({reason}): export the "
            "bundle again"
        ) from error


def _compile(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    compiled = lowered.compile()
    return_freed_memory()
    return compiled


def _read(bundle: Bundle, record: Program) -> export.Exported:
    path, data = bundle.path(record.jaxexport), bundle.read(record.jaxexport)
    try:
        return export.deserialize(bytearray(data))
    except Exception as error:  # flatbuffers, MLIR and JAX each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"program {path} cannot be read by jax {jax.__version__} ({reason}); it was written "
            f"with jax {bundle.manifest.versions.jax}: export the bundle again"
        ) from error


def _check_calls(bundle: Bundle, record: Program, exported: export.Exported) -> None:
    """Refuse a program that calls what its manifest entry does not name.

    JAX registers handlers of its own, among them one that takes an address out of an attribute of
    the program and calls what is there.
    """
    try:
        others = calls_of(exported.mlir_module_serialized) - set(record.custom_calls)
        got = others and f"one that calls {_printable(others)}"
    except ValueError as error:
        got = str(error)
    if got:
        named = ", ".join(record.custom_calls) or "nothing outside itself"
        raise ArtifactError(
            f"program {bundle.path(record.jaxexport)}: expected one that calls {named}, as its "
            f"manifest entry says, got {got}; export the bundle again"
        )


def _printable(names: set[str]) -> str:
    """For people: what is no plain character is shown as `?`."""
    short = ", ".join(name[:64] for name in sorted(names))[:300]
    return "".join(c if " " <= c <= "~" else "?" for c in short)


def _check_signature(
    bundle: Bundle, record: Program, exported: export.Exported, weights: Sequence[ArrayOrStruct]
) -> None:
    """Refuse a program file that takes other arguments than its manifest entry says."""
    expected = [(w.shape, w.dtype.name) for w in weights]
    expected += [(tensor.shape, tensor.dtype) for tensor in (*record.inputs, *record.cache)]
    actual = [(tuple(aval.shape), aval.dtype.name) for aval in exported.in_avals]
    where = f"program {bundle.path(record.jaxexport)}"
    if record.platform not in exported.platforms or exported.nr_devices != _devices(bundle, record):
        raise ArtifactError(
            f"{where} is for {exported.nr_devices} devices of {', '.join(exported.platforms)}; "
            f"its manifest entry says {record.mesh} on {record.platform}: export the bundle again"
        )
    if actual != expected:
        first = next(
            (i for i, (a, b) in enumerate(zip(actual, expected, strict=False)) if a != b),
            min(len(actual), len(expected)),
        )
        raise ArtifactError(
            f"{where} does not match its manifest entry: argument {first} of {len(expected)} is "
            f"{_at(actual, first)}, expected {_at(expected, first)}: export the bundle again"
        )


def _devices(bundle: Bundle, record: Program) -> int:
    return bundle.mesh(record.mesh).mesh.devices


def _at(signature: list[tuple[tuple[int, ...], str]], index: int) -> str:
    if index >= len(signature):
        return "missing"
    shape, dtype = signature[index]
    return f"{dtype}[{','.join(map(str, shape))}]"


def _shardings(mesh: jax.sharding.Mesh, tensors: Sequence[Tensor]) -> tuple[NamedSharding, ...]:
    return tuple(sharding_of(mesh, tensor.spec) for tensor in tensors)


def _arguments(
    mesh: jax.sharding.Mesh, tensors: Sequence[Tensor]
) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(
        jax.ShapeDtypeStruct(
            tensor.shape, np.dtype(tensor.dtype), sharding=sharding_of(mesh, tensor.spec)
        )
        for tensor in tensors
    )
