"""A checkpoint of one large tensor that takes no room on the disk: what does an export hold?"""

from __future__ import annotations

import json
import math
from pathlib import Path

from .tiny import shapes

CONFIG = {
    "model_type": "gemma3_text", "vocab_size": 262_144, "hidden_size": 576,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8,
    "max_position_embeddings": 64,
}  # fmt: skip
LARGEST = 262_144 * 576 * 4  # the embedding: 604 MB in float32


def write_hollow_checkpoint(folder: Path) -> Path:
    """A float32 checkpoint of zeros that takes no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header, end = {}, 0
    for name, shape in shapes(CONFIG).items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder
