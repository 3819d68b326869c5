"""Gemma3Model: the text stack with a vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Sharding

from ..image_mask import SoftTokens
from ..lowering.context import local_context
from ..text import Gemma3TextScaledWordEmbedding
from ..vision import Gemma3MultiModalProjector, SiglipVisionModel, soft_tokens_of
from ..vision_config import Gemma3Config
from .cache import TransformerCache
from .generation import GenerationMixin
from .outputs import Gemma3ModelOutputWithPast
from .padding import concrete
from .text import Gemma3TextModel

Array = jax.Array


class ImageGenerationMixin(GenerationMixin):
    """Generation from prompts with images, which go into the first call."""

    def prepare_inputs_for_generation(
        self, input_ids: Array, max_length: int, pad_token_id: int,
        starts: Array | int | None = None, pixel_values: Array | None = None,
        attention_mask: Array | None = None, token_type_ids: Array | None = None,
        shardings: Mapping[str, Sharding] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """As of a model of text; with pixel_values [N,C,size,size] where there are images.

        The order of the arguments is EasyDeL's.
        """
        inputs = super().prepare_inputs_for_generation(
            input_ids, max_length, pad_token_id, starts, shardings, attention_mask, token_type_ids
        )
        return inputs | {"pixel_values": pixel_values}


class Gemma3Model(nnx.Module, ImageGenerationMixin):
    """Vision tower, projector and text stack."""

    def __init__(
        self, config: Gemma3Config, dtype: jnp.dtype = jnp.bfloat16, param_dtype: Any = None,
        precision: Any = None, *, rngs: nnx.Rngs | None = None,
    ):  # fmt: skip
        """As Gemma3TextModel."""
        self.config, self.text_config = config, config.text_config
        self.dtype = jnp.dtype(dtype)
        self.vision_tower = SiglipVisionModel(config.vision_config, dtype, rngs)
        self.multi_modal_projector = Gemma3MultiModalProjector(config, dtype, rngs)
        self.language_model = Gemma3TextModel(
            config.text_config, dtype, param_dtype, precision, rngs=rngs
        )

    def get_image_features(self, pixel_values: Array) -> Array:
        """Soft tokens [N,M,D] float32 of images [N,C,size,size] in -1..1; do not scale them."""
        return soft_tokens_of(
            self.vision_tower, self.multi_modal_projector, pixel_values, local_context()
        )  # fmt: skip

    def __call__(
        self, input_ids: Array | None = None, pixel_values: Array | None = None,
        attention_mask: Array | None = None, position_ids: Array | None = None,
        token_type_ids: Array | None = None, past_key_values: TransformerCache | None = None,
        inputs_embeds: Array | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, rngs: nnx.Rngs | None = None,
    ) -> Gemma3ModelOutputWithPast:  # fmt: skip
        """Read tokens with images among them; the rest as in Gemma3TextModel.

        Args:
          pixel_values: [N,C,size,size] float32 in -1..1, the images of all rows in order. They
            fill the places of image_token_index in order.
          token_type_ids: [B,T], 1 on soft tokens; None takes them from input_ids where there are
            images. They must be whole in this call.

        Raises ValueError for images without input_ids, or another number of places than they
        fill (not while tracing, when numbers are not known), and for images with
        bidirectional attention or with dropout in the vision tower.
        """
        if pixel_values is None:
            return self.language_model(
                input_ids, inputs_embeds, attention_mask, position_ids, token_type_ids,
                past_key_values, output_attentions, output_hidden_states, rngs,
            )  # fmt: skip
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("pixel_values need input_ids: they say where the images stand")
        self._require_vision()
        features = self.get_image_features(pixel_values)
        index = self._soft_index(input_ids, features.shape[0])
        soft = SoftTokens(features.reshape(-1, features.shape[-1]), index)
        if token_type_ids is None:
            token_type_ids = (index >= 0).astype(jnp.int32)
        output = self.language_model.read_embedded(
            self.language_model.embed(input_ids, soft), input_ids, attention_mask, position_ids,
            token_type_ids, past_key_values, output_attentions, output_hidden_states, rngs,
        )  # fmt: skip
        return output.replace(image_hidden_states=features)

    def _require_vision(self) -> None:
        rate = self.config.vision_config.attention_dropout
        if self.text_config.use_bidirectional_attention:
            raise ValueError("use_bidirectional_attention: such a model reads text alone")
        if rate and not self.language_model.deterministic:
            raise ValueError(
                f"vision_config.attention_dropout of {rate}: the vision tower drops nothing; set "
                f"it to 0, or call eval() first"
            )

    def _soft_index(self, input_ids: Array, images: int) -> Array:
        """The index of each soft token among those of all images, [B,T] int32; -1 for text."""
        is_soft = (input_ids == self.config.image_token_index).astype(jnp.int32)
        expected = images * self.config.mm_tokens_per_image
        total = concrete(jnp.sum(is_soft))
        if total is not None and total != expected:
            raise ValueError(
                f"input_ids have {total} image tokens (id {self.config.image_token_index}), "
                f"{images} images need {expected}"
            )
        count = jnp.cumsum(is_soft.reshape(-1), dtype=jnp.int32).reshape(is_soft.shape)
        return jnp.where(is_soft == 1, count - 1, -1)

    def get_encoder(self) -> SiglipVisionModel:
        """The vision tower."""
        return self.vision_tower

    def get_decoder(self) -> Gemma3TextModel:
        """The text stack."""
        return self.language_model.get_decoder()

    def get_lm_head(self) -> nnx.Module:
        """There is none: raises NotImplementedError."""
        raise NotImplementedError("Gemma3Model has no language model head")

    def get_embedding(self) -> Gemma3TextScaledWordEmbedding:
        """The token embeddings."""
        return self.language_model.get_embedding()
