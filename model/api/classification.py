"""Gemma3ForSequenceClassification: the text stack with a linear head over classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..config import Gemma3TextConfig
from ..head import Classifier
from ..lowering.context import local_context
from ..text import Linear
from ..vision_config import Gemma3Config
from .cache import TransformerCache
from .generation import GenerationMixin
from .loss import LossMetrics, classification_loss
from .multimodal import Gemma3Model
from .outputs import Gemma3SequenceClassifierOutputWithPast
from .text import Gemma3TextModel

Array = jax.Array


def text_lengths(tokens: Array, pad_token_id: int) -> Array:
    """Tokens up to the rightmost that is not padding: tokens [B,T] -> [B] int32.

    A row of padding alone counts as one token, as in Hugging Face transformers.
    """
    count = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.int32)
    return jnp.maximum(jnp.max(jnp.where(tokens != pad_token_id, count, 0), axis=1), 1)


class Gemma3ForSequenceClassification(Classifier[Gemma3TextModel | Gemma3Model], GenerationMixin):
    """Scores of classes after the last token of a text; config.num_labels counts them.

    With a Gemma3Config the text may have images.
    """

    def __init__(
        self, config: Gemma3TextConfig | Gemma3Config, dtype: jnp.dtype = jnp.bfloat16,
        param_dtype: Any = None, precision: Any = None, *, rngs: nnx.Rngs | None = None,
    ):  # fmt: skip
        """As Gemma3TextModel."""
        self.config, self.dtype = config, jnp.dtype(dtype)
        if isinstance(config, Gemma3Config):
            model = Gemma3Model(config, dtype, param_dtype, precision, rngs=rngs)
        else:
            model = Gemma3TextModel(config, dtype, param_dtype, precision, rngs=rngs)
        super().__init__(model, config.get_text_config(), dtype, rngs)

    def __call__(
        self, input_ids: Array, attention_mask: Array | None = None,
        position_ids: Array | None = None, token_type_ids: Array | None = None,
        past_key_values: TransformerCache | None = None, pixel_values: Array | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        labels: Array | None = None, rngs: nnx.Rngs | None = None,
    ) -> Gemma3SequenceClassifierOutputWithPast:  # fmt: skip
        """Classify texts [B,T]; each is read up to its rightmost token that is not padding.

        labels [B] ask for the loss: the class of each row, -100 for none, or with one class a
        number. Other arguments as in Gemma3Model. Raises ValueError for images where
        there is no vision tower.
        """
        if isinstance(self.model, Gemma3Model):
            output = self.model(
                input_ids, pixel_values, attention_mask, position_ids, token_type_ids,
                past_key_values, None, output_attentions, output_hidden_states, rngs,
            )  # fmt: skip
        elif pixel_values is not None:
            raise ValueError("pixel_values: a model of text sees none; make it with a Gemma3Config")
        else:
            output = self.model(
                input_ids, None, attention_mask, position_ids, token_type_ids, past_key_values,
                output_attentions, output_hidden_states, rngs,
            )  # fmt: skip
        last = text_lengths(input_ids, self.text_config.pad_token_id) - 1
        logits = self.score_at(output["last_hidden_state"], last, local_context())
        loss = None if labels is None else classification_loss(logits, labels)
        fields = {name: value for name, value in output.items() if name != "last_hidden_state"}
        return Gemma3SequenceClassifierOutputWithPast(loss=loss, logits=logits, **fields)

    def compute_loss(
        self, *, labels: Array, loss_config: None = None, loss_kwargs: None = None, **batch: Any
    ) -> tuple[Gemma3SequenceClassifierOutputWithPast, LossMetrics]:
        """A call with `batch`, and its loss: (output, metrics), as EasyDeL's trainers ask."""
        if loss_config is not None or loss_kwargs:
            raise ValueError("compute_loss: there is one loss, take others of output.logits")
        output = self(**batch, labels=labels)
        assert output.loss is not None
        return output, LossMetrics(output.loss)

    def get_encoder(self) -> nnx.Module:
        """The vision tower; raises NotImplementedError for a model of text."""
        return self.model.get_encoder()

    def get_decoder(self) -> Gemma3TextModel:
        """The text stack."""
        return self.model.get_decoder()

    def get_lm_head(self) -> nnx.Module:
        """There is none: raises NotImplementedError."""
        raise NotImplementedError("a classifier has a head over classes: see get_task_head")

    def get_task_head(self) -> Linear:
        """The head over classes."""
        return self.score
