"""The head over the vocabulary, tied to the embeddings or not, and the loss of what it says."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from .batch import valid_tokens
from .generation import GenerationMixin
from .loss import LossMetrics, next_token_loss
from .lowering.context import LoweringContext, here, softcap
from .outputs import Gemma3CausalLMOutputWithPast, Gemma3ModelOutputWithPast
from .past import TransformerCache
from .text import Gemma3TextScaledWordEmbedding, Linear, as_operand

Array = jax.Array


class TiedHead(nnx.Module):
    """The token embeddings as a language model head: it shares their weight."""

    def __init__(self, embedding: Gemma3TextScaledWordEmbedding):
        self.weight = embedding.weight

    def __call__(self, x: Array, context: LoweringContext | None = None) -> Array:
        """x [...,D] -> [...,V] float32."""
        weight = self.weight.get_value()
        return (context or here()).product(as_operand(x), weight, "embed to vocab")


class LanguageModelHead(GenerationMixin):
    """What models with a head for tokens share; the class has `lm_head` unless it is tied."""

    lm_head: Linear

    def __call__(self, *args: Any, **kwargs: Any) -> Gemma3CausalLMOutputWithPast:
        """What the class gives for tokens."""
        raise NotImplementedError

    def get_embedding(self) -> Gemma3TextScaledWordEmbedding:
        """The token embeddings."""
        raise NotImplementedError

    def get_lm_head(self) -> Linear | TiedHead:
        """The language model head, without the softcap; the embeddings' where they are tied."""
        tied = self.text_config.tie_word_embeddings
        return TiedHead(self.get_embedding()) if tied else self.lm_head

    def apply_lm_head(self, hidden_states: Array, context: LoweringContext | None = None) -> Array:
        """hidden_states [...,D] -> logits [...,V] float32, with final_logit_softcapping if set."""
        logits = self.get_lm_head()(hidden_states, context)
        return softcap(logits, self.text_config.final_logit_softcapping)

    def with_logits(
        self, output: Gemma3ModelOutputWithPast, labels: Array | None, input_ids: Array | None,
        attention_mask: Array | None, past_key_values: TransformerCache | None,
    ) -> Gemma3CausalLMOutputWithPast:  # fmt: skip
        """What the text stack gave, with logits, and the loss where there are labels [B,T].

        The rest are arguments of the call, which tell padding.
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
