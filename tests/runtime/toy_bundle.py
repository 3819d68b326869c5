"""A toy language model in a real bundle: the calling convention of Gemma's, in milliseconds.

Two layers of attention, one with a ring cache and one with a full one, whose keys and values are
token embeddings; distance in positions matters. So a wrong chunk, position, row or cache slot
changes the logits. `reference_logits` is the same model over a whole text, in numpy.
"""

from __future__ import annotations

import functools
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
from gemma3_export.artifacts.convention import (
    IGNORED_LABEL,
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

EMBED = 16
WINDOW = 8
PAD, EOS, BOS, END_OF_TURN = 0, 1, 2, 5
TOKENIZER_PIECES = 320
LABELS = ("bad", "so so", "good")
VOCAB = 384  # more ids than pieces, as the larger Gemma 3 models have

DRAWS = ("temperature", "top_k", "top_p", "min_p", "seed")

Weights = tuple[jax.Array, ...]
Cache = tuple[jax.Array, ...]


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


@functools.cache
def toy_weights() -> dict[str, np.ndarray]:
    """Seeded weights; large enough that attention prefers some tokens to others."""
    random = np.random.default_rng(7)
    return {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in (
            ("embed", (VOCAB, EMBED)), ("near", (EMBED, EMBED)), ("far", (EMBED, EMBED)),
            ("head", (VOCAB, EMBED)),
        )
    }  # fmt: skip


_WEIGHT_SPECS: dict[str, Spec] = {
    "embed": (("model",), ()), "near": ((), ()), "far": ((), ()), "head": ((), ("model",)),
}  # fmt: skip


def reference_logits(tokens: list[int]) -> np.ndarray:
    """Logits [T,V] after each token of a text."""
    embed, near, far, head = toy_weights().values()
    x = embed[tokens]
    positions = np.arange(len(tokens))
    distance = positions[:, None] - positions[None, :]
    for matrix, window in ((near, WINDOW), (far, len(tokens))):
        keys = embed[tokens]
        scores = x @ keys.T / 4 - 0.25 * distance
        scores[(distance < 0) | (distance >= window)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        x = np.tanh(x + (weights / weights.sum(-1, keepdims=True)) @ keys @ matrix)
    return x @ head.T


def reference_greedy(prompt: list[int], count: int) -> list[int]:
    """The tokens that greedy decoding gives after `prompt`, stop tokens ignored."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(reference_logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def _step(weights: Weights, cache: Cache, token: jax.Array, position: jax.Array, active: jax.Array):
    """Feed one token [B] of the active rows; logits [B,V] and the cache."""
    embed, near, far, head = weights
    key = embed[token]  # [B,D]
    x, new_cache = key, []
    for matrix, layer in ((near, cache[:2]), (far, cache[2:])):
        slots = layer[0].shape[2]
        slot = jnp.arange(slots)[None, :]
        write = active[:, None] & (slot == (position % slots)[:, None])  # [B,S]
        keys, values = (
            jnp.where(write[:, None, :, None], key[:, None, None, :], tensor) for tensor in layer
        )
        held = position[:, None] - (position[:, None] - slot) % slots  # position in each slot
        scores = jnp.einsum("bd,bsd->bs", x, keys[:, 0]) / 4 - 0.25 * (
            position[:, None] - held
        ).astype(jnp.float32)
        attention = jax.nn.softmax(jnp.where(held >= 0, scores, -jnp.inf), axis=-1)
        x = jnp.tanh(x + jnp.einsum("bs,bsd->bd", attention, values[:, 0]) @ matrix)
        new_cache += [keys, values]
    return x @ head.T, tuple(new_cache)


def _sample(logits, position, temperature, top_k, top_p, min_p, seed):
    """Next token [B] for `position` [B]; without a sort or JAX's generator, slow to compile."""
    temperature, top_p, min_p = (x[:, None] for x in (temperature, top_p, min_p))
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    p = jax.nn.softmax(scaled)  # [B,V]
    better = logits[:, None, :] > logits[:, :, None]  # [B,V,V]: the last beats the middle one
    keep = (better.sum(-1) < top_k[:, None]) | (top_k[:, None] == 0)
    keep &= jnp.where(better, p[:, None, :], 0.0).sum(-1) < top_p
    keep &= p >= min_p * p.max(-1, keepdims=True)
    word = (
        jnp.arange(VOCAB, dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
        ^ (position.astype(jnp.uint32) * jnp.uint32(0x85EBCA77))[:, None]
        ^ (seed * jnp.uint32(0xC2B2AE3D))[:, None]
    )
    for shift in (15, 13, 16):
        word = (word ^ (word >> jnp.uint32(shift))) * jnp.uint32(0x2C1B3C6D)
    uniform = ((word >> jnp.uint32(9)).astype(jnp.float32) + 0.5) / 2**23
    noise = jnp.where(temperature > 0, -jnp.log(-jnp.log(uniform)), 0.0)
    return jnp.argmax(jnp.where(keep, scaled + noise, -jnp.inf), axis=-1).astype(jnp.int32)


def _prefill(weights: Weights, inputs: Weights, cache: Cache):
    logits, cache = _read(weights, inputs, cache)
    return (_sample(logits, inputs[1] + inputs[2], *inputs[3:]), logits), cache


def _classify(weights: Weights, inputs: Weights, cache: Cache):
    logits, cache = _read(weights, inputs, cache)
    return (logits[:, : len(LABELS)],), cache  # the classes are the first tokens


def _embed(weights: Weights, inputs: Weights, cache: Cache):
    """The mean of the embedded tokens, of length 1."""
    tokens, length = inputs
    valid = jnp.arange(tokens.shape[1])[None, :] < length[:, None]
    total = jnp.where(valid[:, :, None], weights[0][tokens], 0.0).sum(1)
    return (total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-12),), cache


def _read(weights: Weights, inputs: Weights, cache: Cache):
    """Feed a chunk; logits [B,V] after its last valid token, and the cache."""
    tokens, start, length = inputs[:3]

    def body(carry, column):
        index, token = column
        logits, cache = carry
        active = index < length
        new, cache = _step(weights, cache, token, start + index, active)
        return (jnp.where(active[:, None], new, logits), cache), None

    first = (jnp.zeros((tokens.shape[0], VOCAB), jnp.float32), cache)
    columns = (jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.T)
    (logits, cache), _ = jax.lax.scan(body, first, columns)
    return logits, cache


def _decode(weights: Weights, inputs: Weights, cache: Cache):
    token, position = inputs[:2]
    logits, cache = _step(weights, cache, token, position, jnp.full(token.shape, True))
    return (_sample(logits, position + 1, *inputs[2:]), logits), cache


def _generate(size: int, weights: Weights, inputs: Weights, cache: Cache):
    token, position, limit, stops = inputs[:4]
    zeros = jnp.zeros_like(token)

    def running(state):
        _, count, stopped, *_ = state
        return (count < limit) & (stopped == 0)

    def body(state):
        tokens, count, stopped, token, position, cache = state
        active = running(state)
        logits, cache = _step(weights, cache, token, position, active)
        new = _sample(logits, position + 1, *inputs[4:])
        token = jnp.where(active, new, token)
        here = active[:, None] & (jnp.arange(size)[None, :] == count[:, None])
        tokens = jnp.where(here, new[:, None], tokens)
        stopped = jnp.where(active & (new[:, None] == stops).any(1), 1, stopped)
        step = active.astype(jnp.int32)
        return tokens, count + step, stopped, token, position + step, cache

    state = (jnp.zeros((token.shape[0], size), jnp.int32), zeros, zeros, token, position, cache)
    *outputs, cache = jax.lax.while_loop(lambda state: running(state).any(), body, state)
    return tuple(outputs), cache


def _score(weights: Weights, inputs: Weights, cache: Cache):
    tokens, start, length, labels = inputs

    def body(cache, column):
        index, token, label = column
        logits, cache = _step(weights, cache, token, start + index, index < length)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(label, 0)[:, None], 1)
        return cache, jnp.where(label == IGNORED_LABEL, 0.0, picked[:, 0])

    columns = (jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.T, labels.T)
    cache, logprobs = jax.lax.scan(body, cache, columns)
    return (logprobs.T,), cache


def _function(bucket: Bucket) -> Callable:
    return {
        ProgramName.PREFILL: _prefill,
        ProgramName.DECODE: _decode,
        ProgramName.GENERATE: functools.partial(_generate, bucket.tokens),
        ProgramName.SCORE: _score,
        ProgramName.CLASSIFY: _classify,
        ProgramName.EMBED: _embed,
    }[bucket.program]


def _by_name(function: Callable, names: list[str]) -> Callable:
    """`function` for inputs in the order of `names`, with state that it passes through."""

    def call(weights: Weights, inputs: Weights, cache: Cache):
        known = [name for name in names if name != "later"]
        order = known if names == known else known[::-1]
        values = dict(zip(names, inputs, strict=True))
        later = values.get("later")
        if later is not None:  # anything but its neutral value would show
            weights = (weights[0] + (later - 0.5).sum(), *weights[1:])
        outputs, layers = function(weights, tuple(values[name] for name in order), cache[:4])
        return outputs, (*layers, *(state + 1 for state in cache[4:]))

    return call


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
        _by_name(_function(bucket), [t.name for t in inputs]),
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
