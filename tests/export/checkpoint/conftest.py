"""Small Gemma 3 checkpoints, written by the reference libraries of both formats."""

import json
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import open_checkpoint
from safetensors.numpy import save_file

CONFIG = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 96,
    "eos_token_id": [1, 106],
}

SHAPES = {
    "model.embed_tokens.weight": (96, 32),
    "model.layers.0.self_attn.q_proj.weight": (64, 32),
    "model.layers.0.self_attn.k_proj.weight": (32, 32),
    "model.layers.0.self_attn.v_proj.weight": (32, 32),
    "model.layers.0.self_attn.o_proj.weight": (32, 64),
    "model.layers.0.self_attn.q_norm.weight": (32,),
    "model.layers.0.self_attn.k_norm.weight": (32,),
    "model.layers.0.input_layernorm.weight": (32,),
    "model.layers.0.post_attention_layernorm.weight": (32,),
    "model.layers.0.pre_feedforward_layernorm.weight": (32,),
    "model.layers.0.post_feedforward_layernorm.weight": (32,),
    "model.layers.0.mlp.gate_proj.weight": (64, 32),
    "model.layers.0.mlp.up_proj.weight": (64, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 64),
    "model.norm.weight": (32,),
}

GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
    "model.layers.0.self_attn.k_proj.weight": "blk.0.attn_k.weight",
    "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
    "model.layers.0.self_attn.q_norm.weight": "blk.0.attn_q_norm.weight",
    "model.layers.0.self_attn.k_norm.weight": "blk.0.attn_k_norm.weight",
    "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
    "model.layers.0.post_attention_layernorm.weight": "blk.0.post_attention_norm.weight",
    "model.layers.0.pre_feedforward_layernorm.weight": "blk.0.ffn_norm.weight",
    "model.layers.0.post_feedforward_layernorm.weight": "blk.0.post_ffw_norm.weight",
    "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
    "model.layers.0.mlp.up_proj.weight": "blk.0.ffn_up.weight",
    "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    "model.norm.weight": "output_norm.weight",
}


def random_weights() -> dict[str, np.ndarray]:
    """Weights [SHAPES] in float32 that bfloat16 and float16 hold exactly."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(-120, 120, shape) / 64).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def write_folder(
    folder: Path, tensors: dict[str, np.ndarray], config: dict, shards: int = 1
) -> Path:
    """A Hugging Face folder, in one file or in shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_gguf(
    path: Path,
    quantised: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]] | None = None,
    metadata: dict | None = None,
    architecture: str = "gemma3",
) -> Path:
    """A GGUF file by gguf.GGUFWriter: norms as 1 + w, metadata as llama.cpp's converter does.

    `quantised` replaces tensors (GGUF name -> raw rows and type, None leaves one out);
    `metadata` adds or replaces keys, None leaves one out.
    """
    values = {
        "general.name": "Tiny",
        "gemma3.context_length": 256,
        "gemma3.embedding_length": 32,
        "gemma3.block_count": 1,
        "gemma3.feed_forward_length": 64,
        "gemma3.attention.head_count": 2,
        "gemma3.attention.head_count_kv": 1,
        "gemma3.attention.key_length": 32,
        "gemma3.attention.value_length": 32,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": 16,
        "gemma3.rope.freq_base": 1e6,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    } | (metadata or {})
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, weight in random_weights().items():
        gguf_name = GGUF_NAMES[name]
        if gguf_name not in (quantised or {}):
            writer.add_tensor(gguf_name, weight + 1 if "norm" in name else weight)
    for gguf_name, replacement in (quantised or {}).items():
        if replacement is not None:
            writer.add_tensor(gguf_name, replacement[0], raw_dtype=replacement[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def tokenizer_metadata(tokens: list[str]) -> dict:
    """Tokenizer metadata: these as control tokens, <unk> third, and the byte tokens."""
    values = {
        "model": "llama",
        "tokens": tokens + BYTES,
        "scores": [-1000.5] * (len(tokens) + 256),
        "token_type": [3] * len(tokens) + [6] * 256,
        "unknown_token_id": 3,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    """Float32 weights of a one-layer model by canonical name."""
    return random_weights()


@pytest.fixture
def shapes() -> dict[str, tuple[int, ...]]:
    return dict(SHAPES)


@pytest.fixture
def config() -> dict:
    return dict(CONFIG)


@pytest.fixture
def make_folder(tmp_path):
    """make_folder(tensors, config, shards=1) -> a Hugging Face folder."""

    def make(tensors: dict[str, np.ndarray], config: dict = CONFIG, shards: int = 1) -> Path:
        return write_folder(tmp_path / "tiny", tensors, config, shards)

    return make


@pytest.fixture
def folder(make_folder, weights) -> Path:
    """A Hugging Face folder in bfloat16, one file."""
    return make_folder({name: value.astype(ml_dtypes.bfloat16) for name, value in weights.items()})


@pytest.fixture
def make_gguf(tmp_path):
    """make_gguf(quantised=None, metadata=None, architecture="gemma3") -> a .gguf file."""

    def make(quantised=None, metadata=None, architecture="gemma3", name="tiny.gguf") -> Path:
        return write_gguf(tmp_path / name, quantised, metadata, architecture)

    return make


@pytest.fixture
def assert_refused():
    """assert_refused(path, *parts): opening fails with one line that has all the parts."""

    def check(path: Path, *parts: str) -> None:
        with pytest.raises(ArtifactError) as error:
            open_checkpoint(path)
        message = error.value.for_command
        assert "\n" not in message
        for part in parts:
            assert part in message, message

    return check


@pytest.fixture
def vocabulary():
    """vocabulary(tokens) -> GGUF metadata of a tokenizer with these control tokens and bytes."""
    return tokenizer_metadata
