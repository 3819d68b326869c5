"""Images to soft tokens as a pure function of named weights: the vision side's boundary."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..lowering.context import LoweringContext
from ..vision import Gemma3ImageEncoder
from ..vision_config import Gemma3Config
from .module import Params, PureModule
from .order import vision_order

Array = jax.Array


class ImageEncoder(PureModule[Gemma3ImageEncoder]):
    """Vision tower and projector; `encode` takes the weights by their canonical names."""

    def __init__(self, config: Gemma3Config, dtype: jnp.dtype):
        """Raises ConfigError when the patches of an image do not pool evenly."""
        self.config, self.dtype = config, jnp.dtype(dtype)
        super().__init__(lambda rngs: Gemma3ImageEncoder(config, self.dtype, rngs), vision_order)

    def encode(self, params: Params, pixels: Array, context: LoweringContext) -> Array:
        """Soft tokens [N, mm_tokens_per_image, D] float32 of N images.

        They stand for embedded tokens as they are: never multiplied by the embedding scale.

        Args:
          pixels: [N,3,image_size,image_size] float32 in -1..1.
        """
        return self.bind(params)(pixels, context)
