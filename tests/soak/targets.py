"""What is fed with damaged and hostile input: every reader of files that come from elsewhere.

A target takes bytes, puts them where its reader finds them, and reads. It may return or raise
UsageError (ArtifactError is one); anything else it does is a fault of ours.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.compiled import CompiledStore
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.goldens import parse_goldens
from gemma3_export.artifacts.safetensors_header import read_header
from gemma3_export.artifacts.signing import require_signature
from gemma3_export.export.checkpoint import blocks, open_checkpoint
from gemma3_export.export.purpose import read_purpose, with_images
from gemma3_export.model.config import ConfigError, Gemma3TextConfig
from gemma3_export.runtime.images.files import load_images
from gemma3_export.runtime.text.tokenizer import Tokenizer
from PIL import Image

from ..export.checkpoint.conftest import CONFIG, random_weights, write_folder, write_gguf
from ..goldens.tiny import write_checkpoint
from ..goldens.tiny_vision import write_checkpoint as write_vision_checkpoint
from ..runtime.toy_bundle import toy_tokenizer
from ..signing_keys import write_key

SAMPLES = Path(__file__).parents[1] / "artifacts" / "data"
TOKENIZERS = Path(__file__).parents[1] / "export" / "checkpoint" / "data"


@dataclass(frozen=True)
class Target:
    """A reader: sound inputs to start from, and the reading of one input."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]


def survives(target: Target, data: bytes) -> bool:
    """Read `data`; True when it was refused. Any other exception is a fault and goes through."""
    try:
        target.read(data)
    except UsageError as error:
        said = str(error)
    else:
        return False
    assert said, "a refusal without words"
    assert "\n" not in said, f"a refusal of several lines: {said}"
    return True


@functools.cache
def scratch() -> Path:
    """A folder of this process, removed when it ends; in $SOAK_SCRATCH if whoever set it does."""
    given = os.environ.get("SOAK_SCRATCH")
    if given is not None:  # libFuzzer ends the process without cleaning up
        return Path(given)
    holder = tempfile.TemporaryDirectory()
    scratch.holder = holder  # type: ignore[attr-defined]
    return Path(holder.name)


def _manifest() -> Target:
    folder = Path(shutil.copytree(SAMPLES / "v3-sample", scratch() / "manifest"))

    def read(data: bytes) -> None:
        (folder / "manifest.json").write_bytes(data)
        Bundle.open(folder)

    seeds = [(SAMPLES / f"v{n}-sample" / "manifest.json").read_bytes() for n in (3, 2, 1)]
    return Target(tuple(seeds), read)


def _weights() -> Target:
    file = scratch() / "model.safetensors"
    stored = (SAMPLES / "v3-sample" / "weights" / "model.safetensors").read_bytes()
    length = int.from_bytes(stored[:8], "little")

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_header(file, str(file))

    return Target((stored[: 8 + length],), read)


def _goldens() -> Target:
    file = scratch() / "goldens.json"
    manifest = Bundle.open(SAMPLES / "v3-sample").manifest

    def read(data: bytes) -> None:
        file.write_bytes(data)
        parse_goldens(file, manifest)

    return Target(((SAMPLES / "v3-sample" / "goldens.json").read_bytes(),), read)


def _signature() -> Target:
    folder = Path(shutil.copytree(SAMPLES / "v3-sample", scratch() / "signed"))
    private, public = write_key(scratch(), "key")
    from gemma3_export.artifacts.signing import sign

    seed = sign(Bundle.open(folder), private, None, ()).read_bytes()

    def read(data: bytes) -> None:
        (folder / "model.sig").write_bytes(data)
        require_signature(folder, public)

    return Target((seed,), read)


def _compiled() -> Target:
    """An index of compiled programs: never an error, at worst nothing is found."""
    store = CompiledStore([scratch() / "compiled"], {"host": "tests"}, b"k" * 32)
    assert store.write("entry", b"code")
    index = scratch() / "compiled" / store.fingerprint / "index.json"
    seed = index.read_bytes()

    def read(data: bytes) -> None:
        index.write_bytes(data)
        assert store.read("entry") in (None, b"code")

    return Target((seed,), read)


def _checkpoint(path: Path) -> None:
    """What an export reads of a checkpoint before it lowers anything."""
    checkpoint = open_checkpoint(path)
    try:
        config = Gemma3TextConfig.from_dict(checkpoint.config)
    except ConfigError as error:
        raise ArtifactError(str(error)) from error
    _ = checkpoint.eos_token_ids
    with_images(read_purpose(checkpoint, config), checkpoint, config)
    for source in checkpoint.tensors.values():
        if np.prod(source.shape, dtype=float) < 1 << 16 and source.dtype in ("F32", "BF16", "F16"):
            for _ in blocks(source, "float32"):
                break


def _config() -> Target:
    folder = write_checkpoint("default", scratch() / "config")
    vision = write_vision_checkpoint("image", scratch() / "vision")
    classifier = {**CONFIG, "architectures": ["Gemma3ForSequenceClassification"], "num_labels": 3}
    rope = {
        "rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    seeds = [
        (folder / "config.json").read_bytes(), (vision / "config.json").read_bytes(),
        json.dumps(classifier).encode(), json.dumps({**CONFIG, "rope_scaling": rope}).encode(),
        json.dumps(
            {**CONFIG, "rope_parameters": {"full_attention": rope, "sliding_attention": None}}
        ).encode(),
    ]  # fmt: skip

    def read(data: bytes) -> None:
        (vision / "config.json").write_bytes(data)
        _checkpoint(vision)

    return Target(tuple(seeds), read)


def _safetensors() -> Target:
    folder = write_folder(scratch() / "safetensors", random_weights(), CONFIG)
    seed = (folder / "model.safetensors").read_bytes()

    def read(data: bytes) -> None:
        (folder / "model.safetensors").write_bytes(data)
        _checkpoint(folder)

    return Target((seed, seed[:4096]), read)


def _index() -> Target:
    folder = write_folder(scratch() / "sharded", random_weights(), CONFIG, shards=2)
    seed = (folder / "model.safetensors.index.json").read_bytes()

    def read(data: bytes) -> None:
        (folder / "model.safetensors.index.json").write_bytes(data)
        _checkpoint(folder)

    return Target((seed,), read)


def _gguf() -> Target:
    path = scratch() / "model.gguf"
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{n:02X}>" for n in range(256)), "a", "ab"]
    tokens = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [-float(n) for n in range(len(pieces))],
        "tokenizer.ggml.token_type": [3, 3, 3, 2, *[6] * 256, 1, 1],
    }
    plain, worded = (write_gguf(path, metadata=more).read_bytes() for more in ({}, tokens))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        _checkpoint(path)

    return Target((worded, plain, worded[:2048]), read)


def _tokenizer_json() -> Target:
    folder = write_folder(scratch() / "tokenizer", random_weights(), CONFIG)
    seeds = [(TOKENIZERS / name).read_bytes() for name in ("small_tied.json", "small_ranked.json")]

    def read(data: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(data)
        open_checkpoint(folder)

    return Target(tuple(seeds), read)


def _tokenizer_model() -> Target:
    file = scratch() / "tokenizer.model"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        tokenizer = Tokenizer(file.read_bytes(), file, 2)
        ids = tokenizer.encode("the quick <start_of_turn> fox \u00e9\n", True)
        tokenizer.decode(ids)

    return Target((toy_tokenizer(), toy_tokenizer(steering_as_text=True)), read)


def _image() -> Target:
    path = scratch() / "picture"
    seeds = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        for mode in ("RGB", "L"):
            stream = io.BytesIO()
            Image.effect_noise((16, 9), 60).convert(mode).save(stream, kind)
            seeds.append(stream.getvalue())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_images((path,), 28, pan_and_scan=True)

    return Target(tuple(seeds), read)


def _array() -> Target:
    path = scratch() / "pixels.npy"
    stream = io.BytesIO()
    np.save(stream, np.zeros((1, 3, 28, 28), np.float32))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_images((path,), 28, pan_and_scan=False)

    return Target((stream.getvalue(),), read)


TARGETS: dict[str, Callable[[], Target]] = {
    "manifest": _manifest,
    "weights": _weights,
    "goldens": _goldens,
    "signature": _signature,
    "compiled": _compiled,
    "config": _config,
    "safetensors": _safetensors,
    "index": _index,
    "gguf": _gguf,
    "tokenizer_json": _tokenizer_json,
    "tokenizer_model": _tokenizer_model,
    "image": _image,
    "array": _array,
}
