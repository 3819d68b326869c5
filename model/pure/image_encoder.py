"""Images to soft tokens as a pure function of named weights: the vision side's boundary."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..lowering.context import LoweringContext
from ..lowering.quantized import ParameterSpec
from ..vision import Gemma3ImageEncoder
from ..vision_config import Gemma3Config
from .module import Params, PureModule

Array = jax.Array


class ImageEncoder:
    """Vision tower and projector; `encode` takes the weights by their canonical names."""

    def __init__(self, config: Gemma3Config, dtype: jnp.dtype):
        """Raises ConfigError when the patches of an image do not pool evenly."""
        self.config, self.dtype = config, jnp.dtype(dtype)
        self._module = PureModule(lambda rngs: Gemma3ImageEncoder(config, self.dtype, rngs))

    def parameters(self) -> list[ParameterSpec]:
        """Every weight, in the order of the weight store: `vision_tower.*`, then
        `multi_modal_projector.*`."""
        return sorted(self._module.parameters(), key=lambda spec: _store_order(spec.name))

    def checkpoint_parameters(self) -> list[ParameterSpec]:
        """The same as the checkpoint has them, before they are quantised."""
        return sorted(self._module.unquantized(), key=lambda spec: _store_order(spec.name))

    def init(self, seed: int) -> dict[str, Array]:
        """Random weights, for tests and shape studies."""
        return self._module.init(seed)

    def encode(self, params: Params, pixels: Array, context: LoweringContext) -> Array:
        """Soft tokens [N, mm_tokens_per_image, D] float32 of N images.

        They stand for embedded tokens as they are: never multiplied by the embedding scale.

        Args:
          pixels: [N,3,image_size,image_size] float32 in -1..1.
        """
        return self._module.bind(params)(pixels, context)


_WITHIN_LAYER = (
    "layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2",
)  # fmt: skip


def _store_order(name: str) -> tuple[int, int, int, int, str]:
    """Embeddings, layers in order, last norm, projector; q, k, v weights are neighbours."""
    parts = name.split(".")
    if "layers" in parts:
        at = parts.index("layers")
        module = ".".join(parts[at + 2 : -1])
        is_bias = parts[-1] == "bias"
        return (1, int(parts[at + 1]), is_bias, _WITHIN_LAYER.index(module), name)
    if "embeddings" in parts:
        return (0, 0, 0, 0, name)
    return (2 if parts[0] == "vision_tower" else 3, 0, 0, 0, name)
