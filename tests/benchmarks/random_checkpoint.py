"""Checkpoints of published sizes with random weights: speed does not depend on what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.model.pure.causal_lm import CausalLM

_BLOCK = 16 << 20  # values drawn; longer tensors repeat them


def write_random_checkpoint(config: Gemma3TextConfig, folder: Path) -> Path:
    """A Hugging Face folder in bfloat16, weights normal with the config's initializer_range."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Gemma3ForCausalLM"], **config.to_dict()})
    )
    header, end = {}, 0
    specs = CausalLM(config, jnp.dtype(jnp.bfloat16)).checkpoint_parameters()
    for spec in specs:
        size = 2 * math.prod(spec.shape)
        place = [end, end + size]
        header[spec.name] = {"dtype": "BF16", "shape": list(spec.shape), "data_offsets": place}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = np.random.default_rng(0).standard_normal(_BLOCK, np.float32)
    block = (values * config.initializer_range).astype(ml_dtypes.bfloat16).tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while end:
            end -= file.write(block[:end])
    return folder
