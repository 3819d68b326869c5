"""A toy language model in a real bundle: the calling convention of Gemma's, in milliseconds.

Two layers of attention, one with a ring cache and one with a full one, whose keys and values are
token embeddings; distance in positions matters. So a wrong chunk, position, row or cache slot
changes the logits. `reference_logits` is the same model over a whole text, in numpy.
"""

from __future__ import annotations

import functools
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax
import sentencepiece
from gemma3_export.artifacts.convention import (
    Port,
    cache_tensors,
    keeps_cache,
    program_inputs,
    program_outputs,
)
from gemma3_export.artifacts.layout import CacheLayer, CacheLayout, LayerKind, RowState
from gemma3_export.artifacts.manifest import (
    FORMAT_VERSION,
    Alias,
    Axis,
    Bucket,
    Input,
    Manifest,
    Mesh,
    MeshRecord,
    ModelRecord,
    Program,
    ProgramName,
    Spec,
    Tensor,
    TokenizerRecord,
    Versions,
)
from gemma3_export.artifacts.store import numpy_dtype, plan_weights, write_weights
from gemma3_export.artifacts.writer import BundleWriter
from jax import export
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from .toy_model import DRAWS, EMBED, LABELS, VOCAB, WINDOW, by_name, toy_function, toy_weights

PAD, EOS, BOS, END_OF_TURN = 0, 1, 2, 5
TOKENIZER_PIECES = 320


GENERATING = (
    ProgramName.PREFILL, ProgramName.DECODE, ProgramName.GENERATE, ProgramName.SCORE,
)  # fmt: skip


@dataclass(frozen=True)
class Toy:
    """What a toy bundle is made for."""

    meshes: tuple[str, ...] = ("1x1",)
    batch: tuple[int, ...] = (1, 4)
    prefill: tuple[int, ...] = (4, 16)
    caches: tuple[int, ...] = (64,)
    generate: int = 8
    platforms: tuple[str, ...] = ("cpu",)
    abstract: bool = False
    tokenizer: bool = True
    add_eos: bool = False
    prompts: bytes | None = None
    """Content of tokenizer/prompts.json."""
    programs: tuple[ProgramName, ...] = GENERATING
    eos_token_ids: tuple[int, ...] = (EOS, END_OF_TURN)
    later: bool = False
    """Inputs and state that no host of today knows, and the known inputs in another order."""


def make_toy_bundle(out: Path, toy: Toy) -> Path:
    """Write the bundle; the same toy gives the same weights."""
    weights = toy_weights()
    planned = [(name, value.shape, value.dtype.name) for name, value in weights.items()]
    with BundleWriter(out) as writer:
        if toy.abstract:
            records = plan_weights(planned)
        else:
            with write_weights(writer, planned) as store:
                for name, value in weights.items():
                    store.write(name, value)
            records = store.weights
        if toy.tokenizer:
            writer.add_file("tokenizer/tokenizer.model", toy_tokenizer())
        if toy.prompts is not None:
            writer.add_file("tokenizer/prompts.json", toy.prompts)
        writer.commit(
            Manifest(
                format_version=FORMAT_VERSION,
                abstract=toy.abstract,
                model=_model_record(toy),
                versions=Versions("0", jax.__version__, jax.__version__, "1.15.0", 10),
                meshes=tuple(_mesh_record(name) for name in toy.meshes),
                platforms=toy.platforms,
                caches=tuple(_layout(cache, toy.later) for cache in toy.caches),
                programs=tuple(
                    _add_program(writer, mesh, platform, bucket, toy.later)
                    for mesh in toy.meshes
                    for platform in toy.platforms
                    for bucket in _buckets(toy)
                ),
                weights=records,
                weight_sets={"all": tuple(weights)},
                tokenizer=TokenizerRecord("tokenizer/tokenizer.model", add_eos=toy.add_eos)
                if toy.tokenizer
                else None,
            )
        )
    return out


_WEIGHT_SPECS: dict[str, Spec] = {
    "embed": (("model",), ()), "near": ((), ()), "far": ((), ()), "head": ((), ("model",)),
}  # fmt: skip


def _buckets(toy: Toy) -> list[Bucket]:
    tokens = {
        ProgramName.PREFILL: toy.prefill,
        ProgramName.DECODE: (1,),
        ProgramName.GENERATE: (toy.generate,),
        ProgramName.SCORE: toy.prefill,
        ProgramName.CLASSIFY: toy.prefill,
        ProgramName.EMBED: toy.prefill,
    }
    return [
        Bucket(program, batch, size, cache)
        for program in toy.programs
        for batch in toy.batch
        for cache in (toy.caches if keeps_cache(program) else (0,))
        for size in tokens[program]
        if size <= cache or cache == 0
    ]


def _mesh(name: str) -> Mesh:
    data, model = map(int, name.split("x"))
    return Mesh(name, (Axis("data", data), Axis("model", model)))


def _mesh_record(name: str) -> MeshRecord:
    return MeshRecord(_mesh(name), _WEIGHT_SPECS, ())


def _layout(cache: int, later: bool) -> CacheLayout:
    layer = functools.partial(CacheLayer, kv_heads=1, head_dim=EMBED, dtype="float32")
    return CacheLayout(
        cache,
        (layer(kind=LayerKind.RING, slots=WINDOW), layer(kind=LayerKind.FULL, slots=cache)),
        (RowState("later", (3,), "int32"),) if later else (),
    )


