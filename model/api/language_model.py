"""Gemma3ForCausalLM and Gemma3ForConditionalGeneration: stacks with a head over tokens."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from ..config import Gemma3TextConfig
from ..head import LanguageModel
from ..vision import Gemma3MultiModalProjector, SiglipVisionModel
from ..vision_config import Gemma3Config
from .cache import TransformerCache
from .generation import GenerationMixin
from .loading import quantize_weights
from .loss import LossMetrics, next_token_loss
from .multimodal import Gemma3Model, ImageGenerationMixin
from .outputs import Gemma3CausalLMOutputWithPast, Gemma3ModelOutputWithPast
from .padding import valid_tokens
from .text import Gemma3TextModel

Array = jax.Array
StackT = TypeVar("StackT", Gemma3TextModel, Gemma3Model)


class CausalLanguageModel(LanguageModel[StackT], GenerationMixin):
    """What both classes share."""

    def __init__(
        self, model: StackT, text_config: Gemma3TextConfig, dtype: jnp.dtype,
        rngs: nnx.Rngs | None,
    ):  # fmt: skip
        super().__init__(model, text_config, dtype, rngs)
        self.dtype = jnp.dtype(dtype)
        if rngs is not None:
            quantize_weights(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Gemma3CausalLMOutputWithPast:
        """What the class gives for tokens."""
        raise NotImplementedError

    def with_logits(
        self, output: Gemma3ModelOutputWithPast, labels: Array | None, input_ids: Array | None,
        attention_mask: Array | None, past_key_values: TransformerCache | None,
    ) -> Gemma3CausalLMOutputWithPast:  # fmt: skip
        """What the text stack gave, with logits, and the loss where there are labels [B,T].

        The other arguments are the call's: they say what is padding.
        """
        assert output.last_hidden_state is not None
        logits, loss = self.apply_lm_head(output.last_hidden_state), None
        if labels is not None:
            rows, tokens = logits.shape[:2]
            cache = past_key_values or self.init_cache(rows, tokens, starts=0)
            valid = valid_tokens(tokens, cache, input_ids, attention_mask)
            loss = next_token_loss(logits, labels, valid)
        return Gemma3CausalLMOutputWithPast(loss=loss, logits=logits, **dict(output))

    def compute_loss(
        self, *, labels: Array | None = None, loss_config: None = None, loss_kwargs: None = None,
        **batch: Any,
    ) -> tuple[Gemma3CausalLMOutputWithPast, LossMetrics]:  # fmt: skip
        """A call with `batch`, and its loss: (output, metrics), as EasyDeL's trainers ask.

        labels of None are the input_ids. Raises ValueError for other losses than the mean of
        next tokens, and for neither labels nor input_ids.
        """
        if loss_config is not None or loss_kwargs:
            raise ValueError("compute_loss: there is one loss, take others of output.logits")
        labels = batch.get("input_ids") if labels is None else labels
        if labels is None:
            raise ValueError("compute_loss: expected labels or input_ids, got neither")
        output = self(**batch, labels=labels)
        assert output.loss is not None
        return output, LossMetrics(output.loss)

    def get_encoder(self) -> nnx.Module:
        """The vision tower; raises NotImplementedError for a model of text."""
        return self.model.get_encoder()

    def get_decoder(self) -> Gemma3TextModel:
        """The text stack."""
        return self.model.get_decoder()


class Gemma3ForCausalLM(CausalLanguageModel[Gemma3TextModel]):
    """The text model with its language-modelling head, tied or not."""

    def __init__(
        self, config: Gemma3TextConfig, dtype: jnp.dtype = jnp.bfloat16, param_dtype: Any = None,
        precision: Any = None, *, rngs: nnx.Rngs | None = None,
    ):  # fmt: skip
        """As Gemma3TextModel."""
        self.config = config
        model = Gemma3TextModel(config, dtype, param_dtype, precision, rngs=rngs)
        super().__init__(model, config, dtype, rngs)

    def __call__(
        self, input_ids: Array | None = None, inputs_embeds: Array | None = None,
        attention_mask: Array | None = None, position_ids: Array | None = None,
        token_type_ids: Array | None = None, past_key_values: TransformerCache | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        labels: Array | None = None, rngs: nnx.Rngs | None = None,
    ) -> Gemma3CausalLMOutputWithPast:  # fmt: skip
        """Read tokens; arguments as in Gemma3TextModel.

        labels [B,T] int ask for the loss: label t + 1 is what should follow token t. Left out are
        labels of -100, and where the call knows of padding, that and the first token after it.
        """
        output = self.model(
            input_ids, inputs_embeds, attention_mask, position_ids, token_type_ids,
            past_key_values, output_attentions, output_hidden_states, rngs,
        )  # fmt: skip
        return self.with_logits(output, labels, input_ids, attention_mask, past_key_values)


class Gemma3ForConditionalGeneration(ImageGenerationMixin, CausalLanguageModel[Gemma3Model]):
    """Gemma3Model with a language model head, tied or not."""

    loss_type: ClassVar[str] = "ForCausalLM"
    _task_type: ClassVar[str] = "image-text-to-text"
    _model_type: ClassVar[str] = Gemma3Config.model_type
    _supports_video: ClassVar[bool] = False
    _uses_mrope: ClassVar[bool] = False

    def __init__(
        self, config: Gemma3Config, dtype: jnp.dtype = jnp.bfloat16, param_dtype: Any = None,
        precision: Any = None, *, rngs: nnx.Rngs | None = None,
    ):  # fmt: skip
        """As Gemma3TextModel."""
        self.config = config
        model = Gemma3Model(config, dtype, param_dtype, precision, rngs=rngs)
        super().__init__(model, config.text_config, dtype, rngs)

    def __call__(
        self, input_ids: Array | None = None, pixel_values: Array | None = None,
        attention_mask: Array | None = None, position_ids: Array | None = None,
        token_type_ids: Array | None = None, past_key_values: TransformerCache | None = None,
        inputs_embeds: Array | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, labels: Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Gemma3CausalLMOutputWithPast:  # fmt: skip
        """Read tokens with images among them: as Gemma3Model, labels as in Gemma3ForCausalLM."""
        output = self.model(
            input_ids, pixel_values, attention_mask, position_ids, token_type_ids,
            past_key_values, inputs_embeds, output_attentions, output_hidden_states, rngs,
        )  # fmt: skip
        return self.with_logits(output, labels, input_ids, attention_mask, past_key_values)

    def get_image_features(self, pixel_values: Array, **kwargs: Any) -> Array:
        """Soft tokens [N,M,D] float32 of images; see Gemma3Model.

        `kwargs` are for other models, such as image sizes: Gemma 3 ignores them.
        """
        return self.model.get_image_features(pixel_values)

    def get_vision_tower(self) -> SiglipVisionModel:
        """The vision tower."""
        return self.model.vision_tower

    def get_projector(self) -> Gemma3MultiModalProjector:
        """The projector into the text stack."""
        return self.model.multi_modal_projector

    def get_language_model(self) -> Gemma3TextModel:
        """The text stack."""
        return self.model.language_model
