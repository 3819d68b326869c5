"""A tiny bundle that has every kind of part: two meshes, rings, all programs, odd sizes."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.convention import (
    Port,
    cache_tensors,
    program_inputs,
    program_outputs,
)
from gemma3_export.artifacts.layout import CacheLayer, CacheLayout, LayerKind
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
    Tensor,
    TokenizerRecord,
    Versions,
    VisionRecord,
    Weight,
)
from gemma3_export.artifacts.store import numpy_dtype, plan_weights, write_weights
from gemma3_export.artifacts.writer import BundleWriter

TENSORS = (
    ("model.embed_tokens.weight", (32, 8), "bfloat16"),
    ("model.layers.0.self_attn.q_proj.weight", (8, 8), "bfloat16"),
    ("model.layers.0.input_layernorm.weight", (5,), "float32"),
    ("model.layers.1.self_attn.q_proj.weight", (8, 8), "bfloat16"),
    ("model.layers.1.input_layernorm.weight", (5,), "float32"),
    ("model.norm.weight", (8,), "float32"),
)
"""Two of the sizes are not multiples of 64 bytes, and stand before others."""

WINDOW, CACHE, VOCAB = 8, 16, 32
LABELS = ("bad", "good")
EMBEDDING = 6
LAYOUT = CacheLayout(
    CACHE,
    (
        CacheLayer(LayerKind.RING, WINDOW, 1, 4, "bfloat16"),
        CacheLayer(LayerKind.FULL, CACHE, 1, 4, "bfloat16"),
    ),
)
BUCKETS = (
    Bucket(ProgramName.PREFILL, 2, 4, CACHE),
    Bucket(ProgramName.DECODE, 2, 1, CACHE),
    Bucket(ProgramName.GENERATE, 2, 3, CACHE),
    Bucket(ProgramName.SCORE, 2, 4, CACHE),
    Bucket(ProgramName.CLASSIFY, 2, 4, CACHE),
    Bucket(ProgramName.EMBED, 2, 4, 0),
    Bucket(ProgramName.ENCODE_IMAGE, 2, 4, 0),
    Bucket(ProgramName.PREFILL_IMAGES, 2, 8, CACHE),
    Bucket(ProgramName.SCORE_IMAGES, 2, 8, CACHE),
    Bucket(ProgramName.CLASSIFY_IMAGES, 2, 8, CACHE),
)
VISION = VisionRecord(28, "RGB", (0.5,) * 3, (0.5,) * 3, 4, 8, 29, 31, 30)
MESHES = (
    Mesh("1x1", (Axis("data", 1), Axis("model", 1))),
    Mesh("2x4", (Axis("data", 2), Axis("model", 4))),
)


def program_path(mesh: Mesh, bucket: Bucket) -> str:
    """The bundle path of a program, without its ending."""
    name = f"{bucket.program}-b{bucket.batch}-t{bucket.tokens}-c{bucket.cache}"
    return f"programs/{mesh.name}/cpu/{name}"


def make_program(mesh: Mesh, bucket: Bucket) -> Program:
    """A program whose rows are split over `data` and whose cache is donated."""

    def place(ports: tuple[Port, ...]) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(p.name, p.shape, p.dtype, (("data",), *((),) * (len(p.shape) - 1)))
            for p in ports
        )

    ports = program_inputs(bucket, VISION)
    inputs = tuple(
        Input(**vars(tensor), neutral=port.neutral)
        for tensor, port in zip(place(ports), ports, strict=True)
    )
    outputs = place(program_outputs(bucket, VOCAB, len(LABELS), EMBEDDING, VISION))
    cache = place(cache_tensors(LAYOUT, bucket.batch) if bucket.cache else ())
    first = len(TENSORS) + len(inputs)
    path = program_path(mesh, bucket)
    return Program(
        mesh=mesh.name,
        platform="cpu",
        bucket=bucket,
        stablehlo=f"{path}.mlirbc",
        jaxexport=f"{path}.jaxexport",
        weights="text",
        inputs=inputs,
        outputs=outputs,
        cache=cache,
        aliases=tuple(Alias(first + i, len(outputs) + i) for i in range(len(cache))),
    )


def make_manifest(weights: tuple[Weight, ...], abstract: bool = False) -> Manifest:
    """The manifest of the tiny bundle, without the records of its files."""
    specs = {name: (("model",), ()) for name, shape, _ in TENSORS if len(shape) == 2}
    specs |= {name: ((),) for name, shape, _ in TENSORS if len(shape) == 1}
    return Manifest(
        format_version=FORMAT_VERSION,
        abstract=abstract,
        model=ModelRecord(
            architecture="Gemma3ForCausalLM",
            name="tiny",
            parameters=sum(math.prod(shape) for _, shape, _ in TENSORS),
            dtype="bfloat16",
            vocab_size=VOCAB,
            max_position_embeddings=64,
            sliding_window=WINDOW,
            bos_token_id=2,
            pad_token_id=0,
            eos_token_ids=(1, 106),
            labels=LABELS,
            embedding_size=EMBEDDING,
            config={"hidden_size": 8, "rope_theta": 1e6, "layer_types": ["sliding", "full"]},
        ),
        versions=Versions("0.1.0", "0.10.2", "0.10.2", "1.15.0", 10),
        meshes=tuple(
            MeshRecord(mesh, specs, ("kv heads 1 do not divide by model=4: replicated",))
            for mesh in MESHES
        ),
        platforms=("cpu",),
        caches=(LAYOUT,),
        programs=tuple(make_program(mesh, bucket) for mesh in MESHES for bucket in BUCKETS),
        weights=weights,
        weight_sets={"text": tuple(name for name, _, _ in TENSORS)},
        tokenizer=None if abstract else TokenizerRecord("tokenizer/tokenizer.model"),
        vision=VISION,
    )


def weight_values() -> dict[str, np.ndarray]:
    """What the tiny bundle stores; no two elements of a tensor are equal."""
    return {
        name: np.arange(math.prod(shape), dtype=np.float32)
        .astype(numpy_dtype(dtype))
        .reshape(shape)
        for name, shape, dtype in TENSORS
    }


def fill_bundle(writer: BundleWriter, program: bytes = b"program") -> Manifest:
    """Write every file of the tiny bundle; returns the manifest to commit."""
    values = weight_values()
    with write_weights(writer, TENSORS) as store:
        for name, _, _ in TENSORS:
            store.write(name, values[name])
    for mesh in MESHES:
        for bucket in BUCKETS:
            writer.add_file(f"{program_path(mesh, bucket)}.mlirbc", program)
            writer.add_file(f"{program_path(mesh, bucket)}.jaxexport", program + b" too")
    writer.add_file("tokenizer/tokenizer.model", b"pieces")
    return make_manifest(store.weights)


def write_tiny_bundle(out: Path, force: bool = False, program: bytes = b"program") -> Manifest:
    """Write the tiny bundle at `out`."""
    with BundleWriter(out, force) as writer:
        return writer.commit(fill_bundle(writer, program))


@pytest.fixture
def write_tiny() -> Callable[..., Manifest]:
    """`write_tiny_bundle(out, force, program)`."""
    return write_tiny_bundle


@pytest.fixture
def fill() -> Callable[..., Manifest]:
    """`fill_bundle(writer, program)`."""
    return fill_bundle


@pytest.fixture(scope="session")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle that `tiny` copies: writing flushes to the disk, which takes longer."""
    out = tmp_path_factory.mktemp("written") / "tiny"
    write_tiny_bundle(out)
    return out


@pytest.fixture
def tiny(tmp_path: Path, written_once: Path) -> Path:
    """A fresh tiny bundle."""
    return Path(shutil.copytree(written_once, tmp_path / "tiny"))


@pytest.fixture
def abstract(tmp_path: Path) -> Path:
    """The tiny bundle with programs only."""
    with BundleWriter(tmp_path / "abstract") as writer:
        for mesh in MESHES:
            for bucket in BUCKETS:
                writer.add_file(f"{program_path(mesh, bucket)}.mlirbc", b"program")
                writer.add_file(f"{program_path(mesh, bucket)}.jaxexport", b"program too")
        writer.commit(make_manifest(plan_weights(TENSORS), abstract=True))
    return tmp_path / "abstract"