def _tensor(port: Port, rows_axis: tuple[str, ...]) -> Tensor:
    return Tensor(port.name, port.shape, port.dtype, _rows_spec(port, rows_axis))


def _rows_spec(port: Port, rows_axis: tuple[str, ...]) -> Spec:
    return (rows_axis, *[()] * (len(port.shape) - 1))


def _input_ports(bucket: Bucket, later: bool) -> tuple[Port, ...]:
    """What the toy knows to do with: sampling inputs that came after it are not among them."""
    ports = [port for port in program_inputs(bucket) if port.neutral is None or port.name in DRAWS]
    if not later:
        return tuple(ports)
    return (Port("later", (bucket.batch, 2), "float32", 0.5), *reversed(ports))


def _add_program(
    writer: BundleWriter, mesh_name: str, platform: str, bucket: Bucket, later: bool
) -> Program:
    """Lower one program, add its file and return its manifest entry."""
    mesh, layout = _mesh(mesh_name), _layout(bucket.cache, later)
    rows = ("data",) if bucket.batch % mesh.axes[0].size == 0 else ()
    inputs = tuple(
        Input(port.name, port.shape, port.dtype, _rows_spec(port, rows), port.neutral)
        for port in _input_ports(bucket, later)
    )
    outputs = tuple(
        _tensor(port, ()) for port in program_outputs(bucket, VOCAB, len(LABELS), EMBED)
    )
    ports = cache_tensors(layout, bucket.batch) if bucket.cache else ()
    cache = tuple(_tensor(port, rows) for port in ports)
    name = f"{bucket.program}-b{bucket.batch}-t{bucket.tokens}-c{bucket.cache}"
    stem = f"programs/{mesh_name}/{platform}/{name}"
    exported = _export(mesh, platform, bucket, inputs, outputs, cache)
    writer.add_file(f"{stem}.mlirbc", exported.mlir_module_serialized)
    writer.add_file(f"{stem}.jaxexport", bytes(exported.serialize()))
    first = len(_WEIGHT_SPECS) + len(inputs)
    return Program(
        mesh=mesh_name,
        platform=platform,
        bucket=bucket,
        stablehlo=f"{stem}.mlirbc",
        jaxexport=f"{stem}.jaxexport",
        weights="all",
        inputs=inputs,
        outputs=outputs,
        cache=cache,
        aliases=tuple(Alias(first + i, len(outputs) + i) for i in range(len(cache))),
    )


def _export(mesh: Mesh, platform: str, bucket: Bucket, inputs, outputs, cache) -> export.Exported:
    sizes = tuple(axis.size for axis in mesh.axes)
    names = tuple(axis.name for axis in mesh.axes)
    abstract = AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))

    def sharding(spec: Spec) -> NamedSharding:
        return NamedSharding(abstract, PartitionSpec(*(axes or None for axes in spec)))

    def arguments(tensors: tuple[Tensor, ...]):
        return tuple(
            jax.ShapeDtypeStruct(t.shape, numpy_dtype(t.dtype), sharding=sharding(t.spec))
            for t in tensors
        )

    weights = tuple(
        Tensor(name, value.shape, value.dtype.name, _WEIGHT_SPECS[name])
        for name, value in toy_weights().items()
    )
    function = jax.jit(
        by_name(toy_function(bucket), [t.name for t in inputs]),
        out_shardings=tuple(tuple(sharding(t.spec) for t in group) for group in (outputs, cache)),
        donate_argnums=2,
        keep_unused=True,
    )
    return export.export(function, platforms=[platform])(
        arguments(weights), arguments(inputs), arguments(cache)
    )


def _model_record(toy: Toy) -> ModelRecord:
    return ModelRecord(
        architecture="Toy",
        name="toy",
        parameters=sum(value.size for value in toy_weights().values()),
        dtype="float32",
        vocab_size=VOCAB,
        max_position_embeddings=4096,
        sliding_window=WINDOW,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_ids=toy.eos_token_ids,
        labels=LABELS if ProgramName.CLASSIFY in toy.programs else (),
        embedding_size=EMBED if ProgramName.EMBED in toy.programs else 0,
        config={},
    )


@functools.cache
def toy_tokenizer(steering_as_text: bool = False) -> bytes:
    """A SentencePiece model made as Gemma's is: byte fallback, spaces kept as they are.

    `steering_as_text` marks <start_of_turn> and <end_of_turn> as pieces to be matched in text,
    as some published tokenizer files do.
    """
    model = io.BytesIO()
    steering = "<start_of_turn>,<end_of_turn>"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=TOKENIZER_PIECES,
        byte_fallback=True,
        pad_id=PAD,
        eos_id=EOS,
        bos_id=BOS,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        control_symbols="" if steering_as_text else steering,
        user_defined_symbols=steering if steering_as_text else "",
        minloglevel=3,
    )
    return model.getvalue()


def copy_bundle(bundle: Path, to: Path) -> Path:
    """A copy that nobody has compiled: another test's model may still be storing programs there."""
    return Path(shutil.copytree(bundle, to, ignore=shutil.ignore_patterns("compiled")))
